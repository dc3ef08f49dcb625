"""The tracer: what became of one Study, on both engines."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, insert, select
from sqlalchemy.orm import Session, sessionmaker

from config.errors import RefusedInputError
from config.routing import RoutingVerdict, RuleBook, Rules
from db import lifecycle
from db.expectation_models import Expectation
from db.lifecycle import retention
from db.lifecycle.expectations import announce
from db.lifecycle.retention import Terms
from db.models import AuditEvent, Delivery, Instance, PeerAssociation, Reading, Series, Study
from db.queries.trace import Ways, trace
from db.queries.trace_values import StudyTrace, Trace
from db.types import CommitmentState, ExpectationSource, ExpectationState, Priority, ReadingState, utcnow
from db.uow import unit_of_work
from tests.db_support import (
    DRAFT,
    SCANNER,
    SENDER,
    SWEEPER,
    decide_all,
    header,
    open_review,
    person,
    receive,
    received,
    sign,
)

Sessions = sessionmaker[Session]


def asked(sessions: Sessions, key: str, terms: Terms | None = None) -> Trace:
    with sessions() as session:
        return trace(session, key, utcnow(), Ways(terms or Terms(), RuleBook(Rules(rules=()))))


def traced(sessions: Sessions, key: str, terms: Terms | None = None) -> StudyTrace:
    (study,) = asked(sessions, key, terms).studies
    return study


def an_association(sessions: Sessions, **changes: object) -> object:
    key = uuid4()
    values = {
        "id": key,
        "calling_ae": "SCANNER",
        "called_ae": "FIRSTREAD",
        "address": "192.0.2.7",
        "tls_subject": "CN=ct1",
        "opened_at": utcnow(),
        "ended_at": utcnow(),
        "ended_how": "released",
        "instances": 3,
        "size_bytes": 300,
    }
    with sessions() as session:
        session.add(PeerAssociation(**(values | changes)))
        session.commit()
    return key


@pytest.mark.parametrize("key", ["A-1", "1.2.826.0.1", "1.2.826.0.1.1.2", "id", "  A-1\n"])
def test_a_study_is_found_by_each_of_its_names(sessions: Sessions, key: str) -> None:
    journey = received(sessions)
    received(sessions, "1.2.826.0.2", accession_number="A-2")
    study = traced(sessions, str(journey.study_id) if key == "id" else key)
    assert study.id == journey.study_id


def test_the_whole_journey_is_told(sessions: Sessions) -> None:
    association = an_association(sessions)
    journey = received(sessions, images=3)
    with sessions() as session:
        for instance in session.scalars(select(Instance)):
            instance.association_id = association
        session.add(
            Expectation(
                study_instance_uid="1.2.826.0.1",
                source=ExpectationSource.STEP,
                object_uid="1.2.3",
                said_by="CT1",
                state=ExpectationState.COMPLETED,
                instances=3,
            )
        )
        session.commit()
    receive(sessions, header(1))
    provenance = {
        "models": [{"role": "VLM", "name": "demo", "version": "1.0", "files": {"model": "ab" * 32}}],
        "job": {"seconds": {"intake": 0.5, "vlm": 3.25}},
    }
    trace_rows = [{"rule": "mr", "matched": False, "why": "modality CT is not one of MR"}, {"rule": "ct-chest"}]
    verdict = RoutingVerdict("draft", profile="chest-ct", rule="ct-chest", priority="STAT", trace=trace_rows)
    journey.queued(verdict).running().drafted(provenance=provenance)
    reader = person(sessions)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    with unit_of_work(sessions, SENDER) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        assert job is not None
    with unit_of_work(sessions, SENDER) as uow:
        lifecycle.delivered(uow, job.delivery_id)
    with unit_of_work(sessions, SENDER) as uow:
        second = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        assert second is not None
        lifecycle.delivery_failed(uow, second.delivery_id, "0xA700", base_s=60, max_attempts=12)

    study = traced(sessions, "A-1", Terms(committing=frozenset({"pacs"})))

    (came_on,) = study.associations
    assert (came_on.id, came_on.address, came_on.tls_subject) == (association, "192.0.2.7", "CN=ct1")
    assert (came_on.ended_how, came_on.instances_of_study, came_on.size_bytes) == ("released", 3, 300)
    (series,) = study.series
    assert (series.modality, series.instances, series.deleted, series.size_bytes) == ("CT", 3, 0, 300)
    assert (study.instance_count, study.duplicates, study.identity_conflict) == (3, 1, False)
    (said,) = study.expectations
    assert (said.source, said.said_by, said.state, said.instances) == ("mpps", "CT1", "COMPLETED", 3)
    assert study.timer.state == "ended"
    (reading,) = study.readings
    assert (reading.state, reading.rule, reading.priority, reading.attempts) == ("DRAFTED", "ct-chest", "STAT", 1)
    assert reading.rule_trace == trace_rows
    assert reading.models == provenance["models"]
    assert reading.seconds == {"intake": 0.5, "vlm": 3.25}
    assert [(one.expert, one.weights_sha256) for one in reading.experts] == [("CXR", {"model.pt": "0" * 64})]
    assert reading.queue is None
    assert study.report.state == "FINAL"
    assert [one["login"] for one in study.report.signatures] == ["reader"]
    states = sorted((one.state, one.commitment, one.last_error) for one in study.deliveries)
    assert ("DELIVERED", "NOT_ASKED", "") in states
    assert ("PENDING", "NOT_ASKED", "0xA700") in states
    assert {"results are not delivered", "results are not committed"} <= set(study.retention.kept_because)
    assert [one.tag for one in study.timeline][:1] == ["study:received"]
    assert {"reading:queued", "reading:drafted", "report:signed_final"} <= {one.tag for one in study.timeline}
    assert study.timeline_left_out == 0


def test_who_sent_which_revision_is_told(sessions: Sessions) -> None:
    journey = received(sessions).queued().running().drafted()
    receive(sessions, header(9), calling_ae="PACS")
    study = traced(sessions, str(journey.study_id))
    assert [(one.revision, one.calling_ae, one.instances, one.size_bytes) for one in study.receptions] == [
        (1, "SCANNER", 2, 200),
        (2, "PACS", 1, 100),
    ]
    assert [(one.revision, one.state, one.superseded) for one in study.readings] == [
        (1, "DRAFTED", True),
        (2, "RECEIVING", False),
    ]
    assert study.timer.state in {"running", "due"}


def test_no_answer_names_the_patient(sessions: Sessions) -> None:
    journey = received(sessions, patient_name="Doe^Jane", patient_birth_date="19700101", patient_id="SECRET-7")
    journey.queued().running().drafted()
    said = json.dumps(asdict(asked(sessions, "A-1")), default=str)
    for private in ("Doe", "Jane", "19700101", "SECRET-7"):
        assert private not in said


def test_a_patient_id_is_refused_and_an_accession_number_that_looks_alike_is_not(sessions: Sessions) -> None:
    received(sessions)
    with pytest.raises(RefusedInputError, match="Patient ID"):
        asked(sessions, "P-1")
    received(sessions, "1.2.826.0.2", accession_number="P-1")
    assert traced(sessions, "P-1").study_instance_uid == "1.2.826.0.2"
    with pytest.raises(RefusedInputError):
        asked(sessions, "  ")


def test_who_was_refused_near_that_time_is_told_with_the_reason(sessions: Sessions) -> None:
    association = an_association(sessions)
    journey = received(sessions)
    with sessions() as session:
        for instance in session.scalars(select(Instance)):
            instance.association_id = association
        session.commit()
    an_association(sessions, rejected="too many associations")
    an_association(sessions, calling_ae="SCANNER2", rejected="calling AE title is not configured")  # same address
    an_association(sessions, calling_ae="OTHER", address="198.51.100.1", rejected="called AE title is not ours")
    an_association(sessions, rejected="long ago", opened_at=utcnow() - timedelta(days=3))
    study = traced(sessions, str(journey.study_id))
    assert {one.rejected for one in study.refused_associations} == {
        "too many associations",
        "calling AE title is not configured",
    }


def test_quarantined_objects_are_told_with_status_and_why_they_are_listed(sessions: Sessions) -> None:
    journey = received(sessions)
    with unit_of_work(sessions, SCANNER) as uow:
        for error, uid, ae, study_id in (
            ("ConflictingInstanceError", "1.2.826.0.1.1.1", "OTHER", None),
            ("UnreadableDatasetError", "9.9", "SCANNER", None),
            ("SopMismatchError", "9.8", "OTHER", journey.study_id),
            ("UnreadableDatasetError", "9.7", "OTHER", None),
        ):
            lifecycle.quarantine(
                uow, reason="r", error=error, status=0xC003, sop_instance_uid=uid, calling_ae=ae, study_id=study_id
            )
    told = {one.sop_instance_uid: one.relation for one in traced(sessions, "A-1").quarantined}
    assert told == {
        "1.2.826.0.1.1.1": "under a SOP Instance UID of this study",
        "9.9": "from the same sender at that time",
        "9.8": "of this study",
    }
    assert {one.status for one in traced(sessions, "A-1").quarantined} == {"C003"}


def test_a_study_that_is_not_here_is_told_as_far_as_it_is_known(sessions: Sessions) -> None:
    with unit_of_work(sessions, SCANNER) as uow:
        lifecycle.quarantine(uow, reason="r", error="X", status=0xC002, sop_instance_uid="1.2.3", calling_ae="SCANNER")
    an_association(sessions, rejected="calling AE title is not configured")
    an_association(sessions, rejected="older", opened_at=utcnow() - timedelta(days=2))
    found = asked(sessions, "1.2.3")
    assert found.studies == ()
    assert [(one.status, one.relation) for one in found.quarantined] == [("C002", "under this UID")]
    assert [one.rejected for one in found.refused_associations] == ["calling AE title is not configured"]
    assert asked(sessions, "NOSUCH").quarantined == ()


def test_a_running_timer_says_until_when(sessions: Sessions) -> None:
    receive(sessions, header(1), quiet_s=600.0)
    timer = traced(sessions, "A-1").timer
    assert (timer.state, timer.quiet_s) == ("running", 600.0)
    assert timer.quiet_until == timer.last_received_at + timedelta(seconds=600)
    assert timer.due_at == timer.quiet_until
    assert timer.seconds_left is not None
    assert 595 <= timer.seconds_left <= 600


def test_what_a_study_waits_for_is_told_in_words(sessions: Sessions) -> None:
    receive(sessions, header(1), quiet_s=60.0)
    with unit_of_work(sessions, SCANNER) as uow:
        announce(
            uow,
            source=ExpectationSource.STEP,
            object_uid="1.2.3.4",
            study_uids=["1.2.826.0.1"],
            state=ExpectationState.IN_PROGRESS,
        )
    study = traced(sessions, "A-1")
    assert "the modality's procedure step, which goes on (MPPS)" in study.timer.waits_for
    assert study.timer.due_at is not None
    assert study.timer.due_at > study.timer.last_received_at + timedelta(seconds=60)


def test_the_place_in_the_queue_follows_priority_then_age(sessions: Sessions) -> None:
    done = received(sessions, "1.2.826.0.100", accession_number="D").queued().running().drafted()
    with sessions() as session:
        reading = session.get_one(Reading, done.reading_id)
        assert reading.finished_at is not None
        reading.started_at = reading.finished_at - timedelta(seconds=40)
        session.commit()
    for number, priority in enumerate(("ROUTINE", "STAT", "ROUTINE", "URGENT", "STAT")):
        journey = received(sessions, f"1.2.826.0.{number}", accession_number=f"Q{number}")
        journey.queued(RoutingVerdict("draft", profile="p", rule="r", priority=priority))  # type: ignore[arg-type]
    places = {}
    for number in range(5):
        (reading_trace,) = traced(sessions, f"Q{number}").readings
        assert reading_trace.queue is not None
        places[f"Q{number}"] = (reading_trace.queue.ahead, reading_trace.queue.about_seconds)
    assert places == {"Q1": (0, 40.0), "Q4": (1, 80.0), "Q3": (2, 120.0), "Q0": (3, 160.0), "Q2": (4, 200.0)}


def test_deleted_pixels_and_a_hold_are_told(sessions: Sessions) -> None:
    journey = received(sessions).queued(RoutingVerdict("ignore", rule="none"))
    terms = Terms(unreported=True)
    with unit_of_work(sessions, SWEEPER) as uow:
        assert len(retention.claim_pixels(uow, journey.study_id, terms)) == 2
    with unit_of_work(sessions, SWEEPER) as uow:
        retention.place_hold(uow, journey.study_id, "claim")
    study = traced(sessions, "A-1", terms)
    assert study.series[0].deleted == 2
    assert study.retention.legal_hold
    assert study.retention.pixels_deleted_at is not None
    assert study.retention.kept_because == ("legal hold",)


def test_more_studies_of_one_accession_number_are_all_told_newest_first(sessions: Sessions) -> None:
    for number in range(12):
        received(sessions, f"1.2.826.0.{number}", images=1)
    found = asked(sessions, "A-1")
    assert len(found.studies) == 10
    assert found.studies_left_out == 2
    assert found.studies[0].study_instance_uid == "1.2.826.0.11"


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_the_number_of_questions_does_not_grow_with_the_study(sessions: Sessions, engine: Engine) -> None:
    received(sessions, images=1).queued()
    received(sessions, "1.2.826.0.2", images=40, accession_number="A-2").queued()
    numbers = []
    for key in ("A-1", "A-2"):
        with counted(engine) as statements:
            traced(sessions, key)
        numbers.append(len(statements))
    assert numbers[0] == numbers[1] < 35


def test_a_large_database_answers_at_once(sessions: Sessions) -> None:
    """10 000 Instances, 20 000 events and 10 000 associations of others stand around it."""
    journey = received(sessions)
    now = utcnow() - timedelta(days=2)
    with sessions() as session:
        studies = [
            {"id": uuid4(), "study_instance_uid": f"1.9.{n}", "patient_id": f"P{n}", "accession_number": f"X{n}"}
            for n in range(2000)
        ]
        session.execute(insert(Study), studies)
        series = [{"id": uuid4(), "study_id": one["id"], "series_instance_uid": "1.1"} for one in studies]
        session.execute(insert(Series), series)
        session.execute(
            insert(Instance),
            [
                {
                    "study_id": one["study_id"], "series_id": one["id"], "sop_instance_uid": f"1.8.{m}.{n}",
                    "sop_class_uid": "1", "transfer_syntax_uid": "1", "sha256": "0" * 64, "size_bytes": 1, "path": "p",
                }
                for m, one in enumerate(series) for n in range(5)
            ],
        )  # fmt: skip
        session.execute(
            insert(AuditEvent),
            [
                {
                    "occurred_at": now,
                    "body": f'{{"actor":"a","kind":"peer","study_id":"{studies[n % 2000]["id"]}","tag":"x:y","v":0}}',
                }
                for n in range(20_000)
            ],
        )
        session.execute(
            insert(PeerAssociation),
            [{"calling_ae": f"AE{n % 9}", "rejected": "no", "opened_at": now} for n in range(10_000)],
        )
        session.execute(
            insert(Reading),
            [
                {"study_id": one["id"], "state": ReadingState.DRAFTED, "priority": Priority.ROUTINE, "rule_trace": []}
                for one in studies
            ],
        )
        session.commit()
    traced(sessions, "A-1")
    started = time.perf_counter()
    for key in ("A-1", "1.2.826.0.1.1.1", str(journey.study_id), "NOSUCH", "1.2.3.4.5"):
        asked(sessions, key)
    assert time.perf_counter() - started < 1.0


def test_a_commitment_is_told(sessions: Sessions) -> None:
    journey = received(sessions).queued(DRAFT).running().drafted()
    with unit_of_work(sessions, SENDER) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        assert job is not None
    with unit_of_work(sessions, SENDER) as uow:
        lifecycle.delivered(uow, job.delivery_id)
    with sessions() as session:
        row = session.get_one(Delivery, job.delivery_id)
        row.commitment, row.committed_at = CommitmentState.COMMITTED, utcnow()
        session.commit()
    told = {one.commitment: one.committed_at is not None for one in traced(sessions, str(journey.study_id)).deliveries}
    assert told == {"COMMITTED": True, "NOT_ASKED": False}
