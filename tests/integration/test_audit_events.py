"""Events by any conditions: every combination is answered, refused by name, or found in the end; nothing twice."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, select

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.models import AuditEvent
from db.queries.audit import events
from db.types import Role, utcnow
from db.uow import Actor, unit_of_work
from tests.audit_history_support import History, each_engine, make_history


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from each_engine(request, tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def history(engine: Engine) -> History:
    made = make_history(engine)
    study_id = made.studies["A"].study_id
    for number, (login, role, address) in enumerate(
        (("vera", Role.VIEWER, "10.0.0.7"), ("vera", Role.VIEWER, "10.0.0.8"), ("bob", Role.LEAD, "10.0.0.7"))
    ):
        actor = Actor(login, "person", made.people[login].user_id, role=role.value, address=address)
        with unit_of_work(made.sessions, actor) as uow:
            detail = {"note": f"Pannekoek 100% sure_{number}"}
            uow.audit(AuditTag.REPORT_VIEWED, study_id=study_id, detail=detail)
            uow.audit(AuditTag.WORKLIST_VIEWED, detail={"tab": f"Süß_{number}", "list": f"ÜBER_{number}"})
    return made


def _today(**given: str) -> dict[str, str]:
    return {"since": "today", "until": "today", **given}


def _numbers(rows) -> list[int]:
    return [one["seq"] for one in rows]


def _expected(history: History, *conditions) -> list[int]:
    with history.sessions() as session:
        return list(session.scalars(select(AuditEvent.seq).where(*conditions).order_by(AuditEvent.seq.desc())))


def test_all_events_of_a_day_come_once_and_in_order(history):
    # a test may begin before midnight and end after it
    rows = history.rows("E1", since="-1d", until="today")
    assert _numbers(rows) == _expected(history)
    assert history.facts("E1", since="-1d", until="today") == {"events": len(rows)}
    oldest = history.rows("E1", since="-1d", until="today", order="oldest", actor="reader")
    assert _numbers(oldest) == _expected(history, AuditEvent.actor == "reader")[::-1]


def test_a_kind_of_event_or_a_whole_subject_is_found_without_a_stretch_of_time(history):
    assert _numbers(history.rows("E1", tag="report:opened")) == _expected(history, AuditEvent.tag == "report:opened")
    subject = _expected(history, AuditEvent.tag.like("report:%"))
    assert _numbers(history.rows("E1", tag="report:*")) == subject
    assert _numbers(history.rows("E1", tag="report:*", order="oldest")) == subject[::-1]
    mine = _expected(history, AuditEvent.tag.like("report:%"), AuditEvent.actor == "reader")
    assert _numbers(history.rows("E1", tag="report:*", actor="reader")) == mine


def test_a_study_a_patient_a_report_and_an_object_are_found_without_a_stretch_of_time(history):
    a = history.studies["A"]
    of_a = _expected(history, AuditEvent.study_id == a.study_id)
    assert _numbers(history.rows("E1", study="A-100")) == of_a
    assert _numbers(history.rows("E1", patient="PAT-A")) == of_a
    assert history.rows("E1", patient="PAT-A", issuer="elsewhere") == []
    report = a.report().id
    assert _numbers(history.rows("E1", report=str(report))) == _expected(history, AuditEvent.report_id == report)
    package = str(history.package_id)
    assert _numbers(history.rows("E1", object_id=package)) == _expected(history, AuditEvent.object_id == package)
    assert history.rows("E1", study="A-100", outcome="failure") == []
    both = _expected(history, AuditEvent.study_id == a.study_id, AuditEvent.tag == "report:viewed")
    assert _numbers(history.rows("E1", study="A-100", tag="report:viewed")) == both


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"role": "viewer"}, 4),
        ({"address": "10.0.0.7"}, 4),
        ({"role": "viewer", "address": "10.0.0.7"}, 2),
        ({"role": "viewer", "tag": "report:viewed"}, 2),
        ({"role": "lead", "actor": "bob"}, 2),
        ({"role": "lead", "actor": "vera"}, 0),
        ({"kind": "peer", "role": "lead"}, 0),
    ],
)
def test_roles_and_addresses_are_found_in_a_stretch_of_time(history, given, count):
    rows = history.rows("E1", since="-1d", until="today", **given)
    assert len(rows) == count
    assert all(one[name] == value for one in rows for name, value in given.items())


def test_words_are_found_openly_and_apart_as_they_were_written(history):
    day = {"since": "-1d", "until": "today"}
    assert [one["said"] for one in history.rows("E1", **day, text="ÜBER_1")] == ["list: ÜBER_1; tab: Süß_1"]
    assert len(history.rows("E1", **day, text="bEr_1")) == 1
    assert [one["said"] for one in history.rows("E1", **day, text="süß_1")] == ["list: ÜBER_1; tab: Süß_1"]
    assert len(history.rows("E1", **day, text="ß_")) == 3
    # the note stands apart, since it is about a patient
    assert history.rows("E1", **day, text="pannekoek") == []
    assert len(history.rows("E1", **day, text="pannekoek", private="yes")) == 3
    assert len(history.rows("E1", **day, text="100% SURE_2", private="yes")) == 1  # no wildcards
    assert history.rows("E1", **day, text="100x sure", private="yes") == []


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({}, "since: this needs From and To, 31 days apart"),
        ({"since": "-40d", "until": "today"}, "since: this needs From and To"),
        ({"since": "-3d"}, "since: this needs"),
        ({"role": "viewer"}, "role: this needs From and To"),
        ({"actor": "vera", "address": "10.0.0.7"}, "address: this needs"),
        ({"tag": "report:*", "outcome": "failure", "since": "-90d", "until": "today"}, "outcome: this needs"),
        ({"text": "x", "study": "A-100"}, "text: words are looked for in a stretch of time"),
        ({"tag": "report"}, "tag: there is no such kind of event"),
        ({"tag": "report:viewed' OR 1=1 --"}, "tag: there is no such kind of event"),
        ({"study": "nothing"}, "study: there is none"),
        ({"report": "17"}, "report: "),
        ({"order": "random"}, "order: one of"),
        ({"colour": "red"}, "no parameter"),
    ],
)
def test_what_would_read_the_whole_log_is_refused_and_says_what_is_missing(history, given, refusal):
    with pytest.raises(RefusedInputError, match=refusal):
        history.ask("E1", **given)


@pytest.mark.parametrize(
    "hostile", ["'; DROP TABLE audit_event; --", '"', "%", "_", "\\", "$.role", "{}", "NULL", "a" * 64, "\u202e'"]
)
def test_hostile_words_find_nothing_and_break_nothing(history, hostile):
    day = {"since": "-1d", "until": "today"}
    for name in ("actor", "address", "object_id", "object_type"):
        given = {**day, name: hostile[:32]}
        assert history.rows("E1", **given) == []
    assert history.rows("E1", **day, text=f"{hostile}zzz", private="yes") == []


def test_a_cursor_of_another_question_is_refused(history):
    cursor = history.ask("E1", tag="report:*", limit=1).next_cursor
    with pytest.raises(RefusedInputError, match="cursor"):
        history.ask("E1", tag="study:*", limit=1, cursor=cursor)
    with pytest.raises(RefusedInputError, match="cursor"):
        history.ask("T2", login="reader", limit=1, cursor=cursor)


def test_what_no_index_finds_is_looked_for_in_parts_and_found_in_the_end(history, monkeypatch):
    whole = history.rows("E1", since="-1d", until="today", role="viewer")
    monkeypatch.setattr(events, "LOOKED_AT", 7)
    assert history.rows("E1", since="-1d", until="today", role="viewer") == whole
    oldest = history.rows("E1", since="-1d", until="today", role="viewer", order="oldest")
    assert oldest == whole[::-1]
    first = history.ask("E1", since="-1d", until="today", role="radiologist", limit=1)
    assert first.rows == []  # an empty page that goes on
    assert first.next_cursor != ""


def test_the_asking_keeps_what_names_a_patient_apart(history):
    said = history.ask("E1", study="A-100", patient="PAT-A", tag="report:*").said()
    assert said["parameters"] == {"tag": "report:*", "private": "no", "order": "newest"}
    assert said["patient"] == {"study": "A-100", "patient": "PAT-A"}


# --- plans ---------------------------------------------------------------------------------------------------


def _plan(history: History, **given: str) -> str:
    """Return the plans of the statements on events, with sequential scans made dear where they can be."""
    statements: list[tuple[str, object]] = []
    engine = history.sessions.kw["bind"]
    is_sqlite = engine.dialect.name == "sqlite"

    def note(_connection, _cursor, statement, parameters, *_rest):
        if "FROM audit_event" in statement:
            statements.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        history.ask("E1", **given)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    lines: list[str] = []
    with engine.connect() as connection:
        if not is_sqlite:
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, parameters in statements:
            explain = f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{statement}"
            lines += [str(row[-1]) for row in connection.exec_driver_sql(explain, parameters)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("given", "index"),
    [
        ({"tag": "report:viewed"}, "tag"),
        ({"actor": "vera"}, "actor"),
        ({"study": "A-100"}, "study_id"),
        ({"object_id": "x"}, "object_id"),
    ],
)
def test_each_kind_of_condition_has_an_index_to_be_found_by(history, given, index):
    plan = _plan(history, **given)
    # each partition has its own, named after its columns
    assert f"_{index}_seq_idx" in plan or f"INDEX ix_audit_event_{index}" in plan
    assert "Seq Scan on audit_event" not in plan
    assert "SCAN audit_event" not in plan


def test_a_stretch_of_time_is_measured_exactly(history):
    now = utcnow()
    long = (now - timedelta(days=31)).isoformat()
    assert history.ask("E1", since=long, until=now.isoformat(), kind="peer").rows is not None
    longer = (now - timedelta(days=31, seconds=1)).isoformat()
    with pytest.raises(RefusedInputError, match="31 days"):
        history.ask("E1", since=longer, until=now.isoformat(), kind="peer")
