"""Heads outside the system: files that are written once, time stamps of a real authority, and what failures show."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from rfc3161_client import decode_timestamp_response
from sqlalchemy import func, select
from typer.testing import CliRunner

from audit.anchors import Anchors, check_stamp, read_certificates, stamp_problems, write_head
from audit.keys import SealKeys
from audit.nightly import Nightly
from audit.process import duties
from audit.reading import source_of
from audit.rotation import rotate_origin
from audit.sealing import seal_all
from audit.verify import Terms, verify
from config.errors import BrokenSealError
from config.settings import AuditSettings, settings
from db.audit import AuditTag
from db.audit_anchor_models import AuditAnchor
from db.audit_models import AuditHead
from db.models import AuditEvent
from db.origin import keys_are_in, read_keys, write_key
from firstread.cli import app
from firstread.doctor_audit import audit_trail
from tests.audit_attack_support import record
from tests.conftest import _KEYS
from tests.timestamping import TimeStamping


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    with TimeStamping(tmp_path_factory.mktemp("tsa")) as running:
        yield running


@pytest.fixture(autouse=True)
def _own_keys():
    yield
    keys_are_in(_KEYS)  # a verb of the command line, or a rotation, took others


@pytest.fixture
def keys(tmp_path):
    return SealKeys(tmp_path / "keys", create=True)


def seal(sessions, keys, count=3):
    record(sessions, count)
    return seal_all(sessions, keys.folder)


def anchored(sessions, **columns):
    with sessions() as session:
        return session.scalars(select(AuditAnchor).filter_by(**columns).order_by(AuditAnchor.id)).all()


def events(sessions, tag):
    with sessions() as session:
        return session.scalars(select(AuditEvent).where(AuditEvent.tag == tag).order_by(AuditEvent.seq)).all()


@pytest.mark.requirement("REQ-AUDIT-16")
def test_every_head_becomes_a_file_that_is_never_written_again(sqlite_sessions, keys, tmp_path):
    anchors = Anchors(sqlite_sessions, AuditSettings(anchor_dir=tmp_path / "worm"))
    first, second = seal(sqlite_sessions, keys), seal(sqlite_sessions, keys)
    assert anchors.round() == 2
    assert anchors.round() == 0
    files = sorted((tmp_path / "worm").iterdir())
    assert [file.read_text("utf-8") for file in files] == [first.note, second.note]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o444}
    assert [row.target for row in anchored(sqlite_sessions, kind="file")] == [file.name for file in files]
    assert write_head(tmp_path / "worm", first.size, first.note) == files[0]
    with pytest.raises(BrokenSealError, match="not the one that was anchored"):
        write_head(tmp_path / "worm", first.size, second.note)
    assert files[0].read_text("utf-8") == first.note


@pytest.mark.requirement("REQ-AUDIT-16")
def test_an_outage_is_one_event_and_every_head_is_tried_again(sqlite_sessions, keys, authority, tmp_path):
    anchors = Anchors(sqlite_sessions, AuditSettings(timestamp_url=authority.url, anchor_dir=tmp_path / "worm"))
    authority.broken = True
    for _ in range(2):
        seal(sqlite_sessions, keys)
        anchors.round()
    assert [event.detail["kind"] for event in events(sqlite_sessions, AuditTag.AUDIT_ANCHOR_FAILED)] == ["timestamp"]
    assert len(anchored(sqlite_sessions, kind="file")) == 2  # one place keeps no other waiting
    authority.broken = False
    assert anchors.round() == 2
    assert [row.outcome for row in anchored(sqlite_sessions, kind="timestamp")] == ["failure", "success", "success"]
    authority.broken = True
    seal(sqlite_sessions, keys)
    anchors.round()
    authority.broken = False
    assert len(events(sqlite_sessions, AuditTag.AUDIT_ANCHOR_FAILED)) == 2


@pytest.mark.requirement("REQ-AUDIT-16")
def test_a_time_stamp_is_what_openssl_says_it_is(sessions, keys, authority, tmp_path):
    chosen = AuditSettings(timestamp_url=authority.url, timestamp_certificate=authority.root)
    head = seal(sessions, keys)
    assert Anchors(sessions, chosen).round() == 1
    [row] = anchored(sessions, kind="timestamp")
    assert authority.says(row.token, head.note.encode(), authority.root)
    certificates = read_certificates(authority.root)
    stamp = decode_timestamp_response(row.token)
    assert abs(check_stamp(stamp, head.note, certificates) - head.at) < timedelta(minutes=5)
    with pytest.raises(BrokenSealError):
        check_stamp(stamp, head.note + " ", certificates)
    other = TimeStamping(tmp_path / "other")  # never served
    other._server.server_close()
    assert not authority.says(row.token, head.note.encode(), other.root)
    with pytest.raises(BrokenSealError):
        check_stamp(stamp, head.note, read_certificates(other.root))
    source = source_of(sessions.kw["bind"].url.render_as_string(hide_password=False))
    for root, found in ((authority.root, {}), (other.root, {"timestamp": 1})):
        check = stamp_problems(read_certificates(root), timedelta(minutes=5))
        assert verify(source, Terms(keys.public(), timestamps=check)).found == found
    early = stamp_problems(certificates, timedelta(days=-1))  # as if the head said a time long after its stamp
    assert verify(source, Terms(keys.public(), timestamps=early)).found == {"timestamp": 1}


@pytest.mark.requirement("REQ-AUDIT-16")
def test_heads_are_found_in_a_syslog_receiver_s_file(sqlite_sessions, keys, tmp_path):
    head = seal(sqlite_sessions, keys)
    line = "2026-11-23T04:05:06+00:00 host firstread \ufeff" + head.note.replace("\n", "#012")
    lines = tmp_path / "heads.log"
    lines.write_text(f"2026-11-23T04:05:05 host other: something\n{line}\n", encoding="utf-8")
    source = source_of(str(sqlite_sessions.kw["bind"].url))
    verdict = verify(source, Terms(keys.public(), heads=[lines]))
    assert (verdict.anchored, verdict.found) == (1, {})
    lines.write_text(line.replace("#0123#012", "#0124#012"), encoding="utf-8")
    assert verify(source, Terms(keys.public(), heads=[lines])).found == {"anchor": 1}


def test_each_verification_by_the_sealer_is_an_event_and_what_does_not_hold_is_a_failure(
    sqlite_sessions, sqlite_url, tmp_path
):
    folder = os.environ["FIRSTREAD_AUDIT__KEY_DIR"]
    chosen = settings(data_dir=tmp_path, database_url=sqlite_url)
    SealKeys(chosen.key_dir, create=True).current()
    record(sqlite_sessions, 3)
    seal_all(sqlite_sessions, chosen.key_dir)
    assert str(chosen.key_dir) == folder
    nightly = Nightly(chosen, sqlite_sessions)
    assert nightly.round()
    assert not nightly.round()  # not yet again
    assert {"seal", "verify"} <= {duty.name for duty in duties(chosen, sqlite_sessions)}
    [event] = events(sqlite_sessions, AuditTag.AUDIT_VERIFIED)
    assert (event.outcome, event.detail["to"], event.detail["found"]) == ("success", 3, {})
    with sqlite_sessions() as session:
        connection = session.connection()
        connection.exec_driver_sql("DROP TRIGGER audit_event_no_update")
        connection.exec_driver_sql("UPDATE audit_event SET mark = 'x' WHERE seq = 2")
        session.commit()
    eager = chosen.model_copy(update={"audit": chosen.audit.model_copy(update={"verify_every_s": 0.0})})
    assert Nightly(eager, sqlite_sessions).round()
    event = events(sqlite_sessions, AuditTag.AUDIT_VERIFIED)[-1]
    assert event.outcome == "failure"
    assert (event.detail["check"], event.detail["position"]) == ("mark", 1)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_an_auditor_s_verbs(sqlite_sessions, sqlite_url, tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTREAD_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("FIRSTREAD_DATA_DIR", str(tmp_path))
    record(sqlite_sessions, 4)
    assert "BEGIN PUBLIC KEY" in run("keys")
    first = run("head")
    assert first.split("\n")[1] == "4"
    worm = tmp_path / "worm"
    write_head(worm, 4, first)
    assert "signs heads" in run("keys", "--rotate", "seal")
    assert run("head").split("\n")[1] == "5"
    public = [item for file in sorted(settings().key_dir.glob("seal*.pub")) for item in ("--public-key", file)]
    proof = tmp_path / "proof.json"
    proof.write_text(run("prove", 2), encoding="utf-8")
    assert "event 2 is number 1 of the 5 events" in run("check-proof", proof, *public)
    said = json.loads(proof.read_text("utf-8"))
    said["event"]["body"] = said["event"]["body"].replace("login", "logout")
    proof.write_text(json.dumps(said), encoding="utf-8")
    assert "not proved" in run("check-proof", proof, *public, code=1)
    proof.write_text(run("prove", "--from", 4, "--to", 5), encoding="utf-8")
    assert "begins with the 4" in run("check-proof", proof, *public)
    run("prove", 99, code=2)
    elsewhere = ("--database-url", sqlite_url, *public, "--heads", worm)
    monkeypatch.setenv("FIRSTREAD_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    monkeypatch.setenv("FIRSTREAD_AUDIT__KEY_DIR", str(tmp_path / "no keys"))
    verdict = json.loads(run("verify", *elsewhere, "--json"))
    assert (verdict["holds"], verdict["size"], verdict["heads"], verdict["anchored_heads"]) == (True, 5, 2, 1)
    assert "not given" in verdict["checks"]["mark"]["skipped"]
    with sqlite_sessions() as session:
        connection = session.connection()
        connection.exec_driver_sql("DROP TRIGGER audit_event_no_delete")
        connection.exec_driver_sql("DELETE FROM audit_event WHERE seq = 3")
        session.commit()
    told = run("verify", *elsewhere, code=1)
    assert re.search(r"first bad record: position 2, event 3 \(missing\)", told)
    assert "audit_event_no_delete" in told


def test_a_new_key_marks_and_what_the_old_one_marked_still_holds(sqlite_sessions, sqlite_url, tmp_path, monkeypatch):
    write_key(tmp_path / "keys")
    keys_are_in(tmp_path / "keys")
    record(sqlite_sessions, 2)
    old, new = rotate_origin(sqlite_sessions, tmp_path / "keys")
    keys_are_in(tmp_path / "keys")  # as a process does that starts
    record(sqlite_sessions, 2)
    seal_all(sqlite_sessions, tmp_path / "keys")
    known = read_keys(tmp_path / "keys")
    assert (known.current, set(known.keys)) == (new, {old, new})
    terms = Terms(SealKeys(tmp_path / "keys").public(), known.keys)
    assert verify(source_of(sqlite_url), terms).found == {}
    with sqlite_sessions() as session:
        marks = [mark.split(":")[0] for mark in session.scalars(select(AuditEvent.mark).order_by(AuditEvent.seq))]
        heads = session.scalars(select(AuditHead)).all()
    assert marks == [old, old, old, new, new]
    assert len(heads) == 1
    known_new = {new: known.keys[new]}
    assert verify(source_of(sqlite_url), Terms(terms.public_keys, known_new)).found == {"mark": 3}


def test_the_doctor_says_where_the_keys_are_how_old_the_head_is_and_what_fails(sqlite_sessions, sqlite_url, tmp_path):
    chosen = settings(data_dir=tmp_path, database_url=sqlite_url)
    record(sqlite_sessions, 2)
    SealKeys(chosen.key_dir, create=True).current()
    assert "no head yet" in audit_trail(chosen)
    seal_all(sqlite_sessions, chosen.key_dir)
    note = audit_trail(chosen)
    assert "head of 2 events" in note
    assert str(chosen.key_dir) in note
    assert "anchored nowhere" in note
    (tmp_path / "file").write_text("no folder")
    bad = chosen.audit.model_copy(update={"anchor_dir": tmp_path / "file" / "worm", "unsealed_alarm_s": 1e-9})
    assert Anchors(sqlite_sessions, bad).round() == 0
    with pytest.raises(ValueError, match="waited for its seal since"):  # the event of the failure itself
        audit_trail(chosen.model_copy(update={"audit": bad}))
    with pytest.raises(ValueError, match="cannot be anchored: file"):
        audit_trail(chosen)


def test_the_sealer_s_process_seals_while_it_runs_and_signs_a_last_head_when_it_is_told_to_stop(
    sqlite_sessions, sqlite_url, tmp_path
):
    record(sqlite_sessions, 3)
    about = {"FIRSTREAD_DATABASE_URL": sqlite_url, "FIRSTREAD_DATA_DIR": str(tmp_path)}
    about |= {"FIRSTREAD_AUDIT__ANCHOR_DIR": str(tmp_path / "worm"), "FIRSTREAD_AUDIT__SEAL_EVERY_S": "0.05"}
    running = subprocess.Popen([sys.executable, "-m", "firstread", "sealer"], env={**os.environ, **about})
    try:
        until = time.monotonic() + 60
        while not anchored(sqlite_sessions, kind="file") and time.monotonic() < until:
            time.sleep(0.05)
        running.terminate()
        assert running.wait(60) == 0
    finally:
        running.kill()
    with sqlite_sessions() as session:
        count = session.scalar(select(func.count()).select_from(AuditEvent))
        head = session.scalars(select(AuditHead).order_by(AuditHead.size.desc())).first()
    assert head.size == count
    assert events(sqlite_sessions, AuditTag.PROCESS_STOPPED)
