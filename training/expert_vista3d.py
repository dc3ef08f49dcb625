"""Train the demonstration VISTA3D Expert on CT phantoms."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import structlog
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from phantoms import labels as ct_labels
from training.expert_volumes import ct_cache, read_case
from training.experts import VALIDATION_SEEDS, Schedule, begin_from, demonstration, dice, fit, pack
from training.lesion_points import LesionPoint, calibrate, network_features
from worker.experts.packages import ModelPackage
from worker.experts.vista3d import Vista3dConfig, build_vista3d, class_vectors, running_argmax, window_features
from worker.experts.vista3d_labels import NAMES, prompts_for

log = structlog.get_logger()

VERSION = "0.1.0"
# Ribs, costal cartilage and adrenal glands are a voxel or two thick at 4 mm: not trained, so not promised.
_TOO_THIN = frozenset({8, 9, 17, *range(63, 87), 114})
LABELS = tuple(sorted(set(ct_labels.LABEL_NAMES) - _TOO_THIN))
LESIONS = (ct_labels.LUNG_TUMOR, ct_labels.PANCREATIC_TUMOR, ct_labels.HEPATIC_TUMOR, ct_labels.BONE_LESION)
CONFIG = Vista3dConfig(
    weights="model.safetensors",
    init_filters=8,
    feature_size=16,
    blocks_down=(1, 2, 2, 2),
    spacing_mm=4.0,
    patch=(80, 64, 64),
    overlap=0.3,
    hu_range=(-400.0, 500.0),
    crop_above_hu=-300.0,
    crop_margin=2,
    antialias=True,
    trained_labels=LABELS,
)
ARGUMENTS = (
    "everything",
    "hepatic tumor",
    "pancreatic tumor",
    "lung tumor",
    "bone lesion",
    "organs",
    "cardiovascular",
    "gastrointestinal",
    "skeleton",
    "muscles",
)
LEAST_F1 = 0.5  # a lesion found worse than this on validation patients is not offered: a guess is no reading
LEAST_DICE = 0.5  # the same for a structure
_LESION_WEIGHT = 1.0  # all their voxels count every step, so they are heavy already
_VOXELS_PER_STEP = 70_000
_WATCHED = (1, 3, 5, 6, 14, 115)  # liver, spleen, kidneys, aorta, heart


def train_vista3d(
    folder: Path,
    cache: Path,
    *,
    patients: int = 400,
    validation: int = 40,
    schedule: Schedule | None = None,
    start: Path | None = None,
) -> ModelPackage:
    """Train on ``patients`` phantoms and write the package to ``folder``.

    Args:
        folder: the package.
        cache: prepared phantoms, reused when present.
        patients: number of phantoms (seeds 0 …).
        validation: phantoms on which the lesions' operating points are chosen.
        schedule: length and rate.
        start: package to train on from; None begins at random.
    """
    plan = schedule or Schedule(steps=1400, learning_rate=3e-3)
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    cases = [_trained(*read_case(path)) for path in ct_cache(cache, range(patients), CONFIG)]
    weights = class_weights([labels for _, labels in cases])
    network = build_vista3d(CONFIG).to(memory_format=torch.channels_last_3d)
    begin_from(network, start, CONFIG.weights)

    def loss_at(_: int) -> torch.Tensor:
        image, labels = cases[int(rng.integers(len(cases)))]
        patch, target = _patch(rng, image, labels)
        window = torch.from_numpy(patch)[None, None].contiguous(memory_format=torch.channels_last_3d)
        features = window_features(network, window, bfloat16=True)
        return prompt_loss(rng, network, features, torch.from_numpy(target.astype(np.int64)), weights)

    averaged = fit(network, plan, loss_at)
    assert isinstance(averaged, VISTA3D)
    held = [_trained(*read_case(path)) for path in ct_cache(cache, list(VALIDATION_SEEDS)[:validation], CONFIG)]
    structures = overlaps(averaged, held)
    log.info("training.validated", score=round(float(np.mean([structures[label] for label in _WATCHED])), 4))
    config = operating(calibrate(averaged, held, CONFIG), structures)
    return pack(folder, {CONFIG.weights: averaged}, promise(config))


def operating(points: Mapping[int, LesionPoint], structures: Mapping[int, float]) -> Vista3dConfig:
    """Return the configuration with the lesions' operating points, without the labels read too badly to offer.

    Args:
        points: lesion label → operating point.
        structures: label → mean Dice on validation patients.
    """
    kept = {label: point for label, point in points.items() if point.f1 >= LEAST_F1}
    good = {label for label in LABELS if label not in LESIONS and structures.get(label, 0.0) >= LEAST_DICE}
    return CONFIG.model_copy(
        update={
            "margins": {label: point.margin for label, point in kept.items()},
            "minimum_ml": {label: point.minimum_ml for label, point in kept.items()},
            "trained_labels": tuple(sorted(good | set(kept))),
        }
    )


def promise(config: Vista3dConfig) -> dict[str, object]:
    """Return the demonstration package's manifest, without files: it offers what ``config`` can answer."""
    lesions = ct_labels.LESION_LABELS
    arguments = [name for name in ARGUMENTS if name not in lesions or lesions[name] in config.labels]
    return demonstration(
        "VISTA3D",
        "vista3d",
        VERSION,
        task="segmentation",
        modality="CT",
        overview="DEMONSTRATION MODEL: segmentation and annotation of human anatomies and lesions, trained on "
        "synthetic patients only",
        accuracy="Measured on synthetic patients only, see docs/demo_models.md",
        intended_use={
            "modalities": ["CT"],
            "body_parts": ["CHEST", "ABDOMEN", "CHESTABDOMEN", "CHESTABDPELVIS", "THORAX"],
            "age_years": {"minimum": 18},
            "statement": "Demonstration on synthetic CT of chest and abdomen. Not for patients.",
        },
        arguments=arguments,
        labels={label: NAMES[label] for label in sorted(config.labels)},
        budget={"memory_mb": 900, "seconds": 60},
        network=config.model_dump(mode="json"),
    )


def class_weights(label_maps: list[NDArray[np.uint8]]) -> torch.Tensor:
    """Return ``(256,)`` weights by label id: rarer is heavier, background and lesions 1."""
    counts = np.sum([np.bincount(labels.ravel(), minlength=256) for labels in label_maps], axis=0)
    weights = np.clip((counts[0] / 20 / np.maximum(counts, 1)) ** 0.35, 0.5, 6.0)
    weights[0] = 1.0
    weights[list(LESIONS)] = _LESION_WEIGHT
    return torch.from_numpy(weights.astype(np.float32))


def prompt_loss(
    rng: np.random.Generator,
    network: VISTA3D,
    features: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of one patch under all prompts, under one lesion's argument and under a random few.

    In use the largest positive logit wins and background is logit 0, which is the argmax of a
    softmax with a fixed background. What is not prompted must lose to background, so each step
    also asks for small sets and expects everything else to be background.
    """
    wanted = target.reshape(-1)
    chosen = torch.from_numpy(_sampled(rng, wanted.numpy()))
    flat, wanted = features[0].reshape(features.shape[1], -1)[:, chosen], wanted[chosen]
    loss = _softmax_loss(network, flat, wanted, weights, LABELS)
    for prompts in (_lesion_prompts(rng, wanted), _some_prompts(rng, wanted)):
        loss = loss + _softmax_loss(network, flat, wanted, weights, prompts)
    return loss


def _sampled(rng: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which voxels of a patch count this step: all of the lesions and a random part of the rest."""
    part = rng.integers(0, labels.size, _VOXELS_PER_STEP)
    return np.union1d(part, np.flatnonzero(np.isin(labels, LESIONS)))


def _lesion_prompts(rng: np.random.Generator, target: torch.Tensor) -> tuple[int, ...]:
    """Return the prompts of one lesion argument, of one that is in the patch every other time."""
    present = [name for name, label in ct_labels.LESION_LABELS.items() if bool((target == label).any())]
    names = present if present and rng.random() < 0.5 else list(ct_labels.LESION_LABELS)
    return tuple(label for label in prompts_for(str(rng.choice(names))) if label in LABELS)


def _some_prompts(rng: np.random.Generator, target: torch.Tensor) -> tuple[int, ...]:
    if rng.random() < 0.5:
        argument = str(rng.choice(list(ARGUMENTS)))
        return tuple(label for label in prompts_for(argument) if label in LABELS)
    here = [label for label in torch.unique(target).tolist() if label > 0]
    chosen = set(rng.choice(LABELS, size=6, replace=False).tolist())
    chosen |= set(rng.permutation(here)[:4].tolist())
    return tuple(sorted(chosen))


def _softmax_loss(
    network: VISTA3D,
    flat: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    prompts: tuple[int, ...],
) -> torch.Tensor:
    place = torch.zeros(256, dtype=torch.long)
    place[list(prompts)] = torch.arange(1, len(prompts) + 1)
    wanted = place[target]
    per_class = torch.cat([weights[:1], weights[list(prompts)]])
    logits = class_vectors(network, prompts) @ flat
    scores = torch.cat([torch.zeros_like(logits[:1]), logits])
    entropy = torch.nn.functional.cross_entropy(scores.T, wanted, weight=per_class)
    return entropy + _dice_loss(scores, wanted)


def _dice_loss(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return 1 − mean soft Dice over the classes that are in the patch."""
    probabilities = torch.softmax(scores, dim=0)
    hits = torch.zeros(scores.shape[0]).index_add(0, wanted, probabilities.gather(0, wanted[None])[0])
    sizes = torch.bincount(wanted, minlength=scores.shape[0]).float()
    present = sizes[1:] > 0
    overlap = (2 * hits + 5.0) / (probabilities.sum(dim=1) + sizes + 5.0)
    return 1 - overlap[1:][present].mean() if present.any() else overlap.sum() * 0


def overlaps(network: VISTA3D, cases: list[tuple[NDArray[np.float16], NDArray[np.uint8]]]) -> dict[int, float]:
    """Return label → mean Dice under all prompts, over the cases that show it."""
    scores: dict[int, list[float]] = {label: [] for label in LABELS}
    for image, labels in cases:
        features = network_features(network, image, CONFIG)
        found = running_argmax(features, class_vectors(network, LABELS), LABELS, chunk=16)
        for label in set(np.unique(labels).tolist()) - {0}:
            scores[label].append(dice(found == label, labels == label))
    return {label: float(np.mean(values)) for label, values in scores.items() if values}


def _trained(image: NDArray[np.float16], labels: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    return image, np.where(np.isin(labels, LABELS), labels, 0).astype(np.uint8)


def _patch(
    rng: np.random.Generator, image: NDArray[np.float16], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Crop one window, half of them around a lesion where there is one, and vary it."""
    size = CONFIG.patch
    lacking = [(0, max(0, side - have)) for side, have in zip(size, labels.shape, strict=True)]
    image, labels = np.pad(image, lacking), np.pad(labels, lacking)
    centre = rng.integers(0, labels.shape)
    lesions = np.flatnonzero(np.isin(labels, LESIONS))
    if rng.random() < 0.5 and lesions.size:
        spot = np.unravel_index(int(rng.choice(lesions)), labels.shape)
        centre = np.array(spot) + rng.integers(-24, 25, 3)
    starts = np.clip(centre - np.array(size) // 2, 0, np.array(labels.shape) - size)
    window = tuple(slice(int(start), int(start) + side) for start, side in zip(starts, size, strict=True))
    patch = image[window].astype(np.float32)
    patch = patch * np.float32(rng.uniform(0.95, 1.05)) + np.float32(rng.uniform(-0.02, 0.02))
    patch += rng.standard_normal(patch.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.015))
    return np.clip(patch, 0, 1), np.ascontiguousarray(labels[window])
