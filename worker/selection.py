"""Which slices of a Volume the vision-language model is shown; deterministic, from voxels and geometry alone.

First picture of a conversation. The published checkpoints take one CT slice, or one slice of each of four MR
sequences; the policy decides which.

- CT, body: the middle one of all slices that show at least half of the largest cross-section of the body, so that
  air, the table and partly covered ends do not count. In a scan full of body that is the middle slice.
- CT, lung: the slice with most lung, for questions about the lungs; the body's where the scan shows next to none.
- MR: the middle one of the slices whose head cross-section comes within 3 % of the largest, on T1c; the other
  sequences show the plane through the same point of the patient.

After a 3D Expert: the slices where what was asked for is widest, at least `APART_MM` from each other.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from worker.rendering import axial, axial_axes, widest_slice
from worker.volume import Volume

Region = Literal["body", "lung"]

APART_MM: Final = 10.0
"""Two slices nearer than this show the same part of a lesion."""

MOST_SLICES: Final = 3
"""Slices of one finding that are asked about."""

_BODY_HU = -900.0  # lungs are body
_LUNG_HU = (-950.0, -500.0)
_LEAST_LUNG_MM2 = 2000.0
_HEAD_OF_BRIGHTEST = 0.1


def first_slice(volume: Volume, region: Region = "body") -> int:
    """Return the slice of the axial stack, counted from the feet, that opens a conversation."""
    planes = axial(volume.array, volume.affine)
    if volume.modality != "CT":
        bright = _HEAD_OF_BRIGHTEST * float(np.percentile(volume.array[::2, ::4, ::4], 99))
        return _middle_of(_areas(planes, bright, np.inf), 0.97)
    if region == "lung":
        lung = _areas(planes, *_LUNG_HU)
        if lung.max() * _pixel_mm2(volume) >= _LEAST_LUNG_MM2:
            return int(np.argmax(lung))
    return _middle_of(_areas(planes, _BODY_HU, np.inf), 0.5)


def same_level(index: int, of: Volume, on: Volume) -> int:
    """Return the slice of ``on``'s axial stack through the centre of slice ``index`` of ``of``'s.

    The nearest one there is when the plane lies outside. Both Volumes share a frame of reference.
    """
    point = np.append(plane_centre(of, index), 1.0)
    order, flips = axial_axes(on.affine)
    count = int(on.array.shape[order[0]])
    found = round(float(np.linalg.solve(on.affine, point)[order[0]]))
    found = count - 1 - found if flips[0] else found
    return min(max(found, 0), count - 1)


def plane_centre(volume: Volume, index: int) -> NDArray[np.float64]:
    """Return the centre of slice ``index`` of the axial stack, mm in LPS."""
    order, flips = axial_axes(volume.affine)
    centre = (np.array(volume.array.shape) - 1) / 2.0
    centre[order[0]] = volume.array.shape[order[0]] - 1 - index if flips[0] else index
    point: NDArray[np.float64] = volume.affine[:3, :3] @ centre + volume.affine[:3, 3]
    return point


def widest_slices(labels: NDArray[np.uint8], wanted: frozenset[int], *, spacing_mm: float) -> list[int]:
    """Return up to `MOST_SLICES` slices that show most of ``wanted``, the widest first, apart from each other.

    Without a voxel of ``wanted`` it is the one slice that shows most of any label.

    Args:
        labels: ``(slices, rows, columns)`` label map in axial order, see `worker.rendering.axial`.
        wanted: label values that count.
        spacing_mm: between those slices.
    """
    areas = np.array([int(np.isin(plane, sorted(wanted)).sum()) for plane in labels])
    if not areas.any():
        return [widest_slice(labels)]
    chosen: list[int] = []
    for index in np.argsort(-areas, kind="stable"):
        if len(chosen) == MOST_SLICES or areas[index] == 0:
            break
        if all(abs(int(index) - other) * spacing_mm >= APART_MM for other in chosen):
            chosen.append(int(index))
    return chosen


def reading_number(volume: Volume, index: int) -> int:
    """Return the number a reader knows slice ``index`` by: 1 is the first from the head, the right or the front."""
    step = volume.affine[:3, 0]
    main = int(np.argmax(np.abs(step)))
    towards = -step[main] if main == 2 else step[main]  # LPS: +z is superior, and axial stacks are read head first
    return index + 1 if towards > 0 else len(volume.sop_instance_uids) - index


def _areas(planes: NDArray[np.generic], low: float, high: float) -> NDArray[np.int64]:
    counts: Sequence[int] = [int(((plane > low) & (plane < high)).sum()) for plane in planes]
    return np.array(counts, dtype=np.int64)


def _middle_of(areas: NDArray[np.int64], share: float) -> int:
    """Return the middle one of the slices with at least ``share`` of the largest area."""
    large = np.flatnonzero(areas >= share * areas.max())
    return int(large[len(large) // 2])


def _pixel_mm2(volume: Volume) -> float:
    order, _ = axial_axes(volume.affine)
    return volume.spacing_mm[order[1]] * volume.spacing_mm[order[2]]
