"""Synthetic studies are conformant DICOM: an independent validator, and pixels and geometry read back."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from config.errors import GeometryError, RefusedInputError
from phantoms.brain_mr import BrainMr, make_brain_mr
from phantoms.dicom import write_brain_mr, write_ct, write_radiograph
from phantoms.patients import make_patient
from tests.judges import DCIODVFY

_TILT = np.radians(10.0)  # a gantry-tilted stack: slices 3 mm apart, rows and columns 1.6 mm
OBLIQUE = np.array(
    [
        [0.0, 0.0, 1.6, -200.0],
        [-3.0 * np.sin(_TILT), 1.6 * np.cos(_TILT), 0.0, -150.0],
        [3.0 * np.cos(_TILT), 1.6 * np.sin(_TILT), 0.0, 10.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def _errors(path: Path) -> list[str]:
    done = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    found = [line for line in lines if line.startswith("Error")]
    return found if found or done.returncode == 0 else [f"exit {done.returncode}"]


def _pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (260, 300)).astype(np.uint16)


def _index_to_lps(ds: Dataset, row: int, column: int) -> np.ndarray:
    """PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1."""
    iop = np.array(ds.ImageOrientationPatient, float)
    di, dj = float(ds.PixelSpacing[1]), float(ds.PixelSpacing[0])
    return np.array(ds.ImagePositionPatient, float) + iop[:3] * di * column + iop[3:] * dj * row


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("view", "modality", "syntax"),
    [
        ("PA", "DX", ExplicitVRLittleEndian),
        ("AP", "DX", RLELossless),
        ("LL", "DX", JPEG2000Lossless),
        ("PA", "CR", JPEGLSLossless),
        ("AP", "CR", ExplicitVRLittleEndian),
    ],
)
def test_radiographs_validate_and_keep_their_pixels(
    tmp_path: Path, view: str, modality: str, syntax: UID, photometric: str
) -> None:
    pixels = _pixels()
    (path,) = write_radiograph(
        pixels,
        make_patient(3),
        tmp_path,
        view=view,
        modality=modality,
        photometric=photometric,
        transfer_syntax=syntax,
    )
    assert _errors(path) == []
    ds = dcmread(path)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert (ds.Modality, ds.ViewPosition, ds.BodyPartExamined) == (modality, view, "CHEST")
    stored = ds.pixel_array
    shown = 4095 - stored if ds.PhotometricInterpretation == "MONOCHROME1" else stored
    assert ds.PhotometricInterpretation == photometric
    assert np.array_equal(shown, pixels)


@pytest.fixture(scope="module")
def ct_series(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, list[Path]]:
    hu = np.random.default_rng(1).integers(-1024, 3072, (5, 40, 48)).astype(np.int16)
    return hu, write_ct(hu, OBLIQUE, make_patient(4), tmp_path_factory.mktemp("ct"))


def test_ct_slices_validate(ct_series: tuple[np.ndarray, list[Path]]) -> None:
    assert [e for path in ct_series[1] for e in _errors(path)] == []


def test_ct_reads_back_in_hounsfield_units_and_place(ct_series: tuple[np.ndarray, list[Path]]) -> None:
    hu, paths = ct_series
    slices = [dcmread(p) for p in paths]
    assert [ds.InstanceNumber for ds in slices] == [1, 2, 3, 4, 5]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    for k, ds in enumerate(slices):
        assert np.array_equal(ds.pixel_array.astype(int) * ds.RescaleSlope + ds.RescaleIntercept, hu[k])
        expected = OBLIQUE @ [k, 7, 30, 1]
        assert np.allclose(_index_to_lps(ds, 7, 30), expected[:3], atol=1e-3)


def test_one_ct_is_one_series_of_distinct_instances(ct_series: tuple[np.ndarray, list[Path]]) -> None:
    slices = [dcmread(p, stop_before_pixels=True) for p in ct_series[1]]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({ds[keyword].value for ds in slices}) == 1
    assert len({ds.SOPInstanceUID for ds in slices}) == 5


@pytest.fixture(scope="module")
def brain() -> BrainMr:
    return make_brain_mr(5, tumour=True, voxel_mm=(8.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def mr_series(brain: BrainMr, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Dataset]]:
    paths = write_brain_mr(brain.channels, brain.affine, make_patient(9), tmp_path_factory.mktemp("mr"))
    series: dict[str, list[Dataset]] = {}
    for path in paths:
        ds = dcmread(path)
        series.setdefault(ds.SeriesDescription, []).append(ds)
    return series


def test_mr_validates(mr_series: dict[str, list[Dataset]]) -> None:
    for slices in mr_series.values():
        assert _errors(Path(slices[0].filename)) == []
        assert _errors(Path(slices[-1].filename)) == []


def test_mr_roles_are_recognisable(mr_series: dict[str, list[Dataset]]) -> None:
    assert set(mr_series) == {"AX T1", "AX T2 TSE", "AX FLAIR", "AX T1 POST GAD"}
    first = {name: slices[0] for name, slices in mr_series.items()}
    assert first["AX T1 POST GAD"].ContrastBolusAgent
    assert not any("ContrastBolusAgent" in first[n] for n in ("AX T1", "AX T2 TSE", "AX FLAIR"))
    assert first["AX FLAIR"].InversionTime == 2500
    assert first["AX T1"].EchoTime < 20
    assert first["AX T2 TSE"].EchoTime > 80


def test_mr_series_share_one_frame_and_keep_signal_and_place(
    brain: BrainMr, mr_series: dict[str, list[Dataset]]
) -> None:
    names = {"t1": "AX T1", "t2": "AX T2 TSE", "flair": "AX FLAIR", "t1c": "AX T1 POST GAD"}
    assert len({ds.FrameOfReferenceUID for s in mr_series.values() for ds in s}) == 1
    assert len({s[0].SeriesInstanceUID for s in mr_series.values()}) == 4
    for channel, name in names.items():
        for k in (0, 11, len(brain.labels) - 1):
            ds = mr_series[name][k]
            assert np.abs(ds.pixel_array - np.clip(brain.channels[channel][k], 0, 4095)).max() <= 0.5
            assert np.allclose(_index_to_lps(ds, 3, 50), (brain.affine @ [k, 3, 50, 1])[:3], atol=1e-3)


def test_a_missing_sequence_can_be_written(brain: BrainMr, tmp_path: Path) -> None:
    three = {name: array for name, array in brain.channels.items() if name != "flair"}
    paths = write_brain_mr(three, brain.affine, make_patient(9), tmp_path)
    assert len({dcmread(p, stop_before_pixels=True).SeriesInstanceUID for p in paths}) == 3


def test_every_instance_says_it_is_synthetic(mr_series: dict[str, list[Dataset]]) -> None:
    for ds in (ds for slices in mr_series.values() for ds in slices):
        assert ds.SyntheticData == "YES"
        assert ds.Manufacturer == "Firstread phantoms"
        assert "SYNTHETIC" in ds.ImageComments
        assert ds.PatientID.startswith("SYN-")


def test_names_of_every_script_survive(tmp_path: Path) -> None:
    for seed in range(40):
        patient = make_patient(seed)
        (path,) = write_radiograph(_pixels(), patient, tmp_path / str(seed))
        ds = dcmread(path)
        assert (ds.SpecificCharacterSet, str(ds.PatientName)) == ("ISO_IR 192", patient.name)


def test_writing_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_radiograph(_pixels(), make_patient(3), tmp_path / name)[0] for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    sheared = OBLIQUE.copy()
    sheared[0, 1] = 1.0
    hu = np.zeros((2, 8, 8), np.int16)
    with pytest.raises(GeometryError):
        write_ct(hu, sheared, make_patient(1), tmp_path)
    with pytest.raises(RefusedInputError, match="12 bit"):
        write_ct(hu + 4000, OBLIQUE, make_patient(1), tmp_path)
    with pytest.raises(RefusedInputError, match="view"):
        write_radiograph(_pixels(), make_patient(1), tmp_path, view="OBLIQUE")
    with pytest.raises(RefusedInputError, match="dwi"):
        write_brain_mr({"dwi": np.zeros((2, 8, 8), np.float32)}, OBLIQUE, make_patient(1), tmp_path)
