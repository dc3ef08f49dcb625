"""Expert VISTA3D: class-prompted CT segmentation, MONAI's network on a Volume of any grid."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import SegResNetDS2
from monai.networks.nets.vista3d import VISTA3D, ClassMappingClassify, PointMappingSAM
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import ExpertError, ModelPackageError
from worker.experts import grid
from worker.experts.base import ExpertInput, ModelCard, SegmentationResult
from worker.experts.packages import ModelPackage
from worker.experts.vista3d_labels import GROUPS, NAMES, SUPPORTED, prompts_for
from worker.experts.weights import load_network, read_state
from worker.volume import Volume

# The range the published network was trained on (bundle vista3d 0.5.4, ScaleIntensityRange).
PUBLISHED_HU_RANGE = (-963.8247715525971, 1053.678477684517)
_SLAB_VOXELS = 1 << 21  # logits of one chunk of prompts never exceed chunk × this many floats


class Vista3dConfig(BaseModel):
    """Network and input of a VISTA3D package; the defaults are the published bundle's.

    Attributes:
        weights: the weight file.
        init_filters, feature_size, blocks_down, classes, last_supported: of the network.
        spacing_mm: isotropic grid the network sees.
        patch: sliding window, voxels; overlap: of neighbouring windows.
        hu_range: mapped to 0…1, clipped.
        crop_above_hu, crop_margin: the Volume is cropped to voxels above, with a margin in voxels.
        antialias: average when resampling to a coarser grid (the published network: no).
        bfloat16: run the network under autocast.
        trained_labels: ids the weights were trained on; None means the published 127.
        minimum_ml: label → smaller components are given to their neighbours.
        margins: label → how far its logit must exceed background and every other label (an operating
            point, chosen on validation patients; the published network has none).
        prompts_per_chunk: class prompts whose logits exist at one time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    init_filters: int = 48
    feature_size: int = 48
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4)
    classes: int = 512
    last_supported: int = 132
    spacing_mm: float = Field(default=1.5, gt=0)
    patch: tuple[int, int, int] = (128, 128, 128)
    overlap: float = Field(default=0.25, ge=0, lt=1)
    hu_range: tuple[float, float] = PUBLISHED_HU_RANGE
    crop_above_hu: float = 0.0
    crop_margin: int = 10
    antialias: bool = False
    bfloat16: bool = True
    trained_labels: tuple[int, ...] | None = None
    minimum_ml: Mapping[int, float] = {}
    margins: Mapping[int, float] = {}
    prompts_per_chunk: int = Field(default=16, gt=0)

    @property
    def labels(self) -> frozenset[int]:
        """Label ids the weights can answer for."""
        return SUPPORTED if self.trained_labels is None else frozenset(self.trained_labels)


@dataclass(frozen=True)
class Vista3dExpert:
    """The network, loaded."""

    card: ModelCard
    config: Vista3dConfig
    network: VISTA3D
    device: str = "cpu"

    @classmethod
    def load(cls, package: ModelPackage, *, device: str = "cpu") -> Self:
        """Build the network from its package.

        Raises:
            ModelPackageError: configuration or weights do not make this network.
        """
        config = vista3d_config(package)
        network = build_vista3d(config)
        state = read_state(package.path(config.weights))
        load_network(network, state, source=f"{package.folder.name}: {config.weights}")
        return cls(card=package.card, config=config, network=network.to(device), device=device)

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        """Segment what ``argument`` names; empty means ``everything``.

        Raises:
            ExpertError: no CT Volume, an argument that is not on the card, or an output that is no number.
        """
        wanted = argument or "everything"
        if study.volume is None:
            raise ExpertError(f"{self.card.name} reads a CT Volume; the study offers none")
        if wanted not in self.card.arguments:
            raise ExpertError(f"{wanted!r} is no argument; valid: {', '.join(self.card.arguments)}")
        started = time.perf_counter()
        prompts = tuple(label for label in prompts_for(wanted) if label in self.config.labels)
        labels = self.segment(study.volume, prompts)
        return SegmentationResult(
            card=self.card,
            argument=wanted,
            seconds=time.perf_counter() - started,
            labels=labels,
            names={label: NAMES[label] for label in sorted(prompts)},
            volume=study.volume,
        )

    def segment(self, volume: Volume, prompts: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the label map of ``prompts`` on the grid of ``volume``: values in {0} | prompts."""
        ready = prepared(volume, self.config)
        image = torch.from_numpy(ready.image)[None, None].to(self.device)
        labels = np.zeros(ready.shape, dtype=np.uint8)
        labels[ready.box] = ready.axes.undo(self._label(image, prompts))
        voxel_ml = self.config.spacing_mm**3 / 1000.0
        minimum = {label: ml / voxel_ml for label, ml in self.config.minimum_ml.items()}
        labels = grid.drop_small_components(labels, minimum)
        target = (self.config.spacing_mm,) * 3
        return grid.back_to_source(labels, target, volume.spacing_mm, shape=volume.array.shape)

    def _label(self, image: torch.Tensor, prompts: tuple[int, ...]) -> NDArray[np.uint8]:
        with torch.inference_mode():
            features = self._features(image)
            vectors = class_vectors(self.network, prompts)
            return running_argmax(
                features, vectors, prompts, chunk=self.config.prompts_per_chunk, margins=self.config.margins
            )

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``(feature, x, y, z)``: features blended over the windows.

        Logits are linear in these features, so blending features once equals blending the logits
        of every prompt, and memory does not grow with the number of prompts.
        """
        features: torch.Tensor = sliding_window_inference(
            image,
            roi_size=self.config.patch,
            sw_batch_size=1,
            predictor=self._window_features,
            overlap=self.config.overlap,
            mode="constant",
        )
        if not torch.isfinite(features).all():
            raise ExpertError(f"{self.card.name}: the network gave an output that is no number")
        return features[0]

    def _window_features(self, window: torch.Tensor) -> torch.Tensor:
        return window_features(self.network, window, bfloat16=self.config.bfloat16)


@dataclass(frozen=True)
class Prepared:
    """A CT Volume as the network sees it, and how to come back.

    Attributes:
        image: ``(x, y, z)`` float32 in 0…1, axes RAS, cropped to ``box``.
        shape: of the isotropic grid along the axes of the Volume.
        box: the part of that grid that ``image`` shows.
        axes: grid axes → network axes.
    """

    image: NDArray[np.float32]
    shape: tuple[int, ...]
    box: tuple[slice, slice, slice]
    axes: grid.AxisOrder


def prepared(volume: Volume, config: Vista3dConfig) -> Prepared:
    """Resample a CT Volume, crop it to the body and scale its intensities, in the bundle's order.

    Raises:
        ExpertError: no three axes, or values that are no numbers.
    """
    if volume.array.ndim != 3 or min(volume.array.shape) == 0:
        raise ExpertError(f"a Volume is (slices, rows, columns), this is {volume.array.shape}")
    if not np.isfinite(volume.array).all():
        raise ExpertError("the Volume holds values that are no numbers")
    spacing, target = volume.spacing_mm, (config.spacing_mm,) * 3
    shape = grid.resampled_shape(volume.array.shape, spacing, target)
    coarse = grid.resample(volume.array, spacing, target, shape=shape, antialias=config.antialias)
    box = grid.foreground_box(coarse > config.crop_above_hu, config.crop_margin)
    axes = grid.axis_order(volume.affine, "RAS")
    low, high = config.hu_range
    unit = np.clip((axes.apply(coarse[box]) - low) / (high - low), 0.0, 1.0)
    return Prepared(np.ascontiguousarray(unit, dtype=np.float32), shape, box, axes)


def vista3d_config(package: ModelPackage) -> Vista3dConfig:
    """Check the manifest's network part and arguments, and return the first typed.

    Raises:
        ModelPackageError: it describes no VISTA3D, or promises an argument it has no label for.
    """
    name, promise = package.folder.name, package.manifest
    try:
        config = Vista3dConfig.model_validate(promise.network)
    except ValidationError as exc:
        raise ModelPackageError(f"{name}: the manifest describes no VISTA3D: {exc}") from exc
    if not config.labels <= SUPPORTED:
        raise ModelPackageError(f"{name}: trained_labels {sorted(config.labels - SUPPORTED)} are no class prompts")
    for argument in promise.arguments:
        if argument not in GROUPS or not config.labels & set(prompts_for(argument)):
            raise ModelPackageError(f"{name}: argument {argument!r} has no label in this package")
    return config


def build_vista3d(config: Vista3dConfig) -> VISTA3D:
    """Build the network without weights; with the defaults this is ``vista3d132``, layer for layer."""
    encoder = SegResNetDS2(
        in_channels=1,
        blocks_down=config.blocks_down,
        norm="instance",
        out_channels=config.feature_size,
        init_filters=config.init_filters,
        dsdepth=1,
    )
    points = PointMappingSAM(
        feature_size=config.feature_size, n_classes=config.classes, last_supported=config.last_supported
    )
    classes = ClassMappingClassify(n_classes=config.classes, feature_size=config.feature_size, use_mlp=True)
    return VISTA3D(image_encoder=encoder, class_head=classes, point_head=points)


def window_features(network: VISTA3D, window: torch.Tensor, *, bfloat16: bool) -> torch.Tensor:
    """Return ``(1, feature, x, y, z)``: what the class head multiplies with a class vector."""
    with torch.autocast(window.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        _, encoded = network.image_encoder(window, with_point=False, with_label=True)
        features: torch.Tensor = network.class_head.image_post_mapping(encoded)
    return features.float()


def class_vectors(network: VISTA3D, prompts: tuple[int, ...]) -> torch.Tensor:
    """Return ``(prompts, feature)``: the class head's vector of each label id."""
    head = network.class_head
    ids = torch.tensor(prompts, device=head.class_embeddings.weight.device)[:, None]
    vectors: torch.Tensor = head.mlp(head.class_embeddings(ids))
    return vectors[:, 0]


def running_argmax(
    features: torch.Tensor,
    vectors: torch.Tensor,
    prompts: tuple[int, ...],
    *,
    chunk: int,
    margins: Mapping[int, float] | None = None,
) -> NDArray[np.uint8]:
    """Return the label of the largest positive logit per voxel, 0 where none is positive.

    Prompts are taken ``chunk`` at a time and voxels slab by slab: only the best logit and its
    label are kept. The first of equal prompts wins, as with one argmax over all of them.

    Args:
        features: ``(feature, x, y, z)``.
        vectors: ``(prompts, feature)``.
        prompts: label ids, ≤ 255.
        chunk: prompts at a time.
        margins: label id → taken off its logit.
    """
    handicap = torch.tensor([(margins or {}).get(label, 0.0) for label in prompts], device=features.device)[:, None]
    flat = features.reshape(features.shape[0], -1)
    ids = torch.tensor((0, *prompts), dtype=torch.uint8, device=flat.device)
    labels = torch.zeros(flat.shape[1], dtype=torch.uint8, device=flat.device)
    for start in range(0, flat.shape[1], _SLAB_VOXELS):
        slab = flat[:, start : start + _SLAB_VOXELS]
        best = torch.zeros(slab.shape[1], device=flat.device)
        winner = torch.zeros(slab.shape[1], dtype=torch.long, device=flat.device)
        for first in range(0, len(prompts), chunk):
            some = slice(first, first + chunk)
            logits, place = (vectors[some] @ slab - handicap[some]).max(dim=0)
            better = logits > best
            best = torch.where(better, logits, best)
            winner = torch.where(better, place + first + 1, winner)
        labels[start : start + _SLAB_VOXELS] = ids[winner]
    return labels.reshape(features.shape[1:]).cpu().numpy()
