"""What a signature makes and sends: every form that a destination takes, of findings that stand, or nothing."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import hl7
import pytest
from pydicom import Dataset, dcmread
from pypdf import PdfReader

from config.destination import Destination
from config.errors import RefusedInputError
from db.models import ImagingOrder, Reading
from db.queries import report_detail
from db.report_models import Signature
from db.types import Priority, ReportState, Role
from publishing.documents import draft_document, order_facts, report_document
from publishing.outgoing import outgoing
from reports.document import Code, OrderFacts
from reports.values import DraftIdentity
from tests.dashboard_support import SECTIONS, Browser, Site, make_site
from tests.integration.test_dashboard_signing import sign, text_of
from tests.reports_sources import items
from tests.signed_support import DRAFTS, PACS, Drafted, drafted

VIEWER = Destination(
    name="VIEWER", ae_title="VIEWER", host="127.0.0.1", port=11120, report="basic-text", pdf=True, findings=False
)
RIS = Destination(name="RIS", protocol="mllp", host="127.0.0.1", port=2575, pdf=True)
EHR = Destination(name="EHR", protocol="fhir", url="http://127.0.0.1:8080/fhir")
ALL = (PACS, DRAFTS, VIEWER, RIS, EHR)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, destinations=ALL)


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


def reviewed(site: Site, browser: Browser, **decisions: str) -> Drafted:
    draft = drafted(site)
    assert browser.submit(f"/studies/{draft.study_id}/review").status_code == 303
    draft.decide(browser, **({"lung": "accepted", "hepatic": "accepted"} | decisions))
    return draft


def read(draft: Drafted, kind: str) -> Dataset:
    (made,) = draft.objects(kind)
    return dcmread(BytesIO((draft.site.settings.results_dir / made.path).read_bytes()))


def test_every_destination_gets_the_forms_it_takes(site, browser) -> None:
    draft = reviewed(site, browser)
    assert sign(site, browser, draft.study_id).status_code == 303
    signature = str(site.one(Signature).id)
    sent = {(path.removeprefix(signature), name) for (path, name), state in draft.owed().items() if state == "PENDING"}
    evidence = {("seg_1.dcm", one) for one in ("PACS", "DRAFTS", "VIEWER")} | {
        ("seg_2.dcm", one) for one in ("PACS", "DRAFTS", "VIEWER")
    }
    assert sent == evidence | {
        (".dcm", "PACS"),
        (".dcm", "DRAFTS"),
        ("_findings.dcm", "PACS"),
        ("_findings.dcm", "DRAFTS"),
        ("_text.dcm", "VIEWER"),
        ("_pdf.dcm", "VIEWER"),
        ("_RIS.hl7", "RIS"),
        ("_EHR.json", "EHR"),
    }
    withdrawn = {path for (path, _), state in draft.owed().items() if state == "WITHDRAWN"}
    assert withdrawn == {"draft_sr.dcm", "findings_sr.dcm"}


@pytest.mark.requirement("REQ-DELIV-8")
def test_the_forms_of_one_signature_agree(site, browser) -> None:
    draft = reviewed(site, browser)
    assert sign(site, browser, draft.study_id).status_code == 303
    said = "There is a lung tumor of 12.4 ml in the right lung."
    narrative, text, pdf = (read(draft, kind) for kind in ("SIGNED_SR", "REPORT_TEXT_SR", "REPORT_PDF"))
    assert narrative.SOPClassUID.name == "Enhanced SR Storage"
    assert text.SOPClassUID.name == "Basic Text SR Storage"
    assert said in text_of(narrative)
    assert text_of(narrative) == text_of(text)
    assert {one.VerificationFlag for one in (narrative, text, pdf)} == {"VERIFIED"}
    pages = PdfReader(BytesIO(pdf.EncapsulatedDocument)).pages
    words = " ".join(" ".join(page.extract_text().split()) for page in pages)
    assert said in words
    assert "not verified" not in words
    (made,) = draft.objects("REPORT_ORU")
    message = hl7.parse((site.settings.results_dir / made.path).read_bytes().decode())
    assert message["OBR"][0][25][0] == "F"
    values = [str(one[5]) for one in message["OBX"]]
    assert any(said in value for value in values)
    assert any("Base64" in value for value in values)
    (made,) = draft.objects("REPORT_FHIR")
    bundle = json.loads((site.settings.results_dir / made.path).read_bytes())
    (report,) = [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "DiagnosticReport"]
    assert report["status"] == "final"


@pytest.mark.requirement("REQ-BIAS-5")
def test_what_the_reader_rejected_neither_leaves_nor_is_named(site, browser) -> None:
    draft = reviewed(site, browser, hepatic="rejected:Not present on the images")
    assert sign(site, browser, draft.study_id).status_code == 303
    owed = draft.owed()
    assert {owed["seg_1.dcm", name] for name in ("PACS", "VIEWER", "DRAFTS")} == {"PENDING"}
    assert [name for path, name in owed if path == "seg_2.dcm" and owed[path, name] != "WITHDRAWN"] == []
    findings = read(draft, "SIGNED_FINDINGS_SR")
    tracked = {str(item.UID) for item in items(findings, "Tracking Unique Identifier")}
    assert tracked == {draft.tracking["lung tumor"]}
    named = {
        str(item.ReferencedSOPInstanceUID)
        for study in read(draft, "SIGNED_SR").CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    kept, dropped = (one.sop_instance_uid for one in draft.objects("SEG"))
    assert kept in named
    assert str(findings.SOPInstanceUID) in named
    assert dropped not in named


def selected(document: Dataset) -> list[str]:
    """SOP Instance UIDs of what a Key Object Selection selects."""
    chosen = [item.ReferencedSOPSequence[0] for item in document.ContentSequence if "ReferencedSOPSequence" in item]
    return [str(one.ReferencedSOPInstanceUID) for one in chosen]


def test_key_images_of_a_rejected_finding_give_way_to_those_of_the_findings_that_stand(site, browser) -> None:
    draft = drafted(site, key_images=True)
    assert browser.submit(f"/studies/{draft.study_id}/review").status_code == 303
    draft.decide(browser, lung="accepted", hepatic="rejected:Not present on the images")
    assert sign(site, browser, draft.study_id).status_code == 303
    first, second = draft.objects("KEY_IMAGES")
    names = {one.draft_id is not None: one.path.rpartition("/")[2] for one in (first, second)}
    states = {key: state for key, state in draft.owed().items() if "key_images" in key[0]}
    assert {state for (path, _), state in states.items() if path == names[True]} == {"WITHDRAWN"}
    assert {name: state for (path, name), state in states.items() if path == names[False]} == dict.fromkeys(
        ("PACS", "DRAFTS", "VIEWER"), "PENDING"
    )
    signed = next(one for one in (first, second) if one.signature_id is not None)
    document = dcmread(site.settings.results_dir / signed.path)
    assert selected(document) == [str(draft.datasets[0].SOPInstanceUID)]
    words = " ".join(str(item.TextValue) for item in document.ContentSequence if "TextValue" in item)
    assert "lung tumor, 12.4 ml" in words
    assert "hepatic" not in words


def test_key_images_of_findings_that_all_stand_go_as_they_are(site, browser) -> None:
    draft = drafted(site, key_images=True)
    assert browser.submit(f"/studies/{draft.study_id}/review").status_code == 303
    draft.decide(browser, lung="accepted", hepatic="edited")
    assert sign(site, browser, draft.study_id).status_code == 303
    (kept,) = draft.objects("KEY_IMAGES")
    assert kept.signature_id is None
    assert {draft.owed()["key_images.dcm", name] for name in ("PACS", "DRAFTS", "VIEWER")} == {"PENDING"}


def test_no_key_images_are_chosen_when_no_finding_stands(site, browser) -> None:
    nothing = drafted(site, key_images=True)
    assert browser.submit(f"/studies/{nothing.study_id}/review").status_code == 303
    nothing.decide(browser, lung="rejected:Artefact", hepatic="rejected:Artefact")
    version, text = site.report(nothing.study_id).version, {"findings": "Normal.", "impression": "Normal."}
    browser.submit(f"/studies/{nothing.study_id}/sections", version=version, **text)
    assert sign(site, browser, nothing.study_id).status_code == 303
    assert [one.signature_id for one in nothing.objects("KEY_IMAGES")] == [None]


def test_a_preliminary_signature_sends_text_and_no_evidence(site, browser) -> None:
    draft = reviewed(site, browser)
    assert sign(site, browser, draft.study_id, "PRELIMINARY").status_code == 303
    kinds = {one.kind for one in draft.objects() if one.signature_id is not None}
    assert kinds == {"PRELIMINARY_SR", "REPORT_TEXT_SR", "REPORT_PDF", "REPORT_ORU", "REPORT_FHIR"}
    assert {name for path, name in draft.owed() if path.startswith("seg")} == {"DRAFTS"}
    (made,) = draft.objects("REPORT_ORU")
    assert hl7.parse((site.settings.results_dir / made.path).read_bytes().decode())["OBR"][0][25][0] == "P"


def test_a_final_report_names_the_resident_by_staff_number_and_follows_both_documents(site, browser) -> None:
    site.user("chief", Role.RADIOLOGIST, "Chief Reader")
    draft = reviewed(site, browser)
    sign(site, browser, draft.study_id, "PRELIMINARY")
    chief = site.client("chief")
    assert sign(site, chief, draft.study_id, "FINAL").status_code == 303
    report = read(draft, "SIGNED_SR")
    authors = [item.PersonIdentificationCodeSequence[0].CodeValue for item in report.AuthorObserverSequence]
    assert authors == ["radiologist", "chief"]
    kinds = [(item.ParticipationType, item.ObserverType) for item in report.ParticipantSequence]
    assert kinds == [("SOURCE", "DEV"), ("ATTEST", "PSN")]
    before = {one.sop_instance_uid for kind in ("DRAFT_SR", "PRELIMINARY_SR") for one in draft.objects(kind)}
    followed = {
        str(item.ReferencedSOPInstanceUID)
        for study in report.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert followed == before


def test_a_report_written_after_the_draft_was_rejected_names_no_model_and_no_draft(site, browser) -> None:
    draft = drafted(site)
    browser.submit(f"/studies/{draft.study_id}/review")
    answer = browser.submit(
        f"/studies/{draft.study_id}/reject", version=site.report(draft.study_id).version, kind="Text unusable"
    )
    assert answer.status_code == 303
    browser.submit(f"/studies/{draft.study_id}/review")
    browser.submit(
        f"/studies/{draft.study_id}/sections", version=site.report(draft.study_id).version, findings="Normal chest."
    )
    assert sign(site, browser, draft.study_id).status_code == 303
    report = read(draft, "SIGNED_SR")
    assert "PredecessorDocumentsSequence" not in report
    assert "VISTA3D" not in {item.get("ManufacturerModelName") for item in report.ContributingEquipmentSequence}
    assert draft.objects("SIGNED_FINDINGS_SR") == []
    assert {state for (path, _), state in draft.owed().items() if path.startswith(("seg", "draft", "findings"))} == {
        "WITHDRAWN"
    }
    with site.sessions() as db:
        detail = report_detail(db, site.report(draft.study_id).id)
        assert detail is not None
        document = report_document(db, detail, site.settings)
    assert (document.algorithms, document.findings) == ((), ())


def test_a_form_that_cannot_be_made_refuses_the_signature_and_leaves_no_file(tmp_path, sqlite_url) -> None:
    site = make_site(tmp_path, sqlite_url, destinations=ALL)
    browser = site.client("radiologist")
    draft = reviewed(site, browser)
    (findings,) = draft.objects("FINDINGS_SR")
    (site.settings.results_dir / findings.path).write_bytes(b"damaged")
    answer = sign(site, browser, draft.study_id)
    assert answer.status_code == 400
    assert "cannot be read" in answer.text
    assert site.report(draft.study_id).state is ReportState.IN_REVIEW
    assert list(site.settings.results_dir.rglob("signed/*")) == []


def test_the_sign_page_says_what_goes_where(site, browser) -> None:
    draft = reviewed(site, browser)
    page = " ".join(browser.get(f"/studies/{draft.study_id}/sign/FINAL").text.split())
    assert "<b>VIEWER</b></td><td>c-store</td><td>report (Basic Text SR), report (PDF), segmentations</td>" in page
    assert "<b>RIS</b></td><td>mllp</td><td>report (HL7 ORU)</td>" in page
    nothing = Destination(
        name="MINI", ae_title="MINI", host="h", report="none", segmentation="none", findings=False, heat_maps=False
    )
    (one,) = outgoing([nothing], ReportState.FINAL, {"SEG", "FINDINGS_SR"})
    assert list(one.what) == []


# --- documents of rows ---------------------------------------------------------------------------------------


def document_of(site: Site, draft: Drafted):
    with site.sessions() as db:
        detail = report_detail(db, site.report(draft.study_id).id)
        assert detail is not None
        return report_document(db, detail, site.settings)


def test_the_document_of_a_draft_says_who_is_asked_about_what_and_what_was_found(site) -> None:
    draft = drafted(site)
    document = document_of(site, draft)
    assert (document.state, document.is_verified) == ("draft", False)
    assert "not verified" in document.notice
    assert (document.patient.patient_id, document.patient.name) == ("P-1001", "Halvorsen^Ingrid")
    assert document.order.accession_number == "ACC-1001"
    assert document.study.modalities == ("CT",)
    assert [len(one.instances) for one in document.study.series] == [4]
    lung, hepatic = document.findings
    assert (lung.label, lung.concept.value, lung.presence, lung.decision) == (
        "lung tumor",
        "108369006",
        "present",
        "pending",
    )
    assert [(one.key, one.value, one.unit_ucum) for one in lung.measurements] == [("volume", 12.4, "mL")]
    assert lung.algorithm.name == "VISTA3D"
    assert lung.source.sop_instance_uid == str(draft.datasets[0].SOPInstanceUID)
    assert hepatic.tracking_uid == draft.tracking["hepatic tumor"]
    made = {one.sop_instance_uid for one in draft.objects()}
    assert {one.sop_instance_uid for one in document.objects} == made


def test_edits_of_an_unsigned_report_make_another_version_and_looking_does_not(site, browser) -> None:
    draft = drafted(site)
    first = document_of(site, draft)
    browser.submit(f"/studies/{draft.study_id}/review")
    assert document_of(site, draft).uid == first.uid
    version = site.report(draft.study_id).version
    browser.submit(f"/studies/{draft.study_id}/sections", version=version, impression="Edited.")
    edited = document_of(site, draft)
    assert (edited.state, edited.report_uid) == ("draft", first.report_uid)
    assert edited.uid != first.uid


def test_a_report_that_was_signed_and_opened_again_still_says_what_was_signed(site, browser) -> None:
    draft = reviewed(site, browser)
    sign(site, browser, draft.study_id, "PRELIMINARY")
    signed = document_of(site, draft)
    browser.submit(f"/studies/{draft.study_id}/review")
    version = site.report(draft.study_id).version
    browser.submit(f"/studies/{draft.study_id}/sections", version=version, impression="Not signed yet.")
    assert site.report(draft.study_id).sections["impression"] == "Not signed yet."
    assert document_of(site, draft) == signed
    assert signed.state == "preliminary"


def test_a_rejected_draft_has_no_document(site, browser) -> None:
    draft = drafted(site)
    browser.submit(f"/studies/{draft.study_id}/review")
    browser.submit(
        f"/studies/{draft.study_id}/reject", version=site.report(draft.study_id).version, kind="Text unusable"
    )
    with pytest.raises(RefusedInputError, match="REJECTED"):
        document_of(site, draft)


def test_a_draft_and_its_rows_are_the_same_document(site) -> None:
    draft = drafted(site)
    rows = document_of(site, draft)
    reading = site.one(Reading, id=site.reading_id(draft.study_id))
    made = draft_document(
        source=draft.datasets[0],
        series=rows.study.series,
        order=None,
        sections=SECTIONS,
        findings=rows.findings,
        algorithms=rows.algorithms,
        not_assessed=rows.not_assessed,
        organization=rows.organization,
        identity=DraftIdentity(rows.study.study_instance_uid, str(reading.id), "0" * 64, reading.completed_at),
        objects=rows.objects,
    )
    # this installation's index does not hold the referring physician of the test's images
    known = replace(made, study=replace(made.study, referring_physician=rows.study.referring_physician))
    assert known == rows
    assert made.study.referring_physician == "Berg^Olav"


def test_the_order_says_what_was_asked_for_and_the_images_when_there_is_none() -> None:
    order = ImagingOrder(
        accession_number="A-7",
        placer_order_number="P-7",
        filler_order_number="F-7",
        procedure_code="24627-2",
        procedure_scheme="LN",
        procedure_text="CT Chest",
        indication="Cough",
        priority=Priority.STAT,
        ordering_provider="Berg^Olav",
        ordering_provider_id="77",
        visit_number="V-1",
        patient_class="I",
        patient_location="WARD",
    )
    facts = order_facts(order, "ACC")
    assert (facts.accession_number, facts.placer_order_number, facts.priority) == ("A-7", "P-7", "STAT")
    assert facts.procedure == Code("24627-2", "LN", "CT Chest")
    assert (facts.indication, facts.ordering_provider, facts.ordering_provider_id) == ("Cough", "Berg^Olav", "77")
    assert (facts.visit_number, facts.patient_class, facts.patient_location) == ("V-1", "I", "WARD")
    assert order_facts(None, "ACC") == OrderFacts(accession_number="ACC")
