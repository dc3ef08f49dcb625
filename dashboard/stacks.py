"""The slices of one Series in reading order, from headers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from dashboard.pixels import DECODE_ERRORS
from reports.geometry import functional_group

_HEADER = [
    "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "AcquisitionNumber", "NumberOfFrames", "Rows", "Columns",
    "ImagePositionPatient", "ImageOrientationPatient", "PatientOrientation", "ImageLaterality", "ViewPosition",
    "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "Modality",
]  # fmt: skip
_MOST_FRAMES = 20_000


@dataclass(frozen=True)
class Slice:
    """One frame to show.

    Attributes:
        path: the Instance's file.
        frame: 0-based frame within the Instance.
        sop_instance_uid: the Instance.
        position_mm: distance along the reading direction; None when the header has no position.
        origin_mm: Image Position (Patient) in LPS; None when the header has none.
        edges: patient directions at the left, right, top and bottom edge, ``""`` when unknown.
    """

    path: Path
    frame: int
    sop_instance_uid: str
    position_mm: float | None
    edges: tuple[str, str, str, str]
    origin_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Stack:
    """One Series as it is scrolled: head to foot, right to left or front to back where geometry says so."""

    slices: tuple[Slice, ...]

    def index_of(self, sop_instance_uid: str, frame_number: int | None = None) -> int | None:
        """Return where an Instance, or one 1-based frame of it, is in the stack; None when it is not part of it."""
        wanted = None if frame_number is None else frame_number - 1
        for index, one in enumerate(self.slices):
            if one.sop_instance_uid == sop_instance_uid and wanted in (None, one.frame):
                return index
        return None


@dataclass(frozen=True)
class _Placed:
    """A Slice with what orders it."""

    slice_: Slice
    group: tuple[float, ...]
    number: tuple[int, int, int]


def build_stack(paths: Sequence[Path]) -> Stack:
    """Order the frames of one Series for reading.

    Frames of one orientation are sorted by Image Position (Patient) along the slice normal, superior,
    right or anterior first; several orientations follow each other; without geometry the Instance
    Number decides. A file whose header cannot be read still has its place, at the end, so that the
    reader sees that something is there.
    """
    placed = [one for path in paths for one in _frames(path)]
    placed.sort(key=lambda one: (one.group, _depth(one), one.number, one.slice_.sop_instance_uid))
    return Stack(tuple(one.slice_ for one in placed))


def distance_mm(a: tuple[float, float, float] | None, b: tuple[float, float, float] | None) -> float:
    """Return the distance of two points; infinite when one is unknown."""
    return math.dist(a, b) if a is not None and b is not None else math.inf


def _depth(one: _Placed) -> float:
    return one.slice_.position_mm if one.slice_.position_mm is not None else 0.0


def _frames(path: Path) -> list[_Placed]:
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER, force=True)
        count = min(max(int(ds.get("NumberOfFrames") or 1), 1), _MOST_FRAMES)
        return [_place(ds, path, frame) for frame in range(count)]
    except DECODE_ERRORS:
        unreadable = Slice(path, 0, "", None, ("", "", "", ""))
        return [_Placed(unreadable, (9.0,), (0, 0, 0))]


def _place(ds: Dataset, path: Path, frame: int) -> _Placed:
    uid = str(ds.get("SOPInstanceUID") or "")
    number = (int(ds.get("AcquisitionNumber") or 0), int(ds.get("InstanceNumber") or 0), frame)
    axes = _axes(functional_group(ds, frame, "PlaneOrientationSequence"))
    position = functional_group(ds, frame, "PlanePositionSequence").get("ImagePositionPatient")
    if axes is None or position is None or len(position) != 3:
        edges = _edges_from_tag(ds) if axes is None else _edges(axes)
        return _Placed(Slice(path, frame, uid, None, edges), (8.0,), number)
    normal = reading_direction(axes)
    depth = float(np.dot(np.asarray(position, dtype=np.float64), normal))
    group = tuple(float(value) for value in np.round(axes.ravel(), 1) + 0.0)
    x, y, z = (float(value) for value in position)
    return _Placed(Slice(path, frame, uid, depth, _edges(axes), (x, y, z)), group, number)


def _axes(holder: Dataset) -> NDArray[np.float64] | None:
    """Return ``(2, 3)`` unit row and column directions in LPS, or None."""
    cosines = holder.get("ImageOrientationPatient")
    if cosines is None or len(cosines) != 6:
        return None
    axes = np.asarray(cosines, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    return axes / lengths if np.all(lengths > 0.1) else None


def reading_direction(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slice normal turned the way a stack is read: to the feet, to the left, or to the back."""
    normal = np.cross(axes[0], axes[1])
    main = int(np.argmax(np.abs(normal)))
    wanted = -1.0 if main == 2 else 1.0  # LPS: +z is superior, and stacks are read head first
    turned: NDArray[np.float64] = normal if normal[main] * wanted > 0 else -normal
    return turned


def _letters(direction: NDArray[np.float64]) -> str:
    names = (("L", "R"), ("P", "A"), ("H", "F"))
    order = np.argsort(-np.abs(direction))
    return "".join(names[i][0 if direction[i] > 0 else 1] for i in order if abs(direction[i]) > 0.3)


def _edges(axes: NDArray[np.float64]) -> tuple[str, str, str, str]:
    return _letters(-axes[0]), _letters(axes[0]), _letters(-axes[1]), _letters(axes[1])


def _edges_from_tag(ds: Dataset) -> tuple[str, str, str, str]:
    """Patient Orientation (0020,0020) of a projection names the right and the lower edge."""
    pair = ds.get("PatientOrientation")
    if pair is None or len(pair) != 2 or not all(isinstance(value, str) for value in pair):
        return "", "", "", ""
    opposite = str.maketrans("LRAPHF", "RLPAFH")
    right, bottom = (str(value)[:3] for value in pair)
    return right.translate(opposite), right, bottom.translate(opposite), bottom
