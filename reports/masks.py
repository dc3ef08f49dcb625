"""Masks as arrays, before they are an object: checked, renumbered, and split where one object would be too large."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from config.errors import RefusedInputError
from reports.values import SegmentSpec

MOST_FRAMES = 65_535
"""Most frames of one BINARY Segmentation. The Standard allows 2**31 - 1 (Number of Frames is an IS); readers that
count frames in 16 bits exist, and every frame costs a reader some 10 kB of functional groups."""
MOST_PIXEL_BYTES = 1 << 30
"""Most pixel data of one Segmentation: half of what a reader with signed 32 bit lengths can address."""


@dataclass(frozen=True)
class Mask:
    """What one Segmentation holds.

    Attributes:
        array: ``(slices, rows, columns)`` label map, or ``(slices, rows, columns, segments)`` 0/1 masks; uint8.
        segments: one per label value, or per channel.
        frames: how many a BINARY Segmentation of it has: one per segment and slice with a voxel.
    """

    array: NDArray[np.uint8]
    segments: tuple[SegmentSpec, ...]
    frames: int


def compact(array: NDArray[np.uint8], segments: Sequence[SegmentSpec]) -> Mask:
    """Return the mask with its non-empty segments only, numbered 1…n in the order of ``segments``.

    The specs keep their numbers; the position of each is its new one.

    Raises:
        RefusedInputError: nothing to write, a label value nobody described, or numbers that name no mask.
    """
    present = _presence(array, segments)
    kept = tuple(spec for spec, frames in zip(segments, present.sum(axis=0).tolist(), strict=True) if frames)
    if not kept:
        raise RefusedInputError(f"none of {len(segments)} segments has a voxel; there is nothing to write")
    return Mask(_taken(array, kept), kept, int(present.sum()))


def most_frames(rows: int, columns: int) -> int:
    """Return how many 1 bit frames of this size one Segmentation may hold."""
    return min(MOST_FRAMES, MOST_PIXEL_BYTES * 8 // (rows * columns))


def split(array: NDArray[np.uint8], segments: Sequence[SegmentSpec], *, most: int | None = None) -> list[Mask]:
    """Return the mask in parts of whole segments, so that none needs more frames than one object should have.

    Segments stay in order, and empty ones are left out; nearly always there is one part.

    Args:
        array, segments: as for `reports.segmentation.build_segmentation`.
        most: frames of one part; `most_frames` when None. A single segment may exceed it.

    Raises:
        RefusedInputError: as `compact`.
    """
    limit = most or most_frames(*array.shape[1:3])
    counts = _presence(array, segments).sum(axis=0).tolist()
    groups: list[tuple[list[SegmentSpec], int]] = []
    for spec, frames in zip(segments, counts, strict=True):
        if not frames:
            continue
        if groups and groups[-1][1] + frames <= limit:
            group, together = groups.pop()
            groups.append(([*group, spec], together + frames))
        else:
            groups.append(([spec], frames))
    if len(groups) == 1:
        return [Mask(array, tuple(segments), sum(counts))]
    return [_part(array, group, frames) for group, frames in groups]


def disjoint(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return stacked masks as a label map: channel k is value k + 1.

    Raises:
        RefusedInputError: masks overlap; a label map has one value per voxel.
    """
    labels = np.zeros(masks.shape[:3], np.uint8)
    for k, plane in enumerate(masks):
        if plane.shape[-1] > 1 and plane.sum(axis=-1, dtype=np.uint8).max(initial=0) > 1:
            raise RefusedInputError(f"segments overlap on slice {k}; a LABELMAP Segmentation has one value per voxel")
        for channel in range(masks.shape[3]):
            labels[k][plane[..., channel] > 0] = channel + 1
    return labels


def relabel(array: NDArray[np.uint8], table: bytes) -> NDArray[np.uint8]:
    """Return a label map whose values went through ``table``: 256 bytes, the new value of each old one."""
    # a look-up by numpy would first turn every value into a 64 bit index
    result = np.empty(array.shape, np.uint8)
    for plane, made in zip(array, result, strict=True):
        made[...] = np.frombuffer(plane.tobytes().translate(table), np.uint8).reshape(plane.shape)
    return result


def _presence(array: NDArray[np.uint8], segments: Sequence[SegmentSpec]) -> NDArray[np.bool_]:
    """Return ``(slices, segments)``: which segment has a voxel on which slice."""
    numbers = [spec.number for spec in segments]
    if len(set(numbers)) != len(numbers) or not all(0 < number < 256 for number in numbers):
        raise RefusedInputError(f"segment numbers must differ and lie in 1…255, got {sorted(numbers)}")
    if array.ndim == 4:
        return _channels_present(array, segments)
    # slice by slice: counting turns its input into 64 bit numbers
    counts = np.stack([np.bincount(plane.reshape(-1), minlength=256) for plane in array])
    unknown = sorted(set(np.flatnonzero(counts.any(axis=0)).tolist()) - {0} - {spec.number for spec in segments})
    if unknown:
        raise RefusedInputError(f"the label map holds {unknown}, which no segment describes")
    present: NDArray[np.bool_] = counts[:, [spec.number for spec in segments]] > 0
    return present


def _channels_present(masks: NDArray[np.uint8], segments: Sequence[SegmentSpec]) -> NDArray[np.bool_]:
    if sorted(spec.number for spec in segments) != list(range(1, masks.shape[3] + 1)):
        raise RefusedInputError(f"{masks.shape[3]} stacked masks need segments 1…{masks.shape[3]}")
    if masks.max(initial=0) > 1:
        raise RefusedInputError(f"stacked masks hold 0 and 1, found {int(masks.max())}")
    present = np.asarray(masks.any(axis=(1, 2)))
    return present[:, [spec.number - 1 for spec in segments]]


def _taken(array: NDArray[np.uint8], kept: Sequence[SegmentSpec]) -> NDArray[np.uint8]:
    """Return the array with the segments of ``kept`` only, numbered by their position."""
    if array.ndim == 4:
        return np.ascontiguousarray(array[..., [spec.number - 1 for spec in kept]])
    if all(spec.number == new for new, spec in enumerate(kept, 1)) and array.max(initial=0) <= len(kept):
        return array
    table = bytearray(256)
    for new, spec in enumerate(kept, 1):
        table[spec.number] = new
    return relabel(array, bytes(table))


def _part(array: NDArray[np.uint8], group: Sequence[SegmentSpec], frames: int) -> Mask:
    """Return some segments of a mask; in a label map they keep their values, in a stack they are counted anew."""
    if array.ndim == 4:
        from_one = tuple(replace(spec, number=new) for new, spec in enumerate(group, 1))
        return Mask(_taken(array, group), from_one, frames)
    wanted = {spec.number for spec in group}
    return Mask(relabel(array, bytes(v if v in wanted else 0 for v in range(256))), tuple(group), frames)
