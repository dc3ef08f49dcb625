"""What leaves is complete where it goes: no findings SR refers to a Segmentation that its destination does not get."""

from datetime import UTC, datetime
from io import BytesIO
from uuid import UUID

import pydicom
import pytest
from pydicom.dataset import Dataset

from config.destination import Destination
from db.queries import report_detail
from db.types import ReportState
from publishing.signed import Signing, write_signed_documents
from reports.findings_form import TRACKED, WITHOUT_SEGMENT, build_findings_form
from reports.findings_sr import HEAT_MAP, build_findings_sr
from reports.sr_common import Evidence
from reports.values import FindingValue, InstanceReference, MeasurementValue
from tests.dashboard_support import make_site
from tests.draft_support import ct_draft, cxr_draft, of_kind, publish
from tests.integration.test_dashboard_signing import sign
from tests.integration.test_worker_segments import TRACKED as TRACKING
from tests.integration.test_worker_segments import glioma, made, segments
from tests.reports_sources import ALGORITHM, EQUIPMENT, dciodvfy, dsrdump, identity_of, items
from tests.signed_support import drafted

PLACE = {"ae_title": "A", "host": "127.0.0.1", "drafts": True}
BINARY = Destination(name="binary", **PLACE)
LABELS = Destination(name="labels", segmentation="labelmap", **PLACE)
NONE = Destination(name="none", segmentation="none", **PLACE)
COOL = Destination(name="cool", heat_maps=False, **PLACE)
FOUR = (LABELS, NONE, COOL, BINARY)


def every_reference(node: Dataset) -> list[Dataset]:
    """All items of all Referenced SOP Sequences below ``node``."""
    found = []
    for element in node:
        for item in element.value if element.VR == "SQ" else ():
            found += [item] if element.keyword == "ReferencedSOPSequence" else []
            found += every_reference(item)
    return found


def evidence(document: Dataset) -> set[str]:
    """SOP Instance UIDs that the document lists."""
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in document.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def tracked(group: Dataset) -> str:
    """The Tracking UID of a group."""
    return str(items(group, "Tracking Unique Identifier")[0].UID)


def numbers(document: Dataset) -> dict[str, list[tuple[str, str, str]]]:
    """Tracking UID → concept, value and unit of everything measured."""
    return {
        tracked(group): [
            (
                item.ConceptNameCodeSequence[0].CodeMeaning,
                str(item.MeasuredValueSequence[0].NumericValue),
                item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
            )
            for item in group.ContentSequence
            if item.ValueType == "NUM"
        ]
        for group in items(document, "Measurement Group")
    }


def templates(document: Dataset) -> dict[str, str]:
    """Tracking UID → the template of the group."""
    return {
        tracked(group): group.ContentTemplateSequence[0].TemplateIdentifier
        for group in items(document, "Measurement Group")
    }


def got(result, folder, name: str) -> dict[str, list[Dataset]]:
    """Kind → objects that a destination gets."""
    objects: dict[str, list[Dataset]] = {}
    for one in result.objects:
        if name in one.destinations:
            objects.setdefault(one.kind, []).append(pydicom.dcmread(folder / one.path))
    return objects


def require_complete(objects: dict[str, list[Dataset]], ours: set[str]) -> None:
    """What the content refers to, of all that we made, is among ``objects``; so is the evidence of the findings."""
    everything = [ds for some in objects.values() for ds in some]
    held = {str(ds.SOPInstanceUID): ds for ds in everything}
    for ds in everything:
        for item in (one for content in ds.get("ContentSequence", []) for one in every_reference(content)):
            uid = str(item.ReferencedSOPInstanceUID)
            assert uid in held or uid not in ours
            if "ReferencedSegmentNumber" in item:
                assert item.ReferencedSegmentNumber in {one.SegmentNumber for one in held[uid].SegmentSequence}
    for document in [*objects.get("FINDINGS_SR", []), *objects.get("SIGNED_FINDINGS_SR", [])]:
        assert evidence(document) & ours <= set(held)


@pytest.mark.parametrize("draft", [ct_draft, cxr_draft])
def test_no_destination_gets_findings_on_a_segmentation_it_does_not_get(tmp_path, draft):
    result = publish(draft(tmp_path), tmp_path, FOUR)
    assert result.marks == []
    ours = {one.sop_instance_uid for one in result.objects}
    documents = []
    for one in FOUR:
        objects = got(result, tmp_path, one.name)
        require_complete(objects, ours)
        (document,) = objects["FINDINGS_SR"]
        documents.append(document)
        segs = [seg for kind in ("SEG", "SEG_LABELMAP", "HEAT_MAP") for seg in objects.get(kind, [])]
        assert {str(seg.SOPInstanceUID) for seg in segs} <= evidence(document)
        assert dciodvfy(document, tmp_path) == []
        assert "E: " not in dsrdump(document, tmp_path)
    said = [numbers(document) for document in documents]
    assert said == [said[0]] * 4
    assert any(said[0].values())
    of = {str(ds.SOPInstanceUID): ds for ds in documents}
    assert len({str(ds.SeriesInstanceUID) for ds in of.values()}) == len(of)
    assert {ds.file_meta.MediaStorageSOPInstanceUID for ds in of.values()} == set(of)


def test_a_label_map_is_tied_to_the_findings_by_its_tracking_uids_and_listed(tmp_path):
    result = publish(ct_draft(tmp_path), tmp_path, FOUR)
    (row,) = [row for row in result.findings if row.label == "hepatic tumor"]
    by_name = {one.name: got(result, tmp_path, one.name) for one in FOUR}
    form = {name: objects["FINDINGS_SR"][0] for name, objects in by_name.items()}
    assert {name: templates(ds)[row.tracking_uid] for name, ds in form.items()} == {
        "binary": "1411", "cool": "1411", "labels": "1501", "none": "1501",
    }  # fmt: skip
    (label_map,) = by_name["labels"]["SEG_LABELMAP"]
    assert row.tracking_uid in {item.get("TrackingUID") for item in label_map.SegmentSequence}
    for name, remark in (("labels", TRACKED), ("none", WITHOUT_SEGMENT)):
        groups = items(form[name], "Measurement Group")
        (group,) = [one for one in groups if tracked(one) == row.tracking_uid]
        assert remark in [item.TextValue for item in items(group, "Comment")]
        (image,) = items(group, "Source of Measurement")
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == row.key_slice["sop_instance_uid"]


def test_destinations_with_the_same_segmentations_share_a_form(tmp_path):
    ct = publish(ct_draft(tmp_path), tmp_path, FOUR)
    assert [one.destinations for one in of_kind(ct, "FINDINGS_SR")] == [("cool", "binary"), ("labels",), ("none",)]
    assert {one.tracking_uids for one in of_kind(ct, "FINDINGS_SR")} == {of_kind(ct, "FINDINGS_SR")[0].tracking_uids}
    cxr = publish(cxr_draft(tmp_path), tmp_path, FOUR)  # nothing is segmented: all but one get just the heat map
    assert [one.destinations for one in of_kind(cxr, "FINDINGS_SR")] == [("labels", "none", "binary"), ("cool",)]


def test_without_heat_maps_a_radiographs_findings_name_their_image(tmp_path):
    result = publish(cxr_draft(tmp_path), tmp_path, FOUR)
    (with_maps,), (without,) = (got(result, tmp_path, name)["FINDINGS_SR"] for name in ("binary", "cool"))
    assert sorted(templates(with_maps).values()) == ["1410", "1410", "1501"]
    assert set(templates(without).values()) == {"1501"}
    (source,) = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
                 for item in items(with_maps, "Source Image for Segmentation")}  # fmt: skip
    images = [item.ReferencedSOPSequence[0] for item in items(without, "Source of Measurement")]
    assert [item.ReferencedSOPInstanceUID for item in images] == [source] * 3
    assert HEAT_MAP not in {item.TextValue for item in items(without, "Comment")}
    assert WITHOUT_SEGMENT not in {item.TextValue for item in items(without, "Comment")}  # a map measures nothing


@pytest.mark.parametrize("draft", [ct_draft, cxr_draft])
def test_a_resend_is_the_same_and_others_change_nothing_of_the_usual_form(tmp_path, draft):
    content = draft(tmp_path)
    first, again = (publish(content, tmp_path / run, FOUR) for run in "ab")
    forms = [(one.sop_instance_uid, one.sha256) for one in of_kind(first, "FINDINGS_SR")]
    assert forms == [(one.sop_instance_uid, one.sha256) for one in of_kind(again, "FINDINGS_SR")]
    for destinations in ((BINARY,), ()):
        (usual,) = of_kind(publish(content, tmp_path / "c", destinations), "FINDINGS_SR")
        assert forms[0] == (usual.sop_instance_uid, usual.sha256)
    turned = publish(content, tmp_path / "d", FOUR[::-1])  # in whatever order they are configured
    assert {(one.sop_instance_uid, one.sha256) for one in of_kind(turned, "FINDINGS_SR")} == set(forms)


def test_the_whole_of_a_brain_tumour_is_in_no_label_map_and_keeps_its_numbers(tmp_path):
    source, results, findings = glioma(1, 2, 4)
    (binary,), (label_map,) = (made(source, results, findings, form=form) for form in ("binary", "labelmap"))
    whole = TRACKING["brain tumor"]
    assert whole not in {item.TrackingUID for item in segments(label_map).values()}
    value = FindingValue(
        "brain tumor", "mr.whole_tumor", "present", None, None, ALGORITHM, whole, "firstread:mr.whole_tumor",
        (MeasurementValue("volume", 12.5, "cm3"),),
    )  # fmt: skip
    images = [InstanceReference.of(ds) for ds in source]
    identity = identity_of(source[0])
    usual = build_findings_sr([value], Evidence(source[0], images, [binary]), identity=identity, equipment=EQUIPMENT)
    form = build_findings_form(usual, [label_map], sources={whole: images[2]}, identity=identity)
    assert (templates(usual), templates(form)) == ({whole: "1411"}, {whole: "1501"})
    assert numbers(form) == numbers(usual) == {whole: [("Volume", "12.5", "cm3")]}
    (image,) = items(form, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source[2].SOPInstanceUID
    assert WITHOUT_SEGMENT in {item.TextValue for item in items(form, "Comment")}
    assert str(label_map.SOPInstanceUID) in evidence(form)
    assert str(binary.SOPInstanceUID) not in evidence(form)
    assert templates(usual) == {whole: "1411"}  # the usual form is left as it was
    assert dciodvfy(form, tmp_path) == []


# --- signed ------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path, sqlite_url):
    return make_site(tmp_path, sqlite_url, destinations=FOUR)


def reviewed(site, destinations=None, **decisions):
    draft, browser = drafted(site, destinations=destinations), site.client("radiologist")
    browser.submit(f"/studies/{draft.study_id}/review")
    draft.decide(browser, **({"lung": "accepted", "hepatic": "accepted"} | decisions))
    return draft, browser


def sent(draft, name: str) -> dict[str, list[Dataset]]:
    """Kind → objects that a destination holds or is owed."""
    owed = {path for (path, to), state in draft.owed().items() if to == name and state != "WITHDRAWN"}
    objects: dict[str, list[Dataset]] = {}
    for one in draft.objects():
        if one.path.rpartition("/")[2] in owed:
            content = (draft.site.settings.results_dir / one.path).read_bytes()
            objects.setdefault(one.kind, []).append(pydicom.dcmread(BytesIO(content)))
    return objects


@pytest.mark.parametrize("decisions", [{}, {"hepatic": "rejected:Not present on the images"}])
def test_signed_findings_refer_to_what_goes_with_them(site, tmp_path, decisions):
    draft, browser = reviewed(site, **decisions)
    draft.deliver()
    assert sign(site, browser, draft.study_id).status_code == 303
    ours = {one.sop_instance_uid for one in draft.objects()}
    lung = draft.tracking["lung tumor"]
    found, segmented = {}, {}
    for one in FOUR:
        objects = sent(draft, one.name)
        require_complete({kind: some for kind, some in objects.items() if kind != "FINDINGS_SR"}, ours)
        (document,), (before,) = objects["SIGNED_FINDINGS_SR"], objects["FINDINGS_SR"]
        (followed,) = every_reference(document.PredecessorDocumentsSequence[0])
        assert followed.ReferencedSOPInstanceUID == before.SOPInstanceUID  # the form it got of the draft
        assert document.VerificationFlag == "VERIFIED"
        assert dciodvfy(document, tmp_path) == []
        found[one.name], segmented[one.name] = document, objects
    assert [numbers(document) for document in found.values()] == [numbers(found["binary"])] * 4
    assert len(numbers(found["binary"])) == 2 - len(decisions)
    assert {name: templates(document)[lung] for name, document in found.items()} == {
        "binary": "1411", "cool": "1411", "labels": "1501", "none": "1501",
    }  # fmt: skip
    assert found["binary"].SOPInstanceUID == found["cool"].SOPInstanceUID
    standing = {
        str(seg.SOPInstanceUID)
        for seg in segmented["labels"]["SEG_LABELMAP"]
        if lung in {item.get("TrackingUID") for item in seg.SegmentSequence} or not decisions
    }
    assert evidence(found["labels"]) & ours == standing
    assert evidence(found["none"]) & ours == set()


def test_a_draft_that_has_the_usual_form_only_is_signed_for_everybody(site, tmp_path):
    draft, browser = reviewed(site, destinations=(BINARY,))  # the others were configured after it was made
    assert sign(site, browser, draft.study_id).status_code == 303
    ours = {one.sop_instance_uid for one in draft.objects()}
    for one in FOUR:
        objects = sent(draft, one.name)
        require_complete({kind: some for kind, some in objects.items() if kind != "FINDINGS_SR"}, ours)
        assert len(objects["SIGNED_FINDINGS_SR"]) == 1
    assert len(draft.objects("SIGNED_FINDINGS_SR")) == 2


def test_a_report_names_the_usual_form_and_no_other(site):
    draft, browser = reviewed(site)
    assert sign(site, browser, draft.study_id, "PRELIMINARY").status_code == 303
    forms = {one.sop_instance_uid: one.path for one in draft.objects("FINDINGS_SR")}
    assert len(forms) == 3
    (preliminary,) = sent(draft, "none")["PRELIMINARY_SR"]
    assert [forms[uid].rpartition("/")[2] for uid in evidence(preliminary) & set(forms)] == ["findings_sr.dcm"]


def test_a_final_report_names_one_form_of_the_signed_findings(site):
    draft, browser = reviewed(site)
    assert sign(site, browser, draft.study_id).status_code == 303
    forms = {one.sop_instance_uid for one in draft.objects("SIGNED_FINDINGS_SR")}
    assert len(forms) == 3
    (usual,) = (ds.SOPInstanceUID for ds in sent(draft, "binary")["SIGNED_FINDINGS_SR"])
    (report,) = sent(draft, "labels")["SIGNED_SR"]
    assert evidence(report) & forms == {usual}


def test_signing_again_makes_the_same_forms(site):
    draft, _ = reviewed(site)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    act = Signing(UUID(int=7), ReportState.FINAL, "radiologist", "Rad Iologist", at)
    report_id, runs = site.report(draft.study_id).id, []
    for settings in (site.settings, site.settings.model_copy(update={"destinations": FOUR[::-1]})):
        with site.sessions() as db:
            detail = report_detail(db, report_id)
            written = write_signed_documents(db, detail, act, settings)
        runs.append({one.sop_instance_uid: one.sha256 for one in written if one.kind == "SIGNED_FINDINGS_SR"})
    assert runs[0] == runs[1]
    assert len(runs[0]) == 3
