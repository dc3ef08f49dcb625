"""What was sent and no longer stands is taken back by an IOCM note, once, where it went; the rest never leaves."""

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from config.destination import Destination
from db import lifecycle
from db.lifecycle.deliveries import renew_delivery
from db.lifecycle.rejecting import undone
from db.models import AuditEvent, Delivery
from db.types import DeliveryState, ReportState, utcnow
from db.uow import unit_of_work
from publishing.rejections import build_note, note_due
from publishing.store import encode
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.integration.test_dashboard_signing import sign
from tests.signed_support import DRAFTS, SENDER, Drafted, drafted

SECOND = Destination(name="SECOND", ae_title="SECOND", host="127.0.0.1", port=11121, drafts=True)
DEAF = Destination(name="DEAF", ae_title="DEAF", host="127.0.0.1", port=11122, drafts=True, rejection_notes=False)
QUALITY, SAFETY = "113001", "113037"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url, destinations=(DRAFTS, DEAF))


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


def note(site: Site) -> int:
    return note_due(site.sessions, site.settings, utcnow())


def reject(draft: Drafted, browser: Browser, kind: str = "Text unusable", words: str = "") -> None:
    browser.submit(f"/studies/{draft.study_id}/review")
    version = draft.site.report(draft.study_id).version
    answer = browser.submit(f"/studies/{draft.study_id}/reject", version=version, kind=kind, note=words)
    assert answer.status_code == 303


def signed(draft: Drafted, browser: Browser, **decisions: str) -> None:
    browser.submit(f"/studies/{draft.study_id}/review")
    decided = {"lung": "accepted", "hepatic": "accepted"} | decisions
    draft.decide(browser, **decided)
    if all(one.startswith("rejected") for one in decided.values()):  # else the text would still assert it
        version, text = draft.site.report(draft.study_id).version, {"findings": "Normal.", "impression": "Normal."}
        browser.submit(f"/studies/{draft.study_id}/sections", version=version, **text)
    assert sign(draft.site, browser, draft.study_id).status_code == 303


def notes(draft: Drafted) -> list[Dataset]:
    folder = draft.site.settings.results_dir
    return [dcmread(BytesIO((folder / one.path).read_bytes())) for one in draft.objects("REJECTION_NOTE")]


def taken_back(ds: Dataset) -> set[str]:
    """SOP Instance UIDs that a Key Object Selection refers to."""
    return {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in ds.ContentSequence
        if item.ValueType in {"COMPOSITE", "IMAGE"}
    }


def title(ds: Dataset) -> str:
    return str(ds.ConceptNameCodeSequence[0].CodeValue)


def states(draft: Drafted, name: str) -> dict[str, str]:
    """File name → state of its delivery to one destination."""
    return {path: state for (path, to), state in draft.owed().items() if to == name and "-" not in path}


def uids(draft: Drafted, *kinds: str) -> set[str]:
    return {one.sop_instance_uid for one in draft.objects() if one.kind in kinds}


ALL = ("SEG", "FINDINGS_SR", "DRAFT_SR")


@pytest.mark.requirement("REQ-DELIV-6")
def test_a_rejected_draft_is_taken_back_where_it_went_and_only_once(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    assert note(site) == 0
    reject(draft, browser, "Findings missed", "see the liver of Mrs Halvorsen")
    assert note(site) == 1
    (ds,) = notes(draft)
    assert ds.SOPClassUID.name == "Key Object Selection Document Storage"
    assert (title(ds), taken_back(ds)) == (QUALITY, uids(draft, *ALL))
    assert (ds.PatientID, ds.StudyInstanceUID) == ("P-1001", draft.datasets[0].StudyInstanceUID)
    texts = [item.TextValue for item in ds.ContentSequence if item.ValueType == "TEXT"]
    assert "The reader rejected the AI draft that this belongs to: Findings missed." in texts
    assert "Halvorsen" not in " ".join(texts)
    owed = {name for (path, name) in draft.owed() if path == f"{ds.SOPInstanceUID}.dcm"}
    assert owed == {"DRAFTS"}
    with site.sessions() as db:
        (event,) = db.scalars(select(AuditEvent).where(AuditEvent.tag == "delivery:rejection_noted"))
        assert event.detail["objects"] == sorted(uids(draft, *ALL))
        assert (event.detail["destinations"], event.study_id) == (["DRAFTS"], draft.study_id)
    draft.deliver()
    assert note(site) == 0
    assert len(notes(draft)) == 1


@pytest.mark.parametrize(
    ("kind", "code"), [("Wrong side or location", SAFETY), ("Findings wrong", QUALITY), ("Other", QUALITY)]
)
def test_a_wrong_side_is_a_matter_of_patient_safety(site, browser, kind, code) -> None:
    draft = drafted(site)
    draft.deliver()
    reject(draft, browser, kind)
    note(site)
    assert [title(ds) for ds in notes(draft)] == [code]


def test_a_draft_that_later_images_made_incomplete_is_taken_back(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    later = ct_study(1)[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(later, keyword, draft.datasets[0][keyword].value)
    site.receive([later])
    assert site.report(draft.study_id).state is ReportState.UNREAD
    assert note(site) == 1
    (ds,) = notes(draft)
    assert (title(ds), taken_back(ds)) == (QUALITY, uids(draft, *ALL))


def test_of_a_final_report_only_pictures_of_rejected_findings_are_taken_back(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    signed(draft, browser, hepatic="rejected:Wrong location or side")
    assert note(site) == 1
    (ds,) = notes(draft)
    rejected = {one.sop_instance_uid for one in draft.objects("SEG") if one.path.endswith("seg_2.dcm")}
    assert (title(ds), taken_back(ds)) == (SAFETY, rejected)
    # the draft's texts and coded findings are replaced by what names them as predecessors
    followed = {
        str(item.ReferencedSOPInstanceUID)
        for kind in ("SIGNED_SR", "SIGNED_FINDINGS_SR")
        for one in draft.objects(kind)
        for study in dcmread(site.settings.results_dir / one.path).PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert followed == uids(draft, "DRAFT_SR", "FINDINGS_SR")


def test_when_everything_was_rejected_the_coded_findings_are_taken_back_too(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    signed(draft, browser, lung="rejected:Artefact", hepatic="rejected:Artefact")
    assert draft.objects("SIGNED_FINDINGS_SR") == []
    note(site)
    assert set().union(*map(taken_back, notes(draft))) == uids(draft, "SEG", "FINDINGS_SR")


def test_a_report_that_kept_everything_takes_nothing_back(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    signed(draft, browser)
    assert note(site) == 0


def test_before_the_final_signature_a_rejected_finding_takes_nothing_back(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    browser.submit(f"/studies/{draft.study_id}/review")
    draft.decide(browser, lung="rejected:Artefact")
    assert note(site) == 0


def test_destinations_that_hold_different_objects_get_different_notes(tmp_path, sqlite_url) -> None:
    site = make_site(tmp_path, sqlite_url, destinations=(DRAFTS, SECOND))
    browser = site.client("radiologist")
    draft = drafted(site)
    draft.deliver("SEG")
    with unit_of_work(site.sessions, SENDER) as uow:
        for delivery in uow.session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)):
            delivery.next_attempt_at = utcnow()
            if delivery.destination == "SECOND":
                delivery.next_attempt_at = utcnow().replace(year=2100)
    draft.deliver()
    reject(draft, browser)
    assert note(site) == 2
    got = {}
    for made, ds in zip(draft.objects("REJECTION_NOTE"), notes(draft), strict=True):
        (name,) = {name for (path, name) in draft.owed() if made.path.endswith(path)}
        got[name] = taken_back(ds)
    assert got == {"DRAFTS": uids(draft, *ALL), "SECOND": uids(draft, "SEG")}


def test_a_note_made_again_after_a_crash_is_the_same_instance(site, browser) -> None:
    draft = drafted(site)
    draft.deliver()
    reject(draft, browser)
    with site.sessions() as db:  # made, and lost before it was committed
        lost = encode(build_note(db, undone(db, ["DRAFTS"]), site.settings))
    assert note(site) == 1
    (made,) = draft.objects("REJECTION_NOTE")
    assert (site.settings.results_dir / made.path).read_bytes() == lost


def test_a_destination_that_took_it_later_gets_the_note_that_was_made(tmp_path, sqlite_url) -> None:
    site = make_site(tmp_path, sqlite_url, destinations=(DRAFTS, SECOND))
    browser = site.client("radiologist")
    draft = drafted(site)
    jobs = []
    while job := draft.claim():
        jobs.append(job)
    reject(draft, browser)
    for name in ("DRAFTS", "SECOND"):
        with unit_of_work(site.sessions, SENDER) as uow:
            for job in jobs:
                if job.destination == name:
                    lifecycle.delivered(uow, job.delivery_id)
        assert note(site) == 1
    (made,) = draft.objects("REJECTION_NOTE")
    assert {name for (path, name) in draft.owed() if made.path.endswith(path)} == {"DRAFTS", "SECOND"}


# --- nothing of a withdrawn draft leaves ----------------------------------------------------------------------


@pytest.mark.requirement("REQ-DELIV-6")
def test_what_waits_when_a_draft_is_rejected_never_leaves_not_even_after_it_was_read_again(site, browser) -> None:
    draft = drafted(site)
    reject(draft, browser)
    assert set(states(draft, "DRAFTS").values()) == {"WITHDRAWN"}
    browser.submit(f"/studies/{draft.study_id}/review")
    browser.submit(
        f"/studies/{draft.study_id}/sections", version=site.report(draft.study_id).version, findings="Normal."
    )
    assert sign(site, browser, draft.study_id).status_code == 303
    assert set(states(draft, "DRAFTS").values()) == {"WITHDRAWN"}
    draft.deliver()
    assert note(site) == 0


def test_what_is_being_sent_when_its_draft_is_rejected_stops_before_the_next_byte(site, browser) -> None:
    draft = drafted(site)
    job = draft.claim()
    assert job is not None
    reject(draft, browser)
    with unit_of_work(site.sessions, SENDER) as uow:
        assert renew_delivery(uow, job, utcnow(), lease_s=60.0) is False
    assert set(states(draft, job.destination).values()) == {"WITHDRAWN"}


def test_what_arrived_while_its_draft_was_rejected_is_taken_back(site, browser) -> None:
    draft = drafted(site)
    job = draft.claim()
    while job is not None and job.destination != "DRAFTS":
        job = draft.claim()
    assert job is not None
    reject(draft, browser)
    with unit_of_work(site.sessions, SENDER) as uow:
        lifecycle.delivered(uow, job.delivery_id)
    assert note(site) == 1
    assert [taken_back(ds) for ds in notes(draft)] == [{job.sop_instance_uid}]


def test_a_failed_delivery_of_a_rejected_draft_is_not_sent_again_after_the_study_was_reopened(site, browser) -> None:
    draft = drafted(site)
    job = draft.claim()
    assert job is not None
    with unit_of_work(site.sessions, SENDER) as uow:
        lifecycle.delivery_failed(uow, job.delivery_id, "refused", base_s=1.0, max_attempts=1)
    reject(draft, browser)
    browser.submit(f"/studies/{draft.study_id}/review")
    with unit_of_work(site.sessions, SENDER) as uow:
        lifecycle.resubmit(uow, job.delivery_id)
    again = draft.claim()
    assert again is not None
    assert again.delivery_id == job.delivery_id
    with unit_of_work(site.sessions, SENDER) as uow:
        assert renew_delivery(uow, again, utcnow(), lease_s=60.0) is False


def test_a_superseded_drafts_pictures_do_not_leave_under_the_report_of_a_newer_one(site, browser) -> None:
    draft = drafted(site)
    job = draft.claim()
    assert job is not None
    with unit_of_work(site.sessions, SENDER) as uow:
        lifecycle.delivery_failed(uow, job.delivery_id, "refused", base_s=1.0, max_attempts=1)
    later = ct_study(1)[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(later, keyword, draft.datasets[0][keyword].value)
    site.receive([later])
    claim = site.claimed(draft.study_id)
    with unit_of_work(site.sessions, SENDER) as uow:
        content = lifecycle.NewDraft({"findings": "Normal."}, claim.image_set_sha256, "1.0")
        lifecycle.drafted(uow, claim, content)
    browser.submit(f"/studies/{draft.study_id}/review")
    assert sign(site, browser, draft.study_id).status_code == 303
    with unit_of_work(site.sessions, SENDER) as uow:
        lifecycle.resubmit(uow, job.delivery_id)
    while (again := draft.claim()) is not None and again.delivery_id != job.delivery_id:
        pass
    assert again is not None
    with unit_of_work(site.sessions, SENDER) as uow:
        assert renew_delivery(uow, again, utcnow(), lease_s=60.0) is False
