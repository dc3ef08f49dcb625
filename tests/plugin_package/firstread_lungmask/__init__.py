"""LUNGMASK: lungs on CT by threshold and connected components, a classical method without trained weights."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from config.errors import ExpertError
from worker.experts.base import ExpertInput, ModelCard, SegmentationResult
from worker.experts.packages import AgeLimits, IntendedUse

AIR_BELOW_HU = -400.0
SMALLEST_ML = 50.0
LABELS = {1: "air-filled lung"}


@dataclass(frozen=True)
class LungMaskSource:
    """What the entry point returns: everything that is known before anything is loaded."""

    memory_mb: float = 600.0

    @property
    def card(self) -> ModelCard:
        """The promise; there are no weights, so the method's own text is what must not change."""
        digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        return ModelCard(
            name="LUNGMASK",
            version="1.0.0",
            task="segmentation",
            modality="CT",
            overview="air-filled lung by threshold and connected components; no trained weights",
            accuracy="not validated; consolidated lung is missed",
            arguments=(),
            labels=LABELS,
            weights_sha256={"__init__.py": digest},
            licence="Apache-2.0",
            demonstration=True,
        )

    @property
    def intended_use(self) -> IntendedUse:
        """Chest CT of adults."""
        return IntendedUse(
            modalities=("CT",),
            body_parts=("CHEST", "THORAX"),
            age_years=AgeLimits(minimum=18),
            statement="Shows how an Expert is added. Not for clinical use.",
        )

    def load(self, device: str) -> "LungMask":
        """Return the Expert; there is nothing to load."""
        return LungMask(self.card)


@dataclass(frozen=True)
class LungMask:
    """The Expert."""

    card: ModelCard

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        """Mark air inside the body.

        Raises:
            ExpertError: the Study offers no CT Volume.
        """
        if study.volume is None:
            raise ExpertError(f"{self.card.name} reads a CT Volume; the study offers none")
        started = time.perf_counter()
        labels = lungs(study.volume.array, study.volume.voxel_volume_ml)
        return SegmentationResult(
            card=self.card,
            argument=argument,
            seconds=time.perf_counter() - started,
            labels=labels,
            names=LABELS,
            volume=study.volume,
        )


def lungs(hu: NDArray[np.float32], voxel_ml: float) -> NDArray[np.uint8]:
    """Return 1 where air lies inside the body: components of at least 50 ml that touch no side of the image."""
    air, count = ndimage.label(hu < AIR_BELOW_HU)
    sizes_ml = np.bincount(air.ravel(), minlength=count + 1) * voxel_ml
    outside = {0, *np.unique(air[:, [0, -1], :]), *np.unique(air[:, :, [0, -1]])}
    kept = [value for value in range(1, count + 1) if value not in outside and sizes_ml[value] >= SMALLEST_ML]
    mask: NDArray[np.uint8] = np.isin(air, kept).astype(np.uint8)
    return mask


def source() -> LungMaskSource:
    """Return the source; the entry point names this function."""
    return LungMaskSource()
