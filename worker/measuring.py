"""Measurements of a label map: each from voxels and geometry alone, never from a model's words.

Longest axial diameter: the largest distance between the centres of two voxels of one lesion in one axial plane
(the maximum Feret diameter of the voxel centres), plus one pixel, measured along that diameter. A lesion there is one
8-connected island of the plane, as in RECIST: a distance across healthy tissue is no diameter.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.experts.base import SegmentationResult
from worker.rendering import axial, axial_axes
from worker.selection import reading_number
from worker.volume import Volume

MIDLINE_MM = 15.0  # a centroid nearer to the midline than this has no side


@dataclass(frozen=True)
class LesionMeasure:
    """What one finding amounts to in its Volume.

    Attributes:
        volume_ml: volume of all voxels of the label.
        count: connected components (26-neighbourhood).
        diameter_mm: longest axial diameter of any part, mm; see the module.
        slice_index: source slice where the label is widest.
        slice_range: first and last source slice that show it, both included.
        slice_numbers: the same two as the viewer counts, the smaller first.
        normal_mm: where their centres lie along the slice normal, mm in the patient's frame, ascending.
        extent_mm: from edge to edge along the normal.
        laterality: side of the centroid from the body's midline: ``"left"``, ``"right"`` or ``""`` near the midline
            or on both sides.
    """

    volume_ml: float
    count: int
    diameter_mm: float
    slice_index: int
    slice_range: tuple[int, int]
    slice_numbers: tuple[int, int]
    normal_mm: tuple[float, float]
    extent_mm: float
    laterality: str


def measure(result: SegmentationResult, values: frozenset[int]) -> LesionMeasure | None:
    """Measure the labels ``values`` together, or return None when no voxel has them."""
    mask = np.isin(result.labels, sorted(values))
    areas = mask.sum(axis=(1, 2))
    slices = np.flatnonzero(areas)
    if not len(slices):
        return None
    volume = result.volume
    first, last = int(slices[0]), int(slices[-1])
    low, high = sorted((_along_normal(volume, first), _along_normal(volume, last)))
    numbers = sorted((reading_number(volume, first), reading_number(volume, last)))
    return LesionMeasure(
        volume_ml=float(areas.sum()) * volume.voxel_volume_ml,
        count=int(ndimage.label(_box(mask), structure=np.ones((3, 3, 3)))[1]),
        diameter_mm=longest_axial_diameter(mask, volume),
        slice_index=int(np.argmax(areas)),
        slice_range=(first, last),
        slice_numbers=(numbers[0], numbers[1]),
        normal_mm=(low, high),
        extent_mm=high - low + abs(_along_normal(volume, 1) - _along_normal(volume, 0)),
        laterality=_side(mask, volume),
    )


def label_counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return ``(256,)`` voxels of each label value; slice by slice, since counting widens what it is given."""
    counts = np.zeros(256, dtype=np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    return counts


def longest_axial_diameter(mask: NDArray[np.bool_], volume: Volume) -> float:
    """Return the longest axial diameter of ``mask`` in mm, whatever the orientation of the Volume; 0 when empty."""
    order, _ = axial_axes(volume.affine)
    row_step, column_step = volume.affine[:3, order[1]], volume.affine[:3, order[2]]
    longest = 0.0
    for plane in axial(mask, volume.affine):
        islands, _ = ndimage.label(plane, structure=np.ones((3, 3)))
        for number, box in enumerate(ndimage.find_objects(islands), 1):
            size = [s.stop - s.start for s in box]
            if float(np.linalg.norm(size[0] * row_step) + np.linalg.norm(size[1] * column_step)) > longest:
                longest = max(longest, _feret_mm(islands[box] == number, row_step, column_step))
    return longest


def _feret_mm(island: NDArray[np.bool_], row_step: NDArray[np.float64], column_step: NDArray[np.float64]) -> float:
    """Return the largest distance of two voxel centres, plus the width of one pixel in that direction."""
    # the farthest pair are corners of the convex hull, and such a corner is the first or last voxel of its row
    rows = np.flatnonzero(island.any(axis=1))
    first = island[rows].argmax(axis=1)
    last = island.shape[1] - 1 - island[rows, ::-1].argmax(axis=1)
    points = np.concatenate([rows, rows])[:, None] * row_step + np.concatenate([first, last])[:, None] * column_step
    gaps = points[:, None, :] - points[None, :, :]
    lengths = np.linalg.norm(gaps, axis=-1)
    longest = float(lengths.max())
    if longest == 0.0:
        return float(max(np.linalg.norm(row_step), np.linalg.norm(column_step)))
    along = gaps[np.unravel_index(int(lengths.argmax()), lengths.shape)] / longest
    return longest + abs(float(along @ row_step)) + abs(float(along @ column_step))


def _box(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the part of ``mask`` that holds every True."""
    kept: list[Any] = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        kept.append(slice(int(hits[0]), int(hits[-1]) + 1))
    held: NDArray[np.bool_] = mask[tuple(kept)]
    return held


def _along_normal(volume: Volume, index: int) -> float:
    """Return where a slice lies along the slice normal, mm from the origin of the patient's frame."""
    # of a tilted gantry the slices are stacked along the table, which is not their normal
    across = np.cross(volume.affine[:3, 1], volume.affine[:3, 2])
    step = volume.affine[:3, 0]
    normal = across / np.linalg.norm(across) * np.sign(across @ step)
    return float((volume.affine[:3, 3] + index * step) @ normal)


def _side(mask: NDArray[np.bool_], volume: Volume) -> str:
    """Return the patient's side from the centroid's x in LPS, measured from the middle of the body."""
    foreground = volume.array > (-300.0 if volume.modality == "CT" else 0.1 * float(volume.array.max()))
    body = foreground if foreground.any() else np.ones_like(foreground)
    middle = _centroid_x(body, volume.affine)
    offsets = _xs(mask, volume.affine) - middle
    if offsets.max() > MIDLINE_MM and offsets.min() < -MIDLINE_MM:
        # both sides, unless one of them is a sliver
        left = float((offsets > 0).mean())
        if 0.05 < left < 0.95:
            return ""
    centre = float(offsets.mean())
    if abs(centre) < MIDLINE_MM:
        return ""
    return "left" if centre > 0 else "right"


def _xs(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    indices = np.nonzero(mask)
    xs: NDArray[np.float64] = (
        affine[0, 0] * indices[0] + affine[0, 1] * indices[1] + affine[0, 2] * indices[2] + affine[0, 3]
    )
    return xs


def _centroid_x(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> float:
    """Return the mean LPS x of a mask, from its profiles so that no index list of the body is made."""
    total = float(mask.sum())
    centre = [
        float((mask.sum(axis=tuple(o for o in range(3) if o != axis)) * np.arange(mask.shape[axis])).sum()) / total
        for axis in range(3)
    ]
    return float(affine[0, :3] @ np.array(centre) + affine[0, 3])
