"""The end of reception on both engines: announced Instances, a person's wish, several sweepers, priors."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select

from config.errors import LifecycleError
from config.routing import RuleBook
from db import lifecycle, queries
from db.expectation_models import Expectation, ExpectedInstance
from db.lifecycle import expectations
from db.models import AuditEvent, OutboxMessage, Reading, Series, Study
from db.prior_models import PriorSearch, SearchState
from db.queries import Tab, worklist
from db.types import ExpectationSource, ExpectationState, ReadingState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node.completion import Completion
from tests.completeness_support import later, rules
from tests.db_support import Journey, header, receive, receiving, tags

MODALITY = Actor("CT1", "peer")
NODE = Actor("node", "process")
BOOK = RuleBook(rules())
STUDY = "1.2.826.0.1"


def sweep(sessions, now, book=BOOK):
    return Completion(sessions, book).sweep(now)


def announce(sessions, instances, *, source=ExpectationSource.STEP, uid="1.2.9", study=STUDY, state=None):
    with unit_of_work(sessions, MODALITY) as uow:
        expectations.announce(
            uow,
            source=source,
            object_uid=uid,
            study_uids=[study],
            state=state or ExpectationState.COMPLETED,
            instances=instances,
        )


def names(*numbers, study=STUDY):
    return [f"{study}.1.{number}" for number in numbers]


def received(sessions, study=STUDY, *, images, quiet_s):
    for number in range(1, images + 1):
        study_id = receive(sessions, header(number, study), quiet_s=quiet_s).study_id
    return Journey(sessions, study_id, receiving(sessions, study_id))


def timer_of(sessions):
    with sessions() as session:
        (found,) = queries.completion_timers(session, BOOK, priors_wait_s=60.0, now=utcnow())
    return found


def test_a_study_is_complete_after_its_own_quiet_time_only(sessions):
    fast = receive(sessions, header(1, "1.2.1"), quiet_s=5.0).study_id
    slow = receive(sessions, header(1, "1.2.2"), quiet_s=60.0).study_id
    states = {}
    for seconds in (0, 6, 61):
        sweep(sessions, later(seconds))
        with sessions() as session:
            open_ones = select(Reading.study_id).where(Reading.state == ReadingState.RECEIVING)
            states[seconds] = set(session.scalars(open_ones))
    assert states == {0: {fast, slow}, 6: {slow}, 61: set()}


def test_a_study_waits_for_the_longest_quiet_time_of_its_instances(sessions):
    journey = received(sessions, images=1, quiet_s=90.0)
    receive(sessions, header(2), quiet_s=10.0)  # a report of the same study, say
    assert journey.study().quiet_s == 90.0
    receive(sessions, header(3), quiet_s=120.0)
    assert journey.study().quiet_s == 120.0


def test_what_is_announced_is_kept_before_there_is_a_study_and_told_to_it(sessions):
    announce(sessions, names(1, 2, 3))
    assert tags(sessions) == ["study:expected"]
    journey = received(sessions, images=1, quiet_s=10.0)
    assert (journey.study().expected_instances, journey.study().expected_by) == (3, "mpps")
    assert tags(sessions, study_id=journey.study_id) == ["study:received", "study:expected"]


def test_sources_are_summed_up_without_counting_an_instance_twice(sessions):
    journey = received(sessions, images=2, quiet_s=10.0)
    announce(sessions, names(1, 2, 3))
    announce(sessions, names(3, 4), source=ExpectationSource.NOTICE, uid="1.2.10")
    found = timer_of(sessions)
    assert (found.received, found.expected, found.expected_by) == (2, 4, "mpps")
    assert found.timer.waits_for == ("2 of 4 Instances announced by MPPS",)
    with unit_of_work(sessions, NODE) as uow:
        expectations.asked(uow, STUDY, archive="pacs", instances=7, attempts=0, now=utcnow())
    found = timer_of(sessions)
    assert (found.expected, found.expected_by) == (7, "c-find")
    assert found.timer.waits_for == ("5 of 7 Instances announced by the archive's count",)
    assert (journey.study().expected_instances, journey.study().expected_by) == (7, "c-find")


def test_an_archives_count_holds_but_never_hurries(sessions):
    journey = received(sessions, images=2, quiet_s=10.0)
    with unit_of_work(sessions, NODE) as uow:
        expectations.asked(uow, STUDY, archive="pacs", instances=2, attempts=0, now=utcnow())
    assert sweep(sessions, later(5)) == 0, "the archive may itself be receiving"
    assert sweep(sessions, later(11)) == 1
    assert journey.reading().rule_trace[-1]["cause"] == "quiet"


def test_an_answer_that_changes_nothing_is_no_event(sessions):
    journey = received(sessions, images=2, quiet_s=10.0)
    for number, instances in enumerate((None, 3, 3, None, 5)):
        with unit_of_work(sessions, NODE) as uow:
            expectations.asked(uow, STUDY, archive="pacs", instances=instances, attempts=number, now=utcnow())
    with sessions() as session:
        query = select(AuditEvent).where(AuditEvent.tag == "study:expected").order_by(AuditEvent.seq)
        assert [one.detail["instances"] for one in session.scalars(query)] == [3, 5]
        (row,) = session.scalars(select(Expectation))
    assert (row.instances, row.attempts) == (5, 4)
    assert journey.study().expected_instances == 5


def test_an_instance_that_came_under_another_study_is_not_missing(sessions):
    # one step for two requested procedures names the Instances of both Studies
    journey = received(sessions, images=1, quiet_s=10.0)
    receive(sessions, header(1, "1.2.77"), quiet_s=500.0)
    announce(sessions, [*names(1), "1.2.77.1.1"])
    assert sweep(sessions, later(11)) == 1
    assert journey.reading().rule_trace[-1]["missing"] == 0


def test_a_person_need_not_wait(sessions):
    journey = received(sessions, images=1, quiet_s=600.0)
    announce(sessions, names(1, 2))
    assert sweep(sessions, later(0)) == 0
    with unit_of_work(sessions, Actor("reader", "person")) as uow:
        lifecycle.complete_now(uow, journey.study_id)
    assert timer_of(sessions).timer.cause == "person"
    assert sweep(sessions, later(0)) == 1
    reading = journey.reading()
    assert reading.state is ReadingState.QUEUED
    assert reading.rule_trace[-1]["why"].startswith("a person would not wait longer; without 1 of 2 Instances")
    assert tags(sessions, actor="reader") == ["study:complete_now"]
    assert journey.study().complete_now is False
    with pytest.raises(LifecycleError, match="nothing to wait for"), unit_of_work(sessions, MODALITY) as uow:
        lifecycle.complete_now(uow, journey.study_id)
    # images that come later are waited for again
    receive(sessions, header(3), quiet_s=600.0)
    assert sweep(sessions, later(0)) == 0
    assert journey.study().revision == 2


def test_a_person_goes_before_a_rule_that_holds(sessions):
    lacks_flair = {"name": "flair", "required": [{"description": "flair"}], "wait_s": 60, "then": "hold"}
    book = RuleBook(rules(lacks_flair))
    journey = received(sessions, images=1, quiet_s=10.0)
    with unit_of_work(sessions, Actor("reader", "person")) as uow:
        lifecycle.complete_now(uow, journey.study_id)
    assert sweep(sessions, later(0), book) == 1
    assert journey.reading().state is ReadingState.QUEUED


def test_a_study_that_is_not_there_is_not_completed(sessions):
    journey = received(sessions, images=1, quiet_s=1.0)
    assert sweep(sessions, later(5)) == 1
    with pytest.raises(LifecycleError), unit_of_work(sessions, MODALITY) as uow:
        lifecycle.complete_now(uow, journey.reading_id)  # no Study has this id


def test_two_sweepers_complete_a_study_once(sessions):
    for number in range(6):
        received(sessions, f"1.2.{number + 1}", images=1, quiet_s=1.0)
    start = Barrier(2)

    def one(_):
        start.wait()
        return sweep(sessions, later(5))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(one, range(2))) == 6
    assert tags(sessions).count("reading:complete") == 6
    with sessions() as session:
        assert len(session.scalars(select(OutboxMessage.id)).all()) == 6


def test_an_image_that_comes_between_the_question_and_the_lock_is_waited_for(sessions):
    received(sessions, images=1, quiet_s=10.0)
    completion = Completion(sessions, BOOK)
    with sessions() as session:
        (one,) = lifecycle.receiving(session)
    now = later(11)
    receive(sessions, header(2), quiet_s=20.0)
    assert completion._complete(one, now) is False
    assert tags(sessions).count("reading:complete") == 0
    assert completion.sweep(later(21)) == 1


def test_a_prior_waits_for_silence_only_and_is_never_drafted(sessions):
    journey = received(sessions, images=1, quiet_s=10.0)
    announce(sessions, names(1, 2))
    with sessions.begin() as session:
        session.scalars(select(Study)).one().is_prior = True
    assert sweep(sessions, later(5)) == 0
    assert sweep(sessions, later(11)) == 1
    reading = journey.reading()
    assert (reading.state, reading.reason) == (ReadingState.IGNORED, "fetched for comparison")
    with sessions() as session:
        assert session.scalars(select(OutboxMessage.id)).all() == []
        assert worklist(session, tab=Tab.NO_DRAFT).rows == []
        listed = worklist(session, tab=Tab.ALL)
    assert [row.is_prior for row in listed.rows] == [True]
    assert {tab: count for tab, count in listed.counts.items() if count} == {Tab.ALL: 1}
    with pytest.raises(LifecycleError, match="comparison"), unit_of_work(sessions, MODALITY) as uow:
        lifecycle.process_again(uow, journey.reading_id, profile="ct")


def test_a_required_series_is_waited_for_and_then_held_or_noted(sessions):
    required = {"name": "flair", "required": [{"description": "flair"}], "wait_s": 60}
    for then, state in (("hold", ReadingState.HELD), ("draft", ReadingState.QUEUED)):
        book = RuleBook(rules({**required, "then": then}))
        journey = received(sessions, f"1.3.{len(then)}", images=1, quiet_s=10.0)
        assert sweep(sessions, later(45), book) == 0
        assert sweep(sessions, later(75), book) == 1
        reading = journey.reading()
        assert reading.state is state
        verdict = reading.rule_trace[-1]
        assert (verdict["rule"], verdict["cause"], verdict["wait_s"]) == ("flair", "patience", 60)
        assert verdict["short_of"] == ["series described like 'flair' of at least 1 Instance"]
        assert (state is ReadingState.HELD) == ("lacks a required series described like 'flair'" in reading.reason)
    journey = received(sessions, "1.3.9", images=1, quiet_s=10.0)
    receive(sessions, header(9, "1.3.9", series_instance_uid="1.3.9.2", series_description="T2 FLAIR"), quiet_s=10.0)
    with sessions() as session:
        assert session.scalars(select(Series.series_description)).all().count("T2 FLAIR") == 1
    assert sweep(sessions, later(11), book) == 1
    assert journey.reading().rule_trace[-1]["matched"] is True


def test_a_sweep_asks_one_question_however_many_studies_wait(sessions):
    for number in range(20):
        received(sessions, f"1.2.{number + 1}", images=1, quiet_s=600.0)
    announce(sessions, ["1.2.1.1.1", "1.2.1.1.2"], study="1.2.1")
    book = RuleBook(rules({"name": "flair", "required": [{"description": "flair"}], "wait_s": 9000}))
    completion = Completion(sessions, book)
    asked = []
    engine = sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    now = utcnow() + timedelta(seconds=601)
    completion.sweep(now)
    first = len(asked)
    asked.clear()
    completion.sweep(now)
    assert first > 20, "each is looked at once"
    assert sum(1 for statement in asked if statement.startswith("SELECT")) <= 2


def test_what_was_said_long_ago_is_forgotten_with_all_it_named(sessions):
    journey = received(sessions, images=1, quiet_s=10.0)
    announce(sessions, names(1, 2))
    announce(sessions, ["1.2.88.1"], study="1.2.88", uid="1.2.11")
    for days, left in ((1, 2), (-1, 0)):
        with unit_of_work(sessions, NODE) as uow:
            expectations.forget(uow, utcnow() - timedelta(days=days))
        with sessions() as session:
            assert len(session.scalars(select(Expectation)).all()) == left
    with sessions() as session:
        assert session.scalars(select(ExpectedInstance)).all() == []
    assert (journey.study().expected_instances, journey.study().expected_by) == (2, "mpps")


def test_the_same_step_announced_by_two_at_once_is_kept_once(sessions):
    start = Barrier(2)

    def one(_):
        start.wait()
        try:
            announce(sessions, names(1, 2))
        except LifecycleError:
            return "known"
        return "kept"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(one, range(2))) == ["kept", "known"]


def test_priors_that_are_looked_for_are_waited_for_and_not_for_ever(sessions):
    journey = received(sessions, images=2, quiet_s=10.0)
    announce(sessions, names(1, 2))  # all is here: only the search holds it
    patient = Completion(sessions, BOOK, priors_wait_s=60.0)
    with sessions.begin() as session:
        session.add(PriorSearch(study_id=journey.study_id, state=SearchState.WAITING))
    assert patient.sweep(later(0)) == 0
    assert patient.sweep(later(11)) == 0
    assert timer_of(sessions).timer.waits_for == ("earlier studies of this patient",)
    assert patient.sweep(later(71)) == 1
    other = received(sessions, "1.2.5", images=1, quiet_s=10.0)
    with sessions.begin() as session:
        session.add(PriorSearch(study_id=other.study_id, state=SearchState.WAITING))
    assert patient.sweep(later(11)) == 0
    with sessions.begin() as session:
        session.scalars(select(PriorSearch).filter_by(study_id=other.study_id)).one().state = SearchState.DONE
    assert patient.sweep(later(11)) == 1


def test_a_search_that_begins_after_a_study_was_looked_at_is_waited_for(sessions):
    journey = received(sessions, images=1, quiet_s=10.0)
    announce(sessions, names(1, 2))  # one is missing, so the sweeper looks and goes on waiting
    patient = Completion(sessions, BOOK, priors_wait_s=600.0)
    assert patient.sweep(later(11)) == 0
    with sessions.begin() as session:
        session.add(PriorSearch(study_id=journey.study_id, state=SearchState.WAITING))
    for _ in range(3):
        assert patient.sweep(later(101)) == 0
    assert patient.sweep(later(611)) == 1


_NAMED = st.none() | st.sets(st.integers(1, 6))
_STEPS = st.lists(st.tuples(st.sampled_from(["IN_PROGRESS", "COMPLETED", "DISCONTINUED"]), _NAMED), max_size=3)


@given(_STEPS, st.lists(st.sets(st.integers(1, 6)), max_size=2), st.sets(st.integers(1, 6), min_size=1), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_summed_up_is_what_was_said(sqlite_sessions, steps, notices, here, data):
    count = data.draw(st.none() | st.integers(0, 9))
    study = f"1.2.{uuid4().int}"
    for number in sorted(here):
        study_id = receive(sqlite_sessions, header(number, study), quiet_s=10.0).study_id
    for at, (state, named) in enumerate(steps):
        instances = None if named is None else names(*named, study=study)
        announce(sqlite_sessions, instances, uid=f"{study}.{at}", study=study, state=ExpectationState(state))
    for at, named in enumerate(notices):
        source = ExpectationSource.NOTICE
        announce(sqlite_sessions, names(*named, study=study), source=source, uid=f"{study}.{at}", study=study)
    if count is not None:
        with unit_of_work(sqlite_sessions, NODE) as uow:
            expectations.asked(uow, study, archive="pacs", instances=count, attempts=0, now=utcnow())

    listed = set().union(*(named or () for state, named in steps if state != "DISCONTINUED"), *notices)
    goes_on = any(state == "IN_PROGRESS" for state, _ in steps)
    with sqlite_sessions() as session:
        found = expectations.announcement(session, study_id)
        kept = session.get_one(Study, study_id)
    assert found.expected == max(len(listed), count or 0)
    assert found.missing == max(len(listed - here), (count or 0) - len(here), 0)
    assert (found.in_progress, found.is_final) == (goes_on, bool(listed) and not goes_on)
    assert found.discontinued == any(state == "DISCONTINUED" for state, _ in steps)
    assert found.is_satisfied == (found.is_final and listed == here and (count or 0) <= len(here))
    assert (kept.expected_instances or 0, kept.expected_by) == (found.expected, found.by)
    assert bool(found.by) == bool(found.expected)
