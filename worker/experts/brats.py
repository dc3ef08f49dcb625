"""Expert BRATS: brain tumour subregions from four MR contrasts, MONAI's SegResNet on any grids.

The order of operations is that of the BraTS data the network was trained on: register to T1c, bring to
one isotropic grid, take the skull away, z-score; the label map returns to the voxels of T1c.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import SimpleITK
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import SegResNet
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import ndimage

from config.errors import ExpertError, InputTooLargeError, ModelPackageError
from worker.experts import grid
from worker.experts.base import ExpertInput, ModelCard, SegmentationResult
from worker.experts.brain_mask import BrainExtractor, brain_ml, foreground
from worker.experts.packages import ModelPackage
from worker.experts.registration import Contrast, Registration, register, with_spacing
from worker.experts.weights import load_network, read_state
from worker.volume import Volume

CHANNELS = ("T1c", "T1", "T2", "FLAIR")
# What the voxels of each value are. Tumor core is 1 and 4 together, whole tumor all three.
NAMES: Mapping[int, str] = {1: "non-enhancing tumor core", 2: "peritumoral edema", 4: "enhancing tumor"}
_LEAST_OVERLAP = 0.5  # of the brain, or else of the T1c field of view, that each other Volume must cover
_EXTRACTION_MB = 750.0  # deepbet at its fixed 256 x 256 x 256, measured
_ACTIVATIONS = 8.0  # full-resolution feature maps SegResNet holds at once, measured in float32


class BratsConfig(BaseModel):
    """Network and input of a BRATS package; the defaults are the published bundle's.

    Attributes:
        weights: the weight file.
        init_filters, blocks_down, blocks_up, dropout: of the network.
        spacing_mm: isotropic grid the network sees.
        roi: sliding window, voxels, axes x, y, z; overlap: of neighbouring windows.
        brain_mask: ``"deepbet"``: everything outside the brain that deepbet finds in T1c is set to zero,
            as in the BraTS data the published network was trained on; ``"foreground"``: air around the
            head is set to zero so that its noise stays out of the z-score, the skull stays;
            ``"none"``: the Volumes come skull-stripped.
        antialias: average when resampling to a coarser grid.
        bfloat16: run the network under autocast.
        minimum_ml: smaller components of whole tumour are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    init_filters: int = 16
    blocks_down: tuple[int, ...] = (1, 2, 2, 4)
    blocks_up: tuple[int, ...] = (1, 1, 1)
    dropout: float = 0.2
    spacing_mm: float = Field(default=1.0, gt=0)
    roi: tuple[int, int, int] = (240, 240, 160)
    overlap: float = Field(default=0.5, ge=0, lt=1)
    brain_mask: Literal["none", "foreground", "deepbet"] = "deepbet"
    antialias: bool = False
    bfloat16: bool = True
    minimum_ml: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class BratsExpert:
    """The network, loaded. ``run`` ignores the argument, as the published system does.

    Attributes:
        card: what it promises.
        config: of the network and its input.
        network: on ``device``.
        memory_mb: a Study that would need more is refused before anything is allocated.
        extractor: finds the brain, when the configuration asks for it.
        device: torch device.
    """

    card: ModelCard
    config: BratsConfig
    network: SegResNet
    memory_mb: float = math.inf
    extractor: BrainExtractor | None = None
    device: str = "cpu"

    @classmethod
    def load(cls, package: ModelPackage, *, device: str = "cpu") -> Self:
        """Build the network from its package.

        Raises:
            ModelPackageError: configuration or weights do not make this network.
        """
        try:
            config = BratsConfig.model_validate(package.manifest.network)
        except ValidationError as exc:
            raise ModelPackageError(f"{package.folder.name}: the manifest describes no BRATS: {exc}") from exc
        network = build_brats(config)
        state = read_state(package.path(config.weights))
        load_network(network, state, source=f"{package.folder.name}: {config.weights}")
        return cls(
            card=package.card,
            config=config,
            network=network.to(device),
            memory_mb=package.manifest.budget.memory_mb,
            extractor=BrainExtractor.load(device=device) if config.brain_mask == "deepbet" else None,
            device=device,
        )

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        """Segment non-enhancing core (1), oedema (2) and enhancing tumour (4) on the T1c grid.

        Raises:
            ExpertError: a role is missing or empty, a contrast cannot be registered to T1c, no plausible
                brain is found, or the output is no number.
            InputTooLargeError: the Study needs more memory than the package may use.
        """
        started = time.perf_counter()
        volumes = _by_role(study, self.card.name)
        self._require_room(volumes)
        _require_signal(volumes)
        masks = self._brains(volumes)
        outlined = time.perf_counter()
        reference = Contrast.of(volumes["T1c"], masks.get("T1c"))
        registrations = {
            role: _registration(reference, role, Contrast.of(volumes[role], masks.get(role))) for role in CHANNELS[1:]
        }
        registered = {role: found.moved(volumes[role], volumes["T1c"]) for role, found in registrations.items()}
        aligned = time.perf_counter()
        labels = self.segment({**volumes, **registered}, masks.get("T1c"))
        finished = time.perf_counter()
        return SegmentationResult(
            card=self.card,
            argument=argument,
            seconds=finished - started,
            labels=labels,
            names=NAMES,
            volume=volumes["T1c"],
            notes=tuple(_movement(role, found) for role, found in registrations.items() if found.applied),
            details={
                "registration": {role: found.record() for role, found in registrations.items()},
                "brain_mask": self.config.brain_mask,
                "brain_ml": round(brain_ml(masks["T1c"], volumes["T1c"]), 1) if masks else None,
                "spacing_mm": self.config.spacing_mm,
                "versions": self._versions(),
                "seconds": {
                    "brain_mask": round(outlined - started, 3),
                    "registration": round(aligned - outlined, 3),
                    "network": round(finished - aligned, 3),
                },
            },
        )

    def segment(self, volumes: Mapping[str, Volume], brain: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Return the label map on the grid of ``volumes["T1c"]``: values 0, 1, 2, 4; 0 outside ``brain``.

        Args:
            volumes: the four contrasts, registered.
            brain: on the grid of T1c; None leaves the skull.
        """
        reference = volumes["T1c"]
        target = (self.config.spacing_mm,) * 3
        ready = prepared(volumes, self.config, brain)
        regions = []
        for channel in self._probabilities(ready.image):
            on_grid = np.zeros(ready.shape, dtype=np.float32)
            on_grid[ready.box] = ready.axes.undo(channel)
            back = grid.resample(on_grid, target, reference.spacing_mm, shape=reference.array.shape, antialias=False)
            regions.append(back >= 0.5)
        labels = label_map(np.stack(regions))
        if brain is not None:
            labels[~brain] = 0
        return drop_small_tumours(labels, self.config.minimum_ml / reference.voxel_volume_ml)

    def _brains(self, volumes: Mapping[str, Volume]) -> dict[str, NDArray[np.bool_]]:
        """Return role → brain on its own grid; nothing when the skull is not taken away here."""
        if self.extractor is None:
            return {}
        masks = {}
        for role in CHANNELS:
            try:
                masks[role] = self.extractor.mask(volumes[role])
            except ExpertError as exc:
                raise ExpertError(f"{role}: {exc}") from exc
        brain_ml(masks["T1c"], volumes["T1c"])
        return masks

    def _require_room(self, volumes: Mapping[str, Volume]) -> None:
        needed = needed_mb(volumes, self.config)
        if needed > self.memory_mb:
            raise InputTooLargeError(
                f"{self.card.name} would need {needed:.0f} MB for this study, {self.memory_mb:.0f} MB is its budget"
            )

    def _versions(self) -> dict[str, str]:
        versions = {"SimpleITK": SimpleITK.Version_VersionString(), "torch": str(torch.__version__)}
        return versions | ({"deepbet": self.extractor.version} if self.extractor else {})

    def _probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(3, x, y, z)`` probabilities of core, whole and enhancing tumour."""
        batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(self.device)
        with torch.inference_mode():
            logits: torch.Tensor = sliding_window_inference(
                batch, self.config.roi, sw_batch_size=1, predictor=self._window, overlap=self.config.overlap
            )
        if not torch.isfinite(logits).all():
            raise ExpertError(f"{self.card.name}: the network gave an output that is no number")
        probabilities: NDArray[np.float32] = torch.sigmoid(logits[0]).cpu().numpy()
        return probabilities

    def _window(self, window: torch.Tensor) -> torch.Tensor:
        with torch.autocast(window.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16):
            logits: torch.Tensor = self.network(window)
        return logits.float()


@dataclass(frozen=True)
class Prepared:
    """Four contrasts as the network sees them, and how to come back.

    Attributes:
        image: ``(4, x, y, z)`` z-scored, axes LPS, cropped to ``box``.
        shape: of the coarse grid along the axes of T1c.
        box: the part of the coarse grid that ``image`` shows.
        axes: coarse grid axes → network axes.
    """

    image: NDArray[np.float32]
    shape: tuple[int, ...]
    box: tuple[slice, slice, slice]
    axes: grid.AxisOrder


def prepared(volumes: Mapping[str, Volume], config: BratsConfig, brain: NDArray[np.bool_] | None = None) -> Prepared:
    """Bring the four Volumes onto one isotropic grid along the axes of T1c, cropped and z-scored.

    Args:
        volumes: role → Volume, registered.
        config: spacing and treatment of the background.
        brain: on the grid of T1c; everything outside becomes zero.

    Raises:
        ExpertError: a contrast covers too little of what is read in T1c.
    """
    reference = volumes["T1c"]
    target = (config.spacing_mm,) * 3
    shape = grid.resampled_shape(reference.array.shape, reference.spacing_mm, target)
    region = np.ones(shape, dtype=bool)
    if brain is not None:
        soft = grid.resample(brain.astype(np.float32), reference.spacing_mm, target, shape=shape, antialias=False)
        region = soft >= 0.5
    channels = [_on_grid(volumes[role], reference, region, config) for role in CHANNELS]
    box = grid.foreground_box(_any_signal(channels), margin=2)
    axes = grid.axis_order(reference.affine, "LPS")
    image = np.stack([axes.apply(z_score(channel[box])) for channel in channels])
    return Prepared(image=image, shape=shape, box=box, axes=axes)


def _on_grid(volume: Volume, reference: Volume, region: NDArray[np.bool_], config: BratsConfig) -> NDArray[np.float32]:
    """Return ``volume`` on the coarse grid along the axes of the reference, 0 outside ``region``."""
    target = (config.spacing_mm,) * 3
    own_shape = grid.resampled_shape(volume.array.shape, volume.spacing_mm, target)
    own = grid.resample(volume.array, volume.spacing_mm, target, shape=own_shape, antialias=config.antialias)
    if config.brain_mask == "foreground":
        own = np.where(foreground(own), own, 0).astype(np.float32)
    to_own = np.linalg.inv(with_spacing(volume, target)) @ with_spacing(reference, target)
    if own_shape == region.shape and np.allclose(to_own, np.eye(4), atol=1e-3):
        return np.where(region, own, 0).astype(np.float32)
    inside = np.ones(own_shape, dtype=np.float32)
    covered = ndimage.affine_transform(inside, to_own, output_shape=region.shape, order=0, prefilter=False)
    share = float(covered[region].mean())
    if share < _LEAST_OVERLAP:
        raise ExpertError(f"a contrast covers {share:.0%} of what is read in T1c")
    if config.brain_mask != "foreground" and not config.antialias:
        # straight from the source: one interpolation, not two
        own, to_own = volume.array, np.linalg.inv(volume.affine) @ with_spacing(reference, target)
    moved = ndimage.affine_transform(own, to_own, output_shape=region.shape, order=1, prefilter=False)
    return np.where(region, moved, 0).astype(np.float32)


def build_brats(config: BratsConfig) -> SegResNet:
    """Build the network without weights: ``(1, 4, x, y, z)`` → ``(1, 3, x, y, z)`` logits TC, WT, ET."""
    return SegResNet(
        blocks_down=config.blocks_down,
        blocks_up=config.blocks_up,
        init_filters=config.init_filters,
        in_channels=len(CHANNELS),
        out_channels=3,
        dropout_prob=config.dropout,
    )


def z_score(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one contrast with mean 0 and deviation 1 over its non-zero voxels; zeros stay zero."""
    signal = channel[channel != 0]
    if signal.size == 0:
        return channel
    deviation = float(signal.std()) or 1.0
    scaled: NDArray[np.float32] = np.where(channel != 0, (channel - signal.mean()) / deviation, 0)
    return scaled.astype(np.float32)


def label_map(regions: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the BraTS label map of ``(3, …)`` masks of TC, WT and ET: ET 4, else TC 1, else WT 2."""
    core, whole, enhancing = regions
    return np.where(enhancing, 4, np.where(core, 1, np.where(whole, 2, 0))).astype(np.uint8)


def drop_small_tumours(labels: NDArray[np.uint8], minimum_voxels: float) -> NDArray[np.uint8]:
    """Set components of the whole tumour smaller than ``minimum_voxels`` to background."""
    components, count = ndimage.label(labels > 0)
    if count == 0 or minimum_voxels <= 0:
        return labels
    small = np.bincount(components.ravel()) < minimum_voxels
    return np.where(small[components], 0, labels).astype(np.uint8)


def needed_mb(volumes: Mapping[str, Volume], config: BratsConfig) -> float:
    """Estimate the memory one run takes beside the Volumes and the loaded network, from shapes alone."""
    reference = volumes["T1c"]
    shape = grid.resampled_shape(reference.array.shape, reference.spacing_mm, (config.spacing_mm,) * 3)
    window = math.prod(config.roi)
    on_grid = 15 * math.prod(shape)  # float32: four contrasts twice, what is being made, three outputs
    in_window = window * (_ACTIVATIONS * config.init_filters + 8)
    on_source = 3 * reference.array.size  # one output in float32 and its copy, three masks, the label map
    others = 2 * max(volume.array.size for volume in volumes.values())
    extraction = _EXTRACTION_MB if config.brain_mask == "deepbet" else 0.0
    return max(extraction, 4 * (on_grid + in_window + on_source + others) / 1e6)


def _by_role(study: ExpertInput, name: str) -> Mapping[str, Volume]:
    offered = study.brain_mr or {}
    missing = [role for role in CHANNELS if role not in offered]
    if missing:
        raise ExpertError(f"{name} reads {', '.join(CHANNELS)}; missing: {', '.join(missing)}")
    for role in CHANNELS:
        shape = offered[role].array.shape
        if len(shape) != 3 or min(shape) == 0:
            raise ExpertError(f"{role} is no Volume: {shape} is not (slices, rows, columns)")
    return offered


def _require_signal(volumes: Mapping[str, Volume]) -> None:
    for role in CHANNELS:
        lowest, highest = float(volumes[role].array.min()), float(volumes[role].array.max())  # NaN if any is
        if not np.isfinite([lowest, highest]).all():
            raise ExpertError(f"{role} holds values that are no finite numbers")
        if lowest == highest:
            raise ExpertError(f"{role} is empty: every voxel has the same value")


def _registration(reference: Contrast, role: str, moving: Contrast) -> Registration:
    try:
        return register(reference, moving)
    except ExpertError as exc:
        raise ExpertError(f"{role} is {exc}") from exc


def _movement(role: str, found: Registration) -> str:
    return (
        f"{role} was registered to T1c: turned by {found.rotation_deg:.1f} degrees, "
        f"{found.displacement_mm:.1f} mm on average"
    )


def _any_signal(channels: list[NDArray[np.float32]]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.any([channel != 0 for channel in channels], axis=0)
    return mask
