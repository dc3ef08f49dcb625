"""A study without a draft is read and signed all the same; a draft that comes late never touches the reader's text."""

import json
import re
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import hl7
import pytest
from pydicom import dcmread
from pypdf import PdfReader
from sqlalchemy import select

from config.destination import Destination
from config.errors import LifecycleError
from config.routing import RoutingVerdict
from db import lifecycle
from db.lifecycle.outcomes import note_outcomes
from db.lifecycle.without_ai import CANCELLED, LEFT, TOO_LATE, UNUSED, open_without_ai
from db.models import AuditEvent, Delivery, Reading, ResultObject
from db.report_models import Draft, DraftRejection, ReportRevision, Signature
from db.types import DeliveryState, ReadingState, ReportState, Role
from db.uow import unit_of_work
from tests import db_support
from tests.dashboard_support import SECTIONS, WORKER, Browser, Site, ct_study, make_site
from tests.integration.test_amendments import amend
from tests.integration.test_dashboard_signing import text_of
from tests.signed_support import DRAFTS, PACS
from tests.signing_support import sign

VIEWER = Destination(name="VIEWER", ae_title="VIEWER", host="127.0.0.1", port=11120, report="basic-text", pdf=True)
RIS = Destination(name="RIS", protocol="mllp", host="127.0.0.1", port=2575, pdf=True)
EHR = Destination(name="EHR", protocol="fhir", url="http://127.0.0.1:8080/fhir")
HOLD = RoutingVerdict("hold", reason="held for a look", rule="hold", trace=[])
OWN = "Clear lungs. No effusion."
MINE = {"findings": OWN, "impression": "Normal CT of the chest."}


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(
        tmp_path, sqlite_url, destinations=(PACS, DRAFTS, VIEWER, RIS, EHR), organization="General Hospital"
    )


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


def ended(site: Site, state: ReadingState) -> UUID:
    """A study whose Reading stands in this state; its Report has no draft."""
    study_id = site.receive(ct_study(3))
    if state is ReadingState.HELD:
        site.routed(study_id, HOLD)
    elif state is ReadingState.QUEUED:
        site.routed(study_id)
    elif state is not ReadingState.RECEIVING:
        claim = site.claimed(study_id)
        with unit_of_work(site.sessions, WORKER) as uow:
            if state is ReadingState.FAILED:
                lifecycle.fail(uow, claim, "the model is down")
            elif state is ReadingState.NO_DRAFT:
                lifecycle.no_draft(uow, claim, "one slice")
    return study_id


def written(site: Site, browser: Browser, study_id: UUID) -> None:
    """Begin without AI and write."""
    assert browser.submit(f"/studies/{study_id}/without-ai").status_code == 303
    save(site, browser, study_id, **MINE)


def save(site: Site, browser: Browser, study_id: UUID, **sections: str) -> None:
    version = site.report(study_id).version
    assert browser.submit(f"/studies/{study_id}/sections", htmx=True, version=version, **sections).status_code == 200


def draft_comes(site: Site, claim: lifecycle.Claim) -> UUID:
    """The worker ends with a draft that goes to who takes drafts; return its id."""
    new = db_support.new_draft(
        claim, sections=SECTIONS, objects=[db_support.an_object("DRAFT_SR", destinations=("DRAFTS",))]
    )
    with unit_of_work(site.sessions, WORKER) as uow:
        return lifecycle.drafted(uow, claim, new)


def reader_and_late_draft(site: Site, browser: Browser) -> tuple[UUID, UUID]:
    """A reader wrote without AI while the worker drafted; return study and draft."""
    study_id = site.receive(ct_study(3))
    claim = site.claimed(study_id)
    written(site, browser, study_id)
    return study_id, draft_comes(site, claim)


def post_draft(site: Site, browser: Browser, study_id: UUID, draft_id: UUID, act: str) -> int:
    fields: dict[str, Any] = {"draft": str(draft_id), "version": site.report(study_id).version}
    return browser.submit(f"/studies/{study_id}/late-draft/{act}", **fields).status_code


def owed(site: Site, draft_id: UUID) -> list[DeliveryState]:
    with site.sessions() as db:
        query = select(Delivery.state).join(ResultObject, ResultObject.id == Delivery.result_object_id)
        return list(db.scalars(query.where(ResultObject.draft_id == draft_id)))


@pytest.mark.requirement("REQ-FAIL-5")
def test_whatever_the_ai_did_not_give_a_reader_may_begin(site, browser) -> None:
    resident, viewer = site.client("resident"), site.client("viewer")
    for state in (
        ReadingState.RECEIVING, ReadingState.QUEUED, ReadingState.HELD, ReadingState.FAILED, ReadingState.NO_DRAFT
    ):  # fmt: skip
        study_id = ended(site, state)
        assert "Report without AI" in resident.get(f"/studies/{study_id}").text, state
        assert "Report without AI" not in viewer.get(f"/studies/{study_id}").text
        assert resident.submit(f"/studies/{study_id}/without-ai").status_code == 303
        report = site.report(study_id)
        assert (report.state, report.draft_id, report.sections) == (ReportState.IN_REVIEW, None, {})
        event = site.one(AuditEvent, tag="report:opened", study_id=study_id)
        assert (event.actor, event.detail["without_ai"], event.detail["reading"]) == ("resident", True, state.value)
        assert site.one(Reading, study_id=study_id).state is state  # what the AI is at goes on
        assert str(study_id) in resident.get("/worklist?tab=in_review").text
        assert str(study_id) not in resident.get("/worklist?tab=no_draft").text
    row = resident.get("/worklist?tab=in_review").text.split(f'id="summary-{study_id}"')[1].split("</div>")[0]
    assert "without AI" in row
    assert "0 findings" not in row  # nobody looked for any
    assert browser.submit(f"/studies/{study_id}/without-ai").status_code == 303
    assert site.report(study_id).locked_by == report.locked_by  # a second reader takes nothing away
    assert "Somebody began to report this study" in browser.get(f"/studies/{study_id}").text


def test_it_begins_with_the_template_of_the_procedure(site, browser) -> None:
    template = {"name": "CT chest", "modality": "CT", "findings": "Lungs: [ ]", "impression": "[ ]"}
    assert site.client("lead").submit("/wording/templates", **template).status_code == 303
    study_id = ended(site, ReadingState.FAILED)
    browser.submit(f"/studies/{study_id}/without-ai")
    assert {k: v for k, v in site.report(study_id).sections.items() if v} == {
        "findings": "Lungs: [ ]",
        "impression": "[ ]",
    }
    assert site.tags(study_id=study_id)[-3:] == ["report:opened", "report:edited", "report:template_used"]


@pytest.mark.requirement("REQ-LABEL-8")
def test_what_it_signs_names_no_ai_anywhere(site, browser) -> None:
    study_id = ended(site, ReadingState.FAILED)
    written(site, browser, study_id)
    unsigned = " ".join(
        page.extract_text() for page in PdfReader(BytesIO(browser.get(f"/studies/{study_id}/report.pdf").data)).pages
    )
    assert "Unsigned report, not verified" in unsigned
    assert "AI" not in re.findall(r"\w+", unsigned)
    page = browser.get(f"/studies/{study_id}/sign/FINAL").text
    assert "Written without AI" in page
    assert "undecided" not in page
    assert sign(site, browser, study_id).status_code == 303
    signature = site.one(Signature)
    assert (site.report(study_id).state, signature.draft_id) == (ReportState.FINAL, None)
    with site.sessions() as db:
        made = {one.kind: one for one in db.scalars(select(ResultObject))}
    assert set(made) == {"SIGNED_SR", "REPORT_TEXT_SR", "REPORT_PDF", "REPORT_ORU", "REPORT_FHIR"}
    files = {kind: (site.settings.results_dir / one.path).read_bytes() for kind, one in made.items()}
    for kind in ("SIGNED_SR", "REPORT_TEXT_SR"):  # every object is judged by dciodvfy and DCMTK after the test
        ds = dcmread(BytesIO(files[kind]))
        assert OWN in text_of(ds)
        assert ds.VerificationFlag == "VERIFIED"
        assert [one.ObserverType for one in ds.AuthorObserverSequence] == ["PSN"]
        assert "ParticipantSequence" not in ds  # equipment that contributed to the content (PS3.3 C.17.2): none
        contributed = [one.get("ContributionDescription", "") for one in ds.get("ContributingEquipmentSequence", [])]
        assert not any("AI" in one for one in contributed)
        observers = [one for one in ds.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "121005"]
        assert [one.ConceptCodeSequence[0].CodeMeaning for one in observers] == ["Person"]
        assert not re.search(r"\bAI\b|demonstration|Device Observer", str(ds))
    pdf = dcmread(BytesIO(files["REPORT_PDF"]))
    shown = " ".join(page.extract_text() for page in PdfReader(BytesIO(pdf.EncapsulatedDocument)).pages)
    assert "Clear lungs" in shown
    assert not re.search(r"\bAI\b|demonstration|models", shown)
    message = hl7.parse(files["REPORT_ORU"].decode())
    assert message["OBR"][0][25][0] == "F"
    assert "NTE" not in {str(one[0]) for one in message}
    assert not any(str(one[18]) for one in message["OBX"] if len(one) > 18)  # OBX-18: equipment
    bundle = json.loads(files["REPORT_FHIR"])
    (product,) = [one for one in bundle["entry"] if one["resource"]["resourceType"] == "Device"]
    (history,) = [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "Provenance"]
    roles = {
        one["type"]["coding"][0]["code"] for one in history["agent"] if one["who"]["reference"] == product["fullUrl"]
    }
    assert roles == {"assembler"}  # of the message; the author is a person
    assert not re.search(r"\bAI\b|demonstration", json.dumps([one["resource"] for one in bundle["entry"]]))
    assert amend(browser, study_id).status_code == 303
    assert site.report(study_id).state is ReportState.ADDENDED
    assert "AI-generated" not in browser.get(f"/studies/{study_id}/report").text


def test_a_draft_that_comes_waits_beside_the_text_until_its_reader_takes_it(site, browser) -> None:
    study_id, draft_id = reader_and_late_draft(site, browser)
    report = site.report(study_id)
    assert (report.state, report.draft_id) == (ReportState.IN_REVIEW, None)
    assert report.sections == MINE
    told = browser.get(f"/studies/{study_id}/late-draft?version=7").text
    assert "An AI draft came while you were writing" in told
    assert 'name="version" value="7"' in told  # a page that is stale stays so
    assert "An AI draft came" not in site.client("viewer").get(f"/studies/{study_id}").text
    assert post_draft(site, site.client("resident"), study_id, draft_id, "take") == 409  # not whose lock it is
    assert post_draft(site, browser, study_id, draft_id, "take") == 303
    report = site.report(study_id)
    assert (report.draft_id, report.sections) == (draft_id, SECTIONS)
    with site.sessions() as db:
        texts = list(db.scalars(select(ReportRevision.sections).order_by(ReportRevision.number)))
    assert texts == [MINE, SECTIONS]
    page = browser.get(f"/studies/{study_id}/sign/FINAL").text  # from here it is a report with a draft
    assert "1 finding(s) undecided" in page
    assert post_draft(site, browser, study_id, draft_id, "take") == 409


def test_a_draft_that_its_reader_leaves_is_kept_and_sent_to_nobody(site, browser) -> None:
    study_id, draft_id = reader_and_late_draft(site, browser)
    assert owed(site, draft_id) == [DeliveryState.PENDING]
    before = site.report(study_id)
    assert post_draft(site, browser, study_id, draft_id, "leave") == 303
    report = site.report(study_id)
    assert (report.sections, report.version, report.draft_id) == (MINE, before.version, None)
    assert owed(site, draft_id) == [DeliveryState.WITHDRAWN]
    assert site.one(DraftRejection, draft_id=draft_id).reason == LEFT
    page = browser.get(f"/studies/{study_id}").text
    assert "An AI draft came" not in page
    assert LEFT in page
    with unit_of_work(site.sessions, WORKER) as uow:
        assert note_outcomes(uow) == 0  # nobody judged it: no figure of quality counts it
    # put back, the study has no draft again
    assert browser.submit(f"/studies/{study_id}/put-back", version=report.version).status_code == 303
    assert site.report(study_id).state is ReportState.UNREAD
    assert str(study_id) in browser.get("/worklist?tab=no_draft").text


def test_who_puts_back_gets_the_draft_that_waited_and_the_words_stay_in_the_history(site, browser) -> None:
    study_id, draft_id = reader_and_late_draft(site, browser)
    version = site.report(study_id).version
    assert browser.submit(f"/studies/{study_id}/reject", version=version, kind="OTHER").status_code == 409
    assert browser.submit(f"/studies/{study_id}/put-back", version=version - 1).status_code == 409
    assert browser.submit(f"/studies/{study_id}/put-back", version=version).status_code == 303
    report = site.report(study_id)
    assert (report.state, report.draft_id, report.sections) == (ReportState.DRAFTED, draft_id, SECTIONS)
    assert report.locked_by is None
    tags = [one for one in site.tags(study_id=study_id) if one.startswith("report:") and one != "report:viewed"]
    assert tags[-3:] == ["report:put_back", "report:invalidated", "report:drafted"]
    with site.sessions() as db:
        assert MINE in db.scalars(select(ReportRevision.sections)).all()
    assert browser.submit(f"/studies/{study_id}/without-ai", follow_redirects=False).status_code == 303
    assert site.report(study_id).state is ReportState.DRAFTED
    assert "came a moment before" in browser.get(f"/studies/{study_id}").text


def test_a_signature_sets_a_waiting_draft_aside(site, browser) -> None:
    study_id, draft_id = reader_and_late_draft(site, browser)
    assert sign(site, browser, study_id).status_code == 303
    report = site.report(study_id)
    assert (report.state, report.draft_id, report.sections) == (ReportState.FINAL, None, MINE)
    assert site.one(DraftRejection, draft_id=draft_id).reason == UNUSED
    assert owed(site, draft_id) == [DeliveryState.WITHDRAWN]


def test_a_signature_cancels_the_reading_and_its_worker_is_fenced_off(site, browser) -> None:
    study_id = site.receive(ct_study(3))
    claim = site.claimed(study_id)
    written(site, browser, study_id)
    assert sign(site, browser, study_id).status_code == 303
    reading = site.one(Reading, study_id=study_id)
    assert (reading.state, reading.reason, reading.lease_owner) == (ReadingState.NO_DRAFT, CANCELLED, "")
    with pytest.raises(LifecycleError, match="no longer this worker's"):
        draft_comes(site, claim)
    with site.sessions() as db:
        assert db.scalars(select(Draft)).all() == []


def test_a_draft_of_the_signed_images_that_comes_all_the_same_is_marked_as_too_late(site, browser) -> None:
    study_id = site.receive(ct_study(3))
    written(site, browser, study_id)  # while the study was still being received
    assert sign(site, browser, study_id).status_code == 303
    draft_id = draft_comes(site, site.claimed(study_id))
    report = site.report(study_id)
    assert (report.state, report.draft_id, report.sections) == (ReportState.FINAL, None, MINE)
    assert site.one(DraftRejection, draft_id=draft_id).reason == TOO_LATE
    assert owed(site, draft_id) == [DeliveryState.WITHDRAWN]
    assert TOO_LATE in browser.get(f"/studies/{study_id}").text


def test_later_images_leave_the_text_and_are_looked_at_before_it_is_signed(site, browser) -> None:
    datasets = ct_study(4)
    study_id = site.receive(datasets[:3])
    site.routed(study_id)
    written(site, browser, study_id)
    site.receive(datasets[3:])
    report = site.report(study_id)
    assert (report.state, report.sections) == (ReportState.IN_REVIEW, MINE)
    assert "Images arrived after you opened this report" in browser.get(f"/studies/{study_id}").text
    assert sign(site, browser, study_id).status_code == 409
    draft_comes(site, site.claimed(study_id))  # of the new images; it waits too
    assert browser.submit(f"/studies/{study_id}/review").status_code == 303
    report = site.report(study_id)
    assert (report.draft_id, report.sections) == (None, MINE)
    assert "Images arrived after" not in browser.get(f"/studies/{study_id}").text
    assert sign(site, browser, study_id).status_code == 303


def test_a_study_of_two_patients_is_settled_first(sqlite_sessions) -> None:
    journey = db_support.received(sqlite_sessions)
    db_support.receive(sqlite_sessions, db_support.header(3, patient_id="P-2"))
    reader = db_support.person(sqlite_sessions)
    assert journey.queued().reading().state is ReadingState.HELD
    with pytest.raises(LifecycleError, match="more than one Patient ID"), unit_of_work(sqlite_sessions, reader) as uow:
        open_without_ai(uow, journey.report().id)
    assert journey.report().state is ReportState.UNREAD


def test_reader_and_worker_at_the_same_moment_lose_nothing(sessions) -> None:
    journey = db_support.received(sessions).queued().running()
    reader = db_support.person(sessions, role=Role.RADIOLOGIST)
    opened, came = [], []

    def open_it() -> None:
        try:
            with unit_of_work(sessions, reader) as uow:
                opened.append(open_without_ai(uow, journey.report().id))
        except LifecycleError:
            opened.append(0)

    def draft_it() -> None:
        with unit_of_work(sessions, WORKER) as uow:
            came.append(lifecycle.drafted(uow, journey.held, db_support.new_draft(journey.held)))

    threads = [Thread(target=one) for one in (open_it, draft_it)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    report = journey.report()
    assert len(opened) == len(came) == 1
    if opened[0]:  # the reader was first: an empty text, and the draft beside it
        assert (report.state, report.draft_id, report.sections) == (ReportState.IN_REVIEW, None, {})
    else:
        assert (report.state, report.draft_id) == (ReportState.DRAFTED, came[0])


def test_signer_and_worker_at_the_same_moment_do_not_wait_for_each_other(sessions) -> None:
    journey = db_support.received(sessions).queued().running()
    reader = db_support.person(sessions, role=Role.RADIOLOGIST)
    with unit_of_work(sessions, reader) as uow:
        version = open_without_ai(uow, journey.report().id)
        version = lifecycle.save_sections(uow, journey.report().id, MINE, seen_version=version)
    fenced: list[bool] = []

    def draft_it() -> None:
        try:
            with unit_of_work(sessions, WORKER) as uow:
                lifecycle.drafted(uow, journey.held, db_support.new_draft(journey.held))
            fenced.append(False)
        except LifecycleError:
            fenced.append(True)

    worker = Thread(target=draft_it)
    worker.start()
    db_support.sign(journey, reader, version)
    worker.join()
    report, reading = journey.report(), journey.reading()
    assert (report.state, report.draft_id, report.sections) == (ReportState.FINAL, None, MINE)
    assert reading.state is (ReadingState.NO_DRAFT if fenced[0] else ReadingState.DRAFTED)
    with sessions() as db:
        refusals = db.scalars(select(DraftRejection.reason)).all()
    assert refusals == ([] if fenced[0] else [UNUSED])
