"""Leases: one worker at a time, a lost worker is fenced off, no Reading is ever forgotten."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import select

from config.errors import LifecycleError
from config.routing import RoutingVerdict
from db import lifecycle
from db.image_set import hash_image_set
from db.lifecycle import Claim
from db.models import AuditEvent, Delivery, Instance, Reading, ResultObject
from db.report_models import Draft, Evidence, Finding, ReportRevision
from db.types import Priority, ReadingState, ReportState, utcnow
from db.uow import UnitOfWork, unit_of_work
from tests.db_support import (
    SWEEPER,
    WORKER,
    Journey,
    Sessions,
    an_object,
    header,
    messages,
    new_draft,
    person,
    receive,
    received,
    tags,
)


def _claim(sessions: Sessions, journey: Journey, owner: str = "w2") -> Claim | None:
    with unit_of_work(sessions, WORKER) as uow:
        return lifecycle.claim(uow, journey.reading_id, owner=owner, lease_s=60)


def _expire(sessions: Sessions, *, after_s: float = 3600, max_attempts: int = 3) -> int:
    with unit_of_work(sessions, SWEEPER) as uow:
        return lifecycle.requeue_expired(uow, utcnow() + timedelta(seconds=after_s), max_attempts=max_attempts)


def _due(sessions: Sessions, after_s: float) -> int:
    with unit_of_work(sessions, SWEEPER) as uow:
        return lifecycle.requeue_due(uow, utcnow() + timedelta(seconds=after_s))


def test_a_claim_names_what_to_read_and_is_given_once(sessions):
    journey = received(sessions).queued().running(owner="gpu-1")
    held = journey.held
    assert (held.study_id, held.revision, held.profile, held.attempts) == (journey.study_id, 1, "chest-ct", 1)
    with sessions() as session:
        hashes = session.scalars(select(Instance.sha256)).all()
    assert held.image_set_sha256 == hash_image_set(hashes)
    reading = journey.reading()
    assert (reading.state, reading.lease_owner) == (ReadingState.RUNNING, "gpu-1")
    assert _claim(sessions, journey) is None


def test_of_many_workers_that_wake_at_once_one_gets_the_reading(sessions):
    journey = received(sessions).queued()
    barrier = Barrier(4)

    def take(number: int) -> Claim | None:
        barrier.wait()
        return _claim(sessions, journey, f"w{number}")

    with ThreadPoolExecutor(4) as pool:
        claims = [claim for claim in pool.map(take, range(4)) if claim is not None]
    assert len(claims) == 1
    assert journey.reading().lease_owner == claims[0].owner
    assert tags(sessions).count("reading:started") == 1


def test_nothing_is_claimed_that_is_unknown_not_queued_or_finished(sessions):
    journey = received(sessions)
    assert _claim(sessions, journey) is None
    assert _claim(sessions, Journey(sessions, journey.study_id, uuid4())) is None
    journey.queued().running().drafted()
    assert _claim(sessions, journey) is None


ACTS: dict[str, Callable[[UnitOfWork, Claim], object]] = {
    "heartbeat": lambda uow, held: lifecycle.heartbeat(uow, held, lease_s=60),
    "drafted": lambda uow, held: lifecycle.drafted(uow, held, new_draft(held)),
    "no_draft": lambda uow, held: lifecycle.no_draft(uow, held, "gate"),
    "retry": lambda uow, held: lifecycle.retry(uow, held, "busy", base_s=1, max_attempts=3),
    "fail": lambda uow, held: lifecycle.fail(uow, held, "broken"),
}


@pytest.mark.requirement("REQ-FAIL-6")
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("taken_over", [True, False], ids=["another-worker-has-it", "queued-again"])
def test_a_worker_that_lost_its_lease_can_do_nothing(sessions, act, taken_over):
    journey = received(sessions).queued().running(owner="slow")
    lost = journey.held
    assert _expire(sessions) == 1
    if taken_over:
        journey.running(owner="fast")
        assert journey.held.fencing_token > lost.fencing_token
    before, events = journey.reading(), tags(sessions)
    with pytest.raises(LifecycleError, match="no longer this worker's"), unit_of_work(sessions, WORKER) as uow:
        ACTS[act](uow, lost)
    after = journey.reading()
    assert (after.state, after.lease_until, after.version) == (before.state, before.lease_until, before.version)
    assert tags(sessions) == events
    with sessions() as session:
        assert session.scalars(select(Draft)).all() == []


@pytest.mark.parametrize("act", ACTS)
def test_the_worker_that_holds_the_lease_can(sessions, act):
    journey = received(sessions).queued().running()
    with unit_of_work(sessions, WORKER) as uow:
        ACTS[act](uow, journey.held)
    expected = {"heartbeat": "RUNNING", "drafted": "DRAFTED", "no_draft": "NO_DRAFT", "retry": "RETRYING"}
    assert journey.reading().state.value == expected.get(act, "FAILED")


def test_a_heartbeat_keeps_the_lease_and_never_makes_the_result_stale(sessions):
    journey = received(sessions).queued().running(lease_s=1000)
    first = journey.reading().lease_until
    with unit_of_work(sessions, WORKER) as uow:
        reading = uow.session.get_one(Reading, journey.reading_id)  # the result's transaction has begun …
        if uow.session.connection().dialect.name == "postgresql":
            with unit_of_work(sessions, WORKER) as other:  # … when the heartbeat thread commits
                lifecycle.heartbeat(other, journey.held, lease_s=600)
        else:
            lifecycle.heartbeat(uow, journey.held, lease_s=600)
        lifecycle.drafted(uow, journey.held, new_draft(journey.held))
        assert reading.state is ReadingState.DRAFTED
    assert first is not None
    assert journey.reading().state is ReadingState.DRAFTED


def test_a_lease_that_is_renewed_is_not_taken_away(sessions):
    journey = received(sessions).queued().running(lease_s=1000)
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.heartbeat(uow, journey.held, lease_s=9000)
    assert _expire(sessions, after_s=2000) == 0
    assert journey.reading().state is ReadingState.RUNNING


@pytest.mark.requirement("REQ-FAIL-6")
def test_a_lost_worker_costs_an_attempt_and_the_last_one_fails_with_its_reason(sessions):
    journey = received(sessions).queued()
    for attempt in (1, 2):
        journey.running()
        assert journey.held.attempts == attempt
        assert _expire(sessions) == 1
        assert journey.reading().state is ReadingState.QUEUED
    journey.running()
    assert _expire(sessions) == 1
    reading = journey.reading()
    assert (reading.state, reading.reason) == (ReadingState.FAILED, "the worker stopped answering, 3 times")
    assert reading.finished_at is not None
    assert len(messages(sessions)) == 3  # the first, and one for each time it was queued again


def test_retry_backs_off_then_runs_again_then_gives_up(sessions):
    journey = received(sessions).queued()
    for attempt, delay_s in ((1, 1000), (2, 2000)):
        journey.running()
        before = utcnow()
        with unit_of_work(sessions, WORKER) as uow:
            state = lifecycle.retry(uow, journey.held, "GPU busy", base_s=1000, max_attempts=3)
        reading = journey.reading()
        assert (state, reading.state, reading.reason) == (ReadingState.RETRYING, ReadingState.RETRYING, "GPU busy")
        assert reading.next_attempt_at is not None
        assert abs((reading.next_attempt_at - before).total_seconds() - delay_s) < 400, attempt
        assert _claim(sessions, journey) is None  # not due yet
        assert _due(sessions, delay_s - 500) == 0
        assert _due(sessions, delay_s + 5) == 1
        assert journey.reading().state is ReadingState.QUEUED
    journey.running()
    with unit_of_work(sessions, WORKER) as uow:
        assert lifecycle.retry(uow, journey.held, "GPU busy", base_s=1000, max_attempts=3) is ReadingState.FAILED
    assert journey.reading().reason == "GPU busy (3 attempts)"


def test_a_retry_that_is_due_can_be_claimed_before_the_sweeper_comes(sessions):
    journey = received(sessions).queued().running()
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.retry(uow, journey.held, "GPU busy", base_s=0, max_attempts=3)
    assert _claim(sessions, journey) is not None


def test_a_message_the_broker_lost_is_repeated_but_rarely(sessions):
    journey = received(sessions).queued()
    assert len(messages(sessions)) == 1
    assert _due(sessions, 30) == 0
    assert _due(sessions, 61) == 1
    assert _due(sessions, 62) == 0
    assert messages(sessions) == [{"reading_id": str(journey.reading_id)}] * 2
    assert tags(sessions)[-1] == "reading:message_repeated"
    journey.running()
    assert _due(sessions, 3600) == 0


def test_two_sweepers_queue_a_lost_reading_once(sessions):
    received(sessions).queued().running()
    barrier = Barrier(2)

    def sweep(_: int) -> int:
        barrier.wait()
        return _expire(sessions)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(sweep, range(2))) == [0, 1]
    assert len(messages(sessions)) == 2


@pytest.mark.parametrize("end", ["fail", "no_draft", "ignore", "hold"])
def test_a_person_may_have_it_processed_again(sessions, end):
    journey = received(sessions)
    if end in {"ignore", "hold"}:
        journey.queued(RoutingVerdict(end, reason="rule"))
    else:
        journey.queued().running()
        with unit_of_work(sessions, WORKER) as uow:
            ACTS[end](uow, journey.held)
    with unit_of_work(sessions, person(sessions)) as uow:
        lifecycle.process_again(uow, journey.reading_id, profile="cxr")
    reading = journey.reading()
    assert (reading.state, reading.reason, reading.attempts, reading.profile) == (ReadingState.QUEUED, "", 0, "cxr")
    assert tags(sessions, actor="reader") == ["reading:process_again"]
    assert messages(sessions)[-1] == {"reading_id": str(journey.reading_id)}


@pytest.mark.parametrize("step", ["receiving", "queued", "running", "retrying", "drafted"])
def test_what_is_under_way_or_drafted_is_not_processed_again(sessions, step):
    journey = received(sessions)
    if step != "receiving":
        journey.queued()
    if step in {"running", "retrying", "drafted"}:
        journey.running()
    if step == "retrying":
        with unit_of_work(sessions, WORKER) as uow:
            ACTS["retry"](uow, journey.held)
    if step == "drafted":
        journey.drafted()
    with pytest.raises(LifecycleError), unit_of_work(sessions, SWEEPER) as uow:
        lifecycle.process_again(uow, journey.reading_id)


def test_a_draft_is_kept_with_findings_evidence_objects_and_what_is_owed(sessions):
    journey = received(sessions).queued().running().drafted()
    with sessions() as session:
        draft = session.scalars(select(Draft)).one()
        evidence = session.scalars(select(Evidence)).one()
        findings = session.scalars(select(Finding).order_by(Finding.position)).all()
        assert draft.image_set_sha256 == journey.held.image_set_sha256
        assert [(f.label, f.presence.value, f.evidence_id) for f in findings] == [
            ("nodule", "present", evidence.id),
            ("effusion", "absent", evidence.id),
        ]
        assert sorted(session.scalars(select(ResultObject.kind))) == ["DRAFT_SR", "SEG"]
        assert session.scalars(select(Delivery.destination)).all() == ["pacs", "pacs"]
        revision = session.scalars(select(ReportRevision)).one()
        assert (revision.number, revision.author_id, revision.sections) == (1, None, draft.sections)
    report = journey.report()
    assert (report.state, report.draft_id, report.sections) == (ReportState.DRAFTED, draft.id, draft.sections)
    assert journey.reading().pipeline_version == "1.0"
    with sessions() as session:
        detail = session.scalars(select(AuditEvent).where(AuditEvent.tag == "reading:drafted")).one().detail
    assert detail["image_set_sha256"] == draft.image_set_sha256


@pytest.mark.requirement("REQ-BIND-1")
def test_a_draft_of_other_images_is_refused(sessions):
    journey = received(sessions).queued().running()
    with pytest.raises(LifecycleError, match="other images"):
        journey.drafted(image_set_sha256="0" * 64)
    assert journey.reading().state is ReadingState.RUNNING


def test_a_draft_that_cannot_be_kept_whole_is_not_kept_at_all(sessions):
    journey = received(sessions).queued().running()
    made = an_object("SEG")
    other = an_object("SEG", sop_instance_uid=made.sop_instance_uid)
    with pytest.raises(LifecycleError, match="other bytes"):
        journey.drafted(objects=[made, other])
    with sessions() as session:
        assert session.scalars(select(Draft)).all() == []
        assert session.scalars(select(ResultObject)).all() == []
    assert journey.report().state is ReportState.UNREAD
    assert journey.drafted().reading().state is ReadingState.DRAFTED


@pytest.mark.requirement("REQ-CRIT-6")
@pytest.mark.parametrize(
    ("routed", "asked", "kept"),
    [
        ("ROUTINE", Priority.STAT, Priority.STAT),
        ("URGENT", Priority.STAT, Priority.STAT),
        ("STAT", Priority.ROUTINE, Priority.STAT),
        ("URGENT", Priority.ROUTINE, Priority.URGENT),
        ("ROUTINE", None, Priority.ROUTINE),
    ],
)
def test_a_model_may_raise_a_priority_never_lower_it(sessions, routed, asked, kept):
    journey = received(sessions).queued(RoutingVerdict("draft", profile="cxr", priority=routed)).running()
    journey.drafted(priority=asked)
    assert journey.reading().priority is kept
    assert ("reading:priority_raised" in tags(sessions)) == (kept.value != routed)


@pytest.mark.requirement("REQ-BIND-1")
def test_the_claims_image_set_covers_all_earlier_revisions(sessions):
    journey = received(sessions, images=2).queued()
    receive(sessions, header(3))
    with sessions() as session:
        newest = session.scalars(select(Reading.id).where(Reading.superseded.is_(False))).one()
        hashes = session.scalars(select(Instance.sha256)).all()
    second = Journey(sessions, journey.study_id, newest).queued().running()
    assert second.held.image_set_sha256 == hash_image_set(hashes)
    assert len(hashes) == 3
