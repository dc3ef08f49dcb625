"""The arithmetic of completion: what is waited for, until when, and that every wait ends."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.lifecycle.timers import PATIENCE, Announcement, Situation, judge

LAST = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return LAST + timedelta(seconds=seconds)


def situation(**given) -> Situation:
    return Situation(**({"last_received_at": LAST, "quiet_s": 10.0} | given))


ALL_HERE = Announcement(expected=4, by="mpps", is_final=True)
SHORT = Announcement(expected=120, by="mpps", missing=3, is_final=True)

announcements = st.builds(
    Announcement,
    expected=st.integers(0, 5000),
    by=st.sampled_from(["mpps", "ian", "c-find", ""]),
    missing=st.integers(0, 3),
    unannounced=st.integers(0, 2),
    is_final=st.booleans(),
    in_progress=st.booleans(),
    discontinued=st.booleans(),
)
seconds = st.floats(0.1, 5000, allow_nan=False)
situations = st.builds(
    Situation,
    last_received_at=st.just(LAST),
    quiet_s=seconds,
    announcement=announcements,
    lacking=st.lists(st.sampled_from(["MR series", "flair"]), max_size=2).map(tuple),
    wait_s=st.none() | seconds,
    complete_now=st.booleans(),
    priors_pending=st.booleans(),
    priors_wait_s=st.floats(0, 600),
)


@pytest.mark.parametrize(
    ("given", "not_yet", "due", "cause"),
    [
        ({}, 9.9, 10, "quiet"),
        ({"announcement": ALL_HERE}, None, 0, "announced"),
        ({"announcement": SHORT}, 99.9, 100, "patience"),
        ({"announcement": SHORT, "wait_s": 30.0}, 29.9, 30, "patience"),
        ({"announcement": SHORT, "wait_s": 3.0}, 9.9, 10, "patience"),
        ({"announcement": replace(ALL_HERE, unannounced=1)}, 9.9, 10, "quiet"),
        ({"announcement": replace(ALL_HERE, is_final=False, in_progress=True)}, 99.9, 100, "patience"),
        ({"announcement": Announcement(discontinued=True)}, 9.9, 10, "quiet"),
        ({"announcement": Announcement(expected=4, by="c-find")}, 9.9, 10, "quiet"),
        ({"announcement": ALL_HERE, "lacking": ("MR series",), "wait_s": 60.0}, 59.9, 60, "patience"),
        ({"lacking": ("MR series",), "wait_s": 60.0}, 59.9, 60, "patience"),
        ({"priors_pending": True, "priors_wait_s": 60.0}, 69.9, 70, "quiet"),
        ({"priors_pending": True, "priors_wait_s": 0.0}, 9.9, 10, "quiet"),
        ({"announcement": SHORT, "complete_now": True}, None, 0, "person"),
    ],
)
def test_when_reception_ends_and_why(given, not_yet, due, cause):
    asked = situation(**given)
    assert not_yet is None or not judge(asked, after(not_yet)).is_due
    timer = judge(asked, after(due))
    assert (timer.is_due, timer.cause) == (True, cause)


def test_what_is_waited_for_is_said_in_words():
    timer = judge(situation(announcement=SHORT), after(20))
    assert timer.waits_for == ("3 of 120 Instances announced by MPPS",)
    assert timer.due_at == after(10 * PATIENCE)
    assert timer.quiet_until == after(10)
    nothing = judge(situation(), after(3))
    assert (nothing.waits_for, nothing.due_at, nothing.latest_at) == ((), after(10), after(10))


def test_what_was_missing_is_said_when_reception_ends():
    timer = judge(
        situation(announcement=replace(SHORT, discontinued=True), lacking=("series like 'flair'",)), after(500)
    )
    assert timer.short_of == (
        "3 of 120 Instances announced by MPPS",
        "what the modality gave up: it discontinued the procedure step (MPPS)",
        "series like 'flair'",
    )


@pytest.mark.requirement("REQ-RECV-7")
@given(situations)
def test_every_wait_ends(asked):
    latest = judge(asked, LAST).latest_at
    assert judge(asked, latest).is_due
    assert latest <= after(max(asked.quiet_s * PATIENCE, asked.wait_s or 0, asked.quiet_s + asked.priors_wait_s) + 1e-3)


@given(situations, st.floats(0, 60_000), st.floats(0, 60_000))
def test_what_is_due_stays_due(asked, one, other):
    early, late = sorted((one, other))
    assert judge(asked, after(late)).is_due or not judge(asked, after(early)).is_due


@given(situations, st.floats(0, 60_000))
def test_the_instant_that_is_shown_is_the_instant_it_happens(asked, at):
    now = after(at)
    timer = judge(asked, now)
    assert timer.is_due == (now >= timer.due_at)
    assert timer.due_at <= max(timer.latest_at, now)
    if not timer.is_due:
        assert judge(asked, timer.due_at).is_due
        assert not judge(asked, timer.due_at - timedelta(microseconds=1)).is_due


@given(situations, st.floats(0, 60_000), st.floats(0.001, 60_000))
def test_a_new_instance_never_brings_the_end_nearer(asked, at, gap):
    moved = replace(asked, last_received_at=after(gap))
    if judge(moved, after(at)).is_due and at >= gap:
        assert judge(asked, after(at)).is_due


@pytest.mark.requirement("REQ-RECV-7")
@given(situations, st.floats(0, 60_000))
def test_nothing_is_complete_before_its_quiet_time_unless_all_that_was_announced_is_here(asked, at):
    timer = judge(asked, after(at))
    if timer.is_due and after(at) < timer.quiet_until:
        assert asked.complete_now or (asked.announcement.is_satisfied and not asked.lacking)
