"""Grids: bring a Volume onto the grid a network was trained on, and a label map back, exactly."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

T = TypeVar("T", bound=np.generic)

# Unit vectors in LPS towards which the first, second and third network axis must increase.
ORIENTATIONS = {
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "LPS": np.eye(3),
}


@dataclass(frozen=True)
class AxisOrder:
    """How source axes become network axes: transposed, then some flipped.

    Attributes:
        order: ``order[k]`` is the source axis that becomes network axis k.
        flips: network axes that run the other way.
    """

    order: tuple[int, int, int]
    flips: tuple[int, ...]

    def apply(self, array: NDArray[T]) -> NDArray[T]:
        """Return ``array`` (source axes) in network axes."""
        return np.flip(array.transpose(self.order), self.flips)

    def undo(self, array: NDArray[T]) -> NDArray[T]:
        """Return ``array`` (network axes) in source axes."""
        inverse = np.argsort(self.order)
        return np.flip(array, self.flips).transpose(tuple(int(axis) for axis in inverse))


def axis_order(affine: NDArray[np.float64], orientation: str) -> AxisOrder:
    """Find the axis order nearest to ``orientation`` for a grid; an oblique grid stays oblique.

    Args:
        affine: ``(4, 4)`` index → mm, LPS.
        orientation: ``"RAS"`` or ``"LPS"``, as nibabel uses the words: the way an axis increases.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = ORIENTATIONS[orientation] @ directions  # [network axis, source axis]
    _, columns = linear_sum_assignment(-np.abs(along))
    flips = tuple(axis for axis in range(3) if along[axis, columns[axis]] < 0)
    return AxisOrder(order=(int(columns[0]), int(columns[1]), int(columns[2])), flips=flips)


def resampled_shape(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], target_mm: tuple[float, ...]
) -> tuple[int, ...]:
    """Return how many voxels of ``target_mm`` span the same centres (first centre shared)."""
    spans = zip(shape, spacing_mm, target_mm, strict=True)
    return tuple(int(np.floor((count - 1) * old / new + 0.5)) + 1 for count, old, new in spans)


def resample(
    array: NDArray[np.float32],
    spacing_mm: tuple[float, ...],
    target_mm: tuple[float, ...],
    *,
    shape: tuple[int, ...],
    antialias: bool,
) -> NDArray[np.float32]:
    """Interpolate linearly along each axis of a grid; the first voxel centre stays where it is.

    Args:
        array: ``(a, b, c)``.
        spacing_mm, target_mm: old and new spacing per axis.
        shape: new number of voxels per axis (``resampled_shape``, or the grid to return to).
        antialias: widen the triangle to the new spacing when coarser, so noise is averaged.
    """
    result = array.astype(np.float32, copy=False)
    shrinkage = [shape[axis] / array.shape[axis] for axis in range(3)]
    for axis in sorted(range(3), key=shrinkage.__getitem__):
        if shape[axis] == array.shape[axis] and np.isclose(spacing_mm[axis], target_mm[axis]):
            continue
        ratio = target_mm[axis] / spacing_mm[axis]
        weights = _triangle_weights(array.shape[axis], shape[axis], ratio, antialias=antialias)
        moved = np.moveaxis(result, axis, 0)
        flat = weights @ moved.reshape(moved.shape[0], -1)
        result = np.moveaxis(flat.reshape(shape[axis], *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(result)


def nearest_indices(count: int, spacing_mm: float, grid_count: int, grid_mm: float) -> NDArray[np.intp]:
    """Return, for each of ``count`` source voxels, the nearest voxel of the resampled grid."""
    places = np.floor(np.arange(count) * spacing_mm / grid_mm + 0.5)
    picks: NDArray[np.intp] = np.clip(places, 0, grid_count - 1).astype(np.intp)
    return picks


def back_to_source(
    labels: NDArray[np.uint8],
    grid_mm: tuple[float, ...],
    spacing_mm: tuple[float, ...],
    *,
    shape: tuple[int, ...],
) -> NDArray[np.uint8]:
    """Return a label map of the resampled grid on the source grid, nearest neighbour."""
    picks = [nearest_indices(shape[axis], spacing_mm[axis], labels.shape[axis], grid_mm[axis]) for axis in range(3)]
    return np.ascontiguousarray(labels[np.ix_(*picks)])


def foreground_box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """Return the box around ``mask`` with ``margin`` voxels on each side; everything if it is empty."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        rows, columns, planes = mask.shape
        return slice(0, rows), slice(0, columns), slice(0, planes)
    a, b, c = (
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, size in zip(box[0], mask.shape, strict=True)
    )
    return a, b, c


def drop_small_components(labels: NDArray[np.uint8], minimum_voxels: dict[int, float]) -> NDArray[np.uint8]:
    """Give components of a label that are smaller than its minimum to their nearest neighbours.

    A voxel of a dropped component takes the label (background included) of the nearest voxel that
    stays, so a false spot in the liver becomes liver, not a hole.
    """
    dropped = np.zeros(labels.shape, dtype=bool)
    for label, minimum in minimum_voxels.items():
        components, count = ndimage.label(labels == label)
        if count:
            sizes = np.bincount(components.ravel())
            small = sizes < minimum
            small[0] = False
            dropped |= small[components]
    if not dropped.any() or dropped.all():
        return labels
    box = foreground_box(dropped, margin=2)
    nearest = ndimage.distance_transform_edt(dropped[box], return_distances=False, return_indices=True)
    cleaned = labels.copy()
    cleaned[box] = labels[box][tuple(nearest)]
    return cleaned


def _triangle_weights(count: int, new_count: int, ratio: float, *, antialias: bool) -> NDArray[np.float32]:
    """Return ``(new_count, count)`` linear interpolation weights; rows sum to 1."""
    width = max(1.0, ratio) if antialias else 1.0
    centres = np.clip(np.arange(new_count) * ratio, 0, count - 1)
    distance = np.abs(centres[:, None] - np.arange(count)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / width)
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised
