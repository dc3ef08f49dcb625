"""What a Volume takes of memory before it is allocated, and the features kept between two questions about it."""

import weakref
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from config.errors import InputTooLargeError
from worker.experts.windows import WindowPlan

T = TypeVar("T")

_MB = 1e6
# Measured on VISTA3D with 48 filters and windows of 128³: 2.7 float32 maps of the first level are alive at
# the peak of one window under autocast, 5.2 without. Rounded up for other builds of the convolutions.
_LIVE_MAPS = {True: 4, False: 7}
_GRID_BYTES = 20  # resampled, scaled, on the device and padded (float32), masks and labels


@dataclass(frozen=True)
class Footprint:
    """Memory one Volume takes, in MB of 10⁶ bytes, beside the Volume itself and the interpreter.

    Attributes:
        base_mb: weights, activations of one window and the resampled Volume.
        features_mb: features of the whole Volume.
        slab_mb: features of one slab, and the part of it carried to the next.
    """

    base_mb: float
    features_mb: float
    slab_mb: float

    @property
    def whole_mb(self) -> float:
        """With the features of the whole Volume."""
        return self.base_mb + self.features_mb

    @property
    def slabs_mb(self) -> float:
        """With the features of one slab at a time."""
        return self.base_mb + self.slab_mb

    def whole_fits(self, memory_mb: float) -> bool:
        """Return whether the features of the whole Volume fit the budget."""
        return self.whole_mb <= memory_mb

    def require_slabs_fit(self, memory_mb: float) -> None:
        """Refuse a Volume that does not even fit slab by slab.

        Raises:
            InputTooLargeError: with the numbers.
        """
        if self.slabs_mb > memory_mb:
            raise InputTooLargeError(
                f"the volume needs {self.slabs_mb:.0f} MB even when read in slabs, the budget is {memory_mb:.0f} MB"
            )


def footprint(
    plan: WindowPlan, *, grid_voxels: int, features: int, widest: int, autocast: bool, weights_bytes: int
) -> Footprint:
    """Estimate the memory of a windowed network from its grid.

    Args:
        plan: the windows.
        grid_voxels: of the resampled Volume before it is cropped.
        features: channels that are blended, float32.
        widest: channels at full resolution inside the network.
        autocast: activations take two bytes.
        weights_bytes: of the network.
    """
    patch = int(np.prod(plan.patch, dtype=np.int64))
    window = patch * widest * 4 * _LIVE_MAPS[autocast]
    base = weights_bytes + window + (grid_voxels + plan.voxels) * _GRID_BYTES / 2
    per_voxel = features * 4 / _MB
    slab = min(2 * plan.slab_voxels, plan.voxels)
    return Footprint(base / _MB, plan.voxels * per_voxel, slab * per_voxel)


def require_room(needed_bytes: int, memory_mb: float, *, step: str) -> None:
    """Refuse a Volume one step of whose preparation exceeds the budget.

    Raises:
        InputTooLargeError: with the numbers.
    """
    if needed_bytes / _MB > memory_mb:
        raise InputTooLargeError(
            f"the volume needs {needed_bytes / _MB:.0f} MB for {step}, the budget is {memory_mb:.0f} MB"
        )


class FeatureStore(Generic[T]):
    """What was computed from the last array, for as long as that array lives.

    Holds no array alive: when the study is done with, so are its features.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: tuple[weakref.ref[NDArray[np.float32]], NDArray[np.float64], T] | None = None

    def keep(self, array: NDArray[np.float32], affine: NDArray[np.float64], value: T) -> None:
        """Keep ``value`` for this very array on this grid, instead of whatever was kept."""
        self._kept = (weakref.ref(array, self._forget), affine.copy(), value)

    def of(self, array: NDArray[np.float32], affine: NDArray[np.float64]) -> T | None:
        """Return what is kept for this very array on this grid, else None."""
        kept = self._kept
        if kept is None or kept[0]() is not array or not np.array_equal(kept[1], affine):
            return None
        return kept[2]

    def clear(self) -> None:
        """Forget everything."""
        self._kept = None

    def _forget(self, dead: weakref.ref[NDArray[np.float32]]) -> None:
        kept = self._kept
        if kept is not None and kept[0] is dead:
            self._kept = None
