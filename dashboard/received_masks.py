"""Segmentations that came with a Study from somebody else, as runs of pixels on the frames of one Series."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels import iter_pixels
from pydicom.uid import UID, SegmentationStorage

from config.errors import UndecodablePixelsError
from dashboard.dicomweb.frames import open_frames
from dashboard.library import SeriesImages, StudyImages
from dashboard.pixels import DECODE_ERRORS
from dashboard.scene import read_tags
from dashboard.slices import LruCache
from dashboard.stacks import Stack, distance_mm
from reports.geometry import functional_group

_LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation; not in pydicom yet
_KINDS = frozenset({SegmentationStorage, _LABEL_MAP_STORAGE})
_MOST_PIXELS = 1 << 29
_SAME_PLACE_MM = 0.1
_SAME_AXES = 1e-3
_WORDS = 64
_WHITE = (0.9505, 1.0, 1.0889)
_TO_SRGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


@dataclass(frozen=True)
class ReceivedSegment:
    """One segment.

    Attributes:
        number: its Segment Number.
        name: its label.
        rgb: the colour its maker recommends; None when there is none.
        planes: by position in the stack, ``(rows, columns)`` and its runs, as `dashboard.masks.runs_of` gives them.
    """

    number: int
    name: str
    rgb: tuple[int, int, int] | None
    planes: Mapping[int, tuple[int, int, list[int]]]


@dataclass(frozen=True)
class ReceivedSegmentation:
    """One Segmentation on one Series: its segments, or in ``refused`` why they are not painted."""

    sop_instance_uid: str
    name: str
    segments: Sequence[ReceivedSegment] = ()
    refused: str = ""


def segments_of(received: Sequence[ReceivedSegmentation], first_map: int) -> list[dict[str, Any]]:
    """Return the segments in the form of `dashboard.masks.Masks.segments`, each a map of its own: they may overlap.

    ``group`` names the Segmentation; nobody here has decided anything of it, and it is not shown before it is chosen.
    """
    listed = [(one, segment) for one in received for segment in one.segments]
    return [
        {
            "key": f"{one.sop_instance_uid}:{segment.number}",
            "map": first_map + at,
            "value": 1,
            "name": segment.name,
            "colour": segment.number % 10,
            "rgb": segment.rgb,
            "group": one.name,
            "status": "received",
            "found": False,
            "shown": False,
        }
        for at, (one, segment) in enumerate(listed)
    ]


def frames_of(received: Sequence[ReceivedSegmentation], first_map: int) -> dict[int, list[dict[str, Any]]]:
    """Return the runs of each segment by position in the stack, in the form of `dashboard.masks.Masks.frames`."""
    found: dict[int, list[dict[str, Any]]] = {}
    for at, segment in enumerate(segment for one in received for segment in one.segments):
        for index, (rows, columns, runs) in segment.planes.items():
            found.setdefault(index, []).append({"map": first_map + at, "rows": rows, "columns": columns, "runs": runs})
    return found


class _NotThisSeriesError(Exception):
    """It lies on another Series of the Study."""


_kept: LruCache[tuple[Path, Any, int], ReceivedSegmentation | None] = LruCache(16)


def received_on(
    images: StudyImages, series: SeriesImages, stack: Stack, *, own: frozenset[str]
) -> list[ReceivedSegmentation]:
    """Return the Segmentations in the Study that lie on ``series``, and those that lie on nothing in the Study.

    One that cannot be painted is named with the reason and never raises.

    Args:
        images: the Study.
        series: what is shown.
        stack: its frames.
        own: SOP Instance UIDs of what this installation made, whose masks are shown as evidence already.
    """
    found = []
    for path in (path for one in images.series if one.modality == "SEG" for path in one.paths):
        key = (path, series.id, sum(one.count for one in images.series))
        made = _kept.get(key, lambda path=path: _read(path, images, series, stack))  # type: ignore[misc]
        if made is not None and made.sop_instance_uid not in own:
            found.append(made)
    return sorted(found, key=lambda one: one.name)


def _read(path: Path, images: StudyImages, series: SeriesImages, stack: Stack) -> ReceivedSegmentation | None:
    uid, name = "", "A segmentation"
    try:
        ds = dcmread(path, stop_before_pixels=True)
        if ds.get("SOPClassUID") not in _KINDS:
            return None
        uid, name = str(ds.SOPInstanceUID), _name(ds)
        return ReceivedSegmentation(uid, name, _segments(path, ds, _Target(images, series, stack)))
    except _NotThisSeriesError:
        return None
    except UndecodablePixelsError as exc:
        return ReceivedSegmentation(uid, name, refused=str(exc))
    except DECODE_ERRORS:
        return ReceivedSegmentation(uid, name, refused="it cannot be read")


class _Target:
    """The Series that is shown, and where a frame of a Segmentation belongs in it."""

    def __init__(self, images: StudyImages, series: SeriesImages, stack: Stack) -> None:
        self._images = images
        self._series = series
        self._stack = stack
        self._headers: dict[Path, Dataset] = {}

    def require_reference(self, ds: Dataset) -> None:
        """Raise unless the Segmentation is of this Series, by the Instances it names."""
        named = {str(one.ReferencedSOPInstanceUID) for one in _referenced(ds)}
        if named & self._series.sop_instance_uids:
            return
        if any(named & one.sop_instance_uids for one in self._images.series):
            raise _NotThisSeriesError
        raise UndecodablePixelsError("the images it was drawn on are not in this study")

    def indices(self, ds: Dataset, frame: int) -> list[int]:
        """Return the positions in the stack that frame ``frame`` of a Segmentation lies on.

        Raises:
            UndecodablePixelsError: it names frames of this Series, and lies elsewhere.
        """
        origin = functional_group(ds, frame, "PlanePositionSequence").get("ImagePositionPatient")
        place = None if origin is None else (float(origin[0]), float(origin[1]), float(origin[2]))
        sources = [item for one in _derivations(ds, frame) for item in one.get("SourceImageSequence") or []]
        named = [index for one in sources for index in self._named(one, place)]
        if not sources and place is not None:  # it names no image: its place decides
            slices = enumerate(self._stack.slices)
            named = [index for index, one in slices if distance_mm(one.origin_mm, place) <= _SAME_PLACE_MM]
        for index in named:
            self._require_grid(ds, frame, index, place)
        return named

    def _named(self, item: Dataset, place: tuple[float, float, float] | None) -> list[int]:
        uid, numbers = str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")
        found = {one.frame: index for index, one in enumerate(self._stack.slices) if one.sop_instance_uid == uid}
        if numbers is None and len(found) == 1:
            return list(found.values())
        if numbers is None:  # which frame of several is said by the place alone
            slices = self._stack.slices
            return [i for i in found.values() if distance_mm(slices[i].origin_mm, place) <= _SAME_PLACE_MM]
        listed = [numbers] if isinstance(numbers, int) else numbers
        return [found[int(number) - 1] for number in listed if int(number) - 1 in found]

    def _require_grid(self, ds: Dataset, frame: int, index: int, place: tuple[float, float, float] | None) -> None:
        one = self._stack.slices[index]
        if one.path not in self._headers:
            self._headers[one.path] = read_tags(one.path)
        header = self._headers[one.path]
        if header.get("FrameOfReferenceUID") != ds.get("FrameOfReferenceUID"):
            raise UndecodablePixelsError("its frame of reference is not that of the images")
        if (header.get("Rows"), header.get("Columns")) != (ds.Rows, ds.Columns):
            raise UndecodablePixelsError("its matrix is not that of the images")
        if place is not None and distance_mm(one.origin_mm, place) > _SAME_PLACE_MM:
            raise UndecodablePixelsError("it lies elsewhere than the images it names")
        for group, keyword in (("PlaneOrientationSequence", "ImageOrientationPatient"),
                               ("PixelMeasuresSequence", "PixelSpacing")):  # fmt: skip
            a, b = (functional_group(*at, group).get(keyword) for at in ((ds, frame), (header, one.frame)))
            if a is not None and b is not None and not np.allclose(a, b, rtol=0, atol=_SAME_AXES):
                raise UndecodablePixelsError("its grid is not that of the images")


def _segments(path: Path, ds: Dataset, target: _Target) -> list[ReceivedSegment]:
    target.require_reference(ds)
    if ds.get("SegmentationType") == "FRACTIONAL":
        raise UndecodablePixelsError("it holds fractions, not masks")
    count = int(ds.get("NumberOfFrames") or 1)
    if count * int(ds.Rows) * int(ds.Columns) > _MOST_PIXELS:
        raise UndecodablePixelsError(f"it is too large ({count} frames of {ds.Rows} x {ds.Columns})")
    _require_pixels(path, count * int(ds.Rows) * int(ds.Columns) * int(ds.BitsAllocated))
    planes: dict[int, dict[int, tuple[int, int, list[int]]]] = {}
    for frame, plane in enumerate(iter_pixels(path)):
        for index in target.indices(ds, frame):
            for number, mask in _masks(ds, frame, plane):
                on = planes.setdefault(number, {})
                on[index] = (int(ds.Rows), int(ds.Columns), _runs(mask))
    if not planes:
        raise UndecodablePixelsError("none of its frames lies on these images")
    described = {int(item.SegmentNumber): item for item in ds.SegmentSequence}
    items = ((number, described.get(number, Dataset())) for number in sorted(planes))
    return [ReceivedSegment(number, _label(item, number), rgb_of(item), planes[number]) for number, item in items]


def _require_pixels(path: Path, bits: int) -> None:
    """Raise when native pixel data are shorter than the header says: pydicom would return what lies in memory."""
    with open_frames(path) as source:
        if not source.pixels.is_encapsulated and source.pixels.length * 8 < bits:
            raise UndecodablePixelsError("its pixel data end too early")


def _masks(ds: Dataset, frame: int, plane: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield Segment Number and mask of what a frame holds; a label map holds several (PS3.3 C.8.20.2.3)."""
    if ds.get("SegmentationType") == "LABELMAP":
        background = int(ds.get("PixelPaddingValue") or 0)
        yield from ((int(value), plane == value) for value in np.unique(plane) if value != background)
    elif plane.any():
        item = functional_group(ds, frame, "SegmentIdentificationSequence")
        yield int(item.ReferencedSegmentNumber), plane != 0


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return gap, length and 1 of each run; of what lies off them nothing."""
    edges = np.flatnonzero(np.diff(mask.ravel(), prepend=False, append=False)).tolist()
    gaps = [0, *edges]
    return [value for k, (a, b) in enumerate(pairwise(edges)) if k % 2 == 0 for value in (a - gaps[k], b - a, 1)]


def _derivations(ds: Dataset, frame: int) -> Sequence[Dataset]:
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    holders = [*per_frame[frame : frame + 1], *shared[:1]]
    return next((one.DerivationImageSequence for one in holders if one.get("DerivationImageSequence")), [])


def _referenced(ds: Dataset) -> Iterator[Dataset]:
    for one in ds.get("ReferencedSeriesSequence") or []:
        yield from one.get("ReferencedInstanceSequence") or []
    # as many as there are, not as many as Number of Frames claims
    for frame in range(len(ds.get("PerFrameFunctionalGroupsSequence") or [0])):
        for derivation in _derivations(ds, frame):
            yield from derivation.get("SourceImageSequence") or []


def _name(ds: Dataset) -> str:
    parts = (str(ds.get(keyword) or "") for keyword in ("Manufacturer", "SeriesDescription"))
    words = " ".join(" ".join(part for part in parts if part).split())
    return f"Segmentation of {words or 'an unnamed sender'}"[:_WORDS]


def _label(item: Dataset, number: int) -> str:
    return " ".join(str(item.get("SegmentLabel") or f"segment {number}").split())[:_WORDS]


def rgb_of(item: Dataset) -> tuple[int, int, int] | None:
    """Return Recommended Display CIELab Value as sRGB (PS3.3 C.10.7.1.1); None without one.

    The white is D65, which common toolkits write it with.
    """
    lab = item.get("RecommendedDisplayCIELabValue")
    if lab is None or len(lab) != 3:
        return None
    lightness, a, b = lab[0] / 65535 * 100, lab[1] / 257 - 128, lab[2] / 257 - 128
    y = (lightness + 16) / 116
    curved = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(curved > 6 / 29, curved**3, (curved - 4 / 29) * 3 * (6 / 29) ** 2) * _WHITE
    linear = np.clip(_TO_SRGB @ xyz, 0, 1)
    red, green, blue = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    return round(red), round(green), round(blue)
