"""What leaves with a draft: every form that a destination asks for, none that nobody asks for, and no draft lost."""

import json
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.parser import parse_message
from pydicom.uid import UID

from config.destination import Destination
from config.results import MESSAGES
from db.models import ImagingOrder
from db.types import Priority
from publishing.draft import attempt
from tests.draft_support import LESIONS, bench, ct_draft, cxr_draft, of_kind, publish, read
from tests.fakes import FixedClassifier, card
from tests.integration.test_intake_draft import (
    LesionAtAPlace,
    enhanced_scan,
    oblique_scan,
    sagittal_scan,
    tilted_scan,
)
from tests.reports_sources import dciodvfy, dsrdump, items
from worker.drafting import draft_study
from worker.intake import gate
from worker.key_pictures import key_pictures
from worker.profiles import CT_TORSO

EVERYTHING = (
    Destination(name="archive", ae_title="PACS", host="127.0.0.1", drafts=True, report="basic-text", pdf=True,
                presentation_states=True, secondary_captures=True, segmentation="labelmap"),
    Destination(name="reports", ae_title="PACS2", host="127.0.0.1", drafts=True),
    Destination(name="ris", protocol="mllp", host="127.0.0.1", drafts=True, pdf=True, application="RIS"),
    Destination(name="ehr", protocol="fhir", url="http://127.0.0.1/fhir", drafts=True),
)  # fmt: skip
OWN = {"SEG", "FINDINGS_SR", "KEY_IMAGES", "DRAFT_SR"}
ASKED = {
    "SEG_LABELMAP", "PRESENTATION_STATE", "SECONDARY_CAPTURE", "DRAFT_TEXT_SR", "DRAFT_PDF", "DRAFT_ORU", "DRAFT_FHIR",
}  # fmt: skip
ORDER = ImagingOrder(
    **{column.name: "" for column in ImagingOrder.__table__.columns if column.type.python_type is str}
    | {"placer_order_number": "P-4711", "accession_number": "A-9", "indication": "Weight loss"},
    priority=Priority.STAT,
)


def test_a_destination_that_wants_everything_gets_every_form(tmp_path):
    drafted = ct_draft(tmp_path)
    made = publish(drafted, tmp_path, EVERYTHING, ORDER)
    assert made.marks == []
    assert {one.kind for one in made.objects} == OWN | ASKED
    for one in made.objects:
        if one.kind not in MESSAGES and one.kind != "SEG_LABELMAP":
            ds = pydicom.dcmread(tmp_path / one.path)
            assert dciodvfy(ds, tmp_path) == [], one.kind
            assert (str(ds.SOPInstanceUID), str(ds.SOPClassUID)) == (one.sop_instance_uid, one.sop_class_uid)
    for kind in ("FINDINGS_SR", "DRAFT_SR", "DRAFT_TEXT_SR", "KEY_IMAGES"):
        assert "E: " not in dsrdump(read(made, tmp_path, kind), tmp_path)


@pytest.mark.requirement("REQ-LABEL-7")
def test_who_gets_which_form(tmp_path):
    made = publish(ct_draft(tmp_path), tmp_path, EVERYTHING)
    assert sorted((one.kind, one.destinations) for one in made.objects) == sorted({
        ("SEG", ("reports",)),
        ("SEG_LABELMAP", ("archive",)),
        ("FINDINGS_SR", ("reports",)),
        ("FINDINGS_SR", ("archive",)),  # of its own: it refers to no BINARY Segmentation
        ("KEY_IMAGES", ("archive", "reports")),
        ("PRESENTATION_STATE", ("archive",)),
        ("SECONDARY_CAPTURE", ("archive",)),
        ("DRAFT_SR", ("reports",)),
        ("DRAFT_TEXT_SR", ("archive",)),
        ("DRAFT_PDF", ("archive",)),
        ("DRAFT_ORU", ("ris",)),
        ("DRAFT_FHIR", ("ehr",)),
    })  # fmt: skip


@pytest.mark.parametrize("drafts", [True, False])
def test_what_nobody_asks_for_is_not_made(tmp_path, drafts):
    plain = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", drafts=drafts)
    made = publish(ct_draft(tmp_path), tmp_path, (plain,))
    assert {one.kind for one in made.objects} == OWN
    assert {one.destinations for one in made.objects} == {("pacs",) if drafts else ()}


def test_without_drafts_evidence_is_made_for_the_signature_and_no_text_is(tmp_path):
    silent = tuple(one.model_copy(update={"drafts": False}) for one in EVERYTHING)
    made = publish(ct_draft(tmp_path), tmp_path, silent)
    assert {one.kind for one in made.objects} == OWN | {"SEG_LABELMAP", "PRESENTATION_STATE", "SECONDARY_CAPTURE"}
    assert {one.destinations for one in made.objects} == {()}


def test_what_one_destination_wants_changes_nothing_of_what_another_gets(tmp_path):
    drafted = ct_draft(tmp_path)
    plain = publish(drafted, tmp_path / "a", (EVERYTHING[1],))
    much = publish(drafted, tmp_path / "b", EVERYTHING, ORDER)
    hashes = {one.sop_instance_uid: one.sha256 for one in much.objects}
    assert [hashes[one.sop_instance_uid] for one in plain.objects] == [one.sha256 for one in plain.objects]


@pytest.mark.requirement("REQ-DELIV-4")
def test_a_resend_is_the_same_bytes_in_every_form(tmp_path):
    drafted = ct_draft(tmp_path)
    first, second = (publish(drafted, tmp_path / run, EVERYTHING, ORDER) for run in "ab")
    assert [(o.kind, o.sop_instance_uid, o.sha256) for o in first.objects] == [
        (o.kind, o.sop_instance_uid, o.sha256) for o in second.objects
    ]


def test_every_object_says_which_findings_it_shows(tmp_path):
    made = publish(ct_draft(tmp_path), tmp_path, EVERYTHING)
    uids = {row.label: row.tracking_uid for row in made.findings}
    for kind in ("SEG", "SEG_LABELMAP", "KEY_IMAGES", "PRESENTATION_STATE", "SECONDARY_CAPTURE"):
        assert [one.tracking_uids for one in of_kind(made, kind)] == [(uids["hepatic tumor"],)], kind
    assert set(of_kind(made, "FINDINGS_SR")[0].tracking_uids) == set(uids.values())
    segments = [str(item.SegmentLabel) for item in read(made, tmp_path, "SEG").SegmentSequence]
    assert segments == ["liver", "hepatic tumor"]  # the liver is anatomy: it is drawn, and is nobody's finding


def test_a_study_without_positive_findings_has_no_key_images(tmp_path):
    made = publish(ct_draft(tmp_path, lesions=False), tmp_path, EVERYTHING)
    assert {one.kind for one in made.objects}.isdisjoint({"KEY_IMAGES", "PRESENTATION_STATE", "SECONDARY_CAPTURE"})
    assert of_kind(made, "SEG")[0].tracking_uids == ()
    groups = items(read(made, tmp_path, "FINDINGS_SR"), "Measurement Group")
    presence = {items(group, "Presence of property")[0].ConceptCodeSequence[0].CodeMeaning for group in groups}
    assert presence == {"Absent"}


def test_the_key_image_is_the_slice_where_the_lesion_is_widest(tmp_path):
    drafted = ct_draft(tmp_path)
    made = publish(drafted, tmp_path, EVERYTHING)
    (row,) = [row for row in made.findings if row.label == "hepatic tumor"]
    selection = read(made, tmp_path, "KEY_IMAGES")
    named = [ref.ReferencedSOPInstanceUID for item in selection.ContentSequence
             for ref in item.get("ReferencedSOPSequence", [])]  # fmt: skip
    assert named == [row.key_slice["sop_instance_uid"]]
    capture = read(made, tmp_path, "SECONDARY_CAPTURE")
    assert capture.PhotometricInterpretation == "RGB"
    state = read(made, tmp_path, "PRESENTATION_STATE")
    assert state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == named[0]
    assert [str(one) for one in (state.SoftcopyVOILUTSequence[0].WindowCenter,)] == ["50.0"]


def test_a_key_picture_is_its_source_slice_with_the_mask_of_the_lesion(tmp_path):
    content, intake = ct_draft(tmp_path)
    tracking = {finding.label: "2.25.1" for finding in content.findings}
    (shown,) = key_pictures(content, intake, tracking)
    picture = shown.picture
    source = pydicom.dcmread(picture.source.filename)
    hounsfield = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept)
    low, high = (picture.window[0] - picture.window[1] / 2, picture.window[0] + picture.window[1] / 2)
    expected = np.clip((hounsfield - low) / (high - low) * 255, 0, 255)
    assert np.abs(picture.grey - expected).max() <= 1
    (outline,) = picture.outlines
    # the box that was drawn: rows 20-25, columns 15-19 of each of its slices
    assert np.argwhere(outline.mask).min(axis=0).tolist() == [20, 15]
    assert np.argwhere(outline.mask).max(axis=0).tolist() == [25, 19]
    assert picture.caption == "hepatic tumor, right side, 21.0 ml"
    assert shown.tracking_uids == ("2.25.1",)


def test_findings_of_one_radiograph_share_a_picture(tmp_path):
    content, intake = cxr_draft(tmp_path)
    (shown,) = key_pictures(content, intake, {finding.label: finding.label for finding in content.findings})
    assert shown.picture.caption == "Effusion; Mass"
    assert shown.tracking_uids == ("Effusion", "Mass")
    assert [outline.label for outline in shown.picture.outlines] == [
        "Effusion (where the model looked)", "Mass (where the model looked)",
    ]  # fmt: skip
    assert {int(outline.mask.sum()) for outline in shown.picture.outlines} == {20 * 30}


def test_a_radiographs_heat_maps_locate_its_positive_findings(tmp_path):
    made = publish(cxr_draft(tmp_path), tmp_path, EVERYTHING)
    assert made.marks == []
    uids = {row.label: row.tracking_uid for row in made.findings}
    heat = read(made, tmp_path, "HEAT_MAP")
    assert heat.SegmentationType == "FRACTIONAL"
    located = {uids["Effusion"], uids["Mass"]}
    assert {str(item.TrackingUID) for item in heat.SegmentSequence} == located
    assert set(of_kind(made, "HEAT_MAP")[0].tracking_uids) == located
    groups = items(read(made, tmp_path, "FINDINGS_SR"), "Measurement Group")
    templates = {
        str(items(group, "Tracking Unique Identifier")[0].UID): group.ContentTemplateSequence[0].TemplateIdentifier
        for group in groups
    }
    assert templates == {uids["Effusion"]: "1410", uids["Mass"]: "1410", uids["Fracture"]: "1501"}
    assert {one.kind for one in made.objects} >= {"HEAT_MAP", "KEY_IMAGES", "PRESENTATION_STATE", "SECONDARY_CAPTURE"}
    assert dciodvfy(heat, tmp_path) == []
    assert dciodvfy(read(made, tmp_path, "FINDINGS_SR"), tmp_path) == []


@pytest.mark.requirement("REQ-BIAS-2")
def test_a_calibrated_score_names_its_calibration(tmp_path):
    class Calibrated(FixedClassifier):
        def run(self, study, argument):
            return replace(super().run(study, argument), calibrated={"Effusion": 0.42}, calibration="isotonic-2026-01")

    made = publish(cxr_draft(tmp_path, expert=Calibrated({"Effusion": 0.9, "Mass": 0.1})), tmp_path)
    groups = items(read(made, tmp_path, "FINDINGS_SR"), "Measurement Group")
    said = {
        items(group, "Finding")[0].ConceptCodeSequence[0].CodeMeaning: (
            float(items(group, "Certainty of Finding")[0].MeasuredValueSequence[0].NumericValue),
            " ".join(item.TextValue for item in items(group, "Comment")),
            [item.TextValue for item in items(group, "Algorithm Parameters")],
        )
        for group in groups
    }
    certainty, remark, parameters = said["Pleural effusion"]
    assert certainty == 42.0
    assert "calibrated probability (0-100) of presence, by calibration isotonic-2026-01" in remark
    assert "the model's own score is 90.0" in remark
    assert "calibration=isotonic-2026-01" in parameters
    certainty, remark, parameters = said["Mass of lung"]  # the package has no calibration for it
    assert certainty == 10.0
    assert "uncalibrated model score" in remark
    assert parameters[-1].startswith(("threshold=", "training="))


def test_the_message_to_a_ris_says_stored_not_verified_and_names_the_order(tmp_path):
    made = publish(ct_draft(tmp_path), tmp_path, EVERYTHING, ORDER)
    (one,) = of_kind(made, "DRAFT_ORU")
    content = (tmp_path / one.path).read_bytes().decode()
    message = parse_message(content, find_groups=False)
    obr = message.obr
    assert (obr.obr_25.value, obr.obr_18.value) == ("R", "A-9")
    assert obr.obr_2.value.startswith("P-4711")
    assert one.sop_class_uid == ""
    assert UID(one.sop_instance_uid).is_valid
    assert "^application^pdf^Base64^" in content


def test_the_bundle_for_a_server_is_partial(tmp_path):
    made = publish(ct_draft(tmp_path), tmp_path, EVERYTHING, ORDER)
    (one,) = of_kind(made, "DRAFT_FHIR")
    bundle = Bundle.model_validate(json.loads((tmp_path / one.path).read_text(encoding="utf-8")))
    statuses = [e.resource.status for e in bundle.entry if e.resource.get_resource_type() == "DiagnosticReport"]
    assert statuses == ["partial"]


def without_codes(probabilities):
    """Return a classifier of a family that no code was reviewed for."""
    unknown = replace(card("CXR", "CXR"), code_family="")
    return FixedClassifier(probabilities, unknown)


def test_a_draft_whose_findings_have_no_code_stands_without_coded_findings(tmp_path):
    made = publish(cxr_draft(tmp_path, expert=without_codes({"Effusion": 0.9, "Mass": 0.1})), tmp_path, EVERYTHING)
    kinds = {one.kind for one in made.objects}
    assert "FINDINGS_SR" not in kinds  # a document without groups would read as normal
    assert {"DRAFT_SR", "DRAFT_TEXT_SR", "DRAFT_PDF", "DRAFT_ORU", "DRAFT_FHIR"} <= kinds
    assert [(mark.kind, mark.finding) for mark in made.marks] == [("result", "Effusion"), ("result", "Mass")]
    assert "no reviewed code" in made.marks[0].text
    assert {row.label for row in made.findings} == {"Effusion", "Mass"}


def test_findings_without_code_among_others_make_the_coded_findings_partial(tmp_path):
    def renamed(result):
        return replace(result, probabilities={"Effusion": 0.1, "Shadow": 0.9})

    class Mixed(FixedClassifier):
        def run(self, study, argument):
            return renamed(super().run(study, argument))

    content, intake = cxr_draft(tmp_path, expert=Mixed({"Effusion": 0.1}))
    made = publish((content, intake), tmp_path)
    document = read(made, tmp_path, "FINDINGS_SR")
    assert document.CompletionFlag == "PARTIAL"
    assert document.CompletionFlagDescription == "No code for: Shadow"
    assert [mark.finding for mark in made.marks if mark.kind == "result"] == ["Shadow"]


def test_a_form_that_cannot_be_made_is_noted_and_the_rest_goes_on(tmp_path):
    content, intake = ct_draft(tmp_path)
    for ds in intake.headers[intake.study.volume.series_instance_uid]:
        # a presentation state draws on grey images only
        ds.PhotometricInterpretation, ds.SamplesPerPixel = "RGB", 3
    made = publish((content, intake), tmp_path, EVERYTHING)
    assert "PRESENTATION_STATE" not in {one.kind for one in made.objects}
    assert {one.kind for one in made.objects} >= OWN | {"DRAFT_PDF", "DRAFT_ORU"}
    assert [mark.kind for mark in made.marks] == ["result"]
    assert made.marks[0].text.startswith("No presentation state was made of this draft")


def test_a_disk_that_is_full_is_no_form_that_cannot_be_made():
    def full():
        raise OSError("no space left on device")

    notes = []
    with pytest.raises(OSError, match="no space"):
        attempt(notes, "DRAFT_PDF", full)
    assert notes == []


@pytest.mark.parametrize("scan", [sagittal_scan, oblique_scan, tilted_scan, enhanced_scan])
def test_key_pictures_lie_on_their_own_slice_or_frame_however_it_was_scanned(tmp_path, scan):
    paths = scan(tmp_path / "scan")
    intake = gate(paths, CT_TORSO)
    expert = LesionAtAPlace(card("VISTA3D", "CT", arguments=(*LESIONS, "organs")))
    content = draft_study(intake, CT_TORSO, bench(intake, "CT", expert))
    (shown,) = key_pictures(content, intake, {finding.label: "2.25.1" for finding in content.findings})
    picture = shown.picture
    source = pydicom.dcmread(picture.source.filename)
    stored = source.pixel_array if picture.frame_number is None else source.pixel_array[picture.frame_number - 1]
    assert picture.grey.shape == stored.shape
    # brighter pixels of the source are brighter in the picture, pixel by pixel
    order = np.argsort(stored, axis=None, kind="stable")
    assert (np.diff(picture.grey.ravel()[order].astype(int)) >= 0).all()
    made = publish((content, intake), tmp_path, EVERYTHING[:1])
    assert [mark for mark in made.marks if mark.kind == "result"] == []
    (row,) = [row for row in made.findings if row.label == "hepatic tumor"]
    selection = read(made, tmp_path, "KEY_IMAGES")
    (named,) = [ref for item in selection.ContentSequence for ref in item.get("ReferencedSOPSequence", [])]
    assert named.ReferencedSOPInstanceUID == row.key_slice["sop_instance_uid"]
    frames = int(named.get("ReferencedFrameNumber") or 1)
    assert frames == (row.key_slice["frame_number"] if picture.frame_number else 1)
    for kind in ("KEY_IMAGES", "SECONDARY_CAPTURE"):
        assert dciodvfy(read(made, tmp_path, kind), tmp_path) == []
