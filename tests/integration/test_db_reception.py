"""Reception: every Instance counted once, races won by nobody's loss, late images never forgotten."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select

from config.errors import ConflictingInstanceError, LifecycleError
from config.routing import RoutingVerdict
from db import lifecycle
from db.models import Instance, Quarantined, Reading, Series, Study
from db.report_models import Draft, Report
from db.types import Priority, ReadingState, ReportState, utcnow
from db.uow import unit_of_work
from tests.db_support import (
    DRAFT,
    SCANNER,
    SENDER,
    SWEEPER,
    WORKER,
    an_object,
    decide_all,
    delivery_states,
    header,
    messages,
    open_review,
    person,
    receive,
    received,
    receiving,
    sign,
    tags,
)


def test_the_first_instance_adds_study_series_report_and_reading(sessions):
    result = receive(sessions, header(1, series_number=4, patient_sex="F", study_description="CT chest"))
    assert (result.is_new, result.revision) == (True, 1)
    with sessions() as session:
        study = session.get_one(Study, result.study_id)
        assert (study.patient_id, study.patient_sex, study.study_description) == ("P-1", "F", "CT chest")
        assert (study.modalities, study.body_part, study.instance_count) == ("CT", "CHEST", 1)
        assert (study.calling_ae, study.called_ae) == ("SCANNER", "FIRSTREAD")
        assert session.scalars(select(Series.series_number)).one() == 4
        assert session.scalars(select(Report.state)).one() is ReportState.UNREAD
        assert session.scalars(select(Reading.state)).one() is ReadingState.RECEIVING
    assert tags(sessions) == ["study:received"]


def test_more_instances_join_study_and_series(sessions):
    journey = received(sessions, images=3)
    receive(sessions, header(9, series_instance_uid="1.2.826.0.1.2", modality="SEG", body_part=""))
    study = journey.study()
    assert (study.instance_count, study.revision, study.modalities) == (4, 1, "CT,SEG")
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Series)) == 2


def test_the_same_instance_again_changes_nothing_but_is_recorded(sessions):
    journey = received(sessions, images=2).queued()
    again = receive(sessions, header(2))
    assert (again.is_new, again.revision) == (False, 1)
    assert journey.study().instance_count == 2
    assert journey.reading().state is ReadingState.QUEUED
    assert tags(sessions)[-1] == "instance:duplicate"


def test_other_bytes_under_a_held_uid_are_refused_and_change_nothing(sessions):
    journey = received(sessions, images=1)
    before = tags(sessions)
    with pytest.raises(ConflictingInstanceError):
        receive(sessions, header(1), sha256="f" * 64)
    assert journey.study().instance_count == 1
    assert tags(sessions) == before


def test_quarantine_keeps_the_reason_and_an_event(sessions):
    journey = received(sessions, images=1)
    with unit_of_work(sessions, SCANNER) as uow:
        key = lifecycle.quarantine(
            uow,
            reason="x" * 500,
            error="ConflictingInstanceError",
            status=0xC000,
            path="q/1",
            sop_instance_uid="1.2.826.0.1.1.1",
            calling_ae="SCANNER",
            study_id=journey.study_id,
        )
    with sessions() as session:
        row = session.get_one(Quarantined, key)
        assert (row.error, row.status, len(row.reason)) == ("ConflictingInstanceError", 0xC000, 200)
    assert tags(sessions, outcome="failure") == ["instance:quarantined"]


def test_text_longer_than_its_vr_or_with_nul_does_not_lose_the_instance(sessions):
    result = receive(
        sessions,
        header(1, study_description="d" * 300, patient_name="A\x00B", accession_number="1" * 40, body_part="C" * 99),
        calling_ae="A" * 30,
    )
    with sessions() as session:
        study = session.get_one(Study, result.study_id)
        assert (study.study_description, study.patient_name) == ("d" * 64, "AB")
        assert (study.accession_number, study.calling_ae) == ("1" * 16, "A" * 16)


def test_two_associations_bringing_the_first_images_at_once_both_succeed(sessions):
    barrier = Barrier(6)

    def send(number: int) -> bool:
        barrier.wait()
        return receive(sessions, header(number, series_instance_uid=f"1.2.826.0.1.{number % 2}")).is_new

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(send, range(1, 7))) == [True] * 6
    with sessions() as session:
        assert session.scalars(select(Study.instance_count)).all() == [6]
        assert session.scalar(select(func.count()).select_from(Instance)) == 6
        assert session.scalar(select(func.count()).select_from(Series)) == 2
        assert session.scalar(select(func.count()).select_from(Reading)) == 1
    assert tags(sessions) == ["study:received"]


def test_the_same_instance_from_two_associations_at_once_is_held_once(sessions):
    receive(sessions, header(1))
    barrier = Barrier(4)

    def send(_: int) -> bool:
        barrier.wait()
        return receive(sessions, header(2)).is_new

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(send, range(4))) == [False, False, False, True]


def test_one_uid_in_two_studies_at_once_is_a_conflict_for_one_of_them(sessions):
    barrier = Barrier(2)

    def send(study: str) -> str:
        barrier.wait()
        head = header(1, study, sop_instance_uid="1.2.9.9")
        try:
            receive(sessions, head, sha256=("a" if study == "1.2.1" else "b") * 64)
        except ConflictingInstanceError:
            return "conflict"
        return "kept"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(send, ["1.2.1", "1.2.2"])) == ["conflict", "kept"]


def test_routing_sees_every_series_and_sop_class(sessions):
    journey = received(sessions, images=1)
    receive(
        sessions,
        header(2, series_instance_uid="1.2.826.0.1.2", modality="MR", body_part="HEAD", sop_class_uid="1.2.3"),
    )
    with sessions() as session:
        facts = lifecycle.study_facts(session, journey.study_id)
    assert facts.modalities == {"CT", "MR"}
    assert facts.body_parts == {"CHEST", "HEAD"}
    assert facts.sop_classes == {"1.2.840.10008.5.1.4.1.1.2", "1.2.3"}
    assert (facts.calling_ae, facts.called_ae) == ("SCANNER", "FIRSTREAD")


@pytest.mark.parametrize(
    ("verdict", "state", "sent"),
    [
        (DRAFT, ReadingState.QUEUED, 1),
        (RoutingVerdict("ignore", reason="no rule"), ReadingState.IGNORED, 0),
        (RoutingVerdict("hold", reason="wait"), ReadingState.HELD, 0),
    ],
)
def test_completion_does_what_the_verdict_says_and_keeps_its_trace(sessions, verdict, state, sent):
    journey = received(sessions).queued(verdict)
    reading = journey.reading()
    assert (reading.state, reading.reason, reading.rule_trace) == (state, verdict.reason, verdict.trace)
    assert reading.completed_at is not None
    assert messages(sessions) == [{"reading_id": str(journey.reading_id)}] * sent


def test_a_reading_completes_once(sessions):
    journey = received(sessions).queued()
    with pytest.raises(LifecycleError):
        journey.queued()
    assert len(messages(sessions)) == 1


def test_completion_takes_over_profile_and_priority(sessions):
    journey = received(sessions).queued(RoutingVerdict("draft", profile="cxr", priority="STAT", rule="r"))
    reading = journey.reading()
    assert (reading.profile, reading.priority, reading.rule) == ("cxr", Priority.STAT, "r")


@pytest.mark.requirement("REQ-BIND-6")
def test_images_of_two_patients_hold_the_study_whatever_the_rules_say(sessions):
    journey = received(sessions)
    assert receive(sessions, header(3, patient_id="P-2")).is_new
    reading = journey.queued().reading()
    assert reading.state is ReadingState.HELD
    assert "more than one Patient ID" in reading.reason
    assert messages(sessions) == []
    assert tags(sessions, outcome="failure") == ["study:identity_conflict"]
    # a person who looked at it may still have it read
    with unit_of_work(sessions, person(sessions)) as uow:
        lifecycle.process_again(uow, journey.reading_id)
    assert journey.reading().state is ReadingState.QUEUED


@pytest.mark.parametrize("step", ["queued", "running", "drafted", "ignored", "failed"])
def test_late_images_start_a_new_revision(sessions, step):
    journey = received(sessions)
    if step == "ignored":
        journey.queued(RoutingVerdict("ignore", reason="no rule"))
    else:
        journey.queued()
    if step in {"running", "drafted", "failed"}:
        journey.running()
    if step == "drafted":
        journey.drafted()
    if step == "failed":
        with unit_of_work(sessions, WORKER) as uow:
            lifecycle.fail(uow, journey.held, "broken")
    late = receive(sessions, header(9))
    assert (late.is_new, late.revision) == (True, 2)
    old = journey.reading()
    ends = {
        "queued": ReadingState.NO_DRAFT,
        "running": ReadingState.NO_DRAFT,
        "drafted": ReadingState.DRAFTED,
        "ignored": ReadingState.IGNORED,
        "failed": ReadingState.FAILED,
    }
    assert (old.state, old.superseded) == (ends[step], True)
    newest = receiving(sessions, journey.study_id)
    assert newest != journey.reading_id
    assert receive(sessions, header(10)).revision == 2  # one revision for all that come now
    assert journey.report().state is ReportState.UNREAD
    with pytest.raises(LifecycleError):
        journey.queued()


def test_a_worker_on_a_superseded_reading_is_fenced_off(sessions):
    journey = received(sessions).queued().running()
    receive(sessions, header(9))
    for act in (
        lambda uow: lifecycle.heartbeat(uow, journey.held, lease_s=60),
        lambda uow: lifecycle.no_draft(uow, journey.held, "x"),
    ):
        with pytest.raises(LifecycleError), unit_of_work(sessions, WORKER) as uow:
            act(uow)
    with pytest.raises(LifecycleError):
        journey.drafted()
    with sessions() as session:
        assert session.scalars(select(Draft)).all() == []


@pytest.mark.requirement("REQ-BIND-2")
def test_late_images_take_an_unsigned_draft_back_and_withdraw_what_is_owed(sessions):
    journey = received(sessions).queued().running().drafted()
    reader = person(sessions)
    version = open_review(journey, reader)
    assert delivery_states(sessions) == ["PENDING", "PENDING"]
    receive(sessions, header(9))
    report = journey.report()
    assert (report.state, report.draft_id, report.sections, report.locked_by) == (ReportState.UNREAD, None, {}, None)
    assert delivery_states(sessions) == ["WITHDRAWN", "WITHDRAWN"]
    with pytest.raises(LifecycleError):
        sign(journey, reader, version)
    journey.reading_id = receiving(sessions, journey.study_id)
    journey.queued().running().drafted()
    assert journey.report().state is ReportState.DRAFTED


@pytest.mark.requirement("REQ-BIND-2")
def test_late_images_after_final_raise_a_banner_and_change_nothing(sessions):
    journey = received(sessions).queued().running().drafted()
    reader = person(sessions)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    signed = journey.report()
    receive(sessions, header(9))
    report = journey.report()
    assert (report.state, report.late_images) == (ReportState.FINAL, True)
    assert (report.sections, report.draft_id) == (signed.sections, signed.draft_id)
    # the new revision is read, its draft is kept, the signed report stays as it is
    journey.reading_id = receiving(sessions, journey.study_id)
    journey.queued().running().drafted()
    assert journey.report().state is ReportState.FINAL
    assert journey.report().draft_id == signed.draft_id


def test_a_draft_being_sent_when_it_is_superseded_is_not_sent_again(sessions):
    received(sessions).queued().running().drafted(objects=[an_object("SEG")])
    with unit_of_work(sessions, SENDER) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
    assert job is not None
    receive(sessions, header(9))
    with unit_of_work(sessions, SENDER) as uow:
        state = lifecycle.delivery_failed(uow, job.delivery_id, "timeout", base_s=1, max_attempts=9)
    assert state.value == "WITHDRAWN"
    assert delivery_states(sessions) == ["WITHDRAWN"]


def test_a_study_that_is_judged_while_images_arrive_loses_none(sessions):
    """Reception and completion of one Study race; every image ends in some revision's Reading."""
    journey = received(sessions, images=1)
    barrier = Barrier(2)

    def send() -> None:
        barrier.wait()
        for number in range(2, 22):
            receive(sessions, header(number))

    def judge() -> None:
        barrier.wait()
        with unit_of_work(sessions, SWEEPER) as uow:
            lifecycle.complete(uow, journey.reading_id, DRAFT)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(send), pool.submit(judge)]:
            done.result()
    study = journey.study()
    assert study.instance_count == 21
    with sessions() as session:
        revisions = set(session.scalars(select(Instance.revision)))
        readings = {r.revision: r for r in session.scalars(select(Reading))}
        assert revisions <= set(readings)
        assert readings[study.revision].superseded is False
        assert sum(not r.superseded for r in readings.values()) == 1
