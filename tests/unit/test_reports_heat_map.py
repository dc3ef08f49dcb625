"""Heat maps of a radiograph: values, places, and what they say about themselves."""

from dataclasses import replace

import numpy as np
import pytest

from config.errors import GeometryError, RefusedInputError
from reports.codes import code_table
from reports.heat_map import HeatMap, build_heat_map
from reports.values import stable_uid
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    cross_sections,
    identity_of,
    radiograph,
    written,
)

SLOPE = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)


def heat(key="cxr.effusion", values=SLOPE, algorithm=DEMONSTRATION):
    return HeatMap(code_table().label(key).label, key, values, algorithm, stable_uid("tracking", key), f"ai:{key}")


def build(*maps, source=None, **options):
    source = source or radiograph()
    return build_heat_map(source, maps, identity=identity_of(source), equipment=EQUIPMENT, **options)


def test_each_finding_is_a_frame_with_its_values_of_255():
    upside_down = np.ascontiguousarray(SLOPE[::-1])
    seg = build(heat(), heat("cxr.fracture", upside_down))
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert (seg.MaximumFractionalValue, seg.NumberOfFrames, seg.BitsAllocated) == (255, 2, 8)
    frames = np.frombuffer(seg.PixelData, np.uint8).reshape(2, 64, 48)
    for frame, values in zip(frames, (SLOPE, upside_down), strict=True):
        assert np.abs(frame / 255 - values).max() <= 0.5 / 255 + 1e-6
    shown = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
             for group in seg.PerFrameFunctionalGroupsSequence]  # fmt: skip
    assert shown == [1, 2]


@pytest.mark.requirement("REQ-VIEW-4")
def test_it_says_that_it_is_no_measurement_wherever_a_viewer_looks():
    seg = build(heat())
    (item,) = seg.SegmentSequence
    assert item.SegmentLabel == "Effusion (attention map)"
    assert "Uncalibrated attention map" in item.SegmentDescription
    assert "not a measurement" in item.SegmentDescription
    assert seg.ContentDescription == "Attention of the model, uncalibrated; not a measurement"
    assert seg.SeriesDescription.startswith("AI DRAFT – not verified: heat map, DEMONSTRATION MODEL")
    assert seg.ContentQualification == "RESEARCH"
    assert build(heat(algorithm=ALGORITHM)).SeriesDescription == "AI DRAFT – not verified: heat map, VISTA3D 0.5.0"


def test_it_is_tied_to_the_finding_by_code_and_tracking_uid_and_claims_no_structure():
    (item,) = build(heat()).SegmentSequence
    assert (item.TrackingUID, item.TrackingID) == (stable_uid("tracking", "cxr.effusion"), "ai:cxr.effusion")
    assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == "60046008"
    assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "309825002"
    assert item.AnatomicRegionSequence[0].CodeValue == "3120008"
    assert "AnatomicRegionModifierSequence" not in item.AnatomicRegionSequence[0]


def test_it_has_a_series_of_its_own_on_the_source_image():
    source = radiograph()
    seg = build(heat(), source=source)
    assert (seg.SeriesNumber, seg.Modality, list(seg.PatientOrientation)) == (906, "SEG", ["L", "F"])
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    derivation = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert derivation.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_a_map_without_values_is_left_out_and_none_at_all_is_refused():
    seg = build(heat("cxr.mass", SLOPE * 0), heat())
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["Effusion (attention map)"]
    with pytest.raises(RefusedInputError, match="none of 1 heat maps"):
        build(heat("cxr.mass", SLOPE * 0))


def test_an_odd_number_of_pixels_is_padded_to_an_even_length():
    source = radiograph()
    source.Rows, source.Columns = 5, 7
    seg = build(heat(values=np.ones((5, 7), np.float32)), source=source)
    assert len(seg.PixelData) == 36


def test_a_retry_writes_the_same_bytes():
    source = radiograph()
    assert written(build(heat(), source=source)) == written(build(heat(), source=source))


REFUSED = {
    "shape": (GeometryError, {"values": np.ascontiguousarray(SLOPE.T)}),
    "above one": (RefusedInputError, {"values": SLOPE * 2}),
    "negative": (RefusedInputError, {"values": SLOPE - 1}),
    "no number": (RefusedInputError, {"values": np.full_like(SLOPE, np.nan)}),
    "float64": (RefusedInputError, {"values": SLOPE.astype(np.float64)}),
    "unreviewed": (RefusedInputError, {"code_key": "cxr.gout"}),
}


@pytest.mark.parametrize(("error", "change"), REFUSED.values(), ids=REFUSED)
def test_a_map_that_cannot_be_told_truly_is_refused(error, change):
    with pytest.raises(error):
        build(replace(heat(), **change))


def test_a_cross_section_has_no_heat_map():
    (source,) = cross_sections(1, 64, 48)
    with pytest.raises(GeometryError, match="must be a projection"):
        build(heat(), source=source)
