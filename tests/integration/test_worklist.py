"""The worklist's places, order, pages, filters and kept lists, on both databases."""

import random
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from config.routing import RoutingVerdict
from db import lifecycle, queries
from db.lifecycle.assigning import assign
from db.lifecycle.kept_lists import LISTS_EACH, drop_list, keep_list
from db.lifecycle.priority import suspect_critical
from db.models import Delivery, Reading, ResultObject, Study
from db.queries import NOBODY, Sort, Tab, Wanted, Worklist
from db.queries.worklist import still_listed
from db.queries.worklist_people import kept_lists
from db.report_models import Report, Signature
from db.types import DeliveryState, Priority, ReportState, Role, utcnow
from db.uow import unit_of_work
from tests.db_support import (
    SWEEPER,
    WORKER,
    Journey,
    Sessions,
    decide_all,
    open_review,
    person,
    received,
    sign,
    tags,
)

URGENCIES = {"STAT": 0, "URGENT": 2, "ROUTINE": 3}


def drafted(sessions: Sessions, number: int, priority: str = "ROUTINE", **changes: Any) -> Journey:
    """A Study with a draft; a suspected critical result is told apart from its priority."""
    verdict = RoutingVerdict("draft", profile="cxr", priority=priority, rule="r")
    journey = received(sessions, f"1.2.{number}", images=1, **changes).queued(verdict).running()
    return journey.drafted(objects=[], priority=None)


def suspect(journey: Journey, suspected: bool = True) -> None:
    with unit_of_work(journey.sessions, WORKER) as uow:
        suspect_critical(uow, journey.study_id, suspected=suspected)


def ask(sessions: Sessions, tab: Tab = Tab.TO_READ, **asked: Any) -> Worklist:
    with sessions() as session:
        return queries.worklist(session, tab, **asked)


def numbers(page: Worklist) -> list[int]:
    return [int(row.study_instance_uid.rsplit(".", 1)[1]) for row in page.rows]


@pytest.mark.requirement("REQ-CRIT-6")
def test_a_suspected_critical_result_stands_after_stat_and_before_urgent(sessions):
    journeys = [drafted(sessions, n, p) for n, p in enumerate(("ROUTINE", "URGENT", "ROUTINE", "STAT", "URGENT"))]
    assert numbers(ask(sessions)) == [3, 1, 4, 0, 2]
    before = journeys[2].report().version
    suspect(journeys[2])
    suspect(journeys[2])
    suspect(journeys[3])
    assert numbers(ask(sessions)) == [3, 2, 1, 4, 0]
    assert journeys[2].report().version == before  # nobody's open text is stale
    assert [row.suspected_critical for row in ask(sessions).rows] == [True, True, False, False, False]
    suspect(journeys[2], False)
    assert numbers(ask(sessions)) == [3, 1, 4, 0, 2]
    assert (
        tags(sessions, study_id=journeys[2].study_id, tag="report:critical_suspected")
        == ["report:critical_suspected"] * 2
    )
    with pytest.raises(LifecycleError, match="no report"), unit_of_work(sessions, WORKER) as uow:
        suspect_critical(uow, uuid4(), suspected=True)


def _place(session: Any, report: Report) -> tuple[str, int]:
    """Where a report belongs, from the rows themselves and in words of its own."""
    study = session.get_one(Study, report.study_id)
    reading = session.scalars(select(Reading).where(Reading.study_id == study.id, Reading.superseded.is_(False))).one()
    lanes = {"DRAFTED": "to_read", "FINAL": "signed", "ADDENDED": "signed", "CORRECTED": "signed"}
    if study.is_prior:
        lane = "prior"
    elif report.state is ReportState.UNREAD:
        is_open = reading.state.value in {"RECEIVING", "COMPLETE", "QUEUED", "RUNNING", "RETRYING"}
        lane = "processing" if is_open else "no_draft"
    else:
        lane = lanes.get(report.state.value, report.state.value.lower())
    urgency = URGENCIES[reading.priority.value]
    return lane, min(urgency, 1) if report.suspected_critical and urgency else urgency


def test_the_database_keeps_every_report_in_its_place(sessions):
    reader = person(sessions)

    def check() -> None:
        with sessions() as session:
            for report in session.scalars(select(Report)):
                study = session.get_one(Study, report.study_id)
                assert (report.lane, report.urgency) == _place(session, report)
                assert report.listed_at == study.first_received_at

    journeys = [received(sessions, f"1.2.{n}", images=1) for n in range(6)]
    check()
    for journey in journeys[1:]:
        journey.queued()
    check()
    journeys[1].running()
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.fail(uow, journeys[1].held, "broken")
    check()
    for journey in journeys[2:]:
        journey.running().drafted(objects=[])
        check()
    version = decide_all(journeys[3], reader, open_review(journeys[3], reader))
    check()
    sign(journeys[3], reader, version)
    version = open_review(journeys[4], reader)
    with unit_of_work(sessions, reader) as uow:
        lifecycle.reject(uow, journeys[4].report().id, reason="poor", seen_version=version)
    check()
    received(sessions, "1.2.5", images=3)  # late images: a new revision supersedes
    check()
    # what an earlier release, which knows no places, would write
    with sessions.begin() as session:
        session.execute(update(Reading).where(Reading.study_id == journeys[0].study_id).values(priority="STAT"))
        session.execute(update(Study).where(Study.id == journeys[2].study_id).values(is_prior=True))
    check()
    with sessions() as session:
        assert {one.lane for one in session.scalars(select(Report))} >= {"prior", "signed", "rejected", "no_draft"}


def test_pages_forward_and_back_neither_skip_nor_repeat_while_rows_come_and_go(sessions):
    randomly = random.Random(6)
    journeys = {n: drafted(sessions, n, randomly.choice(list(URGENCIES))) for n in range(14)}
    staying = set(range(0, 14, 2))  # the others leave, or move up, while somebody turns pages
    start = numbers(ask(sessions))
    seen: list[int] = []
    cursor, leaving = None, [n for n in start if n not in staying]
    pages: list[str | None] = []
    while True:
        page = ask(sessions, after=cursor, limit=3)
        seen += numbers(page)
        pages.append(page.previous_cursor)
        if leaving:
            suspect(journeys[leaving[0]])
            open_review(journeys[leaving.pop(0)], person(sessions, f"r{len(seen)}"))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [n for n in seen if n in staying] == [n for n in start if n in staying]
    assert len(seen) == len(set(seen))
    assert pages[0] is None
    assert all(pages[1:])


def test_turning_back_shows_the_same_pages(sessions):
    for n in range(7):
        drafted(sessions, n, ["STAT", "ROUTINE", "URGENT"][n % 3])
    for sort in Sort:
        forward = [ask(sessions, sort=sort, limit=3)]
        while forward[-1].next_cursor:
            forward.append(ask(sessions, sort=sort, after=forward[-1].next_cursor, limit=3))
        assert [len(page.rows) for page in forward] == [3, 3, 1]
        back = ask(sessions, sort=sort, before=forward[2].previous_cursor, limit=3)
        assert numbers(back) == numbers(forward[1])
        assert back.next_cursor == forward[1].next_cursor
        first = ask(sessions, sort=sort, before=back.previous_cursor, limit=3)
        assert (numbers(first), first.previous_cursor) == (numbers(forward[0]), None)
    assert numbers(ask(sessions, sort=Sort.OLDEST)) == list(range(7))
    assert numbers(ask(sessions, sort=Sort.NEWEST)) == list(range(7))[::-1]
    with sessions() as session, pytest.raises(RefusedInputError):
        queries.worklist(session, before="1_now_x")


@pytest.mark.parametrize("few", [0, 2000])
def test_filters_narrow_page_and_counts_alike(sessions, monkeypatch, few):
    monkeypatch.setattr("db.queries.worklist_lists._FEW", few)  # both ways of finding them
    reader = person(sessions)
    made = [
        drafted(sessions, 0, study_date="20261101", modality="CT"),
        drafted(sessions, 1, "STAT", study_date="20261110", modality="MR"),
        drafted(sessions, 2, "URGENT", study_date="20261120", modality="CT"),
        drafted(sessions, 3, study_date=""),
    ]
    with unit_of_work(sessions, reader) as uow:
        assign(uow, made[2].report().id, reader.user_id)
    with sessions.begin() as session:
        session.execute(update(Study).where(Study.id == made[3].study_id).values(calling_ae="OTHER"))
    expected: list[tuple[Wanted, list[int]]] = [
        (Wanted(modality="MR"), [1]),
        (Wanted(priority=Priority.STAT), [1]),
        (Wanted(priority=Priority.ROUTINE), [0, 3]),
        (Wanted(assigned=reader.user_id), [2]),
        (Wanted(assigned=NOBODY), [1, 0, 3]),
        (Wanted(sender="OTHER"), [3]),
        (Wanted(first_date="20261110"), [1, 2]),
        (Wanted(last_date="20261110"), [1, 0]),
        (Wanted(first_date="20261102", last_date="20261112"), [1]),
        (Wanted(modality="CT", first_date="20261115"), [2]),
        (Wanted(search="nobody of this name"), []),
    ]
    for wanted, found in expected:
        page = ask(sessions, wanted=wanted, reader=reader.user_id)
        assert numbers(page) == found, wanted
        assert page.counts[Tab.TO_READ] == len(found), wanted
        assert page.counts[Tab.MINE] == len(set(found) & {2})
        assert page.counts[Tab.ALL] is None
        assert ask(sessions, Tab.ALL, wanted=wanted).counts[Tab.ALL] == len(found)


def test_counts_end_where_they_stop_to_matter(sessions, monkeypatch):
    monkeypatch.setattr(sys.modules["db.queries.worklist"], "COUNT_LIMIT", 2)
    for n in range(3):
        drafted(sessions, n)
    page = ask(sessions)
    assert (page.counts[Tab.TO_READ], len(page.rows)) == (2, 3)


def test_mine_final_today_and_problems(sessions):
    mine, other = person(sessions, "me"), person(sessions, "other")
    given, held, done, first, plain, second = (drafted(sessions, n) for n in range(6))
    stuck = received(sessions, "1.2.6", images=1).queued().running()
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.fail(uow, stuck.held, "broken")
    for journey in (given, done):
        with unit_of_work(sessions, mine) as uow:
            assign(uow, journey.report().id, mine.user_id)
    open_review(held, mine)
    open_review(plain, other)
    for journey, reader in ((done, mine), (first, other), (second, other)):
        sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    assert numbers(ask(sessions, Tab.MINE, reader=mine.user_id)) == [0, 1]
    assert numbers(ask(sessions, Tab.MINE, reader=other.user_id)) == [4]
    assert numbers(ask(sessions, Tab.MINE)) == []
    assert sorted(numbers(ask(sessions, Tab.FINAL_TODAY))) == [2, 3, 5]
    assert numbers(ask(sessions, Tab.PROBLEMS)) == [6]
    assert set(numbers(ask(sessions, Tab.NO_DRAFT))) == {6}
    with sessions.begin() as session:  # one result of one Study was refused by its destination
        refused = session.scalars(select(Delivery).order_by(Delivery.id)).first()
        assert refused is not None
        refused.state = DeliveryState.FAILED
        owner = session.get_one(ResultObject, refused.result_object_id).study_id
    page = ask(sessions, Tab.PROBLEMS)
    assert {row.study_id for row in page.rows} == {stuck.study_id, owner}
    assert page.counts[Tab.PROBLEMS] == 2


def test_what_was_signed_before_midnight_is_not_final_today(sessions):
    reader = person(sessions)
    today, yesterday = drafted(sessions, 1), drafted(sessions, 2)
    sign(today, reader, decide_all(today, reader, open_review(today, reader)))
    with sessions.begin() as session:  # signing itself refuses to be that old
        report = yesterday.report()
        values = {"printed_name": "Dr reader", "meaning": "agreed", "text_sha256": "0" * 64, "user_id": reader.user_id}
        at = utcnow() - timedelta(hours=25)
        session.add(
            Signature(report_id=report.id, state=ReportState.FINAL, signed_at=at, authenticated_at=at, **values)
        )
        session.flush()
        session.execute(update(Report).where(Report.id == report.id).values(state=ReportState.FINAL))
    assert numbers(ask(sessions, Tab.FINAL_TODAY)) == [1]
    assert sorted(numbers(ask(sessions, Tab.SIGNED))) == [1, 2]


def test_a_row_that_left_the_page_may_be_on_the_list_yet(sessions):
    reader = person(sessions)
    stays, leaves = drafted(sessions, 1), drafted(sessions, 2)
    open_review(leaves, reader)
    with sessions() as session:
        ids: list[UUID] = [stays.study_id, leaves.study_id]
        assert still_listed(session, Tab.TO_READ, Wanted(), None, ids) == {stays.study_id}
        assert still_listed(session, Tab.TO_READ, Wanted(), None, []) == frozenset()


def test_a_person_keeps_lists_and_a_lead_shares_them(sessions):
    reader, lead = person(sessions, "reader"), person(sessions, "lead", role=Role.LEAD)
    with unit_of_work(sessions, reader) as uow:
        own = keep_list(uow, "  CT   morning ", "tab=to_read&modality=CT", shared=False)
        again = keep_list(uow, "CT morning", "tab=to_read&modality=MR", shared=False)
    with unit_of_work(sessions, lead) as uow:
        shared = keep_list(uow, "All prelims", "tab=preliminary", shared=True)
    assert own == again
    with sessions() as session:
        seen = [(one.name, one.query, one.shared, one.is_mine) for one in kept_lists(session, reader.user_id)]
        assert seen == [
            ("All prelims", "tab=preliminary", True, False),
            ("CT morning", "tab=to_read&modality=MR", False, True),
        ]
        assert [one.name for one in kept_lists(session, lead.user_id)] == ["All prelims"]
    for act in (
        lambda uow: keep_list(uow, "x", "tab=all", shared=True),
        lambda uow: drop_list(uow, shared),
    ):
        with pytest.raises(NotAuthorisedError), unit_of_work(sessions, reader) as uow:
            act(uow)
    with pytest.raises(NotAuthorisedError), unit_of_work(sessions, lead) as uow:
        drop_list(uow, own)
    with pytest.raises(NotAuthorisedError), unit_of_work(sessions, SWEEPER) as uow:
        keep_list(uow, "x", "tab=all", shared=False)
    for name in ("", "  ", "x" * 65):
        with pytest.raises(RefusedInputError), unit_of_work(sessions, reader) as uow:
            keep_list(uow, name, "tab=all", shared=False)
    with unit_of_work(sessions, reader) as uow:
        drop_list(uow, own)
        drop_list(uow, own)
    assert tags(sessions, object_type="list") == ["worklist:kept"] * 3 + ["worklist:dropped"]
    with unit_of_work(sessions, reader) as uow:
        for n in range(LISTS_EACH):
            keep_list(uow, f"list {n}", "tab=all", shared=False)
    with pytest.raises(RefusedInputError, match="already"), unit_of_work(sessions, reader) as uow:
        keep_list(uow, "one more", "tab=all", shared=False)
