"""The gate of a brain MR study: what is read, what is set aside and why, what is refused."""

import pydicom
import pytest

from config.errors import OutsideIntendedUseError
from phantoms.brain_mr import make_brain_mr
from phantoms.dicom import write_brain_mr
from phantoms.patients import make_patient
from worker.intake import gate
from worker.profiles import BRAIN_MR


@pytest.fixture(scope="module")
def phantom():
    return make_brain_mr(13, tumour=True, voxel_mm=(6.0, 4.0, 4.0))


@pytest.fixture
def brain(phantom, tmp_path):
    return write_brain_mr(phantom.channels, phantom.affine, make_patient(3), tmp_path / "mr")


def series_of(paths, description):
    return [p for p in paths if pydicom.dcmread(p, stop_before_pixels=True).SeriesDescription == description]


def edit(paths, **values):
    for path in paths:
        ds = pydicom.dcmread(path)
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        ds.save_as(path)


def copied(paths, uid, folder, **values):
    """The same images again as another Series."""
    folder.mkdir()
    again = []
    for index, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID, ds.SOPInstanceUID = uid, f"{uid}.{index}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        ds.save_as(folder / f"{index}.dcm")
        again.append(folder / f"{index}.dcm")
    return again


def test_sequences_of_two_frames_of_reference_are_read_and_that_is_said(brain):
    edit(series_of(brain, "AX FLAIR"), FrameOfReferenceUID="1.2.3.4.5")
    intake = gate(brain, BRAIN_MR)
    frames = {role: one.frame_of_reference_uid for role, one in intake.study.brain_mr.items()}
    assert frames["FLAIR"] == "1.2.3.4.5" != frames["T1c"]
    assert any("do not share one frame of reference" in note for note in intake.unchecked)


def test_one_frame_of_reference_needs_no_remark(brain):
    assert not any("frame of reference" in note for note in gate(brain, BRAIN_MR).unchecked)


def test_a_short_series_beside_the_four_is_set_aside_with_its_reason(brain, tmp_path):
    short = copied(series_of(brain, "AX T2 TSE")[:3], "1.2.9", tmp_path / "short", SeriesNumber=77)
    intake = gate([*brain, *short], BRAIN_MR)
    assert ("1.2.9", "3 slices, at least 16 are needed") in intake.excluded
    assert "1.2.9" not in intake.headers


def test_an_adc_map_is_set_aside_with_its_reason(brain, tmp_path):
    kind = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    adc = copied(series_of(brain, "AX T2 TSE"), "1.2.9", tmp_path / "adc", SeriesNumber=77, ImageType=kind)
    reasons = dict(gate([*brain, *adc], BRAIN_MR).excluded)
    assert "a diffusion image or map" in reasons["1.2.9"]


def test_the_same_sequence_twice_is_refused_without_names(brain, tmp_path):
    again = copied(series_of(brain, "AX T2 TSE"), "1.2.9", tmp_path / "again", SeriesNumber=77,
                   SeriesDescription="AX T2 TSE Muster")  # fmt: skip
    with pytest.raises(
        OutsideIntendedUseError, match=r"more than one series could be T2: .*series 77 \(TE 96 ms"
    ) as no:
        gate([*brain, *again], BRAIN_MR)
    assert "Muster" not in str(no.value)


def test_a_sequence_whose_slices_make_no_volume_says_why(brain):
    flair = series_of(brain, "AX FLAIR")
    without = [path for path in brain if path != sorted(flair)[9]]
    with pytest.raises(OutsideIntendedUseError, match=r"missing MR sequence: FLAIR; .*a slice is missing"):
        gate(without, BRAIN_MR)


def test_a_name_against_the_attributes_is_refused(brain):
    edit(series_of(brain, "AX FLAIR"), SeriesDescription="AX T2", ProtocolName="AX T2")
    with pytest.raises(OutsideIntendedUseError, match=r"called T2 but was acquired as FLAIR"):
        gate(brain, BRAIN_MR)
