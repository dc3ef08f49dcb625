"""The machines of critical results: every pair of states, and what a clock and a cell say."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from config.critical_settings import CriticalSettings
from config.errors import LifecycleError
from dashboard.critical_record import six_facts_csv
from dashboard.critical_view import clock_of, clock_words, span
from db.critical_models import AlertState, Channel, CriticalAlert, CriticalNotice, NoticeState, Occasion
from db.engine import make_engine, make_sessions
from db.lifecycle.critical import study_began
from db.lifecycle.critical_clock import recipients
from db.lifecycle.moves import move_alert, move_notice
from db.models import AuditEvent, Study
from db.queries.critical import SixFacts
from db.uow import Actor, UnitOfWork

# written down from the design, not from the tables under test
ALERT = {
    "SUSPECTED CONFIRMED": "critical:confirmed",
    "SUSPECTED DISMISSED": "critical:dismissed",
    "CONFIRMED COMMUNICATED": "critical:communicated",
    "CONFIRMED DISMISSED": "critical:dismissed",
    "COMMUNICATED CONFIRMED": "critical:reopened",
}
NOTICE = {
    "PENDING SENDING": "notice:started",
    "SENDING SENT": "notice:sent",
    "SENDING PENDING": "notice:postponed",
    "SENDING FAILED": "notice:failed",
    "PENDING WITHDRAWN": "notice:withdrawn",
    "FAILED PENDING": "notice:resubmitted",
}


@pytest.fixture(scope="module")
def migrated(_migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = shutil.copy(_migrated_file, tmp_path_factory.mktemp("tables"))
    engine = make_engine(f"sqlite:///{path}")
    with engine.begin() as connection:  # the tables of moves alone, without the database's own guards
        for name in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def session(migrated: Any) -> Iterator[Session]:
    with migrated() as session:
        yield session


def _alert(state: AlertState) -> CriticalAlert:
    return CriticalAlert(id=uuid4(), study_id=uuid4(), label="x", found_by="y", state=state)


def _notice(state: NoticeState) -> CriticalNotice:
    return CriticalNotice(
        id=uuid4(),
        alert_id=uuid4(),
        level=0,
        occasion=Occasion.SUSPECTED,
        channel=Channel.MAIL,
        recipient="a",
        state=state,
    )


@pytest.mark.requirement("REQ-AUDIT-2")
@pytest.mark.parametrize(
    ("now", "to"),
    [*product(AlertState, repeat=2), *product(NoticeState, repeat=2)],
    ids=lambda state: f"{type(state).__name__}.{state}",
)
def test_a_state_changes_only_as_the_design_lists_and_writes_one_event(session: Session, now: Any, to: Any) -> None:
    uow = UnitOfWork(session, Actor("test", "process"))
    row: Any = _alert(now) if isinstance(now, AlertState) else _notice(now)
    tag = (ALERT if isinstance(now, AlertState) else NOTICE).get(f"{now} {to}")

    def move() -> None:
        if isinstance(to, AlertState):
            move_alert(uow, row, to)
        else:
            move_notice(uow, row, to, study_id=uuid4())

    if tag is None:
        with pytest.raises(LifecycleError, match=rf"from {now} to {to}\b"):
            move()
        assert (row.state, session.scalars(select(AuditEvent)).all()) == (now, [])
        return
    move()
    session.flush()
    event = session.scalars(select(AuditEvent)).one()
    assert (row.state, event.tag, event.detail["from"], event.detail["to"]) == (to, tag, str(now), str(to))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"), (172799, "47 h 59 min"),
     (172800, "2 d 0 h"), (259200, "3 d 0 h")],
)  # fmt: skip
def test_a_span_has_at_most_two_units(seconds: int, words: str) -> None:
    assert span(seconds) == words


def test_a_clock_says_what_is_left_and_then_how_late_it_is() -> None:
    assert clock_words(65, "to answer") == "1 min 05 s to answer"
    assert clock_words(-65, "to answer") == "overdue by 1 min 05 s"
    start = datetime(2026, 11, 22, 21, 0, tzinfo=UTC)
    settings = CriticalSettings(escalate_s=600, communicate_s=1200, communicate_2_s=2400)
    alert = _alert(AlertState.SUSPECTED)
    alert.category, alert.level, alert.opened_at, alert.clock_at = 2, 1, start, start + timedelta(seconds=600)
    late = clock_of(alert, settings, start + timedelta(seconds=700))
    assert (late.left_s, late.next_s, late.escalations, late.colour) == (-100, 500, 1, "bad")
    alert.state, alert.confirmed_at = AlertState.CONFIRMED, start + timedelta(seconds=800)
    alert.clock_at = alert.confirmed_at
    told = clock_of(alert, settings, start + timedelta(seconds=900))
    assert (told.left_s, told.words, told.colour) == (2300, "38 min 20 s to tell somebody", "warn")


@pytest.mark.requirement("REQ-CRIT-2")
@pytest.mark.parametrize(
    ("values", "escalated", "expected"),
    [
        ({}, False, []),
        ({"mail_to": ("a@b",)}, False, []),  # nobody to give it to
        ({"smtp_host": "m", "mail_to": ("a@b",)}, True, [("mail", "a@b")]),
        ({"smtp_host": "m", "mail_to": ("a@b",), "escalate_to": ("c@d", "c@d")}, True, [("mail", "c@d")]),
        ({"webhook_url": "https://user:key@hook.example:8443/x?token=1"}, False, [("webhook", "hook.example:8443")]),
        ({"webhook_url": "https://hook.example?token=1"}, False, [("webhook", "hook.example")]),
    ],
)
def test_a_notice_goes_to_whom_the_settings_name_and_keeps_no_secret_of_an_address(
    values: dict[str, Any], escalated: bool, expected: list[tuple[str, str]]
) -> None:
    found = recipients(CriticalSettings(**values), escalated=escalated)
    assert [(channel.value, who) for channel, who in found] == expected


@pytest.mark.parametrize(("date", "time"), [("20261121", "083000"), ("20261121", "")])
def test_a_study_began_when_it_was_made_or_received_whichever_came_first(date: str, time: str) -> None:
    received = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    study = cast("Study", SimpleNamespace(study_date=date, study_time=time, first_received_at=received))
    assert study_began(study) == datetime(2026, 11, 21, 8 if time else 0, 30 if time else 0).astimezone()
    nonsense = cast("Study", SimpleNamespace(study_date="20991340", study_time="9", first_received_at=received))
    assert study_began(nonsense) == received
    future = cast("Study", SimpleNamespace(study_date="20990101", study_time="", first_received_at=received))
    assert study_began(future) == received


def test_a_cell_of_the_auditors_file_is_never_a_formula() -> None:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    facts = SixFacts(
        study_id=uuid4(), accession_number="=1+1", alert_id=uuid4(), state=AlertState.CONFIRMED, category=1,
        what="@SUM(A1)", found_by="-CXR", found_at=at, confirmed_by="", confirmed_at=None, told="+4711", told_role="",
        told_by="", told_at=None, means="", read_back=None, no_read_back_reason="", attempts=0, escalations=0,
    )  # fmt: skip
    row = six_facts_csv([facts]).splitlines()[1].split(",")
    assert (row[0], row[4], row[5], row[9]) == ("'=1+1", "'@SUM(A1)", "'-CXR", "'+4711")
    assert row[-1] == "no"
