"""Small Series on disk whose every stored value says where it lies: value = 1000 + gradient . position (LPS, mm)."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

GRADIENT = np.array([2.0, 3.0, 5.0])
AXIAL = np.array([[1.0, 0, 0], [0, 1.0, 0]])
SAGITTAL = np.array([[0, 1.0, 0], [0, 0, -1.0]])
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1.0]])
_number = count(1)


def value_at(points: np.ndarray) -> np.ndarray:
    """Return what is stored at ``(..., 3)`` points."""
    return 1000.0 + points @ GRADIENT


def plane_points(
    position: np.ndarray, axes: np.ndarray, matrix: tuple[int, int], pixel_mm: tuple[float, float]
) -> np.ndarray:
    """Return ``(rows, columns, 3)`` centres of the pixels of one plane, straight from PS3.3 C.7.6.2.1.1."""
    i, j = np.meshgrid(np.arange(matrix[0]), np.arange(matrix[1]), indexing="ij")
    return position + j[..., None] * pixel_mm[1] * axes[0] + i[..., None] * pixel_mm[0] * axes[1]


def positions(origin: Sequence[float], step: Sequence[float], slices: int) -> np.ndarray:
    """Return ``(slices, 3)`` positions on one line."""
    return np.asarray(origin, dtype=float) + np.arange(slices)[:, None] * np.asarray(step, dtype=float)


def common(modality: str, sop_class: str, series: str) -> Dataset:
    """Return patient, study and series of one Instance."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P-1", "Ray^Ann", "19600102", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "120000", "S", "A"
    ds.ReferringPhysicianName, ds.Manufacturer = "", "ACME"
    ds.ManufacturerModelName, ds.DeviceSerialNumber, ds.SoftwareVersions = "Scanner", "1", "1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(entropy_srcs=["study"]), series
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = generate_uid(entropy_srcs=["frame"]), ""
    ds.Modality, ds.SeriesNumber = modality, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    return ds


def save(ds: Dataset, folder: Path) -> Path:
    """Write one Instance under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{next(_number):05d}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def classic(
    folder: Path,
    where: np.ndarray,
    *,
    axes: np.ndarray = AXIAL,
    matrix: tuple[int, int] = (6, 7),
    pixel_mm: tuple[float, float] = (0.5, 0.75),
    modality: str = "CT",
    series: str = "",
    first_number: int = 1,
    shift: int = 0,
    **changes: Any,
) -> list[Path]:
    """Write a classic Series, one Instance per position; ``shift`` is added to the stored values."""
    series = series or generate_uid()
    paths = []
    for number, position in enumerate(where, first_number):
        ds = common(modality, CTImageStorage if modality == "CT" else MRImageStorage, series)
        ds.InstanceNumber, ds.ImageType = number, ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [*map(_ds, position)], [*map(_ds, axes.ravel())]
        ds.PixelSpacing, ds.SliceThickness = list(pixel_mm), 1.0
        ds.Rows, ds.Columns = matrix
        if modality == "CT":
            ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1000", "1", "HU"
        stored = np.rint(value_at(plane_points(position, axes, matrix, pixel_mm))) + shift
        stored += 1000 if modality == "CT" else 0
        ds.PixelData = np.clip(stored, 0, 65535).astype("<u2").tobytes()
        _change(ds, changes)
        paths.append(save(ds, folder))
    return paths


def multi_frame(
    folder: Path,
    frames: Sequence[dict[str, Any]],
    *,
    modality: str = "MR",
    matrix: tuple[int, int] = (6, 7),
    pixel_mm: tuple[float, float] = (0.5, 0.75),
    series: str = "",
    **changes: Any,
) -> Path:
    """Write one enhanced object.

    Each frame is a dict of ``position`` and optionally ``axes``, ``slope``, ``stack``, ``time``, ``echo``, ``kind``,
    ``component`` and ``unit``; a frame's values are divided by its slope.
    """
    sop_class = EnhancedMRImageStorage if modality == "MR" else EnhancedCTImageStorage
    ds = common(modality, sop_class, series or generate_uid())
    ds.InstanceNumber, ds.ImageType = 1, ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames, (ds.Rows, ds.Columns) = len(frames), matrix
    groups, pixels = [], []
    for frame in frames:
        axes, slope = np.asarray(frame.get("axes", AXIAL)), frame.get("slope", 1.0)
        groups.append(_groups(frame, axes, pixel_mm, slope, modality))
        real = value_at(plane_points(np.asarray(frame["position"], float), axes, matrix, pixel_mm))
        pixels.append(np.rint(real / slope).astype("<u2"))
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = np.stack(pixels).tobytes()
    _change(ds, changes)
    return save(ds, folder)


def _groups(frame: dict[str, Any], axes: np.ndarray, pixel_mm: tuple[float, float], slope: float, modality: str) -> Any:
    item = Dataset()
    content = _one(item, "FrameContentSequence")
    content.StackID = frame.get("stack", "1")
    if "time" in frame:
        content.TemporalPositionIndex = frame["time"]
    _one(item, "PlanePositionSequence").ImagePositionPatient = [*map(_ds, frame["position"])]
    _one(item, "PlaneOrientationSequence").ImageOrientationPatient = [*map(_ds, axes.ravel())]
    measures = _one(item, "PixelMeasuresSequence")
    measures.PixelSpacing, measures.SliceThickness = list(pixel_mm), 1.0
    transform = _one(item, "PixelValueTransformationSequence")
    transform.RescaleSlope, transform.RescaleIntercept = f"{slope:.10g}", "0"
    transform.RescaleType = frame.get("unit", "HU" if modality == "CT" else "US")
    kind = _one(item, "MRImageFrameTypeSequence" if modality == "MR" else "CTImageFrameTypeSequence")
    kind.FrameType = frame.get("kind", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    if modality == "MR":
        kind.ComplexImageComponent = frame.get("component", "MAGNITUDE")
        _one(item, "MREchoSequence").EffectiveEchoTime = float(frame.get("echo", 10))
    return item


def _one(holder: Dataset, keyword: str) -> Dataset:
    item = Dataset()
    setattr(holder, keyword, [item])
    return item


def _ds(number: float) -> str:
    return f"{float(number):.10g}"[:16]


def _change(ds: Dataset, changes: dict[str, Any]) -> None:
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
