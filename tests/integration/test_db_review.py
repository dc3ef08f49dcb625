"""The reading room: one reader at a time, a stale page loses, every edit is kept."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db import lifecycle
from db.models import AuditEvent
from db.report_models import ReportRevision
from db.types import Decision, ReportState, Role
from db.uow import unit_of_work
from tests.db_support import (
    SENDER,
    WORKER,
    Journey,
    delivery_states,
    open_review,
    person,
    received,
    sign,
    tags,
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


def test_opening_locks_the_report_for_one_reader(journey, reader, sessions):
    version = open_review(journey, reader)
    report = journey.report()
    assert (report.state, report.locked_by, report.version) == (ReportState.IN_REVIEW, reader.user_id, version)
    second = person(sessions, "second")
    with pytest.raises(LifecycleError, match="somebody else"):
        open_review(journey, second)
    open_review(journey, reader)  # the same reader, another tab
    taken = open_review(journey, second, take_over=True)
    assert journey.report().locked_by == second.user_id
    with pytest.raises(LifecycleError):
        _save(journey, reader, taken, impression="mine")
    assert tags(sessions, actor="second") == ["report:taken_over"]


@pytest.mark.requirement("REQ-EDIT-1")
def test_of_two_readers_who_open_at_once_one_gets_it(journey, reader, sessions):
    readers = [reader, person(sessions, "second")]
    barrier = Barrier(2)

    def enter(number: int) -> bool:
        barrier.wait()
        try:
            open_review(journey, readers[number])
        except LifecycleError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(enter, range(2))) == [False, True]


def test_releasing_keeps_the_edits_and_lets_the_next_reader_in(journey, reader, sessions):
    version = open_review(journey, reader)
    _save(journey, reader, version, impression="Mine.")
    second = person(sessions, "second")
    with unit_of_work(sessions, second) as uow:
        lifecycle.release(uow, journey.report().id)  # not the second's to give up
    assert journey.report().locked_by == reader.user_id
    with unit_of_work(sessions, reader) as uow:
        lifecycle.release(uow, journey.report().id)
    report = journey.report()
    assert (report.state, report.locked_by, report.sections["impression"]) == (ReportState.IN_REVIEW, None, "Mine.")
    open_review(journey, second)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.AUDITOR])
def test_only_radiologists_work_on_reports(journey, sessions, role):
    with pytest.raises(NotAuthorisedError):
        open_review(journey, person(sessions, "other", role))


def test_no_process_and_no_closed_account_works_on_reports(journey, sessions):
    for actor in (WORKER, SENDER, person(sessions, "left", active=False)):
        with pytest.raises(NotAuthorisedError):
            open_review(journey, actor)
    assert journey.report().state is ReportState.DRAFTED


def test_an_unread_report_has_nothing_to_review(sessions, reader):
    with pytest.raises(LifecycleError, match="UNREAD to IN_REVIEW"):
        open_review(received(sessions), reader)


@pytest.mark.requirement("REQ-EDIT-3")
def test_every_save_is_a_revision_and_the_old_text_stays(journey, reader, sessions):
    version = open_review(journey, reader)
    saved = _save(journey, reader, version, impression="No nodule.", recommendation="None.")
    assert saved > version
    assert _save(journey, reader, saved, impression="No nodule.") == saved  # nothing changed, nothing written
    assert journey.report().sections == {
        "findings": "A nodule.",
        "impression": "No nodule.",
        "recommendation": "None.",
    }
    with sessions() as session:
        revisions = session.scalars(select(ReportRevision).order_by(ReportRevision.number)).all()
    assert [(r.number, r.author_id, r.sections["impression"]) for r in revisions] == [
        (1, None, "Nodule."),
        (2, reader.user_id, "No nodule."),
    ]
    assert tags(sessions, actor="reader") == ["report:opened", "report:edited"]


def test_a_stale_page_loses(journey, reader):
    version = open_review(journey, reader)
    _save(journey, reader, version, impression="First tab.")
    with pytest.raises(LifecycleError, match="changed since it was shown"):
        _save(journey, reader, version, impression="Second tab.")
    with pytest.raises(LifecycleError, match="changed since it was shown"):
        _reject(journey, reader, version)
    with pytest.raises(LifecycleError, match="changed since it was shown"):
        sign(journey, reader, version)
    assert journey.report().sections["impression"] == "First tab."


@pytest.mark.requirement("REQ-EDIT-2")
def test_two_saves_at_once_keep_one_of_them(journey, reader):
    version = open_review(journey, reader)
    barrier = Barrier(2)

    def save(text: str) -> bool:
        barrier.wait()
        try:
            _save(journey, reader, version, impression=text)
        except LifecycleError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(save, ["a", "b"])) == [False, True]


def test_unknown_or_endless_sections_are_refused(journey, reader):
    version = open_review(journey, reader)
    with pytest.raises(RefusedInputError, match="unknown report sections"):
        _save(journey, reader, version, conclusion="x")
    with pytest.raises(RefusedInputError, match="65536"):
        _save(journey, reader, version, impression="x" * 65_537)


def test_nothing_is_edited_without_opening(journey, reader):
    version = journey.report().version
    with pytest.raises(LifecycleError, match="open it first"):
        _save(journey, reader, version, impression="x")
    with pytest.raises(LifecycleError, match="open it first"):
        _reject(journey, reader, version)


@pytest.mark.requirement("REQ-BIAS-3")
def test_a_decision_names_who_when_and_why_and_may_be_changed(journey, reader, sessions):
    version = open_review(journey, reader)
    finding = journey.findings()[0]
    for decision, reason in ((Decision.REJECTED, "vessel"), (Decision.ACCEPTED, "")):
        with unit_of_work(sessions, reader) as uow:
            version = lifecycle.decide_finding(
                uow, journey.report().id, finding.id, decision, reason=reason, seen_version=version
            )
    decided = journey.findings()[0]
    assert (decided.decision, decided.decided_by) == (Decision.ACCEPTED, reader.user_id)
    with sessions() as session:
        events = session.scalars(
            select(AuditEvent).where(AuditEvent.tag == "finding:decided").order_by(AuditEvent.seq)
        ).all()
    assert [(e.detail["from"], e.detail["to"], e.detail["reason"]) for e in events] == [
        ("pending", "rejected", "vessel"),
        ("rejected", "accepted", ""),
    ]


def test_a_finding_of_another_study_is_not_decided_here(journey, reader, sessions):
    other = received(sessions, "1.2.77").queued().running().drafted()
    version = open_review(journey, reader)
    with pytest.raises(LifecycleError, match="is not of report"), unit_of_work(sessions, reader) as uow:
        lifecycle.decide_finding(
            uow, journey.report().id, other.findings()[0].id, Decision.ACCEPTED, seen_version=version
        )


def test_rejecting_needs_a_reason_withdraws_the_draft_and_leaves_an_empty_page(journey, reader):
    version = open_review(journey, reader)
    with pytest.raises(RefusedInputError, match="reason"):
        _reject(journey, reader, version, "  ")
    _reject(journey, reader, version)
    report = journey.report()
    assert (report.state, report.reason, report.locked_by) == (ReportState.REJECTED, "wrong patient position", None)
    assert {finding.decision for finding in journey.findings()} == {Decision.REJECTED}
    assert delivery_states(journey.sessions) == ["WITHDRAWN", "WITHDRAWN"]
    version = open_review(journey, reader)
    assert journey.report().sections == {}
    with pytest.raises(RefusedInputError, match="without findings or impression"):
        sign(journey, reader, version)
    sign(journey, reader, _save(journey, reader, version, impression="Read from scratch."))
