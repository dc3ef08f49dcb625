"""What opens, answers and settles a critical result, on both databases."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db import lifecycle
from db.critical_models import AlertState, CriticalCommunication
from db.lifecycle import NewFinding, critical
from db.queries.critical import open_alerts, summary
from db.report_models import Report
from db.types import Presence, Priority, Role, utcnow
from db.uow import Actor, unit_of_work
from tests.critical_support import PATIENT, alert, alerted, alerts, confirmed, said
from tests.db_support import Journey, Sessions, header, person, receive, received, receiving, tags


def record(sessions: Sessions, reader: Actor, **changes: Any) -> CriticalCommunication:
    with unit_of_work(sessions, reader) as uow:
        return critical.record(uow, alert(sessions).id, said(**changes))


def report(journey: Journey) -> Report:
    return journey.report()


def later(journey: Journey, number: int, **changes: Any) -> Journey:
    """One more image came, and the Study was drafted anew."""
    receive(journey.sessions, header(number, **PATIENT))
    again = Journey(journey.sessions, journey.study_id, receiving(journey.sessions, journey.study_id))
    return again.queued().running().drafted(**({"critical": ("nodule",)} | changes))


@pytest.mark.requirement("REQ-CRIT-1")
def test_a_draft_that_asserts_a_critical_finding_opens_an_alert_in_the_same_commit(sessions):
    journey = alerted(sessions)
    one = alert(sessions)
    assert (one.state, one.label, one.found_by, one.category) == (AlertState.SUSPECTED, "nodule", "CXR", 1)
    assert one.finding_id == journey.findings()[0].id
    assert journey.reading().priority is Priority.STAT
    assert report(journey).suspected_critical
    assert tags(sessions, object_id=str(one.id)) == ["critical:opened"]
    with sessions() as session:
        assert [found.id for found in open_alerts(session, journey.study_id)] == [one.id]


@pytest.mark.parametrize("labels", [(), ("effusion",), ("pneumothorax",)])
def test_neither_an_absent_finding_nor_an_unlisted_one_opens_any(sqlite_sessions, labels):
    journey = alerted(sqlite_sessions, critical=labels)
    assert alerts(sqlite_sessions) == []
    assert journey.reading().priority is Priority.ROUTINE
    assert not report(journey).suspected_critical


def test_a_label_is_matched_whatever_its_case_and_two_findings_of_one_name_are_one_alert(sqlite_sessions):
    found = [NewFinding(name, Presence.PRESENT, "CXR") for name in ("Lung_Nodule", "lung nodule")]
    alerted(sqlite_sessions, findings=found, critical=("LUNG NODULE",))
    assert alert(sqlite_sessions).label == "Lung Nodule"


@pytest.mark.requirement("REQ-CRIT-1")
def test_an_alert_survives_late_images_and_another_draft_opens_no_second_one(sessions):
    journey = alerted(sessions)
    first = alert(sessions)
    silent = later(journey, 3, findings=[], critical=("nodule",))
    assert alert(sessions).id == first.id
    assert report(silent).suspected_critical  # a draft that says nothing answers nothing
    assert silent.reading().priority is Priority.STAT
    later(journey, 4)
    assert alert(sessions).id == first.id
    assert alert(sessions).state is AlertState.SUSPECTED


def test_a_dismissed_result_comes_again_only_with_other_images(sqlite_sessions):
    journey = alerted(sqlite_sessions)
    reader = person(sqlite_sessions)
    with unit_of_work(sqlite_sessions, reader) as uow:
        critical.dismiss(uow, alert(sqlite_sessions).id, "skin fold")
    assert not report(journey).suspected_critical
    later(journey, 3)
    assert [one.state for one in alerts(sqlite_sessions)] == [AlertState.DISMISSED, AlertState.SUSPECTED]
    assert report(journey).suspected_critical


def test_a_radiologists_own_result_is_confirmed_at_once_and_a_residents_waits(sqlite_sessions):
    journey = received(sqlite_sessions)
    radiologist, resident = person(sqlite_sessions), person(sqlite_sessions, "resident", Role.RESIDENT)
    viewer = person(sqlite_sessions, "viewer", Role.VIEWER)
    with unit_of_work(sqlite_sessions, radiologist) as uow:
        critical.mark(uow, journey.study_id, what="Free  air\x00 under the diaphragm", category=1)
    with unit_of_work(sqlite_sessions, resident) as uow:
        critical.mark(uow, journey.study_id, what="Line tip in the ventricle", category=2)
    found = {one.label: (one.state, one.category) for one in alerts(sqlite_sessions)}
    assert found == {
        "Free air under the diaphragm": (AlertState.CONFIRMED, 1),
        "Line tip in the ventricle": (AlertState.SUSPECTED, 2),
    }
    assert journey.reading().priority is Priority.STAT
    with pytest.raises(LifecycleError, match="open already"), unit_of_work(sqlite_sessions, resident) as uow:
        critical.mark(uow, journey.study_id, what="free air UNDER the diaphragm", category=1)
    with pytest.raises(NotAuthorisedError), unit_of_work(sqlite_sessions, viewer) as uow:
        critical.mark(uow, journey.study_id, what="Bleeding", category=1)
    for wrong in ({"what": " "}, {"what": "x" * 201}, {"what": "Bleeding", "category": 4}):
        with pytest.raises(RefusedInputError), unit_of_work(sqlite_sessions, radiologist) as uow:
            critical.mark(uow, journey.study_id, **({"category": 1} | wrong))


@pytest.mark.requirement("REQ-CRIT-2")
def test_only_a_radiologist_answers(sqlite_sessions):
    alerted(sqlite_sessions)
    resident, worker = person(sqlite_sessions, "resident", Role.RESIDENT), Actor("worker", "process")
    for actor in (resident, worker):
        for act in (critical.confirm, lambda uow, key: critical.dismiss(uow, key, "no")):
            with pytest.raises(NotAuthorisedError), unit_of_work(sqlite_sessions, actor) as uow:
                act(uow, alert(sqlite_sessions).id)
    assert alert(sqlite_sessions).state is AlertState.SUSPECTED


@pytest.mark.requirement("REQ-CRIT-4")
def test_a_result_is_settled_when_somebody_was_reached_and_not_before(sessions):
    journey = alerted(sessions)
    reader = person(sessions)
    with pytest.raises(LifecycleError, match="confirm it first"):
        record(sessions, reader)
    confirmed(sessions, reader, alert(sessions).id)
    record(sessions, reader, reached=False, read_back=False, note="no answer")
    assert alert(sessions).state is AlertState.CONFIRMED
    assert report(journey).suspected_critical
    record(sessions, reader)
    assert alert(sessions).state is AlertState.COMMUNICATED
    assert not report(journey).suspected_critical
    with pytest.raises(LifecycleError, match="correct that record"):
        record(sessions, reader)
    key = str(alert(sessions).id)
    assert tags(sessions, object_id=key) == [
        "critical:opened",
        "critical:confirmed",
        "critical:recorded",
        "critical:recorded",
        "critical:communicated",
    ]


@pytest.mark.requirement("REQ-CRIT-4")
def test_a_record_is_corrected_by_another_and_never_changed(engine, sessions):
    alerted(sessions)
    reader = person(sessions)
    confirmed(sessions, reader, alert(sessions).id)
    first = record(sessions, reader)
    second = record(sessions, reader, told_name="Dr Lie", corrects_id=first.id)
    assert alert(sessions).state is AlertState.COMMUNICATED
    with pytest.raises(LifecycleError, match="corrected already"):
        record(sessions, reader, corrects_id=first.id)
    record(sessions, reader, reached=False, corrects_id=second.id)
    assert alert(sessions).state is AlertState.CONFIRMED  # nobody knows after all
    assert tags(sessions, object_id=str(alert(sessions).id))[-1] == "critical:reopened"
    for attempt in ("UPDATE critical_communication SET note = note", "DELETE FROM critical_communication"):
        with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(attempt))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"told_name": "  "}, "who was told"),
        ({"told_name": "x" * 129}, "128"),
        ({"told_at": utcnow() + timedelta(hours=1)}, "future"),
        ({"told_at": utcnow() - timedelta(days=2)}, "before the study"),
        ({"read_back": False}, "read-back"),
    ],
)
def test_a_record_that_cannot_be_is_refused(sqlite_sessions, change, words):
    alerted(sqlite_sessions)
    reader = person(sqlite_sessions)
    confirmed(sqlite_sessions, reader, alert(sqlite_sessions).id)
    with pytest.raises(RefusedInputError, match=words):
        record(sqlite_sessions, reader, **change)
    assert alert(sqlite_sessions).state is AlertState.CONFIRMED


def test_without_a_read_back_category_1_needs_the_reason_and_category_2_does_not(sqlite_sessions):
    reader = person(sqlite_sessions)
    alerted(sqlite_sessions)
    confirmed(sqlite_sessions, reader, alert(sqlite_sessions).id)
    kept = record(sqlite_sessions, reader, read_back=False, no_read_back_reason="line broke off")
    assert kept.no_read_back_reason == "line broke off"
    again = alerted(sqlite_sessions, "1.2.826.0.2")
    second = next(one for one in alerts(sqlite_sessions) if one.study_id == again.study_id)
    confirmed(sqlite_sessions, reader, second.id, category=2)
    with unit_of_work(sqlite_sessions, reader) as uow:
        critical.record(uow, second.id, said(read_back=False))
    assert {one.state for one in alerts(sqlite_sessions)} == {AlertState.COMMUNICATED}


def test_two_radiologists_answer_and_one_is_told_the_other_was_faster(sessions):
    alerted(sessions)
    one, other = person(sessions), person(sessions, "other")
    confirmed(sessions, one, alert(sessions).id)
    with pytest.raises(LifecycleError, match="from CONFIRMED"):
        confirmed(sessions, other, alert(sessions).id)
    assert alert(sessions).confirmed_by == one.user_id


def test_a_sentence_enters_the_report_as_the_lock_holders_edit_alone(sqlite_sessions):
    journey = alerted(sqlite_sessions)
    reader, other = person(sqlite_sessions), person(sqlite_sessions, "other")
    with unit_of_work(sqlite_sessions, reader) as uow:
        version = lifecycle.open_review(uow, report(journey).id)
    key = alert(sqlite_sessions).id
    with pytest.raises(LifecycleError, match="not locked"), unit_of_work(sqlite_sessions, other) as uow:
        critical.add_sentence(uow, key, "Told.", section="impression", seen_version=version)
    with pytest.raises(RefusedInputError), unit_of_work(sqlite_sessions, reader) as uow:
        critical.add_sentence(uow, key, "Told.", section="findings", seen_version=version)
    with unit_of_work(sqlite_sessions, reader) as uow:
        critical.add_sentence(uow, key, "Told.", section="impression", seen_version=version)
    assert report(journey).sections["impression"] == "Nodule.\nTold."
    assert tags(sqlite_sessions, study_id=journey.study_id)[-1] == "report:edited"


@pytest.mark.requirement("REQ-CRIT-7")
def test_an_auditor_gets_six_facts_and_hears_which_are_missing(sessions):
    alerted(sessions)
    reader = person(sessions)
    with sessions() as session:
        (before,) = summary(session, accession_number="ACC-88412")
        assert summary(session, accession_number="OTHER") == []
    assert (before.what, before.found_by, before.told, before.is_complete) == ("nodule", "CXR", "", False)
    confirmed(sessions, reader, alert(sessions).id)
    record(sessions, reader, reached=False, read_back=False)
    kept = record(sessions, reader)
    with sessions() as session:
        (after,) = summary(session, accession_number="ACC-88412")
    assert (after.told, after.told_role, after.told_by) == ("Dr Berg", "Emergency physician", "Dr reader")
    assert (after.told_at, after.means, after.read_back, after.attempts) == (kept.told_at, "phone", True, 2)
    assert after.is_complete


def test_of_two_drafts_at_once_one_opens_the_alert(sessions):
    """Two units of work that open the same result: the database itself lets only one of them stand."""
    journey = received(sessions)
    reader = person(sessions)
    with unit_of_work(sessions, reader) as uow:
        critical.mark(uow, journey.study_id, what="Bleeding", category=1)
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.execute(
            sa.text(
                "INSERT INTO critical_alert (id, study_id, label, found_by, category, state, image_set_sha256,"
                " opened_at, reason, clock_at, level, noticed_level, version) SELECT"
                " '00000000000000000000000000000001', study_id, label, found_by, category, 'SUSPECTED',"
                " image_set_sha256, opened_at, reason, clock_at, level, noticed_level, version FROM critical_alert"
            )
        )
    assert len(alerts(sessions)) == 1
