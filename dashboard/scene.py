"""What the viewer in the browser has to know of a Study before it asks for pixels: order, geometry, values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from dashboard.library import SeriesImages
from dashboard.pixels import DECODE_ERRORS, PRESETS
from dashboard.stacks import Slice, Stack
from reports.geometry import functional_group

NO_IMAGES = frozenset({"SR", "SEG", "PR", "KO", "DOC", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "AU", "ECG"})
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "ImageOrientationPatient", "ImagePositionPatient",
    "FrameOfReferenceUID", "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "SliceThickness", "SpacingBetweenSlices", "ViewPosition", "ImageLaterality",
    "SeriesDescription", "SequenceName", "EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent",
    "FrameTime", "ModalityLUTSequence", "Units", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
    "Modality",
]  # fmt: skip


@dataclass(frozen=True)
class Spacing:
    """How far pixels are apart, in ``unit``: in the patient, in the plane of the detector, or nobody knows."""

    row_mm: float = 1.0
    column_mm: float = 1.0
    unit: str = "px"


@dataclass(frozen=True)
class Scene:
    """The frames of one Series in reading order; ``common`` holds what is equal in all of them."""

    common: Mapping[str, Any]
    frames: Sequence[Mapping[str, Any]]


def read_tags(path: Path) -> Dataset:
    """Return what the viewer needs of a header; empty when it cannot be read."""
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=True)
    except DECODE_ERRORS:
        return Dataset()


def spacing_of(path: Path, frame: int = 0) -> Spacing:
    """Return the pixel spacing of an Instance (PS3.3 10.7.1): only that of Pixel Spacing is in the patient."""
    return _spacing(read_tags(path), frame)


def scene_of(stack: Stack) -> Scene:
    """Return the frames of one Series.

    Raises nothing for a file that cannot be read: its frame says so by the absence of ``rows``.
    """
    headers: dict[Path, Dataset] = {}
    frames = []
    for one in stack.slices:
        if one.path not in headers:
            headers[one.path] = read_tags(one.path)
        frames.append(_frame(headers[one.path], one))
    common = dict(frames[0]) if frames else {}
    for frame in frames[1:]:
        common = {key: value for key, value in common.items() if key in frame and frame[key] == value}
    return Scene(common, [{key: value for key, value in one.items() if key not in common} for one in frames])


def _frame(ds: Dataset, one: Slice) -> dict[str, Any]:
    made: dict[str, Any] = {"uid": one.sop_instance_uid, "frame": one.frame + 1, "edges": list(one.edges)}
    try:
        if "Rows" in ds:
            made |= _matrix(ds) | _values(ds, one.frame) | _place(ds, one.frame)
    except DECODE_ERRORS:
        return made
    return made


def _matrix(ds: Dataset) -> dict[str, Any]:
    photometric = str(ds.get("PhotometricInterpretation") or "MONOCHROME2")
    return {
        "rows": int(ds.Rows),
        "columns": int(ds.Columns),
        "allocated": int(ds.get("BitsAllocated") or 8),
        "stored": int(ds.get("BitsStored") or ds.get("BitsAllocated") or 8),
        "signed": bool(ds.get("PixelRepresentation")),
        "inverted": photometric == "MONOCHROME1",
        # colour, and values that pass through a table, come as finished pictures
        "picture": not photometric.startswith("MONOCHROME") or "ModalityLUTSequence" in ds,
        "sop_class": str(ds.get("SOPClassUID") or ""),
        "instance": int(ds.get("InstanceNumber") or 0),
        "view": " ".join(str(ds.get(name) or "") for name in ("ImageLaterality", "ViewPosition")).strip(),
        "frame_ms": float(ds.get("FrameTime") or 0),
    }


def _values(ds: Dataset, frame: int) -> dict[str, Any]:
    transform = functional_group(ds, frame, "PixelValueTransformationSequence")
    voi = functional_group(ds, frame, "FrameVOILUTSequence")
    center, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
    modality = str(ds.get("Modality") or "")
    unit = str(transform.get("RescaleType") or ("HU" if modality == "CT" else ""))
    return {
        "slope": float(transform.get("RescaleSlope") or 1),
        "intercept": float(transform.get("RescaleIntercept") or 0),
        "unit": "" if unit == "US" else unit,
        "window": [center, width] if center is not None and width is not None and width > 0 else None,
        "function": str(voi.get("VOILUTFunction") or "LINEAR"),
    }


def _place(ds: Dataset, frame: int) -> dict[str, Any]:
    spacing = _spacing(ds, frame)
    axes = functional_group(ds, frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
    origin = functional_group(ds, frame, "PlanePositionSequence").get("ImagePositionPatient")
    placed = axes is not None and origin is not None and len(axes) == 6 and len(origin) == 3
    return {
        "spacing": [spacing.row_mm, spacing.column_mm],
        "spacing_unit": spacing.unit,
        "axes": [float(value) for value in axes] if placed else None,
        "origin": [float(value) for value in origin] if placed else None,
        "reference": str(ds.get("FrameOfReferenceUID") or ""),
    }


def _spacing(ds: Dataset, frame: int) -> Spacing:
    for holder, keyword, unit in (
        (functional_group(ds, frame, "PixelMeasuresSequence"), "PixelSpacing", "mm"),
        (ds, "ImagerPixelSpacing", "mm (detector plane)"),
    ):
        pair = holder.get(keyword)
        if pair is not None and len(pair) == 2 and all(0 < float(value) < 1000 for value in pair):
            return Spacing(float(pair[0]), float(pair[1]), unit)
    return Spacing()


def _first(value: Any) -> float | None:
    held = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and len(value) else value
    number = float(held) if held not in {None, ""} and not isinstance(held, Sequence) else None
    return number if number is not None and np.isfinite(number) else None


def role_of(series: SeriesImages) -> str:
    """Return what an MR Series is for, by description and times: T1C, FLAIR, T2, T1, DWI, or ``""``; of radiographs
    the view.
    """
    if not series.paths or series.modality in NO_IMAGES:
        return ""
    if series.modality == "MR":
        return mr_role(series.series_description, read_tags(series.paths[0]))
    if series.modality in {"CR", "DX"}:
        return str(read_tags(series.paths[0]).get("ViewPosition") or "")
    return ""


def mr_role(description: str, ds: Dataset) -> str:
    """Return T1C, FLAIR, T2, T1, DWI or ``""``: words first, then inversion, echo and repetition time."""
    words = description.lower()
    contrast = bool(ds.get("ContrastBolusAgent")) or any(
        one in words for one in ("gd", "t1c", "post", "+c", "contrast")
    )
    if any(one in words for one in ("dwi", "adc", "diffusion", "trace")):
        return "DWI"
    if "flair" in words or "tirm" in words:
        return "FLAIR"
    if "t2" in words:
        return "T2"
    if "t1" in words:
        return "T1C" if contrast else "T1"
    return _role_by_times(ds, contrast=contrast)


def _role_by_times(ds: Dataset, *, contrast: bool) -> str:
    echo, repetition = _first(ds.get("EchoTime")), _first(ds.get("RepetitionTime"))
    if echo is None or repetition is None:
        return ""
    if (_first(ds.get("InversionTime")) or 0) > 1500:
        return "FLAIR"
    if echo > 60 and repetition > 2000:
        return "T2"
    return ("T1C" if contrast else "T1") if echo < 30 and repetition < 2500 else ""


def presets_of(modality: str) -> list[dict[str, Any]]:
    """Return the windows to choose by number key, the Instance's own first."""
    named = [{"name": name, "center": w.center, "width": w.width} for name, w in PRESETS.get(modality, ())]
    return [{"name": "As acquired"}, *named]
