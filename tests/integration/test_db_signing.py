"""Signing: one fresh act of one person over one text and one image set, or nothing at all."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db import lifecycle
from db.models import AuditEvent, Delivery, Reading, ResultObject
from db.report_models import Draft, ReportRevision, Signature
from db.types import Decision, ReportState, utcnow
from db.uow import unit_of_work
from tests.db_support import (
    Journey,
    an_object,
    decide_all,
    header,
    open_review,
    person,
    receive,
    received,
    receiving,
    sign,
)


@pytest.fixture
def journey(sessions) -> Journey:
    return received(sessions).queued().running().drafted()


@pytest.fixture
def reader(sessions):
    return person(sessions)


def _save(journey: Journey, reader, version: int, **sections: str) -> int:
    with unit_of_work(journey.sessions, reader) as uow:
        return lifecycle.save_sections(uow, journey.report().id, sections, seen_version=version)


def _reject(journey: Journey, reader, version: int, reason: str = "wrong patient position") -> None:
    with unit_of_work(journey.sessions, reader) as uow:
        lifecycle.reject(uow, journey.report().id, reason=reason, seen_version=version)


@pytest.mark.requirement("REQ-SIGN-5")
def test_signing_is_one_act_that_binds_text_images_person_and_objects(journey, reader, sessions):
    version = decide_all(journey, reader, open_review(journey, reader))
    made = an_object()
    signature = sign(journey, reader, version, objects=[made], destinations=["pacs", "vna"])
    report = journey.report()
    assert (report.state, report.locked_by) == (ReportState.FINAL, None)
    with sessions() as session:
        kept = session.scalars(select(Signature)).one()
        assert (kept.id, kept.user_id, kept.printed_name) == (signature.id, reader.user_id, "Dr reader")
        assert kept.text_sha256 == lifecycle.text_sha256({"findings": "A nodule.", "impression": "Nodule."})
        assert kept.image_set_sha256 == journey.held.image_set_sha256
        assert kept.draft_id == journey.draft_id
        row = session.scalars(select(ResultObject).where(ResultObject.signature_id == kept.id)).one()
        assert (row.sop_instance_uid, row.sha256) == (made.sop_instance_uid, made.sha256)
        owed = session.scalars(select(Delivery.destination).where(Delivery.result_object_id == row.id))
        assert sorted(owed) == ["pacs", "vna"]
        last = session.scalars(select(ReportRevision).order_by(ReportRevision.number.desc()).limit(1)).one()
        assert (last.author_id, last.sections) == (reader.user_id, report.sections)
        event = session.scalars(select(AuditEvent).where(AuditEvent.tag == "report:signed_final")).one()
        assert event.detail["text_sha256"] == kept.text_sha256
        assert event.actor == "reader"
        # the unverified text is no longer owed, the draft's segmentation is
        drafts = dict(
            session.execute(
                select(ResultObject.kind, Delivery.state)
                .join(Delivery, Delivery.result_object_id == ResultObject.id)
                .where(ResultObject.draft_id == journey.draft_id)
            ).all()
        )
    assert {kind: state.value for kind, state in drafts.items()} == {"DRAFT_SR": "WITHDRAWN", "SEG": "PENDING"}


@pytest.mark.requirement("REQ-SIGN-5")
def test_the_signed_texts_hash_is_of_canonical_json():
    canonical = '{"findings":"A","impression":"ä"}'  # UTF-8, keys sorted, empty sections left out
    digest = lifecycle.text_sha256({"impression": "ä", "findings": "A", "history": ""})
    assert digest == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"authenticated_at": utcnow() - timedelta(seconds=301)}, NotAuthorisedError),
        ({"authenticated_at": utcnow() + timedelta(hours=2)}, NotAuthorisedError),
        ({"signed_at": utcnow() - timedelta(days=1)}, NotAuthorisedError),
        ({"signed_at": utcnow() + timedelta(days=1)}, NotAuthorisedError),
        ({"printed_name": "Dr Somebody Else"}, NotAuthorisedError),
        ({"meaning": " "}, RefusedInputError),
        ({"objects": []}, RefusedInputError),
        ({"state": ReportState.ADDENDED}, RefusedInputError),
    ],
    ids=["old-authentication", "future", "signed-yesterday", "signed-tomorrow", "name", "meaning", "object", "state"],
)
def test_a_signature_that_lacks_something_is_refused_and_changes_nothing(journey, reader, sessions, changes, error):
    version = decide_all(journey, reader, open_review(journey, reader))
    with pytest.raises(error):
        sign(journey, reader, version, **changes)
    assert (journey.report().state, journey.report().version) == (ReportState.IN_REVIEW, version)
    with sessions() as session:
        assert session.scalars(select(Signature)).all() == []


def test_a_present_finding_nobody_decided_stops_the_signature_an_absent_one_does_not(journey, reader, sessions):
    version = open_review(journey, reader)
    with pytest.raises(LifecycleError, match="nobody decided"):
        sign(journey, reader, version)
    present = journey.findings()[0]
    with unit_of_work(sessions, reader) as uow:
        version = lifecycle.decide_finding(
            uow, journey.report().id, present.id, Decision.REJECTED, seen_version=version
        )
    sign(journey, reader, version)
    assert journey.findings()[1].decision is Decision.PENDING


@pytest.mark.requirement("REQ-SIGN-3")
def test_nobody_signs_what_another_reader_holds_or_nobody_opened(journey, reader, sessions):
    with pytest.raises(LifecycleError):
        sign(journey, reader, journey.report().version)
    version = decide_all(journey, reader, open_review(journey, reader))
    with pytest.raises(LifecycleError, match="not locked by this reader"):
        sign(journey, person(sessions, "second"), version)
    with unit_of_work(sessions, reader) as uow:
        lifecycle.release(uow, journey.report().id)
    with pytest.raises(LifecycleError, match="not locked by this reader"):
        sign(journey, reader, journey.report().version)


@pytest.mark.requirement("REQ-SIGN-4")
def test_a_final_report_is_never_signed_edited_rejected_or_opened_again(journey, reader):
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    version = journey.report().version
    for act in (
        lambda: open_review(journey, reader),
        lambda: sign(journey, reader, version),
        lambda: sign(journey, reader, version, state=ReportState.PRELIMINARY),
        lambda: _save(journey, reader, version, impression="x"),
        lambda: _reject(journey, reader, version),
    ):
        with pytest.raises(LifecycleError):
            act()
    assert (journey.report().state, journey.report().version) == (ReportState.FINAL, version)


def test_two_signatures_at_once_make_one(journey, reader, sessions):
    version = decide_all(journey, reader, open_review(journey, reader))
    barrier = Barrier(2)

    def act(_: int) -> bool:
        barrier.wait()
        try:
            sign(journey, reader, version)
        except LifecycleError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(act, range(2))) == [False, True]
    with sessions() as session:
        assert len(session.scalars(select(Signature)).all()) == 1


def test_a_preliminary_report_is_made_final_by_another_reader(journey, reader, sessions):
    version = decide_all(journey, reader, open_review(journey, reader))
    sign(journey, reader, version, state=ReportState.PRELIMINARY)
    assert journey.report().state is ReportState.PRELIMINARY
    senior = person(sessions, "senior")
    sign(journey, senior, journey.report().version)
    with sessions() as session:
        signed = session.scalars(select(Signature.state).order_by(Signature.signed_at)).all()
    assert [state.value for state in signed] == ["PRELIMINARY", "FINAL"]


def test_a_preliminary_report_with_late_images_must_be_opened_again_before_it_is_final(journey, reader, sessions):
    version = decide_all(journey, reader, open_review(journey, reader))
    sign(journey, reader, version, state=ReportState.PRELIMINARY)
    receive(sessions, header(9))
    assert (journey.report().state, journey.report().late_images) == (ReportState.PRELIMINARY, True)
    with pytest.raises(LifecycleError, match=r"images .* changed"):
        sign(journey, reader, journey.report().version)
    journey.reading_id = receiving(sessions, journey.study_id)
    journey.queued().running().drafted()
    version = open_review(journey, reader)
    assert journey.report().draft_id == journey.draft_id  # the draft of all images, its findings undecided
    assert journey.report().sections["impression"] == "Nodule."
    sign(journey, reader, decide_all(journey, reader, version))
    report = journey.report()
    assert (report.state, report.late_images) == (ReportState.FINAL, False)


@pytest.mark.requirement("REQ-BIND-3")
def test_images_that_arrive_during_the_last_click_stop_the_signature(journey, reader, sessions):
    """A late image and a signature race: either the report is signed and flagged, or the signature is refused."""
    version = decide_all(journey, reader, open_review(journey, reader))
    barrier = Barrier(2)

    def click() -> bool:
        barrier.wait()
        try:
            sign(journey, reader, version)
        except LifecycleError:
            return False
        return True

    def arrive() -> None:
        barrier.wait()
        receive(sessions, header(9))

    with ThreadPoolExecutor(2) as pool:
        signed, late = pool.submit(click), pool.submit(arrive)
        late.result()
        was_signed = signed.result()
    report = journey.report()
    if was_signed:
        assert (report.state, report.late_images) == (ReportState.FINAL, True)
    else:
        assert (report.state, report.draft_id) == (ReportState.UNREAD, None)


def test_a_draft_arriving_after_a_signature_waits_beside_the_report(journey, reader, sessions):
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    receive(sessions, header(9))
    journey.reading_id = receiving(sessions, journey.study_id)
    first = journey.draft_id
    journey.queued().running().drafted()
    with sessions() as session:
        assert len(session.scalars(select(Draft)).all()) == 2
        assert session.get_one(Reading, journey.reading_id).superseded is False
    assert journey.report().draft_id == first


def test_unknown_ids_are_a_named_error(sessions, reader):
    with pytest.raises(LifecycleError, match="there is no report"), unit_of_work(sessions, reader) as uow:
        lifecycle.open_review(uow, uuid4())
    with pytest.raises(LifecycleError, match="there is no reading"), unit_of_work(sessions, reader) as uow:
        lifecycle.process_again(uow, uuid4())
