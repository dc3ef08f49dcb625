"""Attacks by somebody who rules over the database: each is named, by which check, and the record too.

The attacker writes past the triggers. What he has not: the keys (unless a test gives them to him), and the anchors.
"""

import json
from datetime import timedelta

import pytest

from audit.reading import open_reader, source_of
from audit.verify import positions_between
from db.audit_record import sheet
from db.origin import read_keys
from db.recording import record as write_down
from db.types import utcnow
from db.uow import unit_of_work
from tests.audit_attack_support import (  # noqa: F401 one is a fixture
    AT,
    BACKUP,
    HEADS,
    NODE,
    SIZE,
    copy_of,
    named,
    only,
    prepared,
    sessions_of,
)
from tests.conftest import _KEYS


@pytest.fixture
def log(prepared):  # noqa: F811
    return copy_of(prepared)


def test_a_log_that_nobody_touched_holds(log):
    verdict = log.verify()
    assert (verdict.holds, verdict.found, verdict.problems) == (True, {}, [])
    assert (verdict.size, verdict.heads, verdict.anchored) == (SIZE, len(HEADS), len(HEADS))
    assert set(verdict.skipped) == {"timestamp"}
    log.go_on(5)
    assert log.verify().holds


def test_many_segments_side_by_side_find_what_one_finds(log, monkeypatch):
    monkeypatch.setattr("audit.verify.SEGMENT", 64)
    monkeypatch.setattr("audit.verify._POOL_FROM", 0)
    several = {"processes": 2 if log.dialect == "sqlite" else 1}
    verdict = log.verify(**several)
    assert (verdict.holds, verdict.problems, verdict.heads, verdict.root) == (True, [], 3, log.verify(processes=1).root)
    late, moved = log.seq(AT), log.seq(290)
    log.do(
        f"UPDATE audit_event SET body = replace(body, 'user:login', 'user:LOGIN') WHERE seq = {late}",
        f"UPDATE audit_event SET seq = 7000 WHERE seq = {moved}",
        "DELETE FROM audit_node WHERE level = 8",
    )
    told = log.verify(processes=1)
    assert only(told, "leaf", "mark", "missing", "unsealed", "node")
    assert named(told, "leaf") == [(AT, late)]
    assert named(told, "missing") == [(290, moved)]
    assert named(told, "unsealed") == [(-1, 7000)]
    assert (told.first_bad.check, told.first_bad.position) in {("leaf", AT), ("mark", AT)}
    part = log.verify(processes=1, first=120, end=200)
    assert (part.first, part.end) == (64, 200)
    assert not named(log.verify(processes=1, first=130, end=200, heads=[]), "leaf")


def test_an_interval_of_time_is_verified_by_its_positions(log):
    source = source_of(log.url)
    reader = open_reader(source)
    try:
        today = utcnow()
        everything = positions_between(reader, today - timedelta(days=1), today + timedelta(days=1))
        assert everything == (0, SIZE)
        assert positions_between(reader, None, today - timedelta(days=1)) == (0, 0)
        assert positions_between(reader, None, None) == (0, None)
    finally:
        reader.close()
    verdict = log.verify(first=0, end=BACKUP)
    assert (verdict.holds, verdict.end, "unsealed" in verdict.skipped) == (True, BACKUP, True)


# --- events ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-27")
def test_an_edited_body_is_named(log):
    seq = log.seq(AT)
    log.do(f"UPDATE audit_event SET body = replace(body, 'user:login', 'user:LOGIN') WHERE seq = {seq}")
    verdict = log.verify()
    assert only(verdict, "leaf", "mark")
    assert named(verdict, "leaf") == named(verdict, "mark") == [(AT, seq)]
    assert (verdict.first_bad.position, verdict.holds) == (AT, False)
    assert named(log.verify(origin_keys=None), "leaf") == [(AT, seq)]


@pytest.mark.parametrize("days", [0, 400])
def test_an_instant_that_was_changed_is_named(log, days):
    seq = log.seq(AT)
    at = utcnow() - timedelta(days=days, seconds=1)
    log.do(f"UPDATE audit_event SET occurred_at = '{at:%Y-%m-%d %H:%M:%S.%f}' WHERE seq = {seq}")
    verdict = log.verify()
    assert named(verdict, "leaf") == named(verdict, "instant") == [(AT, seq)]


def test_a_mark_that_was_changed_is_named(log):
    seq = log.seq(AT)
    log.do(f"UPDATE audit_event SET mark = NULL WHERE seq = {seq}")
    verdict = log.verify()
    assert only(verdict, "mark")
    assert named(verdict, "mark") == [(AT, seq)]


@pytest.mark.requirement("REQ-AUDIT-27")
def test_a_deleted_event_is_named(log):
    seq = log.seq(AT)
    log.do(f"DELETE FROM audit_event WHERE seq = {seq}")
    verdict = log.verify()
    assert only(verdict, "missing")
    assert named(verdict, "missing") == [(AT, seq)]


def test_the_number_of_the_newest_event_is_not_given_again_when_it_was_taken_away(log):
    seq = log.seq(SIZE - 1)
    log.do(f"DELETE FROM audit_event WHERE seq = {seq}")
    log.go_on(5)
    verdict = log.verify()
    assert only(verdict, "missing")
    assert named(verdict, "missing") == [(SIZE - 1, seq)]
    assert verdict.size == SIZE + 5


def test_an_event_deleted_with_its_seal_is_named(log):
    seq = log.seq(AT)
    log.do(f"DELETE FROM audit_event WHERE seq = {seq}", f"DELETE FROM audit_seal WHERE seq = {seq}")
    verdict = log.verify()
    assert named(verdict, "position") == [(AT, -1)]
    assert named(verdict, "chain") == [(AT + 1, log.seq(AT + 1))]
    assert verdict.first_bad.check == "position"


@pytest.mark.requirement("REQ-AUDIT-27")
def test_two_events_that_changed_places_are_named(log):
    one, other = log.seq(AT), log.seq(AT + 1)
    log.do(
        f"UPDATE audit_event SET seq = -1 WHERE seq = {one}",
        f"UPDATE audit_event SET seq = {one} WHERE seq = {other}",
        f"UPDATE audit_event SET seq = {other} WHERE seq = -1",
    )
    assert named(log.verify(), "leaf") == [(AT, one), (AT + 1, other)]


def test_two_seals_that_changed_places_are_named(log):
    one, other = log.seq(AT), log.seq(AT + 1)
    log.do(
        f"UPDATE audit_seal SET position = -1 WHERE position = {AT}",
        f"UPDATE audit_seal SET position = {AT} WHERE position = {AT + 1}",
        f"UPDATE audit_seal SET position = {AT + 1} WHERE position = -1",
    )
    verdict = log.verify()
    assert named(verdict, "chain")[0] == (AT, other)
    assert (AT + 1, one) in named(verdict, "chain")
    assert named(verdict, "head") == [(HEADS[0] - 1, -1), (BACKUP - 1, -1), (SIZE - 1, -1)]


@pytest.mark.requirement("REQ-AUDIT-27")
def test_a_forged_event_that_the_sealer_sealed_is_named_by_its_mark(log):
    body = log.ask(f"SELECT body FROM audit_event WHERE seq = {log.seq(AT + 1)}")[0][0].replace("login", "logout")
    mark = log.ask(f"SELECT mark FROM audit_event WHERE seq = {log.seq(AT)}")[0][0]
    at = json.loads(body)["at"]
    log.guarded(
        f"INSERT INTO audit_event (seq, occurred_at, body, mark) "
        f"VALUES (5000, '{at[:10]} {at[11:26]}{'+00' * (log.dialect != 'sqlite')}', '{body}', '{mark}')"
    )
    log.go_on()
    verdict = log.verify()
    assert named(verdict, "mark") == [(SIZE, 5000)]


def test_a_true_event_written_a_second_time_is_named(log):
    columns = "occurred_at, body, mark"
    log.guarded(
        f"INSERT INTO audit_event (seq, {columns}) "
        f"SELECT 5000, {columns} FROM audit_event WHERE seq = {log.seq(AT + 1)}"
    )
    log.go_on()
    verdict = log.verify()
    assert only(verdict, "replay")
    assert named(verdict, "replay") == [(SIZE, 5000)]


def test_an_event_without_mark_cannot_pass_as_one_from_before_the_chain(log):
    now = utcnow()
    body = f'{{"actor":"x","at":"{now:%Y-%m-%dT%H:%M:%S.%fZ}","tag":"user:login","v":0}}'
    at = f"{now:%Y-%m-%d %H:%M:%S.%f}{'+00' * (log.dialect != 'sqlite')}"
    log.guarded(f"INSERT INTO audit_event (seq, occurred_at, body) VALUES (5000, '{at}', '{body}')")
    log.go_on()
    verdict = log.verify()
    assert named(verdict, "carried") == [(SIZE, 5000)]


def test_an_event_written_with_a_seal_of_its_own_is_named(log):
    at, body = log.ask(f"SELECT occurred_at, body FROM audit_event WHERE seq = {log.seq(AT + 1)}")[0]
    log.do(
        f"INSERT INTO audit_event (seq, occurred_at, body) VALUES (5000, '{at}', '{body}')",
        f"INSERT INTO audit_seal (position, seq, occurred_at, leaf, chain) SELECT {SIZE}, 5000, '{at}', leaf, chain "
        f"FROM audit_seal WHERE position = {SIZE - 1}",
    )
    log.sealed_again()
    verdict = log.verify()
    assert named(verdict, "mark") == [(SIZE, 5000)]
    assert not named(verdict, "head")  # no head covers it yet: the mark alone tells


def test_an_event_kept_from_the_seal_is_named(log):
    now = utcnow()
    with unit_of_work(sessions_of(log), NODE) as uow:
        made = sheet({"actor": "x", "kind": "process", "tag": "user:login"}, {}, occurred_at=now)
        write_down(uow.session, made, read_keys(_KEYS).mark(made.body), None)
    [(seq,)] = log.ask("SELECT seq FROM audit_pending")
    assert log.verify().holds  # it waits, for a moment only
    assert named(log.verify(unsealed_alarm_s=0.0), "unsealed") == [(-1, seq)]
    log.do("DELETE FROM audit_pending")
    verdict = log.verify()
    assert only(verdict, "unsealed")
    assert named(verdict, "unsealed") == [(-1, seq)]


@pytest.mark.requirement("REQ-AUDIT-27")
def test_a_clock_set_back_is_recorded_and_named(log):
    with unit_of_work(sessions_of(log), NODE) as uow:
        about = {"actor": "x", "kind": "process", "tag": "user:login"}
        made = sheet(about, {}, occurred_at=utcnow() - timedelta(hours=1))
        write_down(uow.session, made, read_keys(_KEYS).mark(made.body), None)
    log.go_on()
    log.go_on()
    verdict = log.verify()
    assert named(verdict, "clock") == [(SIZE, log.seq(SIZE))]
    assert verdict.holds  # people must explain it; nothing was altered
    assert log.ask("SELECT count(*) FROM audit_event WHERE tag = 'audit:clock_back'") == [(1,)]


# --- what is kept apart ------------------------------------------------------------------------------------


def test_a_private_value_that_was_changed_or_taken_away_is_named(log):
    seq, other = log.seq(AT), log.seq(AT + 3)
    [(content,)] = log.ask(f"SELECT CAST(content AS TEXT) FROM audit_private WHERE seq = {seq}")
    changed = content.replace('"P', '"Q')
    assert changed != content
    log.do(
        f"UPDATE audit_private SET content = '{changed}' WHERE seq = {seq}",
        f"DELETE FROM audit_private WHERE seq = {other}",
    )
    verdict = log.verify()
    assert only(verdict, "private")
    assert sorted(named(verdict, "private")) == [(AT, seq), (AT + 3, other)]


def test_an_erasure_that_the_log_does_not_tell_of_excuses_nothing(log):
    seq = log.seq(AT)
    log.do(
        f"INSERT INTO audit_erasure (seq, erasure_id) VALUES ({seq}, '0b2d1c3e000040008000000000000001')",
        f"DELETE FROM audit_private WHERE seq = {seq}",
    )
    verdict = log.verify()
    assert only(verdict, "private")
    assert named(verdict, "private") == [(-1, seq)]
    assert verdict.erased == 1
