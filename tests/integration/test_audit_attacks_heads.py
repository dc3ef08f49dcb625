"""Attacks on the chain, the tree, the heads and the schema of the log, by somebody who rules over the database."""

from dataclasses import replace

import pytest

from audit.bundles import write_bundle
from audit.heads import open_note, sign
from audit.keys import SealKeys
from audit.tables import tables_of
from audit.tree import root_at
from db.audit_archive_models import AuditArchive
from db.audit_models import AuditHead
from db.lifecycle import audit_archives
from db.origin import read_keys
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

# --- chain, tree, heads ------------------------------------------------------------------------------------


@pytest.fixture
def log(prepared):  # noqa: F811
    return copy_of(prepared)


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


def test_events_that_left_for_a_signed_bundle_are_not_missing(log):
    keys = log.prepared.keys
    with sessions_of(log)() as session:
        after = session.get_one(AuditHead, HEADS[0])
        bundle = write_bundle(session, None, after, log.prepared.anchors.parent / "bundles", keys)
    row = AuditArchive(
        first_position=0, end_position=HEADS[0], file=bundle.path.name, sha256="0" * 64, manifest=bundle.manifest
    )
    with unit_of_work(sessions_of(log), NODE) as uow:
        audit_archives.record_archive(uow, row)
    with unit_of_work(sessions_of(log), NODE) as uow:
        assert audit_archives.remove_archived(uow, row) == HEADS[0]
    log.go_on()
    verdict = log.verify()
    assert (verdict.holds, verdict.problems, verdict.archived) == (True, [], HEADS[0])
    log.do(f"DELETE FROM audit_event WHERE seq = {log.seq(HEADS[0])}")  # the first that no bundle holds
    assert named(log.verify(), "missing") == [(HEADS[0], log.seq(HEADS[0]))]


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
