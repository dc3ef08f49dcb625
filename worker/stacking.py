"""From the image planes of one Series to a Volume, or the reason why they make none.

The planes of a Series are parted by what can never be one grid: matrix, pixel spacing, orientation, Stack ID
(0020,9056) and complex component. Where several planes of a part lie at one position (contrast phases, time
points, echoes, kernels), they are parted further by the first attribute that leaves one plane per position.
Of the stacks found, the one with most slices is read; of equal ones the original before the derived, then the
first acquisition, time point or echo. Only magnitude images are read.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from config.errors import GeometryError, UndecodablePixelsError
from worker.decoding import decode_frames, pixel_digest, rescaled
from worker.frames import Frame, frames_of, is_multi_frame
from worker.upright import LARGEST_TILT_DEGREES, SMALLEST_TILT_DEGREES, tilt_degrees
from worker.volume import Volume

SPACING_TOLERANCE = 0.02  # of the median step; scanners round positions to 1e-3 mm or worse
ANGLE_TOLERANCE = 1e-3  # between direction cosines
SAME_PLACE_MM = 0.01
AIR_HU = -1024.0


@dataclass(frozen=True)
class Stack:
    """Image planes that make one grid.

    Attributes:
        frames: sorted along the slice normal.
        affine: ``(4, 4)`` from (slice, row, column) to LPS mm; sheared when the gantry was tilted.
        left_out: why other planes of the Series are not part of it, in words for a person.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    left_out: tuple[str, ...] = ()

    @property
    def headers(self) -> list[Dataset]:
        """The Instances, each once, in array order."""
        return list({id(frame.header): frame.header for frame in self.frames}.values())


def read_stack(headers: Sequence[Dataset]) -> Stack:
    """Return the stack of a Series that is read, by the rule at the top of this module.

    Uses Image Position (Patient), never Slice Thickness, which may differ from the spacing when slices overlap
    (PS3.3 C.7.6.2.1.1).

    Args:
        headers: classic Instances or multi-frame objects of one Series.

    Raises:
        GeometryError: no stack of at least two slices with one spacing; the text says why.
    """
    parts, reasons = _parts(frames_of(headers))
    stacks: list[Stack] = []
    for frames in parts:
        try:
            stacks.append(_ordered(frames))
        except GeometryError as exc:
            reasons.append(str(exc))
    if not stacks:
        raise GeometryError("; ".join(dict.fromkeys(reasons)))
    best = max(stacks, key=lambda stack: (len(stack.frames), stack.frames[0].is_original))  # of equals the first
    others = [f"{len(s.frames)} slices are another stack of the series" for s in stacks if s is not best]
    return Stack(best.frames, best.affine, (*others, *dict.fromkeys(reasons)))


def load_volume(headers: Sequence[Dataset]) -> Volume:
    """Decode the stack of a Series that is read.

    Args:
        headers: Datasets from :func:`worker.decoding.read_header`, which carry their file name.

    Raises:
        GeometryError: see :func:`read_stack`.
        UndecodablePixelsError: see :func:`worker.decoding.decode_frames`.
    """
    return load_stack(read_stack(headers))


def load_stack(stack: Stack) -> Volume:
    """Decode a stack, one plane at a time.

    Padding outside the field of view counts as air (CT) or as no signal (MR).

    Raises:
        UndecodablePixelsError: see :func:`worker.decoding.decode_frames`.
    """
    first = stack.frames[0]
    array = np.empty((len(stack.frames), *first.matrix), dtype=np.float32)
    for places in _by_instance(stack.frames):
        header = stack.frames[places[0]].header
        numbers = [stack.frames[k].number for k in places]
        decoded = decode_frames(Path(str(header.filename)), numbers, shape=first.matrix)
        for k, stored in zip(places, decoded, strict=True):
            array[k] = rescaled(stored, stack.frames[k].transform)
            if not np.isfinite(array[k]).all():
                raise UndecodablePixelsError(f"image {stack.frames[k].name} holds values that are no numbers")
            padded = _padding(stored, header)
            if padded is not None:
                array[k][padded] = AIR_HU if header.Modality == "CT" else 0.0
    header = first.header
    if header.Modality == "CT":
        np.maximum(array, AIR_HU, out=array)
    return Volume(
        array=array,
        affine=stack.affine,
        sop_instance_uids=tuple(str(frame.header.SOPInstanceUID) for frame in stack.frames),
        frame_numbers=tuple(frame.number for frame in stack.frames),
        series_instance_uid=str(header.SeriesInstanceUID),
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID", "") or ""),
        modality=str(header.Modality),
    )


def _by_instance(frames: Sequence[Frame]) -> list[list[int]]:
    """Return, for each Instance, which planes it holds."""
    places: dict[int, list[int]] = {}
    for k, frame in enumerate(frames):
        places.setdefault(id(frame.header), []).append(k)
    return list(places.values())


def _padding(stored: NDArray[Any], header: Dataset) -> NDArray[np.bool_] | None:
    """Return where stored values are padding (PS3.3 C.7.5.1.1.2), None without a Pixel Padding Value."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    mask: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return mask


# --- which planes belong together --------------------------------------------------------------------------


def _parts(frames: Sequence[Frame]) -> tuple[list[list[Frame]], list[str]]:
    """Return groups of planes that may each be a stack, and why others may not."""
    parts: list[list[Frame]] = []
    slices = [frame for frame in frames if "LOCALIZER" not in frame.traits["image type"].upper()]
    surveys = len(frames) - len(slices)
    reasons = [f"{surveys} images are localizers"] * bool(surveys)
    for group in _grids(slices):
        if group[0].component != "MAGNITUDE":
            reasons.append(f"{len(group)} {group[0].component.lower()} images are no magnitude images")
            continue
        try:
            found, copies = _one_per_position(group)
        except GeometryError as exc:
            reasons.append(str(exc))
            continue
        parts += found
        reasons += [f"{copies} images are copies of others"] * bool(copies)
    return parts, reasons


def _grids(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Part planes by what can never be one grid."""
    cosines: list[NDArray[np.float64]] = []

    def orientation(frame: Frame) -> int:
        own = np.concatenate([frame.row, frame.column])
        near = (k for k, known in enumerate(cosines) if np.abs(own - known).max() <= ANGLE_TOLERANCE)
        found = next(near, len(cosines))
        if found == len(cosines):
            cosines.append(own)
        return found

    def grid(frame: Frame) -> Hashable:
        spacing = tuple(round(mm, 4) for mm in frame.pixel_mm)
        return frame.matrix, spacing, orientation(frame), frame.stack_id, frame.component

    return list(_grouped(frames, grid).values())


def _grouped(frames: Iterable[Frame], key: Callable[[Frame], Hashable]) -> dict[Hashable, list[Frame]]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return groups


def _depths(frames: Sequence[Frame]) -> NDArray[np.float64]:
    normal = np.cross(frames[0].row, frames[0].column)
    depths: NDArray[np.float64] = np.array([frame.position @ normal for frame in frames])
    return depths


def _is_clear(frames: Sequence[Frame]) -> bool:
    """Tell whether no two planes lie at one position."""
    return len(frames) < 2 or bool(np.diff(np.sort(_depths(frames))).min() > SAME_PLACE_MM)


def _one_per_position(frames: list[Frame]) -> tuple[list[list[Frame]], int]:
    """Part planes until each part has one per position; return the parts in order, and how many copies were dropped."""
    if _is_clear(frames):
        return [frames], 0
    for keys in _separators(frames):
        groups = _grouped(frames, keys)
        # an attribute that differs from slice to slice would part everything and tell nothing
        if 1 < len(groups) <= len(frames) // 2 and all(_is_clear(group) for group in groups.values()):
            return [groups[key] for key in sorted(groups, key=_natural)], 0
    single = _without_copies(frames)
    if not _is_clear(single):
        raise GeometryError(
            f"several of {len(frames)} slices lie at the same position and no attribute tells them apart"
        )
    return [single], len(frames) - len(single)


def _separators(frames: Sequence[Frame]) -> list[Callable[[Frame], Hashable]]:
    """Return what may part planes: each trait alone, the Instance of a multi-frame object, then all traits together."""
    varying = [name for name in frames[0].traits if len({frame.traits[name] for frame in frames}) > 1]

    def by(names: tuple[str, ...]) -> Callable[[Frame], Hashable]:
        return lambda frame: tuple(frame.traits[name] for name in names)

    separators = [by((name,)) for name in varying]
    if all(is_multi_frame(frame.header) for frame in frames):
        separators.append(lambda frame: (str(frame.header.get("InstanceNumber") or ""),))
    return [*separators, by(tuple(varying))]


def _natural(key: Hashable) -> tuple[tuple[float, str], ...]:
    """Order a group's key as a person would: numbers by value."""
    assert isinstance(key, tuple)
    return tuple((float(v), "") if v.replace(".", "", 1).isdigit() else (np.inf, v) for v in key)


def _without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """Return the planes without those whose pixels equal an earlier one's at the same position."""
    kept: dict[Hashable, Frame] = {}
    for frame, depth in sorted(zip(frames, _depths(frames), strict=True), key=lambda pair: pair[0].name):
        kept.setdefault((round(float(depth) / SAME_PLACE_MM), _pixels_of(frame)), frame)
    return list(kept.values())


def _pixels_of(frame: Frame) -> Hashable:
    """Return what two copies share; an image that cannot be decoded is a copy of none."""
    try:
        return pixel_digest(Path(str(frame.header.filename)), frame.number)
    except UndecodablePixelsError:
        return id(frame)


# --- one grid ----------------------------------------------------------------------------------------------


def _ordered(frames: Sequence[Frame]) -> Stack:
    """Sort planes along their normal and fit their affine.

    Raises:
        GeometryError: fewer than two, uneven spacing, a tilt that is no gantry tilt, several multi-frame objects.
    """
    if len(frames) < 2:
        raise GeometryError(f"a volume needs at least 2 slices, {len(frames)} has this matrix and orientation")
    if len({id(f.header) for f in frames}) > 1 and any(is_multi_frame(f.header) for f in frames):
        raise GeometryError("the stack is spread over several multi-frame objects (a concatenation)")
    depths = _depths(frames)
    order = np.argsort(depths, kind="stable")
    planes = [frames[i] for i in order]
    _require_even_spacing(planes, depths[order])
    positions = np.array([frame.position for frame in planes])
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(planes) - 1)
    affine[:3, 1] = planes[0].column * planes[0].pixel_mm[0]
    affine[:3, 2] = planes[0].row * planes[0].pixel_mm[1]
    affine[:3, 3] = positions[0]
    _require_line(positions, affine)
    _require_gantry(affine, str(planes[0].header.get("Modality")))
    return Stack(tuple(planes), affine)


def _require_even_spacing(planes: Sequence[Frame], depths: NDArray[np.float64]) -> None:
    steps = np.diff(depths)
    median = float(np.median(steps))
    worst = int(np.abs(steps - median).argmax())
    if abs(float(steps[worst]) - median) <= max(SPACING_TOLERANCE * median, 0.01):
        return
    where = f"between images {planes[worst].name} and {planes[worst + 1].name}"
    spread = f"slice spacing varies between {steps.min():.2f} and {steps.max():.2f} mm"
    widest = int(steps.argmax())
    if steps[widest] > 1.5 * median:
        where = f"between images {planes[widest].name} and {planes[widest + 1].name}"
        raise GeometryError(f"{spread}: a slice is missing {where}")
    raise GeometryError(f"{spread}, first {where}")


def _require_line(positions: NDArray[np.float64], affine: NDArray[np.float64]) -> None:
    expected = positions[0] + np.arange(len(positions))[:, None] * affine[:3, 0]
    off = float(np.linalg.norm(positions - expected, axis=1).max())
    allowed = max(SPACING_TOLERANCE * float(np.linalg.norm(affine[:3, 0])), 0.01) * 2
    if off > allowed:
        raise GeometryError(f"the slices lie up to {off:.2f} mm beside one straight line")


def _require_gantry(affine: NDArray[np.float64], modality: str) -> None:
    tilt = tilt_degrees(affine)
    if tilt <= SMALLEST_TILT_DEGREES:
        return
    if modality != "CT":
        raise GeometryError(f"the slices shift sideways from one to the next by {tilt:.1f} degrees")
    if tilt > LARGEST_TILT_DEGREES:
        raise GeometryError(
            f"a gantry tilt of {tilt:.1f} degrees, at most {LARGEST_TILT_DEGREES:.0f} degrees are corrected"
        )
