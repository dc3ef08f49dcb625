"""Segmentations: the mask that goes in is the mask a viewer gets, with its codes, sides and algorithm."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from config.errors import GeometryError, InvalidUidError, RefusedInputError
from reports.segmentation import build_segmentation, segment_numbers, tumour_regions
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    NOON,
    boxes,
    cross_sections,
    identity_of,
    radiograph,
    segmentation,
    spec,
    written,
)


def build(source, labels, *specs, **options):
    return build_segmentation(
        source, labels, segments=specs, identity=identity_of(source[0]), equipment=EQUIPMENT, **options
    )


def unpack(seg: Dataset, source: list[Dataset]) -> dict[int, np.ndarray]:
    """Decode a BINARY SEG by hand (PS3.5 8.1.1: bits of all frames run on, lowest bit first)."""
    rows, columns, frames = seg.Rows, seg.Columns, int(seg.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    planes = bits[: frames * rows * columns].reshape(frames, rows, columns)
    order = {str(ds.SOPInstanceUID): k for k, ds in enumerate(source)}
    masks = {int(item.SegmentNumber): np.zeros((len(source), rows, columns), np.uint8) for item in seg.SegmentSequence}
    for plane, group in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        shared = seg.SharedFunctionalGroupsSequence[0]  # of all frames, when there is one segment
        holder = group if "SegmentIdentificationSequence" in group else shared
        number = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        slice_uid = str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        masks[number][order[slice_uid]] = plane
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert list(position) == list(source[order[slice_uid]].ImagePositionPatient)
    return masks


@pytest.mark.parametrize("descending", [False, True])
def test_each_segment_holds_its_own_voxels_on_the_right_slices(descending):
    source = cross_sections(6)
    if descending:
        source.reverse()
    labels = boxes((6, 12, 10), 5, 1, 97)
    seg = build(source, labels, spec(97, "ct.left_rib_6"), spec(5, "ct.right_kidney"), spec(1, "ct.liver"))
    masks = unpack(seg, source)
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["left rib 6", "right kidney", "liver"]
    for number, value in {1: 97, 2: 5, 3: 1}.items():
        assert np.array_equal(masks[number], labels == value)


def test_empty_segments_and_empty_frames_are_left_out_and_the_rest_numbered_on():
    source = cross_sections()
    labels = boxes((5, 12, 10), 3)
    seg = build(source, labels, spec(1, "ct.liver"), spec(3, "ct.spleen"))
    assert [(int(item.SegmentNumber), item.SegmentLabel) for item in seg.SegmentSequence] == [(1, "spleen")]
    assert int(seg.NumberOfFrames) == 2
    assert segment_numbers(seg) == {spec(3, "ct.spleen").tracking_uid: 1}


def test_overlapping_regions_keep_all_their_voxels():
    source = cross_sections(4, modality="MR")
    labels = np.zeros((4, 12, 10), np.uint8)
    labels[1:3, 2:9, 2:9] = 2
    labels[1:3, 4:7, 4:7] = 1
    labels[2, 5, 5:7] = 4
    keys = ("mr.whole_tumor", "mr.tumor_core", "mr.enhancing_tumor")
    seg = build(source, tumour_regions(labels), *(spec(n, key) for n, key in enumerate(keys, 1)))
    masks = unpack(seg, source)
    assert np.array_equal(masks[1], labels > 0)
    assert np.array_equal(masks[2], (labels == 1) | (labels == 4))
    assert np.array_equal(masks[3], labels == 4)
    assert seg.SegmentsOverlap == "YES"


def test_an_empty_channel_of_a_stack_is_left_out():
    source = cross_sections(3)
    masks = np.zeros((3, 12, 10, 2), np.uint8)
    masks[1, 2, 3, 1] = 1
    seg = build(source, masks, spec(1, "mr.whole_tumor"), spec(2, "mr.tumor_core"))
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["tumor core"]
    assert unpack(seg, source)[1].sum() == 1


def test_a_structure_has_its_side_on_the_type_and_a_lesion_on_its_region():
    seg = segmentation(cross_sections(), spec(1, "ct.left_kidney"), spec(2, "ct.lung_tumor", laterality="right"))
    kidney, tumour = seg.SegmentSequence
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodingSchemeDesignator) == ("7771000", "SCT")
    assert "AnatomicRegionSequence" not in kidney
    assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    region = tumour.AnatomicRegionSequence[0]
    assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeValue) == ("39607008", "24028007")
    assert tumour.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"


def test_what_the_code_alone_does_not_tell_stands_in_the_segment_description():
    seg = segmentation(cross_sections(modality="MR"), spec(1, "mr.edema"), spec(2, "ct.liver"))
    edema, liver = seg.SegmentSequence
    assert edema.SegmentDescription.startswith("Peritumoral edema and infiltrating tumor together")
    assert "SegmentDescription" not in liver


def test_the_algorithm_stands_in_segment_and_contributing_equipment():
    seg = segmentation(cross_sections(), spec(1, "ct.liver"))
    segment = seg.SegmentSequence[0]
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "VISTA3D")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert algorithm.AlgorithmParameters == f"weights_sha256={'ab' * 32},threshold=0.5"
    (item,) = [i for i in seg.ContributingEquipmentSequence if i.get("ManufacturerModelName") == "VISTA3D"]
    assert (item.DeviceUID, item.SoftwareVersions) == (ALGORITHM.device_uid, "0.5.0")
    assert (seg.ManufacturerModelName, seg.DeviceUID) == ("Firstread", EQUIPMENT.device_uid)
    assert "ContentQualification" not in seg


@pytest.mark.requirement("REQ-LABEL-3")
def test_an_unsigned_segmentation_says_so_and_a_demonstration_model_too():
    source = cross_sections()
    seg = segmentation(source, spec(1, "ct.liver"))
    assert seg.SeriesDescription == seg.ContentDescription == "AI DRAFT – not verified: VISTA3D 0.5.0"
    demo = segmentation(source, replace(spec(1, "ct.liver"), algorithm=DEMONSTRATION))
    assert demo.SeriesDescription == "AI DRAFT – not verified: DEMONSTRATION MODEL CXR 0.1.0"
    assert demo.ContentQualification == "RESEARCH"


def test_patient_and_study_come_from_the_source_and_the_series_is_our_own():
    source = cross_sections()
    seg = segmentation(source, spec(1, "ct.liver"))
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex",
                    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                    "FrameOfReferenceUID", "BodyPartExamined"):  # fmt: skip
        assert seg[keyword].value == source[0][keyword].value, keyword
    assert seg.SeriesInstanceUID != source[0].SeriesInstanceUID
    assert (seg.SeriesNumber, seg.Modality, seg.SpecificCharacterSet) == (901, "SEG", "ISO_IR 192")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source[0].SeriesInstanceUID


def test_legal_words_of_the_study_are_copied_whole():
    source = cross_sections()
    source[0].StudyDescription, source[0].PatientName = "胸腹部CT" * 9, "Ä" * 31 + "^" + "Ö" * 31
    seg = segmentation(source, spec(1, "ct.liver"))
    assert seg.StudyDescription == "胸腹部CT" * 9
    assert str(seg.PatientName) == "Ä" * 31 + "^" + "Ö" * 31


def test_a_retry_writes_the_same_bytes():
    source = cross_sections()
    assert written(segmentation(source, spec(1, "ct.liver"))) == written(segmentation(source, spec(1, "ct.liver")))


def test_times_are_written_in_the_zone_of_the_source():
    source = cross_sections()
    source[0].TimezoneOffsetFromUTC = "-0330"
    seg = segmentation(source, spec(1, "ct.liver"))
    assert (str(seg.ContentTime), str(seg.SeriesDate), seg.TimezoneOffsetFromUTC) == ("083000", "20261122", "-0330")
    source[0].TimezoneOffsetFromUTC = "rubbish"
    seg = segmentation(source, spec(1, "ct.liver"))
    assert (str(seg.ContentTime), seg.TimezoneOffsetFromUTC) == (NOON.strftime("%H%M%S"), "+0000")


def test_a_radiograph_can_be_segmented_and_keeps_its_orientation():
    source = radiograph()
    mask = np.zeros((1, 64, 48), np.uint8)
    mask[0, 10:20, 5:9] = 1
    seg = build([source], mask, spec(1, "ct.heart"))
    assert list(seg.PatientOrientation) == ["L", "F"]
    assert np.array_equal(
        np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: 64 * 48].reshape(64, 48), mask[0]
    )


@pytest.mark.parametrize("shape", [(4, 12, 10), (5, 10, 12), (12, 10), (5, 12, 10, 1, 1)])
def test_a_mask_of_another_shape_is_refused_with_what_was_given_and_expected(shape):
    with pytest.raises(GeometryError) as error:
        build(cross_sections(), np.ones(shape, np.uint8), spec(1, "ct.liver"))
    assert str(error.value) == f"mask is {shape}, source is (5, 12, 10) (slices, rows, columns)"


def _break(change):
    source = cross_sections()
    change(source)
    return source


MIXED = {
    "orientation": lambda s: setattr(s[2], "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
    "spacing": lambda s: setattr(s[2], "PixelSpacing", [1.5, 1.6]),
    "frame of reference": lambda s: setattr(s[2], "FrameOfReferenceUID", "1.2.3"),
    "no frame of reference": lambda s: [ds.pop("FrameOfReferenceUID") for ds in s],
    "same position": lambda s: setattr(s[2], "ImagePositionPatient", s[1].ImagePositionPatient),
    "no position": lambda s: s[2].pop("ImagePositionPatient"),
    "columns": lambda s: setattr(s[2], "Columns", 11),
}


@pytest.mark.parametrize("change", MIXED.values(), ids=MIXED)
def test_slices_that_make_no_grid_are_refused(change):
    with pytest.raises(GeometryError):
        build(_break(change), boxes((5, 12, 10), 1), spec(1, "ct.liver"))


REFUSED = {
    "nothing to write": (boxes((5, 12, 10)), [spec(1, "ct.liver")]),
    "no segment describes": (boxes((5, 12, 10), 1, 7), [spec(1, "ct.liver")]),
    "must differ": (boxes((5, 12, 10), 1), [spec(1, "ct.liver"), spec(1, "ct.spleen")]),
    "expected uint8": (boxes((5, 12, 10), 1).astype(np.int64), [spec(1, "ct.liver")]),
    "radiographic finding": (boxes((5, 12, 10), 1), [spec(1, "cxr.effusion")]),
    "on the left by its code": (boxes((5, 12, 10), 1), [spec(1, "ct.left_kidney", laterality="right")]),
    "hold 0 and 1": (np.full((5, 12, 10, 1), 2, np.uint8), [spec(1, "ct.liver")]),
    "need segments 1…2": (np.ones((5, 12, 10, 2), np.uint8), [spec(1, "ct.liver")]),
}


@pytest.mark.parametrize(("message", "labels", "specs"), [(k, *v) for k, v in REFUSED.items()], ids=REFUSED)
def test_a_label_map_that_cannot_be_told_truly_is_refused(message, labels, specs):
    with pytest.raises(RefusedInputError, match=message):
        build(cross_sections(), labels, *specs)


def test_slices_of_two_series_are_refused():
    source = _break(lambda s: setattr(s[2], "SeriesInstanceUID", "1.2.3"))
    with pytest.raises(RefusedInputError, match="share one Series Instance UID, found 2"):
        build(source, boxes((5, 12, 10), 1), spec(1, "ct.liver"))


def test_a_source_with_a_bad_uid_is_refused():
    source = _break(lambda s: [setattr(ds, "StudyInstanceUID", "1.2.03.4") for ds in s])
    with pytest.raises(InvalidUidError, match="StudyInstanceUID"):
        build(source, boxes((5, 12, 10), 1), spec(1, "ct.liver"))
