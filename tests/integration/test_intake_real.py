"""Every folder of real images ends in a Volume or in a reason; what is expected is what the data's README says."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from config.errors import GeometryError, OutsideIntendedUseError
from worker.ct_stacks import obliquity_degrees
from worker.decoding import read_headers
from worker.intake import gate
from worker.profiles import BRAIN_MR, CHEST_XRAY, CT_TORSO
from worker.stacking import load_volume, read_stack

FEW = "4 slices, at least 16 are needed"
NO_AGE = "patients under 18"  # the publisher's anonymisation left an age of 0Y and equal dates
NOT_FOUR = "missing"  # one series is no brain tumour study of four sequences


def files(real_data, folder):
    return sorted(path for path in (real_data / folder).rglob("*") if path.suffix == ".dcm")


# folder, matrix of the Volume (slices, rows, columns), spacing in mm (slices, rows, columns)
VOLUMES = [
    ("ct_abdomen", (20, 512, 512), (2.0, 0.977, 0.977)),
    ("ct_chest_lowres", (79, 64, 64), (3.99, 4.17, 4.17)),
    ("ct_chest_cta", (164, 126, 120), (1.5, 1.5, 1.5)),
    ("reference_objects/ct_3slice", (3, 512, 512), None),
    ("mr_glioma/t2", (26, 256, 224), (5.5, 0.898, 0.898)),
    ("mr_glioma/flair", (26, 256, 208), (5.5, 0.898, 0.898)),
    ("mr_glioma/t1", (26, 224, 256), (5.5, 0.898, 0.898)),
    ("mr_glioma/t1c", (26, 224, 256), (5.5, 0.898, 0.898)),
    # Spacing Between Slices says 0.667, the kept slices are 2.0 mm apart; pixels are not square
    ("mr_t1_defaced", (66, 384, 274), (2.0, 0.667, 0.700)),
    ("mr_multivendor/ge_t1_gradient_sagittal", (4, 256, 256), None),
    ("mr_multivendor/siemens_flair3d_sagittal", (4, 256, 256), None),
    ("mr_multivendor/philips_flair3d_coronal", (4, 240, 240), None),
    ("mr_multivendor/hitachi_oblique", (4, 64, 64), None),
    ("mr_multivendor/hyperfine_enhanced_multiframe", (8, 138, 112), None),
    ("mr_multivendor/philips_enhanced_multiframe", (8, 256, 256), None),
    ("mr_multivendor/siemens_enhanced_multiframe", (8, 256, 256), None),
    ("mr_multivendor/siemens_t1_sagittal_HFS", (2, 256, 256), None),
    ("mr_multivendor/siemens_t1_sagittal_HFP", (2, 256, 256), None),
    ("mr_multivendor/siemens_t1_sagittal_HFDL", (2, 256, 256), None),
    ("mr_multivendor/siemens_t1_sagittal_HFDR", (2, 256, 256), None),
    ("mr_multivendor/ge_epi_fmri", (15, 64, 64), None),
    ("mr_multivendor/toshiba_diffusion_b0", (8, 64, 64), None),
    ("mr_multivendor/siemens_xa10_enhanced_phantom", (6, 64, 64), None),  # one of its two time points
    ("transfer_syntaxes/mr_rle", (2, 256, 256), None),
    ("transfer_syntaxes/mr_jpeg", (2, 256, 256), None),
    ("transfer_syntaxes/mr_jpegls", (2, 256, 256), None),
    ("transfer_syntaxes/mr_j2k", (2, 256, 256), None),
    ("geometry_failures/gantry_tilt", (4, 512, 512), None),  # 14.0 degrees, sheared
    ("geometry_failures/two_slices_only", (2, 256, 256), None),
    ("geometry_failures/two_orientations", (2, 288, 288), None),  # one of the two
]


@pytest.mark.parametrize(("folder", "shape", "spacing"), VOLUMES, ids=[row[0] for row in VOLUMES])
def test_a_real_series_becomes_a_volume_on_its_own_grid(real_data, folder, shape, spacing):
    headers = read_headers(files(real_data, folder))
    volume = load_volume(headers)
    assert volume.array.shape == shape
    if spacing:
        assert volume.spacing_mm == pytest.approx(spacing, abs=0.006)
    assert np.isfinite(volume.array).all()
    placed = {
        str(ds.SOPInstanceUID): ds for ds in headers if "ImagePositionPatient" in ds and "NumberOfFrames" not in ds
    }
    for k, uid in enumerate(volume.sop_instance_uids):
        if uid in placed:
            expected = [float(v) for v in placed[uid].ImagePositionPatient]
            assert (volume.affine @ [k, 0, 0, 1])[:3] == pytest.approx(expected, abs=0.1)


STACKS_REFUSED = [
    # z = 18.1, 23.1, 28.1, 38.1; images 7 to 10
    ("geometry_failures/missing_slice", "5.00 and 10.00 mm: a slice is missing between images 9 and 10"),
    ("geometry_failures/tilt_and_missing_slice", "a slice is missing between images 3 and 5"),  # instance 4 missing
    ("geometry_failures/same_position", "4 slices lie at the same position"),  # a monitoring scan
    ("mr_multivendor/siemens_diffusion_mosaic", "at least 2 slices, 1 has"),
]


@pytest.mark.parametrize(("folder", "reason"), STACKS_REFUSED, ids=[row[0] for row in STACKS_REFUSED])
def test_a_real_series_that_is_no_volume_says_why(real_data, folder, reason):
    with pytest.raises(GeometryError, match=reason):
        load_volume(read_headers(files(real_data, folder)))


GATES = [
    ("geometry_failures/gantry_tilt", CT_TORSO, NO_AGE),
    ("geometry_failures/missing_slice", CT_TORSO, NO_AGE),
    ("geometry_failures/same_position", CT_TORSO, FEW),
    ("geometry_failures/tilt_and_missing_slice", CT_TORSO, FEW),
    ("geometry_failures/two_orientations", BRAIN_MR, NO_AGE),
    ("geometry_failures/two_slices_only", BRAIN_MR, NO_AGE),
    ("mr_multivendor/colour_secondary_capture", BRAIN_MR, "Secondary Capture Image Storage holds no slices"),
    ("mr_multivendor/siemens_diffusion_mosaic", BRAIN_MR, "a mosaic of slices"),
    ("mr_multivendor/ge_t1_gradient_sagittal", BRAIN_MR, NO_AGE),
    ("mr_multivendor/siemens_flair3d_sagittal", BRAIN_MR, NO_AGE),
    ("mr_multivendor/philips_flair3d_coronal", BRAIN_MR, NO_AGE),
    ("mr_multivendor/philips_enhanced_multiframe", BRAIN_MR, NO_AGE),
    ("mr_multivendor/hitachi_oblique", BRAIN_MR, NO_AGE),
    ("mr_multivendor/hyperfine_enhanced_multiframe", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/siemens_enhanced_multiframe", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/siemens_t1_sagittal_HFS", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/siemens_t1_sagittal_HFP", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/siemens_t1_sagittal_HFDL", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/siemens_t1_sagittal_HFDR", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/ge_epi_fmri", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/toshiba_diffusion_b0", BRAIN_MR, NOT_FOUR),
    ("mr_multivendor/siemens_xa10_enhanced_phantom", BRAIN_MR, NOT_FOUR),
    ("mr_t1_defaced", BRAIN_MR, NOT_FOUR),
    ("transfer_syntaxes/mr_rle", BRAIN_MR, NO_AGE),
    ("transfer_syntaxes/mr_jpeg", BRAIN_MR, NO_AGE),
    ("transfer_syntaxes/mr_jpegls", BRAIN_MR, NO_AGE),
    ("transfer_syntaxes/mr_j2k", BRAIN_MR, NO_AGE),
    ("transfer_syntaxes/ct", CT_TORSO, "different Patient IDs"),  # two patients in the folder
    ("reference_objects/ct_3slice", CT_TORSO, "3 slices, at least 16"),
    ("reference_objects/seg_labelmap", CT_TORSO, "no CT image in the study"),
    ("cxr_01", CT_TORSO, "no CT image in the study"),
    ("ct_abdomen", CHEST_XRAY, "no CR or DX image"),
]


@pytest.mark.requirement("REQ-GATE-1")
@pytest.mark.parametrize(("folder", "profile", "reason"), GATES, ids=[row[0] for row in GATES])
def test_a_real_study_outside_the_intended_use_gets_a_reason(real_data, folder, profile, reason):
    with pytest.raises(OutsideIntendedUseError, match=reason):
        gate(files(real_data, folder), profile)


@pytest.mark.parametrize(("folder", "profile"), [
    ("ct_abdomen", CT_TORSO), ("ct_chest_lowres", CT_TORSO), ("ct_chest_cta", CT_TORSO), ("mr_glioma", BRAIN_MR),
])  # fmt: skip
def test_a_real_study_that_fits_is_read_whole(real_data, folder, profile):
    paths = files(real_data, folder)
    intake = gate(paths, profile)
    assert intake.excluded == []
    assert sum(len(headers) for headers in intake.headers.values()) == len(paths)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("geometry_failures/missing_slice", "a slice is missing between images 9 and 10"),
        ("geometry_failures/tilt_and_missing_slice", "a slice is missing between images 3 and 5"),
        ("geometry_failures/same_position", "lie at the same position"),
        ("geometry_failures/gantry_tilt", "no Frame of Reference UID"),
    ],
)
def test_geometry_is_the_reason_where_age_and_number_are_not(real_data, folder, reason):
    lenient = replace(CT_TORSO, minimum_age_years=0, minimum_slices=3)
    with pytest.raises(OutsideIntendedUseError, match=reason):
        gate(files(real_data, folder), lenient)


def test_the_folder_of_syntaxes_is_one_image_many_times_and_no_series(real_data):
    paths = [p for p in files(real_data, "transfer_syntaxes/ct") if "CTImage" in p.name]
    with pytest.raises(GeometryError, match="15 slices lie at the same position"):
        load_volume(read_headers(paths))
    lenient = replace(CT_TORSO, minimum_age_years=0)
    with pytest.raises(OutsideIntendedUseError, match="at least 16 are needed"):
        gate(paths, lenient)


def test_a_double_oblique_series_is_as_oblique_as_its_header_says(real_data):
    stack = read_stack(read_headers(files(real_data, "mr_multivendor/hitachi_oblique")))
    # rows run along (0.609, 0.791, 0.064): arccos 0.791 = 37.7 degrees from the nearest axis
    assert obliquity_degrees(stack) == pytest.approx(np.degrees(np.arccos(0.791)), abs=1.0)


def test_a_published_ct_without_its_uids_is_refused_and_never_crashes(real_data, tmp_path):
    # as its publisher has it: SOP Class, SOP Instance, Study and Series Instance UID are missing, or empty
    names = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    for case, names_gone in {"all": names, "one": names[1:2], "series": names[3:]}.items():
        paths = []
        for path in files(real_data, "ct_abdomen"):
            ds = pydicom.dcmread(path)
            for name in names_gone:
                ds[name].value = ""
            paths.append(tmp_path / f"{case}_{path.name}")
            ds.save_as(paths[-1])
        with pytest.raises(OutsideIntendedUseError, match="image without the UIDs that name it"):
            gate(paths, CT_TORSO)
    film = pydicom.dcmread(files(real_data, "cxr_01")[0])
    del film.SeriesInstanceUID
    film.save_as(tmp_path / "film.dcm")
    with pytest.raises(OutsideIntendedUseError, match="image without the UIDs that name it"):
        gate([tmp_path / "film.dcm"], CHEST_XRAY)
