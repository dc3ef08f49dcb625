"""Small self-made source images and values for the tests of reports/, and the independent judges."""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, CTImageStorage, MRImageStorage, generate_uid

from reports.codes import code_table
from reports.segmentation import build_segmentation
from reports.values import (
    AlgorithmIdentity,
    DraftIdentity,
    Equipment,
    FindingValue,
    SegmentSpec,
    Signer,
    stable_uid,
)
from tests.judges import DCIODVFY

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ALGORITHM = AlgorithmIdentity("VISTA3D", "0.5.0", "MONAI", "ab" * 32, ("threshold=0.5",))
DEMONSTRATION = AlgorithmIdentity("CXR", "0.1.0", "Firstread", "cd" * 32, ("threshold=0.5",), demonstration=True)
EQUIPMENT = Equipment(software_versions=("0.1.0",), serial_number="SN-1", institution="General Hospital")
SIGNER = Signer("Dr. Iola Räd", "Räd", "Iola", "ST-4711", "General Hospital", NOON)


def _patient(ds: Dataset) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Øster^Åse", "P-1", "19600102", "F"
    ds.IssuerOfPatientID = "HOSPITAL"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20261121", "083000", "S1", "A-77"
    ds.ReferringPhysicianName = "Ref^Dr"
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "ACME", "Scanner", "1.0"


def cross_sections(
    slices: int = 5, rows: int = 12, columns: int = 10, *, modality: str = "CT", spacing: float = 2.0
) -> list[Dataset]:
    """Return one axial Series, first slice lowest; headers only."""
    study, series, frame = (generate_uid() for _ in range(3))
    sources = []
    for k in range(slices):
        ds = Dataset()
        _patient(ds)
        ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), k + 1
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PositionReferenceIndicator, ds.SeriesNumber, ds.Modality = "", 2, modality
        ds.BodyPartExamined = "ABDOMEN" if modality == "CT" else "BRAIN"
        ds.Rows, ds.Columns = rows, columns
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10, -20, spacing * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1.5, 1.5], spacing
        sources.append(ds)
    return sources


def radiograph(*, modality: str = "CR") -> Dataset:
    """Return the header of one frontal chest radiograph."""
    ds = Dataset()
    _patient(ds)
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.SeriesNumber, ds.InstanceNumber, ds.Modality = 1, 1, modality
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", "PA", ["L", "F"]
    ds.Rows, ds.Columns = 64, 48
    return ds


def identity_of(ds: Dataset, reading_id: str = "reading-1", created_at: datetime = NOON) -> DraftIdentity:
    """Return an identity for results on the Study of ``ds``."""
    return DraftIdentity(str(ds.StudyInstanceUID), reading_id, "00ff", created_at)


def spec(number: int, key: str, *, laterality: str | None = None) -> SegmentSpec:
    """Return a segment of the table row ``key``."""
    uid = stable_uid("tracking", key)
    return SegmentSpec(number, code_table().label(key).label, key, laterality, ALGORITHM, uid, f"ai:{key}")


def boxes(shape: tuple[int, int, int], *values: int) -> np.ndarray:
    """Return a label map with one box per value; each box starts at another slice, row and column."""
    labels = np.zeros(shape, np.uint8)
    for n, value in enumerate(values):
        labels[n % shape[0] : n % shape[0] + 2, n : n + 3, 2 * n : 2 * n + 2] = value
    return labels


def segmentation(source: list[Dataset], *specs: SegmentSpec) -> Dataset:
    """Return a Segmentation with one box per spec."""
    shape = (len(source), source[0].Rows, source[0].Columns)
    labels = boxes(shape, *(item.number for item in specs))
    return build_segmentation(source, labels, segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT)


def classifier_findings(ds: Dataset, presence: str = "absent", score: float = 0.123) -> list[FindingValue]:
    """Return the 18 radiographic findings of one image."""
    uid = str(ds.SOPInstanceUID)
    return [
        FindingValue(
            label=row.label,
            code_key=row.key,
            presence=presence,
            score=score,
            laterality=None,
            algorithm=DEMONSTRATION,
            tracking_uid=stable_uid(uid, row.key),
            tracking_id=row.key,
            source_sop_instance_uids=(uid,),
        )
        for row in code_table().labels.values()
        if row.family == "txrv"
    ]


def written(ds: Dataset) -> bytes:
    """Return the Part 10 file of a finished object."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def items(node: Dataset, meaning: str) -> list[Dataset]:
    """Return the content items below ``node`` whose concept name has this meaning."""
    found = []
    for item in node.get("ContentSequence", []):
        if item.ConceptNameCodeSequence[0].CodeMeaning == meaning:
            found.append(item)
        found += items(item, meaning)
    return found


def dciodvfy(ds: Dataset, folder: Path) -> list[str]:
    """Return the lines of dicom3tools' IOD validator that are errors; its exit status must agree."""
    path = folder / "object.dcm"
    path.write_bytes(written(ds))
    done = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    assert (done.returncode != 0) == bool(errors), lines
    return errors


def dsrdump(ds: Dataset, folder: Path) -> str:
    """Return DCMTK's rendering of an SR; fails the test when DCMTK refuses the document."""
    program = shutil.which("dsrdump")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("dsrdump (DCMTK) must be installed in CI")
        pytest.skip("dsrdump (DCMTK) is not installed")
    path = folder / "document.dcm"
    path.write_bytes(written(ds))
    done = subprocess.run([program, "+Pl", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "E: " not in done.stderr, done.stderr
    return done.stdout
