"""Attacks by somebody who rules over the database: each is named, by which check, and the record too.

The attacker writes past the triggers. What he has not: the keys (unless a test gives them to him), and the anchors.
"""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from audit.heads import open_note, sign
from audit.keys import SealKeys
from audit.reading import open_reader, source_of
from audit.tables import tables_of
from audit.tree import root_at
from audit.verify import positions_between
from db.audit_record import sheet
from db.engine import make_engine, make_sessions
from db.origin import read_keys
from db.recording import record as write_down
from db.types import utcnow
from db.uow import unit_of_work
from tests.audit_attack_support import BACKUP, HEADS, NODE, SIZE, Log, prepared  # noqa: F401 a fixture
from tests.conftest import _KEYS

AT = 99  # the position that is attacked; its event says something about a patient


@pytest.fixture
def log(prepared):  # noqa: F811
    return Log(prepared.copy(prepared.full), prepared, _KEYS)


def named(verdict, check):
    """The records that one check names."""
    return [(one.position, one.seq) for one in verdict.problems if one.check == check]


def only(verdict, *checks):
    return {name for name, count in verdict.found.items() if count} == set(checks)


@pytest.mark.requirement("REQ-AUDIT-17")
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
    with unit_of_work(_sessions(log), NODE) as uow:
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
    with unit_of_work(_sessions(log), NODE) as uow:
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


# --- chain, tree, heads ------------------------------------------------------------------------------------


def test_a_chain_made_to_fit_an_edited_event_is_told_by_the_heads(log):
    seq = log.seq(AT)
    log.do(f"UPDATE audit_event SET body = replace(body, 'user:login', 'user:LOGIN') WHERE seq = {seq}")
    log.sealed_again()
    verdict = log.verify(heads=[])
    assert only(verdict, "mark", "head")
    assert named(verdict, "mark") == [(AT, seq)]
    assert named(verdict, "head") == [(size - 1, -1) for size in HEADS]
    log.do(*(f"UPDATE audit_head SET root = s.chain, chain = s.chain FROM audit_seal s WHERE position = {SIZE - 1}",))
    assert len(named(log.verify(), "head")) >= len(HEADS)


@pytest.mark.requirement("REQ-AUDIT-27")
def test_whoever_stole_both_keys_is_told_by_the_anchors(log, tmp_path):
    seq = log.seq(AT)
    [(body,)] = log.ask(f"SELECT body FROM audit_event WHERE seq = {seq}")
    forged = body.replace("user:login", "user:LOGIN")
    mark = read_keys(_KEYS).mark(forged.encode())
    log.do(f"UPDATE audit_event SET body = '{forged}', mark = '{mark}' WHERE seq = {seq}")
    log.sealed_again()
    _sign_again(log, log.prepared.keys)
    inside = log.verify(heads=[])
    assert inside.holds  # nothing inside the database tells
    verdict = log.verify()
    assert only(verdict, "anchor")
    assert named(verdict, "anchor") == [(size - 1, -1) for size in HEADS]
    thief = SealKeys(tmp_path / "thief", create=True)
    thief.current()
    _sign_again(log, thief)
    verdict = log.verify(heads=[])
    assert only(verdict, "head")
    assert "not signed by a known key" in verdict.problems[0].what


def test_a_hash_of_the_tree_that_was_changed_is_named(log):
    log.do("UPDATE audit_node SET hash = (SELECT leaf FROM audit_seal WHERE position = 0) WHERE level = 8")
    verdict = log.verify()
    assert only(verdict, "node")
    assert named(verdict, "node") == [(0, -1)]


def test_a_removed_head_is_named(log):
    log.do(f"DELETE FROM audit_head WHERE size = {BACKUP}")
    verdict = log.verify()
    assert only(verdict, "head", "anchor")
    assert named(verdict, "head") == [(SIZE - 1, -1)]  # it came after one that is not there
    assert named(verdict, "anchor") == [(BACKUP - 1, -1)]


@pytest.mark.requirement("REQ-AUDIT-27")
def test_a_log_cut_off_with_everything_of_it_is_told_by_the_anchors(log):
    tail = f"SELECT seq FROM audit_seal WHERE position >= {BACKUP}"
    log.do(
        f"DELETE FROM audit_event WHERE seq IN ({tail})",
        f"DELETE FROM audit_private WHERE seq IN ({tail})",
        f"DELETE FROM audit_seal WHERE position >= {BACKUP}",
        "DELETE FROM audit_node",
        f"DELETE FROM audit_head WHERE size > {BACKUP}",
    )
    assert log.verify(heads=[]).holds
    verdict = log.verify()
    assert only(verdict, "anchor")
    assert named(verdict, "anchor") == [(BACKUP, -1)]
    assert "its end is gone" in verdict.problems[0].what


def test_a_log_cut_off_whose_head_stayed_is_told_by_the_head(log):
    log.do(
        f"DELETE FROM audit_event WHERE seq >= {log.seq(BACKUP)}", f"DELETE FROM audit_seal WHERE position >= {BACKUP}"
    )
    verdict = log.verify(heads=[])
    assert named(verdict, "head") == [(BACKUP, -1)]


@pytest.mark.requirement("REQ-AUDIT-27")
def test_a_backup_that_was_put_back_is_told_by_the_anchors(log):
    restored = replace(log, url=log.prepared.copy(log.prepared.backup))
    assert restored.verify(heads=[]).holds
    assert named(restored.verify(), "anchor") == [(BACKUP, -1)]
    restored.go_on(SIZE - BACKUP + 20)  # and the system worked on: other events at the same places
    verdict = restored.verify()
    assert only(verdict, "anchor")
    assert named(verdict, "anchor") == [(SIZE - 1, -1)]
    assert "not those that were signed" in verdict.problems[0].what


def test_a_bundle_that_nobody_signed_excuses_no_missing_event(log):
    seq = log.seq(AT)
    log.do(
        "INSERT INTO audit_archive (first_position, end_position, file, sha256, manifest, archived_at) "
        "VALUES (0, 120, 'x', 'x', 'x', '2026-01-01 00:00:00')",
        f"DELETE FROM audit_event WHERE seq = {seq}",
    )
    verdict = log.verify()
    assert only(verdict, "archive", "missing")
    assert named(verdict, "missing") == [(AT, seq)]


# --- the schema --------------------------------------------------------------------------------------------


def test_a_column_that_no_longer_comes_from_the_body_is_named(log):
    if log.dialect == "postgresql":
        log.do("ALTER TABLE audit_event ALTER COLUMN tag DROP EXPRESSION", "UPDATE audit_event SET tag = 'x'")
    else:
        [(made,)] = log.ask("SELECT sql FROM sqlite_master WHERE name = 'audit_event'")
        start = made.index("tag VARCHAR")
        plain = made[:start] + "tag VARCHAR(64)" + made[made.index(" STORED", start) + len(" STORED") :]
        with log.raw() as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'audit_event'", [plain])
    verdict = log.verify()
    assert only(verdict, "schema")
    assert [one.what for one in verdict.problems] == ["the column tag of audit_event is not read from the body"]


@pytest.mark.requirement("REQ-AUDIT-27")
def test_guards_that_are_gone_or_do_nothing_are_named(log):
    if log.dialect == "postgresql":
        log.do(
            "ALTER TABLE audit_seal DISABLE TRIGGER append_only",
            "DROP TRIGGER audit_event_waits ON audit_event",
            "CREATE OR REPLACE FUNCTION audit_only_erased() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN OLD; END $$",
        )
        expected = ["audit_event_waits", "audit_only_erased", "append_only of audit_seal is switched off"]
    else:
        for trigger in ("audit_seal_no_update", "audit_event_waits", "audit_private_no_delete"):
            log.guarded(f"DROP TRIGGER {trigger}")
        log.guarded(
            "CREATE TRIGGER audit_private_no_delete BEFORE DELETE ON audit_private WHEN 0 "
            "BEGIN SELECT RAISE(ABORT, 'never'); END"
        )
        expected = ["audit_seal_no_update", "audit_event_waits", "audit_private_no_delete"]
    verdict = log.verify()
    assert only(verdict, "schema")
    assert len(verdict.problems) == len(expected)
    for words in expected:
        assert any(words in one.what for one in verdict.problems)


def _sessions(log):
    return make_sessions(make_engine(log.url))


def _sign_again(log, keys):
    """Sign heads anew over the tree as it is now."""
    known = log.prepared.keys.public() | keys.public()
    with log.raw() as connection:
        tables = tables_of(log.dialect, connection.cursor())
        for size, note in tables.run("SELECT size, note FROM audit_head ORDER BY size"):
            chain = bytes(tables.run("SELECT chain FROM audit_seal WHERE position = ?", [size - 1])[0][0])
            head = replace(open_note(note, known), root=root_at(size, tables.subtree), chain=chain)
            statement = "UPDATE audit_head SET root = ?, chain = ?, note = ? WHERE size = ?"
            tables.run(statement, [head.root, chain, sign(head, [keys.current()]), size])
