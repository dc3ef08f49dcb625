"""Which pixel data may go: every reason to keep a Study, on both engines."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from config.errors import ConflictingInstanceError, LifecycleError, RefusedInputError
from config.routing import RoutingVerdict
from db import lifecycle
from db.lifecycle import retention
from db.lifecycle.priors import held_instances
from db.lifecycle.retention import Terms
from db.models import AuditEvent, Delivery, Instance, Study
from db.types import CommitmentState, ReportState, utcnow
from db.uow import Actor, unit_of_work
from tests.db_support import (
    SENDER,
    WORKER,
    Journey,
    decide_all,
    header,
    open_review,
    person,
    receive,
    received,
    receiving,
    sign,
)

Sessions = sessionmaker[Session]
ADMIN = Actor("cli:jdoe", "person")
IGNORE = RoutingVerdict("ignore", rule="none", reason="no rule")
HOLD = RoutingVerdict("hold", rule="held", reason="a person decides")
COMMITTING = Terms(committing=frozenset({"pacs"}))
UNREPORTED = Terms(unreported=True)


def deliver_all(sessions: Sessions) -> None:
    """Every destination takes everything."""
    while True:
        with unit_of_work(sessions, SENDER) as uow:
            job = lifecycle.claim_delivery(uow, utcnow() + timedelta(days=1), lease_s=60)
        if job is None:
            return
        with unit_of_work(sessions, SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id)


def signed(sessions: Sessions, uid: str = "1.2.826.0.1", *, login: str = "reader", **changes: Any) -> Journey:
    """A Study with a final report whose objects are still owed."""
    journey = received(sessions, uid).queued().running().drafted()
    reader = person(sessions, login)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)), **changes)
    return journey


def finished(sessions: Sessions, uid: str = "1.2.826.0.1", *, login: str = "reader") -> Journey:
    """A Study with a final report that the archive has."""
    journey = signed(sessions, uid, login=login)
    deliver_all(sessions)
    return journey


def reasons(journey: Journey, terms: Terms | None = None) -> list[str]:
    with journey.sessions() as session:
        return retention.kept_because(session, journey.study_id, terms or Terms())


def may_go(sessions: Sessions, terms: Terms | None = None, **changes: Any) -> list[UUID]:
    with sessions() as session:
        return [one.study_id for one in retention.next_to_go(session, terms or Terms(), **changes)]


def test_a_signed_and_delivered_study_may_go(sessions: Sessions) -> None:
    journey = finished(sessions)
    assert reasons(journey) == []
    with sessions() as session:
        (study,) = retention.next_to_go(session, Terms())
    assert (study.study_id, study.files, study.size_bytes) == (journey.study_id, 2, 200)


def _receiving(sessions: Sessions) -> Journey:
    return received(sessions)


def _queued(sessions: Sessions) -> Journey:
    return received(sessions).queued()


def _running(sessions: Sessions) -> Journey:
    return received(sessions).queued().running()


def _held(sessions: Sessions) -> Journey:
    return received(sessions).queued(HOLD)


def _failed(sessions: Sessions) -> Journey:
    journey = received(sessions).queued().running()
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.fail(uow, journey.held, "broken")
    return journey


def _drafted(sessions: Sessions) -> Journey:
    journey = received(sessions).queued().running().drafted()
    deliver_all(sessions)
    return journey


def _in_review(sessions: Sessions) -> Journey:
    journey = _drafted(sessions)
    open_review(journey, person(sessions))
    return journey


def _preliminary(sessions: Sessions) -> Journey:
    journey = signed(sessions, state=ReportState.PRELIMINARY)
    deliver_all(sessions)
    return journey


def _owed(sessions: Sessions) -> Journey:
    return signed(sessions)


def _refused_by_the_archive(sessions: Sessions) -> Journey:
    journey = signed(sessions)
    with unit_of_work(sessions, SENDER) as uow:
        while job := lifecycle.claim_delivery(uow, utcnow(), lease_s=60):
            lifecycle.delivery_failed(uow, job.delivery_id, "refused", base_s=1, max_attempts=1)
    return journey


def _late_images(sessions: Sessions) -> Journey:
    journey = finished(sessions)
    receive(sessions, header(9))
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.complete(uow, receiving(sessions, journey.study_id), IGNORE)
    return journey


def _revision_in_progress(sessions: Sessions) -> Journey:
    journey = finished(sessions)
    receive(sessions, header(9))
    return journey


def _no_destination(sessions: Sessions) -> Journey:
    journey = received(sessions).queued().running().drafted(destinations=[])
    reader = person(sessions)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)), destinations=[])
    return journey


def _legal_hold(sessions: Sessions) -> Journey:
    journey = finished(sessions)
    with unit_of_work(sessions, ADMIN) as uow:
        retention.place_hold(uow, journey.study_id, "claim 12/2026")
    return journey


@pytest.mark.requirement("REQ-KEEP-1")
@pytest.mark.parametrize(
    ("made", "why"),
    [
        (_receiving, "being received or processed"),
        (_queued, "being received or processed"),
        (_running, "being received or processed"),
        (_held, "waits for a person: held or failed"),
        (_failed, "waits for a person: held or failed"),
        (_drafted, "its draft is not signed"),
        (_in_review, "open for review"),
        (_preliminary, "its report is preliminary"),
        (_owed, "results are not delivered"),
        (_refused_by_the_archive, "results are not delivered"),
        (_late_images, "images arrived after it was signed"),
        (_revision_in_progress, "being received or processed"),
        (_legal_hold, "legal hold"),
    ],
)
def test_it_stays_whatever_the_site_says(sessions: Sessions, made: Callable[[Sessions], Journey], why: str) -> None:
    journey = made(sessions)
    assert why in reasons(journey, UNREPORTED)
    assert may_go(sessions, UNREPORTED) == []
    with unit_of_work(sessions, ADMIN) as uow:
        assert retention.claim_pixels(uow, journey.study_id, UNREPORTED) == ()


def _ignored(sessions: Sessions) -> Journey:
    return received(sessions).queued(IGNORE)


def _no_draft(sessions: Sessions) -> Journey:
    journey = received(sessions).queued().running()
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.no_draft(uow, journey.held, "outside the intended use")
    return journey


def _rejected(sessions: Sessions) -> Journey:
    journey = received(sessions).queued().running().drafted()
    reader = person(sessions)
    version = open_review(journey, reader)
    with unit_of_work(sessions, reader) as uow:
        lifecycle.reject(uow, journey.report().id, reason="wrong", seen_version=version)
    return journey


@pytest.mark.parametrize("made", [_ignored, _no_draft, _rejected, _no_destination])
def test_what_was_never_reported_goes_only_when_the_site_says_so(
    sessions: Sessions, made: Callable[[Sessions], Journey]
) -> None:
    journey = made(sessions)
    assert reasons(journey) == ["no signed report was delivered"]
    assert may_go(sessions) == []
    assert may_go(sessions, UNREPORTED) == [journey.study_id]


@pytest.mark.requirement("REQ-KEEP-1")
@pytest.mark.parametrize("state", [one for one in CommitmentState if one is not CommitmentState.COMMITTED])
def test_nothing_goes_before_the_destination_committed(sessions: Sessions, state: CommitmentState) -> None:
    journey = finished(sessions)
    with sessions() as session:
        session.execute(update(Delivery).values(commitment=state))
        session.commit()
    assert reasons(journey, COMMITTING) == ["results are not committed"]
    # a commitment that was asked for and not given counts even when the settings changed since
    asked = state is not CommitmentState.NOT_ASKED
    assert reasons(journey) == (["results are not committed"] if asked else [])
    with sessions() as session:
        session.execute(update(Delivery).values(commitment=CommitmentState.COMMITTED))
        session.commit()
    assert reasons(journey, COMMITTING) == []


def test_a_prior_goes_when_no_study_of_the_patient_is_worked_on(sessions: Sessions) -> None:
    prior = received(sessions, "1.2.826.0.7").queued(IGNORE)
    with sessions() as session:
        session.execute(update(Study).values(is_prior=True))
        session.commit()
    assert reasons(prior) == []
    current = received(sessions, "1.2.826.0.8")
    assert reasons(prior) == ["a comparison for a study that is not finished"]
    current.queued().running().drafted()
    assert reasons(prior) == ["a comparison for a study that is not finished"]
    stranger = received(sessions, "1.2.826.0.9", patient_id="P-2")
    reader = person(sessions)
    sign(current, reader, decide_all(current, reader, open_review(current, reader)))
    assert reasons(prior) == []
    assert "being received or processed" in reasons(stranger)


def test_a_prior_that_went_is_fetched_again(sessions: Sessions) -> None:
    prior = received(sessions, "1.2.826.0.7").queued(IGNORE)
    with sessions() as session:
        session.execute(update(Study).values(is_prior=True))
        session.commit()
        assert len(held_instances(session, "1.2.826.0.7")) == 2
    _delete(prior)
    with sessions() as session:
        assert held_instances(session, "1.2.826.0.7") == frozenset()
    receive(sessions, header(1, "1.2.826.0.7"))
    with sessions() as session:
        assert held_instances(session, "1.2.826.0.7") == {"1.2.826.0.7.1.1"}


def test_the_oldest_come_first_and_pages_follow_each_other(sessions: Sessions) -> None:
    journeys = [finished(sessions, f"1.2.826.0.{n}", login=f"reader{n}") for n in range(5)]
    now = utcnow()
    with sessions() as session:
        for days, journey in zip((3, 5, 1, 5, 2), journeys, strict=True):
            session.get_one(Study, journey.study_id).last_received_at = now - timedelta(days=days)
        session.commit()
    with sessions() as session:
        first = retention.next_to_go(session, Terms(), limit=2)
        rest = retention.next_to_go(session, Terms(), limit=9, after=first[-1])
    ids = [journey.study_id for journey in journeys]
    assert {one.study_id for one in first} == {ids[1], ids[3]}
    assert [one.study_id for one in rest] == [ids[0], ids[4], ids[2]]
    assert may_go(sessions, received_before=now - timedelta(days=2, hours=1)) == [*(o.study_id for o in first), ids[0]]


@pytest.mark.requirement("REQ-KEEP-3")
def test_claiming_marks_every_row_and_keeps_it(sessions: Sessions) -> None:
    journey = finished(sessions)
    with unit_of_work(sessions, ADMIN) as uow:
        paths = retention.claim_pixels(uow, journey.study_id, Terms())
        retention.pixels_deleted(uow, journey.study_id, files=2, size_bytes=200, missing=0, why="older than 30 days")
    assert paths == ["1.2.826.0.1.1.1.dcm", "1.2.826.0.1.1.2.dcm"]
    assert journey.study().pixels_deleted_at is not None
    with sessions() as session:
        instances = session.scalars(select(Instance)).all()
        event = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(1)).one()
    assert len(instances) == 2
    assert all(one.deleted_at and len(one.sha256) == 64 for one in instances)
    assert (event.tag, event.actor) == ("study:pixels_deleted", "cli:jdoe")
    assert event.detail == {"files": 2, "bytes": 200, "missing": 0, "why": "older than 30 days"}
    assert may_go(sessions) == []


def _delete(journey: Journey) -> None:
    with unit_of_work(journey.sessions, ADMIN) as uow:
        assert len(retention.claim_pixels(uow, journey.study_id, Terms())) == 2


def test_the_same_instance_again_is_taken_back_and_the_study_stays_its_time_anew(sessions: Sessions) -> None:
    journey = finished(sessions)
    with sessions() as session:
        session.execute(update(Study).values(last_received_at=utcnow() - timedelta(days=90)))
        session.commit()
    _delete(journey)
    answer = receive(sessions, header(2))
    assert not answer.is_new
    with sessions() as session:
        gone = {one.instance_number: one.deleted_at for one in session.scalars(select(Instance))}
        detail = session.scalars(select(AuditEvent).where(AuditEvent.tag == "instance:duplicate")).one().detail
    assert gone[1] is not None
    assert gone[2] is None
    assert detail == {"restored": True}
    study = journey.study()
    assert (study.pixels_deleted_at, study.revision, study.instance_count) == (None, 1, 2)
    assert may_go(sessions, received_before=utcnow() - timedelta(days=1)) == []
    with sessions() as session:
        (again,) = retention.next_to_go(session, Terms())
    assert again.files == 1


def test_a_new_image_of_a_study_whose_pixels_are_gone_is_a_revision_that_is_kept(sessions: Sessions) -> None:
    journey = finished(sessions)
    _delete(journey)
    assert receive(sessions, header(3)).revision == 2
    assert journey.study().pixels_deleted_at is None
    assert "being received or processed" in reasons(journey)


def test_other_bytes_under_a_deleted_uid_are_still_a_conflict(sessions: Sessions) -> None:
    _delete(finished(sessions))
    with pytest.raises(ConflictingInstanceError):
        receive(sessions, header(2), sha256="f" * 64)


def test_an_instance_that_comes_between_the_question_and_the_lock_keeps_the_study(sessions: Sessions) -> None:
    journey = finished(sessions)
    before = utcnow() + timedelta(seconds=5)
    assert may_go(sessions, received_before=before) == [journey.study_id]
    with unit_of_work(sessions, ADMIN) as uow:
        assert (
            retention.claim_pixels(uow, journey.study_id, Terms(), received_before=utcnow() - timedelta(days=1)) == ()
        )


@pytest.mark.requirement("REQ-KEEP-2")
def test_a_hold_is_placed_and_lifted_for_a_reason_by_somebody(sessions: Sessions) -> None:
    journey = finished(sessions)
    with unit_of_work(sessions, ADMIN) as uow:
        retention.place_hold(uow, journey.study_id, "  claim\n12/2026 ")
    with pytest.raises(LifecycleError, match="already"), unit_of_work(sessions, ADMIN) as uow:
        retention.place_hold(uow, journey.study_id, "again")
    assert reasons(journey) == ["legal hold"]
    for empty in ("", " \n", "x" * 501):
        with pytest.raises(RefusedInputError), unit_of_work(sessions, ADMIN) as uow:
            retention.lift_hold(uow, journey.study_id, empty)
    with unit_of_work(sessions, ADMIN) as uow:
        retention.lift_hold(uow, journey.study_id, "settled")
    with pytest.raises(LifecycleError, match="not under"), unit_of_work(sessions, ADMIN) as uow:
        retention.lift_hold(uow, journey.study_id, "settled")
    with sessions() as session:
        events = session.scalars(
            select(AuditEvent).where(AuditEvent.tag.like("study:hold%")).order_by(AuditEvent.seq)
        ).all()
    assert [(one.tag, one.actor, one.actor_kind, one.detail) for one in events] == [
        ("study:hold_placed", "cli:jdoe", "person", {"reason": "claim 12/2026"}),
        ("study:hold_lifted", "cli:jdoe", "person", {"reason": "settled"}),
    ]


def test_what_is_kept_is_counted_by_the_first_reason(sessions: Sessions) -> None:
    _legal_hold(sessions)
    received(sessions, "1.2.826.0.4", images=5)
    finished(sessions, "1.2.826.0.5", login="other")
    with sessions() as session:
        kept = {one.reason: (one.studies, one.size_bytes) for one in retention.kept_studies(session, Terms())}
    assert kept == {"legal hold": (1, 200), "being received or processed": (1, 500), "": (1, 200)}
