"""From the slices of one Series to a Volume, or the reason why they make none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from config.errors import GeometryError
from worker.decoding import decode_rescaled
from worker.volume import Volume

SPACING_TOLERANCE = 0.02  # of the median step; scanners round positions to 1e-3 mm or worse
ANGLE_TOLERANCE = 1e-3  # between direction cosines


def slice_positions(headers: Sequence[Dataset]) -> NDArray[np.float64]:
    """Return Image Position (Patient) of each slice, ``(slices, 3)`` mm, LPS, in the order given."""
    return np.array([[float(v) for v in ds.ImagePositionPatient] for ds in headers], dtype=np.float64)


def _shared_orientation(headers: Sequence[Dataset]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the row and column direction cosines all slices share."""
    cosines = np.array([[float(v) for v in ds.ImageOrientationPatient] for ds in headers], dtype=np.float64)
    if np.abs(cosines - cosines[0]).max() > ANGLE_TOLERANCE:
        raise GeometryError("the slices of the series have different orientations")
    row, column = cosines[0, :3], cosines[0, 3:]
    if abs(float(row @ column)) > ANGLE_TOLERANCE or abs(float(row @ row) - 1) > 2e-3:
        raise GeometryError("Image Orientation (Patient) is not a pair of perpendicular unit vectors")
    return row, column


def _require_one_grid(headers: Sequence[Dataset]) -> tuple[int, int, float, float]:
    """Return rows, columns and in-plane spacing, the same for every slice."""
    grids = {
        (int(ds.Rows), int(ds.Columns), round(float(ds.PixelSpacing[0]), 4), round(float(ds.PixelSpacing[1]), 4))
        for ds in headers
    }
    if len(grids) != 1:
        raise GeometryError(f"the slices of the series have {len(grids)} different matrices or pixel spacings")
    return grids.pop()


def sort_slices(headers: Sequence[Dataset]) -> tuple[list[Dataset], NDArray[np.float64]]:
    """Return the slices sorted along their normal, and the affine of the stack.

    Uses Image Position (Patient), never Slice Thickness, which may differ from the spacing when
    slices overlap (PS3.3 C.7.6.2.1.1).

    Returns:
        The sorted headers, and the ``(4, 4)`` matrix from (slice, row, column) to LPS mm.

    Raises:
        GeometryError: fewer than two slices, missing or unequal geometry, two slices at one position,
            a gap, or a sheared stack (gantry tilt).
    """
    if len(headers) < 2:
        raise GeometryError(f"a volume needs at least 2 slices, the series has {len(headers)}")
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    for keyword in needed:
        if any(not ds.get(keyword) for ds in headers):
            raise GeometryError(f"a slice of the series has no {keyword}")
    rows, columns, row_mm, column_mm = _require_one_grid(headers)
    row, column = _shared_orientation(headers)
    normal = np.cross(row, column)
    positions = slice_positions(headers)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step = _step(positions, normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, column * row_mm, row * column_mm
    affine[:3, 3] = positions[0]
    del rows, columns
    return [headers[i] for i in order], affine


def _step(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vector from one slice to the next, mm."""
    along = np.diff(positions @ normal)
    median = float(np.median(along))
    if along.min() < 1e-3:
        raise GeometryError("two slices of the series lie at the same position")
    worst = float(np.abs(along - median).max())
    if worst > max(SPACING_TOLERANCE * median, 0.01):
        raise GeometryError(
            f"slice spacing varies between {along.min():.2f} and {along.max():.2f} mm: a slice is missing"
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    sideways = step - (step @ normal) * normal
    if float(np.linalg.norm(sideways)) > 0.01 * median:
        raise GeometryError("the slices shift sideways from one to the next (gantry tilt)")
    return step


def load_volume(headers: Sequence[Dataset]) -> Volume:
    """Decode and stack the single-frame slices of one Series.

    Args:
        headers: Datasets from :func:`worker.decoding.read_header`, which carry their file name.

    Raises:
        GeometryError: see :func:`sort_slices`.
        UndecodablePixelsError: see :func:`worker.decoding.decode`.
    """
    ordered, affine = sort_slices(headers)
    first = ordered[0]
    shape = (int(first.Rows), int(first.Columns))
    array = np.empty((len(ordered), *shape), dtype=np.float32)
    for index, ds in enumerate(ordered):
        array[index] = decode_rescaled(Path(str(ds.filename)), shape)
    if first.Modality == "CT":
        np.maximum(array, -1024.0, out=array)  # padding outside the field of view counts as air
    return Volume(
        array=array,
        affine=affine,
        sop_instance_uids=tuple(str(ds.SOPInstanceUID) for ds in ordered),
        frame_numbers=(1,) * len(ordered),
        series_instance_uid=str(first.SeriesInstanceUID),
        frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "") or ""),
        modality=str(first.Modality),
    )
