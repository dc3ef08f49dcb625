"""Operating points of lesion labels: the margin and the least volume with the best F1 on validation patients."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray
from scipy import ndimage

from phantoms.labels import LESION_LABELS
from worker.experts.vista3d import Vista3dConfig, class_vectors, window_features
from worker.experts.vista3d_labels import prompts_for

MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
MINIMUM_ML = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0)

Case = tuple[NDArray[np.float16], NDArray[np.uint8]]
Tally = dict[tuple[float, float], NDArray[np.int64]]


@dataclass(frozen=True)
class LesionPoint:
    """Where one lesion label operates: its margin, its least volume in ml, and the F1 it had there."""

    margin: float
    minimum_ml: float
    f1: float


def calibrate(network: VISTA3D, cases: Iterable[Case], config: Vista3dConfig) -> dict[int, LesionPoint]:
    """Return lesion label → operating point, each under its own argument.

    A lesion counts as found when a kept component touches it, a kept component that touches none is
    a false alarm; F1 weighs both. Of equal points the middle one is taken.

    Args:
        network: trained.
        cases: validation images and label maps as the network sees them.
        config: windows, spacing and trained labels.
    """
    tallies: dict[int, Tally] = defaultdict(lambda: defaultdict(lambda: np.zeros(3, np.int64)))
    for image, labels in cases:
        features = network_features(network, image, config)
        for argument, label in LESION_LABELS.items():
            excess = lesion_excess(network, features, argument, label, config)
            _count(excess, labels == label, config.spacing_mm**3 / 1000.0, tallies[label])
    return {label: _best(tally) for label, tally in tallies.items()}


def network_features(network: VISTA3D, image: NDArray[np.float16], config: Vista3dConfig) -> torch.Tensor:
    """Return ``(feature, x, y, z)`` of one prepared image, windows as in use."""
    batch = torch.from_numpy(image.astype(np.float32))[None, None]
    with torch.inference_mode():
        features: torch.Tensor = sliding_window_inference(
            batch,
            config.patch,
            1,
            lambda window: window_features(network, window, bfloat16=config.bfloat16),
            overlap=config.overlap,
        )
    return features[0]


def lesion_excess(
    network: VISTA3D, features: torch.Tensor, argument: str, label: int, config: Vista3dConfig
) -> NDArray[np.float32]:
    """Return ``(x, y, z)``: by how much the lesion's logit exceeds background and its argument's other labels."""
    prompts = tuple(one for one in prompts_for(argument) if one in config.labels and one != label)
    with torch.inference_mode():
        flat = features.reshape(features.shape[0], -1)
        lesion = (class_vectors(network, (label,)) @ flat)[0]
        rest = torch.zeros_like(lesion)
        if prompts:
            rest = torch.maximum(rest, (class_vectors(network, prompts) @ flat).max(dim=0).values)
        excess: NDArray[np.float32] = (lesion - rest).reshape(features.shape[1:]).numpy()
    return excess


def _count(excess: NDArray[np.float32], truth: NDArray[np.bool_], voxel_ml: float, tally: Tally) -> None:
    """Add found lesions, all lesions and false alarms of one patient at every point."""
    true_parts, lesions = ndimage.label(truth)
    for margin in MARGINS:
        parts, count = ndimage.label(excess > margin)
        sizes = np.bincount(parts.ravel(), minlength=count + 1) * voxel_ml
        pairs = np.unique(np.stack([parts[truth], true_parts[truth]]), axis=1)
        for least in MINIMUM_ML:
            kept = sizes >= least
            kept[0] = False
            touching = pairs[:, kept[pairs[0]]]
            alarms = int(kept.sum()) - len(np.unique(touching[0]))
            tally[margin, least] += (len(np.unique(touching[1])), lesions, alarms)


def _best(tally: Tally) -> LesionPoint:
    points = sorted(tally)
    rated = [_f1(tally[point]) for point in points]
    best: Sequence[tuple[float, float]] = [
        point for point, score in zip(points, rated, strict=True) if score == max(rated)
    ]
    margin, least = best[len(best) // 2]
    return LesionPoint(margin, least, round(max(rated), 3))


def _f1(counts: NDArray[np.int64]) -> float:
    found, lesions, alarms = (int(count) for count in counts)
    return 2 * found / (found + alarms + lesions) if lesions or alarms else 1.0
