"""Questions: the reading list's order, pages, counts and search; details and record."""

from datetime import timedelta
from uuid import uuid4

import pytest

from config.errors import RefusedInputError
from config.routing import RoutingVerdict
from db import lifecycle, queries
from db.audit import AuditTag
from db.queries import Tab, Wanted
from db.types import Priority, ReportState, utcnow
from db.uow import unit_of_work
from tests.db_support import (
    SCANNER,
    SENDER,
    WORKER,
    decide_all,
    header,
    open_review,
    person,
    receive,
    received,
    sign,
)


def _routed(priority: str) -> RoutingVerdict:
    return RoutingVerdict("draft", profile="cxr", priority=priority, rule="r")


def _ids(page) -> list[str]:
    return [row.study_instance_uid for row in page.rows]


@pytest.fixture
def ten(sessions):
    """Ten drafted studies: every fifth STAT, every third of the others URGENT."""
    for number in range(10):
        priority = "STAT" if number % 5 == 4 else "URGENT" if number % 3 == 0 else "ROUTINE"
        received(sessions, f"1.2.{number}", images=1).queued(_routed(priority)).running().drafted(objects=[])
    return sessions


ORDER = [f"1.2.{n}" for n in (4, 9, 0, 3, 6, 1, 2, 5, 7, 8)]  # STAT, URGENT, ROUTINE; oldest first in each


def test_the_most_urgent_comes_first_then_the_oldest(ten):
    with ten() as session:
        page = queries.worklist(session)
    assert _ids(page) == ORDER
    assert page.next_cursor is None
    assert page.counts[Tab.TO_READ] == page.counts[Tab.ALL] == 10


def test_pages_follow_each_other_even_when_what_was_shown_leaves_the_list(ten):
    seen: list[str] = []
    cursor = None
    for _ in range(10):
        with ten() as session:
            page = queries.worklist(session, after=cursor, limit=3)
        seen += _ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
        with ten() as session:  # somebody opens the last row shown: an offset would now skip one
            reader = person(ten, f"r{len(seen)}")
        with unit_of_work(ten, reader) as uow:
            lifecycle.open_review(uow, page.rows[-1].report_id)
    assert seen == ORDER


@pytest.mark.parametrize("cursor", ["x", "0_today_1", "", "0__", "1_2026-01-01_" + "z" * 36])
def test_a_cursor_that_is_none_of_ours_is_refused(sessions, cursor):
    with sessions() as session:
        if not cursor:
            assert queries.worklist(session, after=cursor).rows == []
            return
        with pytest.raises(RefusedInputError):
            queries.worklist(session, after=cursor)


def test_every_study_is_on_one_tab_and_on_all(sessions):  # noqa: C901 one study for each state
    reader = person(sessions)
    made = {
        name: received(sessions, f"1.2.{n}", images=1)
        for n, name in enumerate(
            [
                "receiving",
                "queued",
                "running",
                "to_read",
                "in_review",
                "preliminary",
                "final",
                "rejected",
                "ignored",
                "failed",
            ]
        )
    }
    for name, journey in made.items():
        if name == "ignored":
            journey.queued(RoutingVerdict("ignore", reason="no rule"))
        elif name != "receiving":
            journey.queued()
        if name not in {"receiving", "queued", "ignored"}:
            journey.running()
        if name == "failed":
            with unit_of_work(sessions, WORKER) as uow:
                lifecycle.fail(uow, journey.held, "broken")
        if name in {"to_read", "in_review", "preliminary", "final", "rejected"}:
            journey.drafted()
        if name in {"in_review", "preliminary", "final", "rejected"}:
            version = decide_all(journey, reader, open_review(journey, reader))
        if name in {"preliminary", "final"}:
            sign(journey, reader, version, state=ReportState(name.upper()))
        if name == "rejected":
            with unit_of_work(sessions, reader) as uow:
                lifecycle.reject(uow, journey.report().id, reason="poor", seen_version=version)
    expected = {
        Tab.PROCESSING: {"receiving", "queued", "running"},
        Tab.TO_READ: {"to_read"},
        Tab.IN_REVIEW: {"in_review"},
        Tab.PRELIMINARY: {"preliminary"},
        Tab.SIGNED: {"final"},
        Tab.REJECTED: {"rejected"},
        Tab.NO_DRAFT: {"ignored", "failed"},
        Tab.ALL: set(made),
    }
    with sessions() as session:
        for tab, names in expected.items():
            page = queries.worklist(session, tab=tab)
            assert set(_ids(page)) == {made[n].study().study_instance_uid for n in names}, tab
            assert {t: page.counts[t] for t in expected} == {t: len(n) for t, n in expected.items()}
        row = queries.worklist(session, tab=Tab.IN_REVIEW).rows[0]
        assert (row.locked_by, row.findings_present, row.findings_undecided) == ("Dr reader", 1, 0)
        assert queries.worklist_row(session, made["failed"].study_id).reading_reason == "broken"
        assert queries.worklist_row(session, uuid4()) is None


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("doe", ["1.2.1"]),
        ("doe, jane", ["1.2.1"]),
        ("DOE JANE", ["1.2.1"]),
        ("p-2", ["1.2.2"]),
        ("acc-2", ["1.2.2"]),
        ("2", []),  # identifiers are searched from their beginning
        ("%", []),
        ("_", []),
        ("", ["1.2.1", "1.2.2"]),
    ],
)
def test_search_finds_names_anywhere_and_identifiers_from_their_start(sessions, search, found):
    receive(sessions, header(1, "1.2.1", patient_id="P-1", patient_name="Doe^Jane", accession_number="ACC-1"))
    receive(sessions, header(1, "1.2.2", patient_id="P-2", patient_name="Roe^Max", accession_number="ACC-2"))
    with sessions() as session:
        page = queries.worklist(session, Tab.ALL, wanted=Wanted(search=search))
    assert _ids(page) == found
    assert page.counts[Tab.ALL] == len(found)


def test_filters_by_modality_and_priority(sessions):
    received(sessions, "1.2.1", images=1, modality="CT").queued(_routed("STAT"))
    received(sessions, "1.2.2", images=1, modality="CTX").queued(_routed("ROUTINE"))
    with sessions() as session:
        assert _ids(queries.worklist(session, Tab.ALL, wanted=Wanted(modality="CT"))) == ["1.2.1"]
        assert _ids(queries.worklist(session, Tab.ALL, wanted=Wanted(priority=Priority.ROUTINE))) == ["1.2.2"]


def test_instances_come_by_series_and_instance_number_up_to_a_revision(sessions):
    for number, series in ((3, 2), (1, 2), (2, 1), (10, 2)):
        receive(sessions, header(number, series_instance_uid=f"1.2.826.0.1.{series}", series_number=series))
    journey = received(sessions, images=1).queued()
    receive(sessions, header(4, series_instance_uid="1.2.826.0.1.2", series_number=2))
    with sessions() as session:
        everything = queries.instance_paths(session, journey.study_id)
        first = queries.instance_paths(session, journey.study_id, 1)
    numbers = [(i.series_number, i.instance_number) for i in everything]
    assert numbers == [(1, 2), (2, 1), (2, 3), (2, 4), (2, 10)]
    assert [i.instance_number for i in first] == [2, 1, 3, 10]
    assert everything[0].path == "1.2.826.0.1.1.2.dcm"


def test_details_hold_what_belongs_together(sessions):
    journey = received(sessions).queued().running().drafted()
    reader = person(sessions)
    version = open_review(journey, reader)
    with sessions() as session:
        study = queries.study_detail(session, journey.study_id)
        reading = queries.reading_detail(session, journey.reading_id)
        report = queries.report_detail(session, journey.report().id)
        assert queries.study_detail(session, uuid4()) is None
        assert queries.reading_detail(session, uuid4()) is None
        assert queries.report_detail(session, uuid4()) is None
    assert [(s.series.modality, s.instances) for s in study.series] == [("CT", 2)]
    assert [d.id for d in study.drafts] == [journey.draft_id]
    assert len(study.objects) == len(study.deliveries) == 2
    assert [f.label for f in reading.findings] == ["nodule", "effusion"]
    assert reading.evidence[0].id == reading.findings[0].evidence_id
    assert (report.report.version, report.locked_by.login) == (version, "reader")
    assert [r.number for r in report.revisions] == [1]
    assert report.reading.id == journey.reading_id


def test_a_reading_without_a_draft_has_no_findings_of_other_readings(sessions):
    received(sessions, "1.2.1").queued().running().drafted()
    bare = received(sessions, "1.2.2")
    with sessions() as session:
        detail = queries.reading_detail(session, bare.reading_id)
        report = queries.report_detail(session, bare.report().id)
    assert (detail.draft, detail.findings, detail.evidence, detail.objects) == (None, [], [], [])
    assert (report.draft, report.findings, report.locked_by) == (None, [], None)


def test_audit_events_are_found_by_study_accession_actor_tag_and_time(sessions):
    journey = received(sessions, "1.2.1", accession_number="ACC-1").queued()
    received(sessions, "1.2.2", accession_number="ACC-2")
    with sessions() as session:
        by_study = queries.audit_events(session, study_id=journey.study_id)
        assert [e.tag for e in by_study] == ["study:received", "reading:complete", "reading:queued"]
        assert [e.seq for e in queries.audit_events(session, accession="ACC-1")] == [e.seq for e in by_study]
        by_uid = queries.audit_events(session, study_instance_uid="1.2.1")
        assert [e.seq for e in by_uid] == [e.seq for e in by_study]
        assert queries.audit_events(session, accession="ACC-9") == []
        assert len(queries.audit_events(session, tag=AuditTag.STUDY_RECEIVED)) == 2
        assert {e.tag for e in queries.audit_events(session, actor="sweeper")} == {"reading:complete", "reading:queued"}
        now = utcnow()
        assert len(queries.audit_events(session, since=now - timedelta(hours=1), until=now)) == 4
        assert queries.audit_events(session, since=now + timedelta(hours=1)) == []
        first = queries.audit_events(session, limit=1)
        assert len(queries.audit_events(session, after_seq=first[0].seq)) == 3
        for empty in ({"accession": ""}, {"study_instance_uid": " "}):
            with pytest.raises(RefusedInputError):
                queries.audit_events(session, **empty)
        assert [s.study_instance_uid for s in queries.find_studies(session, accession="ACC-1")] == ["1.2.1"]
        assert [s.study_instance_uid for s in queries.find_studies(session, study_instance_uid="1.2.2")] == ["1.2.2"]
        assert queries.find_studies(session) == []


@pytest.mark.requirement("REQ-FAIL-8")
def test_problems_show_what_failed_is_held_was_doubted_or_not_delivered(sessions):
    failed = received(sessions, "1.2.1").queued().running()
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.fail(uow, failed.held, "broken")
    received(sessions, "1.2.2").queued(RoutingVerdict("hold", reason="wait"))
    received(sessions, "1.2.3").queued().running().drafted()
    with unit_of_work(sessions, SCANNER) as uow:
        lifecycle.quarantine(uow, reason="no UID", error="InvalidUidError", status=0xC000)
    with unit_of_work(sessions, SENDER) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        lifecycle.delivery_failed(uow, job.delivery_id, "refused", base_s=1, max_attempts=1)
    with sessions() as session:
        seen = queries.problems(session)
    assert [(p.study.study_instance_uid, p.reading.reason) for p in seen.failed] == [("1.2.1", "broken")]
    assert [(p.study.study_instance_uid, p.reading.reason) for p in seen.held] == [("1.2.2", "wait")]
    assert [q.error for q in seen.quarantined] == ["InvalidUidError"]
    assert [(d.delivery.last_error, d.object.id) for d in seen.deliveries] == [
        ("refused", seen.deliveries[0].object.id)
    ]
