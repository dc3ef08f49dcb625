"""Do the source Instances make one grid that a mask can lie on?"""

from collections.abc import Iterable, Sequence

import numpy as np
from pydicom.dataset import Dataset

from config.errors import GeometryError, RefusedInputError


def require_one_series(source: Sequence[Dataset]) -> None:
    """Check that the Instances are one Series of one Study.

    Raises:
        RefusedInputError: no Instance, or Instances of several Series.
    """
    if not source:
        raise RefusedInputError("no source Instance was given")
    _one("Study Instance UID", (str(ds.get("StudyInstanceUID", "")) for ds in source))
    _one("Series Instance UID", (str(ds.get("SeriesInstanceUID", "")) for ds in source))


def _one(name: str, values: Iterable[str]) -> None:
    found = set(values)
    if len(found) != 1 or "" in found:
        raise RefusedInputError(f"source Instances must share one {name}, found {len(found)}")


def frame_count(source: Sequence[Dataset]) -> int:
    """Return how many planes ``source`` offers: its Instances, or the frames of one multi-frame Instance.

    Raises:
        RefusedInputError: several multi-frame Instances; a SEG is made from one at a time.
    """
    frames = [int(ds.get("NumberOfFrames", 1) or 1) for ds in source]
    if len(source) == 1:
        return frames[0]
    if max(frames) > 1:
        raise RefusedInputError(f"a Segmentation of multi-frame source takes one Instance, got {len(source)}")
    return len(source)


def require_one_grid(source: Sequence[Dataset]) -> None:
    """Check that single-frame cross-sections share rows, columns, spacing, orientation and frame of reference.

    Raises:
        GeometryError: an Instance differs, lacks geometry, or two lie at the same position.
    """
    first = source[0]
    if len(source) == 1 and "PerFrameFunctionalGroupsSequence" in first:
        _require_frame_of_reference(source)
        return  # take_frames and share_frame_geometry look at the frames
    if len(source) == 1 and "ImagePositionPatient" not in first:
        if frame_count(source) > 1:
            raise GeometryError(f"the source has {frame_count(source)} frames but no functional groups to place them")
        return  # a projection image
    _require_frame_of_reference(source)
    for ds in source:
        if (ds.Rows, ds.Columns) != (first.Rows, first.Columns):
            raise GeometryError(f"a slice is {ds.Rows} x {ds.Columns}, expected {first.Rows} x {first.Columns}")
    _require_one_plane(source)


def _require_frame_of_reference(source: Sequence[Dataset]) -> None:
    uids = {str(ds.get("FrameOfReferenceUID") or "") for ds in source}
    if len(uids) != 1 or "" in uids:
        raise GeometryError(f"source slices must share one Frame of Reference UID, found {len(uids - {''})}")


def _require_one_plane(source: Sequence[Dataset]) -> None:
    positions = np.array([_numbers(ds, "ImagePositionPatient", 3) for ds in source])
    for keyword, count, tolerance in (("ImageOrientationPatient", 6, 1e-3), ("PixelSpacing", 2, 1e-4)):
        values = np.array([_numbers(ds, keyword, count) for ds in source])
        if np.abs(values - values[0]).max() > tolerance:
            odd = int(np.abs(values - values[0]).max(axis=1).argmax())
            raise GeometryError(f"{keyword} of slice {odd} is {values[odd].tolist()}, expected {values[0].tolist()}")
    if len({tuple(np.round(position, 3)) for position in positions}) != len(source):
        raise GeometryError(f"{len(source)} slices, but several lie at the same Image Position (Patient)")


def _numbers(ds: Dataset, keyword: str, count: int) -> list[float]:
    value = ds.get(keyword)
    if value is None or len(value) != count:
        raise GeometryError(f"a source slice has no valid {keyword}")
    return [float(number) for number in value]


def functional_group(ds: Dataset, index: int, keyword: str) -> Dataset:
    """Return the functional group ``keyword`` of a frame: its own, else the shared one, else ``ds`` itself.

    So a classic Instance and a frame of a multi-frame one are asked alike (PS3.3 C.7.6.16.1.1).

    Args:
        ds: a classic or multi-frame Instance.
        index: 0-based frame.
        keyword: of the functional group's sequence.
    """
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    holders = [per_frame[index]] if index < len(per_frame) else []
    for holder in (*holders, *(ds.get("SharedFunctionalGroupsSequence") or [])[:1]):
        items = holder.get(keyword)
        if items:
            item: Dataset = items[0]
            return item
    return ds


def take_frames(header: Dataset, frame_numbers: Sequence[int]) -> None:
    """Leave only some frames of a multi-frame header, in the order given. Changes ``header`` in place.

    Args:
        header: of one multi-frame Instance, without pixels.
        frame_numbers: 1-based, each once.

    Raises:
        GeometryError: the object has no such frames, or no functional groups.
    """
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(set(frame_numbers)) != len(frame_numbers) or not all(0 < n <= len(groups) for n in frame_numbers):
        raise GeometryError(f"frames {min(frame_numbers)}…{max(frame_numbers)} of an object with {len(groups)} frames")
    header.PerFrameFunctionalGroupsSequence = [groups[n - 1] for n in frame_numbers]
    header.NumberOfFrames = len(frame_numbers)


def share_frame_geometry(header: Dataset) -> None:
    """Move pixel measures and orientation that a multi-frame sender repeats per frame to the shared groups.

    Both places are legal (PS3.3 C.7.6.16.1.1); highdicom reads the shared one only. Changes ``header`` in place.

    Raises:
        GeometryError: they differ between frames by more than rounding, or are missing.
    """
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or [Dataset()]))
    for group, keyword, count, tolerance in (
        ("PixelMeasuresSequence", "PixelSpacing", 2, 1e-4),
        ("PlaneOrientationSequence", "ImageOrientationPatient", 6, 1e-3),
    ):
        if group in shared:
            continue
        values = np.array([_numbers(functional_group(header, k, group), keyword, count) for k in range(len(frames))])
        if np.abs(values - values[0]).max() > tolerance:
            raise GeometryError(f"{keyword} differs between {len(values)} frames")
        setattr(shared, group, frames[0].get(group))
    header.SharedFunctionalGroupsSequence = [shared]
