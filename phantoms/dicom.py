"""Synthetic patients as DICOM studies: arrays and an identity in, conformant Part 10 files out.

Every Instance says that it is synthetic, in Synthetic Data (0008,001C), Image Comments and Manufacturer. UIDs
derive from the accession number, so writing a study twice writes the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

from config.errors import GeometryError, RefusedInputError
from phantoms.patients import PatientIdentity

MANUFACTURER = "Firstread phantoms"
COMMENT = "SYNTHETIC IMAGE of a patient who does not exist; not for diagnosis"

# Views: View Code Sequence item of CID 4010 (SNOMED CT), Patient Orientation of rows and columns.
_VIEWS = {
    "PA": ("272479007", "postero-anterior", ["L", "F"]),
    "AP": ("399348003", "antero-posterior", ["L", "F"]),
    "LL": ("399173006", "left lateral", ["P", "F"]),
}


@dataclass(frozen=True)
class MrSequence:
    """How one MR series of the tumour protocol says what it is, as scanners write it."""

    description: str
    sequence_name: str
    scanning: list[str]
    variant: list[str]
    echo_ms: float
    repetition_ms: float
    inversion_ms: float | None
    echo_train: int
    agent: str | None


MR_PROTOCOL: Mapping[str, MrSequence] = {
    "t1": MrSequence("AX T1", "*se2d1", ["SE"], ["SP"], 11.0, 550.0, None, 1, None),
    "t2": MrSequence("AX T2 TSE", "*tse2d1_15", ["SE"], ["SK", "SP"], 96.0, 4500.0, None, 15, None),
    "flair": MrSequence("AX FLAIR", "*tir2d1_21", ["SE", "IR"], ["SK", "SP"], 110.0, 9000.0, 2500.0, 21, None),
    "t1c": MrSequence("AX T1 POST GAD", "*se2d1r", ["SE"], ["SP"], 12.0, 580.0, None, 1, "Gadobutrol 1 mmol/ml"),
}


def study_uid(patient: PatientIdentity) -> str:
    """Return the Study Instance UID of everything written for this order."""
    return str(_uid(patient, "study"))


def write_radiograph(
    pixels: NDArray[np.uint16],
    patient: PatientIdentity,
    folder: Path,
    *,
    view: str = "PA",
    pixel_spacing_mm: float = 0.8,
    modality: str = "DX",
    photometric: str = "MONOCHROME2",
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> list[Path]:
    """Write a chest radiograph as one DX For Presentation or CR Instance.

    Args:
        pixels: ``(rows, columns)``, 12 bit, bright = dense (MONOCHROME2), patient's right at column 0.
        patient: identity and order.
        folder: made when absent.
        view: ``"PA"``, ``"AP"`` or ``"LL"``.
        pixel_spacing_mm: at the detector, both axes.
        modality: ``"DX"`` (PS3.3 A.26) or ``"CR"`` (PS3.3 A.2).
        photometric: ``"MONOCHROME1"`` stores inverted pixels, as many CR readers do.
        transfer_syntax: uncompressed little endian, JPEG-LS, JPEG 2000 or RLE lossless.

    Returns:
        The path of the file.

    Raises:
        RefusedInputError: pixels of another shape or range, or an unknown view, modality or photometric.
    """
    if pixels.ndim != 2 or int(pixels.max(initial=0)) > 4095:
        raise RefusedInputError(f"radiograph is {pixels.shape}, up to {pixels.max()}; expected 2D, 12 bit")
    if view not in _VIEWS or modality not in ("DX", "CR") or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedInputError(f"cannot write view {view}, modality {modality}, {photometric}")
    sop_class = DigitalXRayImageStorageForPresentation if modality == "DX" else ComputedRadiographyImageStorage
    ds = _instance(patient, sop_class, f"radiograph {view}", 1)
    _series(ds, patient, modality, 1, f"Chest {view}", "CHEST")
    ds.StudyDescription = "Chest radiograph"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.ViewPosition = view
    ds.PatientOrientation = _VIEWS[view][2]
    ds.ImagerPixelSpacing = _decimals([pixel_spacing_mm] * 2)
    ds.KVP, ds.Exposure = "120", "3"
    ds.DistanceSourceToDetector = "1800" if view != "AP" else "1100"
    if modality == "DX":
        _describe_dx(ds, view, inverted=photometric == "MONOCHROME1")
    else:
        ds.CassetteOrientation = "PORTRAIT"
        ds.PlateType = "ST-V"
    inverted = photometric == "MONOCHROME1"
    stored = (4095 - pixels if inverted else pixels).astype(np.uint16)
    _pixels(ds, stored, photometric, _window(stored))
    return [_save(ds, folder / "radiograph.dcm", transfer_syntax)]


def _describe_dx(ds: Dataset, view: str, *, inverted: bool) -> None:
    """Add the DX series, anatomy, image, detector and positioning modules (PS3.3 C.8.11)."""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_code("816094009", "SCT", "Chest")]
    ds.ViewCodeSequence = [_code(_VIEWS[view][0], "SCT", _VIEWS[view][1])]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    if view == "AP":  # at the bedside
        recumbent = _code("102538003", "SCT", "recumbent")
        recumbent.PatientOrientationModifierCodeSequence = [_code("40199007", "SCT", "supine")]
        ds.PatientOrientationCodeSequence = [recumbent]
    else:
        ds.PatientOrientationCodeSequence = [_code("10904000", "SCT", "erect")]
    ds.PositionerType = "COLUMN"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if inverted else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorID = "SYN-DETECTOR-1"
    ds.AcquisitionContextSequence = []


def write_ct(
    hu: NDArray[np.int16],
    affine: NDArray[np.float64],
    patient: PatientIdentity,
    folder: Path,
    *,
    body_part: str = "CHESTABDOMEN",
    description: str = "CT chest and abdomen, portal venous phase",
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> list[Path]:
    """Write a CT Series, one Instance per slice, first the highest slice as scanners do (PS3.3 A.3).

    Args:
        hu: ``(slices, rows, columns)`` Hounsfield units in -1024..3071.
        affine: ``(4, 4)`` from ``(slice, row, column)`` to mm in LPS.
        patient: identity and order.
        folder: made when absent.
        body_part: Body Part Examined.
        description: Study Description.
        transfer_syntax: as for radiographs.

    Returns:
        Paths in Instance Number order.

    Raises:
        RefusedInputError: values outside 12 bit.
        GeometryError: ``affine`` is not that of a stack of rectangular slices.
    """
    if int(hu.min()) < -1024 or int(hu.max()) > 3071:
        raise RefusedInputError(f"HU {hu.min()}..{hu.max()} do not fit 12 bit with intercept -1024")
    paths = []
    for number, k in enumerate(reversed(range(len(hu))), start=1):
        ds = _instance(patient, CTImageStorage, "ct", number)
        _series(ds, patient, "CT", 2, "Body 1.5 B30f", body_part)
        _place(ds, affine, k, patient)
        ds.StudyDescription = description
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime = "120", "210", "500"
        ds.ScanOptions, ds.ConvolutionKernel = "HELICAL MODE", "B30f"
        ds.GantryDetectorTilt, ds.TableHeight = "0", "150"
        ds.DataCollectionDiameter = ds.ReconstructionDiameter = _decimals(
            [float(np.linalg.norm(affine[:3, 2])) * hu.shape[2]]
        )[0]
        ds.ContrastBolusAgent, ds.ContrastBolusRoute = "Iohexol 300", "IV"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
        _pixels(ds, (hu[k].astype(np.int32) + 1024).astype(np.uint16), "MONOCHROME2", (40.0, 400.0))
        paths.append(_save(ds, folder / f"ct{number:04d}.dcm", transfer_syntax))
    return paths


def write_brain_mr(
    channels: Mapping[str, NDArray[np.float32]],
    affine: NDArray[np.float64],
    patient: PatientIdentity,
    folder: Path,
    *,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> list[Path]:
    """Write T1, T2, FLAIR and contrast-enhanced T1 as four MR Series of one Frame of Reference (PS3.3 A.4).

    Args:
        channels: keys of ``MR_PROTOCOL`` → ``(slices, rows, columns)`` scanner units, 0..4095 after rounding;
            a subset writes a study with missing sequences.
        affine: ``(4, 4)`` from ``(slice, row, column)`` to mm in LPS.
        patient: identity and order.
        folder: made when absent; one subfolder per Series.
        transfer_syntax: as for radiographs.

    Returns:
        Paths, Series after Series, in Instance Number order.

    Raises:
        RefusedInputError: an unknown channel.
        GeometryError: ``affine`` is not that of a stack of rectangular slices.
    """
    unknown = set(channels) - set(MR_PROTOCOL)
    if unknown:
        raise RefusedInputError(f"unknown sequences {sorted(unknown)}; allowed: {sorted(MR_PROTOCOL)}")
    paths: list[Path] = []
    for number, (role, protocol) in enumerate(MR_PROTOCOL.items(), start=3):
        if role in channels:
            stored = np.clip(np.rint(channels[role]), 0, 4095).astype(np.uint16)
            series = [_mr_slice(stored, k, affine, patient, (role, number), protocol) for k in range(len(stored))]
            target = folder / f"series{number}"
            paths += [_save(ds, target / f"mr{k:04d}.dcm", transfer_syntax) for k, ds in enumerate(series, start=1)]
    return paths


def _mr_slice(
    stored: NDArray[np.uint16],
    k: int,
    affine: NDArray[np.float64],
    patient: PatientIdentity,
    series: tuple[str, int],
    protocol: MrSequence,
) -> Dataset:
    role, series_number = series
    ds = _instance(patient, MRImageStorage, role, k + 1)
    _series(ds, patient, "MR", series_number, protocol.description, "BRAIN")
    _place(ds, affine, k, patient)
    ds.StudyDescription = "MR brain with and without contrast"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant = protocol.scanning, protocol.variant
    ds.SequenceName, ds.ScanOptions, ds.MRAcquisitionType = protocol.sequence_name, "", "2D"
    ds.EchoTime, ds.RepetitionTime = _decimals([protocol.echo_ms, protocol.repetition_ms])
    if protocol.inversion_ms is not None:
        ds.InversionTime = _decimals([protocol.inversion_ms])[0]
    ds.EchoTrainLength, ds.FlipAngle, ds.NumberOfAverages = protocol.echo_train, "90", "1"
    ds.MagneticFieldStrength, ds.ImagedNucleus, ds.EchoNumbers = "1.5", "1H", 1
    if protocol.agent:
        ds.ContrastBolusAgent, ds.ContrastBolusRoute = protocol.agent, "IV"
    _pixels(ds, stored[k], "MONOCHROME2", _window(stored))
    return ds


def _uid(patient: PatientIdentity, *parts: object) -> UID:
    return generate_uid(entropy_srcs=["firstread phantom", patient.accession_number, *map(str, parts)])


def _decimals(values: Sequence[float]) -> list[DSfloat]:
    """Return decimal strings of at most 16 characters (VR DS)."""
    return [DSfloat(round(float(v), 6), auto_format=True) for v in values]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _instance(patient: PatientIdentity, sop_class: UID, kind: str, number: int) -> Dataset:
    """Return a Dataset with the Patient, General Study and SOP Common modules."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, _uid(patient, kind, number)
    ds.SyntheticData = "YES"
    ds.ImageComments = COMMENT
    ds.InstanceNumber = number
    ds.PatientName, ds.PatientID, ds.PatientSex = patient.name, patient.patient_id, patient.sex
    ds.IssuerOfPatientID = "FIRSTREAD-PHANTOMS"
    ds.PatientBirthDate, ds.PatientAge = patient.birth_date, f"{patient.age_years:03d}Y"
    ds.StudyInstanceUID = _uid(patient, "study")
    ds.StudyID = patient.accession_number[-8:]
    ds.AccessionNumber = patient.accession_number
    ds.ReferringPhysicianName = patient.referring_physician
    for level in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{level}Date", patient.study_date)
        setattr(ds, f"{level}Time", patient.study_time)
    ds.TimezoneOffsetFromUTC = "+0000"
    return ds


def _series(
    ds: Dataset, patient: PatientIdentity, modality: str, number: int, description: str, body_part: str
) -> None:
    """Add the General Series, General Equipment and General Image modules."""
    ds.Modality = modality
    ds.SeriesInstanceUID = _uid(patient, "series", number)
    ds.SeriesNumber, ds.AcquisitionNumber = number, 1
    ds.SeriesDescription = ds.ProtocolName = description
    ds.BodyPartExamined = body_part
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, f"Phantom {modality}"
    ds.SoftwareVersions, ds.DeviceSerialNumber, ds.StationName = "1", "SYN-0001", f"SYN{modality}1"
    ds.InstitutionName = "Synthetic General Hospital"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"


def _place(ds: Dataset, affine: NDArray[np.float64], k: int, patient: PatientIdentity) -> None:
    """Add Image Plane and Frame of Reference of slice ``k`` (PS3.3 C.7.6.2, C.7.4.1).

    Raises:
        GeometryError: the columns of ``affine`` are not orthogonal.
    """
    steps = affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    cosines = steps / spacing
    if not np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-6):
        raise GeometryError("affine is not that of a stack of rectangular slices")
    position = affine[:3, 3] + k * steps[:, 0]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = _uid(patient, "frame of reference"), ""
    ds.PatientPosition = "HFS"
    ds.ImagePositionPatient = _decimals(list(position))
    ds.ImageOrientationPatient = _decimals([*cosines[:, 2], *cosines[:, 1]])
    ds.PixelSpacing = _decimals([spacing[1], spacing[2]])
    ds.SliceThickness = _decimals([spacing[0]])[0]
    if ds.Modality == "MR":
        ds.SpacingBetweenSlices = ds.SliceThickness
    ds.SliceLocation = _decimals([float(position @ cosines[:, 0])])[0]


def _window(stored: NDArray[np.uint16]) -> tuple[float, float]:
    """Return centre and width that show the middle 98 % of an image's values."""
    low, high = np.percentile(stored[..., ::4, ::4], (1, 99))
    return float(round((low + high) / 2)), float(max(1, round(high - low)))


def _pixels(ds: Dataset, stored: NDArray[np.uint16], photometric: str, window: tuple[float, float]) -> None:
    """Add the Image Pixel module, 12 bit unsigned, and one window."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = _decimals(window)
    ds.PixelData = np.ascontiguousarray(stored, "<u2").tobytes()


def _save(ds: Dataset, path: Path, transfer_syntax: UID) -> Path:
    """Write one Part 10 file, compressed when the transfer syntax asks for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationVersionName = "FIRSTREAD_PHANT"
    if transfer_syntax.is_compressed:
        ds.compress(transfer_syntax, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path
