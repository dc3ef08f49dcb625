"""Expert VISTA3D: class-prompted CT segmentation, MONAI's network on a Volume of any grid."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import monai
import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray
from pydantic import ValidationError

from config.errors import ExpertError, ModelPackageError
from worker.experts import grid
from worker.experts.base import ExpertInput, ModelCard, SegmentationResult
from worker.experts.footprint import FeatureStore, Footprint, footprint, require_room
from worker.experts.packages import ModelPackage
from worker.experts.vista3d_labels import GROUPS, NAMES, SUPPORTED, prompts_for
from worker.experts.vista3d_network import (
    Vista3dConfig,
    autocast_name,
    build_vista3d,
    class_vectors,
    running_argmax,
    window_features,
)
from worker.experts.weights import load_network, read_state
from worker.experts.windows import WindowPlan, blended
from worker.volume import Volume

__all__ = [
    "Encoded", "Prepared", "Vista3dConfig", "Vista3dExpert", "build_vista3d", "class_vectors", "prepared",
    "restored", "running_argmax", "vista3d_config", "window_features",
]  # fmt: skip


@dataclass(frozen=True)
class Vista3dExpert:
    """The network, loaded.

    The features of the last Volume are kept while they fit ``memory_mb`` and the Volume is alive: a CT is
    asked several arguments, and only the class head differs between them.
    """

    card: ModelCard
    config: Vista3dConfig
    network: VISTA3D
    memory_mb: float
    device: str = "cpu"
    kept: FeatureStore["Encoded"] = field(default_factory=FeatureStore)

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
        memory_mb = package.manifest.budget.memory_mb
        return cls(card=package.card, config=config, network=network.to(device), memory_mb=memory_mb, device=device)

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        """Segment what ``argument`` names; empty means ``everything``.

        Raises:
            ExpertError: no CT Volume, an argument that is not on the card, or an output that is no number.
            InputTooLargeError: the Volume does not fit the package's memory budget.
        """
        wanted = argument or "everything"
        if study.volume is None:
            raise ExpertError(f"{self.card.name} reads a CT Volume; the study offers none")
        if wanted not in self.card.arguments:
            raise ExpertError(f"{wanted!r} is no argument; valid: {', '.join(self.card.arguments)}")
        started = time.perf_counter()
        prompts = tuple(label for label in prompts_for(wanted) if label in self.config.labels)
        encoded, reused = self._encoded(study.volume)
        labels = self._labels(study.volume, encoded, prompts)
        return SegmentationResult(
            card=self.card,
            argument=wanted,
            seconds=time.perf_counter() - started,
            labels=labels,
            names={label: NAMES[label] for label in sorted(prompts)},
            volume=study.volume,
            notes=encoded.notes,
            details=self._details(encoded, prompts, reused=reused),
        )

    def segment(self, volume: Volume, prompts: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the label map of ``prompts`` on the grid of ``volume``: values in {0} | prompts."""
        encoded, _ = self._encoded(volume)
        return self._labels(volume, encoded, prompts)

    def _encoded(self, volume: Volume) -> tuple["Encoded", bool]:
        """Return the Volume ready for the class head, and whether it was kept from an earlier argument."""
        kept = self.kept.of(volume.array, volume.affine)
        if kept is not None:
            return kept, True
        self.kept.clear()  # before anything is allocated for the next one
        require_volume(volume)
        spacing = grid.reached_spacing(volume.spacing_mm, self.config.spacing_mm)
        shape = grid.resampled_shape(volume.array.shape, volume.spacing_mm, spacing)
        require_room(grid.resampling_voxels(volume.array.shape, shape) * 4, self.memory_mb, step="resampling it")
        ready = prepared(volume, self.config)
        plan = WindowPlan.of(ready.size, self.config.patch, self.config.overlap)
        need = self._footprint(plan, shape)
        if not need.whole_fits(self.memory_mb):
            need.require_slabs_fit(self.memory_mb)
            note = (
                f"{self.card.name}: features of the whole volume need {need.whole_mb:.0f} MB of "
                f"{self.memory_mb:.0f} MB, so it was read in slabs"
            )
            return Encoded(ready, plan, need, None, (note,)), False
        encoded = Encoded(ready, plan, need, self._whole(ready, plan), ())
        self.kept.keep(volume.array, volume.affine, encoded)
        return encoded, False

    def _footprint(self, plan: WindowPlan, shape: tuple[int, ...]) -> Footprint:
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self.network.state_dict().values())
        return footprint(
            plan,
            grid_voxels=int(np.prod(shape, dtype=np.int64)),
            features=self.config.feature_size,
            widest=max(self.config.init_filters, self.config.feature_size),
            autocast=self.config.bfloat16,
            weights_bytes=weights,
        )

    def _whole(self, ready: "Prepared", plan: WindowPlan) -> torch.Tensor:
        with torch.inference_mode():
            ((_, features),) = self._blended(ready, plan, whole=True)
        return features

    def _blended(self, ready: "Prepared", plan: WindowPlan, *, whole: bool) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield z range and ``(feature, z, x, y)``: features blended over the windows.

        Logits are linear in these features, so blending features once equals blending the logits
        of every prompt, and memory does not grow with the number of prompts.
        """
        image = torch.from_numpy(ready.image)[None, None].to(self.device)
        return blended(image, plan, self._window_features, whole=whole)

    def _window_features(self, window: torch.Tensor) -> torch.Tensor:
        features = window_features(
            self.network, window, bfloat16=self.config.bfloat16, cuda_float16=self.config.cuda_float16
        )
        if not torch.isfinite(features).all():
            raise ExpertError(f"{self.card.name}: the network gave an output that is no number")
        return features

    def _labels(self, volume: Volume, encoded: "Encoded", prompts: tuple[int, ...]) -> NDArray[np.uint8]:
        config, plan, ready = self.config, encoded.plan, encoded.ready
        seen = np.zeros(plan.padded, dtype=np.uint8)
        with torch.inference_mode():
            vectors = class_vectors(self.network, prompts)
            whole = slice(0, plan.padded[2])
            kept = None if encoded.features is None else ((whole, encoded.features),)
            for z, features in kept or self._blended(ready, plan, whole=False):
                labels = running_argmax(
                    features, vectors, prompts, chunk=config.prompts_per_chunk, margins=config.margins
                )
                seen[:, :, z] = labels.transpose(1, 2, 0)
        return restored(seen[plan.inside()], ready, volume, config)

    def _details(self, encoded: "Encoded", prompts: tuple[int, ...], *, reused: bool) -> dict[str, Any]:
        ready, plan = encoded.ready, encoded.plan
        runs = 0 if reused else plan.count
        return {
            "spacing_mm": list(ready.spacing_mm),
            "resampled_shape": list(ready.shape),
            "network_shape": list(ready.size),
            "patch": list(plan.patch),
            "overlap": self.config.overlap,
            "windows": runs,
            "features_reused": reused,
            "read": "whole" if encoded.features is not None else "slabs",
            "prompts": len(prompts),
            "prompts_per_chunk": self.config.prompts_per_chunk,
            "dtype": "float32",
            "autocast": autocast_name(self.config, torch.device(self.device).type),
            "device": self.device,
            "estimated_mb": round(encoded.need.whole_mb if encoded.features is not None else encoded.need.slabs_mb, 1),
            "versions": {"monai": str(monai.__version__), "torch": str(torch.__version__)},
        }


@dataclass(frozen=True)
class Prepared:
    """A CT Volume as the network sees it, and how to come back.

    Attributes:
        image: ``(x, y, z)`` float32 in 0…1, axes RAS, cropped to ``box``.
        shape: of the isotropic grid along the axes of the Volume.
        box: the part of that grid that ``image`` shows.
        axes: grid axes → network axes.
        spacing_mm: of the isotropic grid along the axes of the Volume.
    """

    image: NDArray[np.float32]
    shape: tuple[int, ...]
    box: tuple[slice, slice, slice]
    axes: grid.AxisOrder
    spacing_mm: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int, int]:
        """``(x, y, z)`` of ``image``."""
        x, y, z = self.image.shape
        return x, y, z


@dataclass(frozen=True)
class Encoded:
    """A Volume ready for the class head.

    Attributes:
        ready: the image and the way back.
        plan: the windows over it.
        need: memory it takes.
        features: ``(feature, z, x, y)`` of the padded image, or None when it is to be read in slabs.
        notes: why it is, in words for people.
    """

    ready: Prepared
    plan: WindowPlan
    need: Footprint
    features: torch.Tensor | None
    notes: tuple[str, ...]


def require_volume(volume: Volume) -> None:
    """Refuse an array that is none.

    Raises:
        ExpertError: no three axes, or values that are no numbers.
    """
    array = volume.array
    if array.ndim != 3 or min(array.shape) == 0:
        raise ExpertError(f"a Volume is (slices, rows, columns), this is {array.shape}")
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ExpertError("the Volume holds values that are no numbers")


def prepared(volume: Volume, config: Vista3dConfig) -> Prepared:
    """Resample a CT Volume (see `require_volume`), crop it to the body and scale it, in the bundle's order."""
    array = volume.array
    spacing = grid.reached_spacing(volume.spacing_mm, config.spacing_mm)
    shape = grid.resampled_shape(array.shape, volume.spacing_mm, spacing)
    coarse = grid.resample(array, volume.spacing_mm, spacing, shape=shape, antialias=config.antialias)
    box = grid.foreground_box(coarse > config.crop_above_hu, config.crop_margin)
    axes = grid.axis_order(volume.affine, "RAS")
    low, high = config.hu_range
    unit = np.clip((axes.apply(coarse[box]) - low) / (high - low), 0.0, 1.0)
    return Prepared(np.ascontiguousarray(unit, dtype=np.float32), shape, box, axes, spacing)


def restored(seen: NDArray[np.uint8], ready: Prepared, volume: Volume, config: Vista3dConfig) -> NDArray[np.uint8]:
    """Return a label map of the network's image on the grid of ``volume``: turned back, uncropped, nearest voxel."""
    labels = np.zeros(ready.shape, dtype=np.uint8)
    labels[ready.box] = ready.axes.undo(seen)
    voxel_ml = float(np.prod(ready.spacing_mm)) / 1000.0
    labels = grid.drop_small_components(labels, {label: ml / voxel_ml for label, ml in config.minimum_ml.items()})
    return grid.back_to_source(labels, ready.spacing_mm, volume.spacing_mm, shape=volume.array.shape)


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
