"""Grids: bring a Volume onto the grid a network was trained on, and a label map back, exactly."""

import itertools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

T = TypeVar("T", bound=np.generic)

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_SPACING_MM = 1e-3  # closer than this is the same spacing (monai.data.utils.AFFINE_TOL)


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

    The nearest order is nibabel's, which the published networks were trained behind.

    Args:
        affine: ``(4, 4)`` index → mm, LPS.
        orientation: ``"RAS"`` or ``"LPS"``, as nibabel uses the words: the way an axis increases.
    """
    # per source axis: patient axis, sign
    found: NDArray[np.float64] = io_orientation(_LPS_TO_RAS @ affine)  # type: ignore[no-untyped-call]
    wanted: NDArray[np.float64] = axcodes2ornt(tuple(orientation))  # type: ignore[no-untyped-call]
    a, b, c = (int(np.flatnonzero(found[:, 0] == axis)[0]) for axis, _ in wanted)
    flips = tuple(axis for axis, source in enumerate((a, b, c)) if found[source, 1] != wanted[axis, 1])
    return AxisOrder(order=(a, b, c), flips=flips)


def reached_spacing(spacing_mm: tuple[float, ...], target_mm: float) -> tuple[float, float, float]:
    """Return the spacing per axis after resampling to ``target_mm``: an axis that has it already keeps its own."""
    a, b, c = (own if abs(own - target_mm) <= SAME_SPACING_MM else target_mm for own in spacing_mm)
    return a, b, c


def resampled_shape(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], target_mm: tuple[float, ...]
) -> tuple[int, ...]:
    """Return how many voxels of ``target_mm`` span the same centres (first centre shared).

    Halves round to even, as in ``monai.data.utils.compute_shape_offset``.
    """
    spans = zip(shape, spacing_mm, target_mm, strict=True)
    return tuple(int(np.rint((count - 1) * (old / new) + 1.0)) for count, old, new in spans)


def resampling_voxels(shape: tuple[int, ...], new_shape: tuple[int, ...]) -> int:
    """Return the largest number of voxels that `resample` holds at one time beside its input."""
    sizes = [0]
    current = list(shape)
    for axis in _axes_by_shrinkage(shape, new_shape):
        current[axis] = new_shape[axis]
        sizes.append(int(np.prod(current, dtype=np.int64)))
    return max(before + 2 * after for before, after in itertools.pairwise(sizes))


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
    for axis in _axes_by_shrinkage(array.shape, shape):
        if shape[axis] == array.shape[axis] and np.isclose(spacing_mm[axis], target_mm[axis]):
            continue
        ratio = target_mm[axis] / spacing_mm[axis]
        if antialias:
            result = _weighted(result, axis, _triangle_weights(array.shape[axis], shape[axis], ratio))
        else:
            result = _interpolated(result, axis, ratio, shape[axis])
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


def _axes_by_shrinkage(shape: tuple[int, ...], new_shape: tuple[int, ...]) -> list[int]:
    """Return the axes in the order they are resampled: the one that shrinks most first, to keep arrays small."""
    return sorted(range(3), key=lambda axis: new_shape[axis] / shape[axis])


def _interpolated(array: NDArray[np.float32], axis: int, ratio: float, count: int) -> NDArray[np.float32]:
    """Return ``array`` linearly interpolated along one axis at ``count`` places, ``ratio`` voxels apart."""
    places = np.clip(np.arange(count) * ratio, 0, array.shape[axis] - 1)
    below = np.floor(places).astype(np.intp)
    above = np.minimum(below + 1, array.shape[axis] - 1)
    share = (places - below).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
    result: NDArray[np.float32] = np.take(array, below, axis=axis)
    result *= 1 - share
    upper = np.take(array, above, axis=axis)
    upper *= share
    result += upper
    return result


def _weighted(array: NDArray[np.float32], axis: int, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``weights`` ``(new, old)`` applied along one axis, without copying the array."""
    if axis == 0:
        flat: NDArray[np.float32] = weights @ array.reshape(len(array), -1)
        return flat.reshape(-1, *array.shape[1:])
    result: NDArray[np.float32] = weights @ array if axis == 1 else array @ weights.T
    return result


def _triangle_weights(count: int, new_count: int, ratio: float) -> NDArray[np.float32]:
    """Return ``(new_count, count)`` weights of a triangle as wide as the coarser spacing; rows sum to 1."""
    width = max(1.0, ratio)
    centres = np.clip(np.arange(new_count) * ratio, 0, count - 1)
    distance = np.abs(centres[:, None] - np.arange(count)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / width)
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised
