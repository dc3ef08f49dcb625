"""What a draft segments: which structures, under which codes and sides, tied to which finding."""

from dataclasses import replace

import numpy as np
import pytest

from reports.segmentation import segment_numbers
from tests.fakes import card
from tests.reports_sources import EQUIPMENT, cross_sections, identity_of, radiograph
from worker.drafting import DraftContent, DraftFinding
from worker.experts.base import Classification, ExpertInput, SegmentationResult
from worker.intake import Intake
from worker.measuring import LesionMeasure
from worker.segments import build_heat_maps, build_segmentations
from worker.volume import Volume

SHAPE = (6, 12, 10)
BRATS = {1: "non-enhancing tumor core", 2: "peritumoral edema", 4: "enhancing tumor"}
TRACKED = {"brain tumor": "1.2.3.77", "lung tumor": "1.2.3.78", "hepatic tumor": "1.2.3.79", "Effusion": "1.2.3.80",
           "Mass": "1.2.3.81"}  # fmt: skip


def volume_of(source) -> Volume:
    series, frame = str(source[0].SeriesInstanceUID), str(source[0].FrameOfReferenceUID)
    uids = tuple(str(ds.SOPInstanceUID) for ds in source)
    return Volume(np.zeros(SHAPE, np.float32), np.eye(4), uids, (1,) * len(uids), series, frame, source[0].Modality)


def made(source, results, findings=(), build=build_segmentations, **options):
    content = DraftContent(findings=list(findings), results=results)
    intake = Intake(ExpertInput(), {str(source[0].SeriesInstanceUID): list(source)})
    return build(content, intake, TRACKED, identity=identity_of(source[0]), equipment=EQUIPMENT, **options)


def segments(seg):
    return {item.SegmentLabel: item for item in seg.SegmentSequence if "TrackingUID" in item}


def voxels(seg):
    """Segment label → number of voxels, from the bits of a BINARY Segmentation."""
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = bits[: int(seg.NumberOfFrames) * 120].reshape(-1, 120).sum(axis=1).tolist()
    names = {int(item.SegmentNumber): item.SegmentLabel for item in seg.SegmentSequence}
    found = dict.fromkeys(names.values(), 0)
    for count, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        found[names[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]] += count
    return found


# --- brain tumours -----------------------------------------------------------------------------------------


def glioma(*values):
    source = cross_sections(*SHAPE, modality="MR")
    labels = np.zeros(SHAPE, np.uint8)
    for n, value in enumerate(values, 1):
        labels[1:4, 2, n : n + value] = value  # 3 x value voxels
    result = SegmentationResult(card("BRATS", "MR"), "", 1.0, labels, BRATS, volume_of(source))
    finding = DraftFinding("brain tumor", True, True, None, 1.0, ("BRATS", ""), frozenset(BRATS))
    return source, {("BRATS", ""): result}, [finding]


def test_a_brain_tumour_is_there_as_nested_regions_and_as_disjoint_parts():
    source = cross_sections(*SHAPE, modality="MR")
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:8, 2:8] = 2  # 108 voxels, of which
    labels[2, 3:7, 3:7] = 1  # 16 are core, of which
    labels[2, 4, 4:6] = 4  # 2 enhance
    result = SegmentationResult(card("BRATS", "MR"), "", 1.0, labels, BRATS, volume_of(source))
    (seg,) = made(source, {("BRATS", ""): result})
    assert voxels(seg) == {
        "whole tumor": 108, "tumor core": 16, "enhancing tumor": 2,
        "non-enhancing tumor core": 14, "peritumoral edema": 92,
    }  # fmt: skip
    assert seg.SegmentsOverlap == "YES"
    codes = {name: item.SegmentedPropertyTypeCodeSequence[0].CodeValue for name, item in segments(seg).items()}
    assert codes == {
        "whole tumor": "108369006", "tumor core": "108369006", "enhancing tumor": "C113842",
        "non-enhancing tumor core": "C81175", "peritumoral edema": "79654002",
    }  # fmt: skip
    assert {item.AnatomicRegionSequence[0].CodeValue for item in segments(seg).values()} == {"12738006"}


def test_a_label_map_of_a_brain_tumour_holds_the_disjoint_parts():
    source, results, findings = glioma(1, 2, 4)
    (seg,) = made(source, results, findings, form="labelmap")
    assert list(segments(seg)) == ["non-enhancing tumor core", "peritumoral edema", "enhancing tumor"]
    (binary,) = made(source, results, findings)
    shared = set(segment_numbers(binary)) & set(segment_numbers(seg))
    assert len(shared) == 3


def test_the_finding_of_a_brain_tumour_is_tracked_by_the_whole_of_it():
    source, results, findings = glioma(1, 2, 4)
    (seg,) = made(source, results, findings)
    assert segments(seg)["whole tumor"].TrackingUID == TRACKED["brain tumor"]
    uids = [item.TrackingUID for item in segments(seg).values()]
    assert len(set(uids)) == len(uids) == 5


def test_regions_without_a_voxel_are_left_out_and_no_tumour_is_no_object():
    source, results, findings = glioma(2)
    (seg,) = made(source, results, findings)
    assert list(segments(seg)) == ["whole tumor", "peritumoral edema"]
    for form in ("binary", "labelmap"):
        assert made(*glioma(), form=form) == []


# --- structures of the body --------------------------------------------------------------------------------


def drawn(source, names, labels, argument="organs"):
    return SegmentationResult(card("VISTA3D", "CT"), argument, 1.0, labels, names, volume_of(source))


def measure(side):
    return LesionMeasure(
        volume_ml=1.0, diameter_mm=1.0, extent_mm=1.0, count=1, slice_index=1, slice_range=(1, 1), laterality=side,
        slice_numbers=(1, 1), normal_mm=(0.0, 0.0),
    )  # fmt: skip


def test_only_structures_that_were_asked_for_and_are_there_become_segments():
    source = cross_sections(*SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 1, 1], labels[2, 2, 2:4], labels[3, 3, 3] = 1, 14, 5
    names = {1: "liver", 14: "left kidney", 3: "spleen"}  # 5 was not asked for, 3 is not there
    (seg,) = made(source, {("VISTA3D", "organs"): drawn(source, names, labels)})
    assert voxels(seg) == {"liver": 1, "left kidney": 2}
    kidney = segments(seg)["left kidney"].SegmentedPropertyTypeCodeSequence[0]
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


@pytest.mark.requirement("REQ-TEXT-1")
@pytest.mark.parametrize(
    ("label", "value", "measured", "expected"),
    [
        ("lung tumor", 23, "right", "Right"), ("lung tumor", 23, "left", "Left"), ("lung tumor", 23, "", None),
        ("hepatic tumor", 26, "right", None),
    ],
)  # fmt: skip
def test_a_lesion_in_a_paired_organ_lies_on_the_side_its_mask_lies_on(label, value, measured, expected):
    source = cross_sections(*SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 2, 2] = value
    finding = DraftFinding(label, True, True, None, 1.0, ("VISTA3D", label), frozenset({value}), measure(measured))
    key = ("VISTA3D", label)
    (seg,) = made(source, {key: drawn(source, {value: label}, labels, label)}, [finding])
    item = segments(seg)[label]
    assert item.TrackingUID == TRACKED[label]
    region = item.AnatomicRegionSequence[0]
    sides = [side.CodeMeaning for side in region.get("AnatomicRegionModifierSequence", [])]
    assert sides == ([expected] if expected else [])


def test_a_lesion_is_drawn_by_its_own_run_and_lies_over_the_organ():
    source = cross_sections(*SHAPE)
    organs, lesion = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    organs[1:3, 2:6, 2:6] = 1  # 32 voxels of liver
    organs[4, 0, 0:5] = 26  # the organs' run has an opinion about the tumour too
    lesion[2, 3, 3:6] = 26
    runs = {
        ("VISTA3D", "hepatic tumor"): drawn(source, {26: "hepatic tumor"}, lesion, "hepatic tumor"),
        ("VISTA3D", "organs"): drawn(source, {1: "liver", 26: "hepatic tumor"}, organs),
    }
    key = ("VISTA3D", "hepatic tumor")
    finding = DraftFinding("hepatic tumor", True, True, None, 1.0, key, frozenset({26}), measure("right"))
    (seg,) = made(source, runs, [finding])
    assert voxels(seg) == {"liver": 29, "hepatic tumor": 3}
    identification = segments(seg)["hepatic tumor"].SegmentationAlgorithmIdentificationSequence[0]
    assert "argument=hepatic tumor" in identification.AlgorithmParameters


# --- heat maps ---------------------------------------------------------------------------------------------


def test_the_heat_maps_of_a_radiograph_are_tied_to_their_findings():
    source = radiograph()
    ramp = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
    result = Classification(
        card("CXR", "CXR"), "", 1.0, {"Effusion": 0.8, "Mass": 0.7, "Edema": 0.1}, 0.5,
        str(source.SOPInstanceUID), heat_maps={"Effusion": ramp, "Mass": ramp},
    )  # fmt: skip
    findings = [DraftFinding(name, True, p >= 0.5, p, 1.0, ("CXR", "")) for name, p in result.probabilities.items()]
    (seg,) = made([source], {("CXR", ""): result}, findings, build_heat_maps)
    assert {item.TrackingUID for item in seg.SegmentSequence} == {TRACKED["Effusion"], TRACKED["Mass"]}
    item = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert "threshold=0.5" in item.AlgorithmParameters
    silent = replace(result, heat_maps={})
    assert made([source], {("CXR", ""): silent}, findings, build_heat_maps) == []
