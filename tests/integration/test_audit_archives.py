"""Old audit events: archived in a signed bundle, verified without us, taken out, put back, disposed of; and held."""

import json
import os
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from audit import offline_verifier
from audit.bundle_files import Bundle, bundle_events, dispose, expired, open_bundle, studies_of
from audit.bundles import write_bundle
from audit.keys import SealKeys
from audit.sealing import seal_all
from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.audit_archive_models import AuditArchive
from db.audit_models import AuditPending, AuditSeal
from db.engine import make_engine, make_sessions
from db.lifecycle import audit_archives
from db.lifecycle.retention import place_hold
from db.models import AuditEvent
from db.types import utcnow
from db.uow import Actor, unit_of_work
from firstread.cli import app
from tests.db_support import decide_all, open_review, person, received, sign

OPERATOR = Actor("cli:operator", "person")
LATER = utcnow() + timedelta(days=365 * 11)
YEARS = {"clinical": 10.0, "access": 6.0, "system": 2.0}


@pytest.fixture
def keys(tmp_path):
    return SealKeys(tmp_path / "keys", create=True)


@pytest.fixture
def journey(sessions):
    """A signed report, and events of all three classes."""
    journey, reader = received(sessions).queued().running().drafted(), person(sessions)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    with unit_of_work(sessions, reader) as uow:
        uow.audit(AuditTag.IMAGES_VIEWED, study_id=journey.study_id)
        uow.audit(AuditTag.WORKLIST_VIEWED, detail={"patient_name": "Bundle^Nobody"})
    with unit_of_work(sessions, Actor("node", "process")) as uow:
        uow.audit(AuditTag.PROCESS_STARTED, object_type="process", object_id="node")
    return journey


def _archive(sessions, keys, folder: Path) -> tuple[Bundle, AuditArchive]:
    seal_all(sessions, keys.folder)
    with sessions() as session:
        interval = audit_archives.next_interval(session, utcnow() + timedelta(minutes=1))
        assert interval is not None
        bundle = write_bundle(session, *interval, folder, keys)
    row = AuditArchive(
        first_position=bundle.first, end_position=bundle.end, file=bundle.path.name, sha256="0" * 64,
        manifest=bundle.manifest,
    )  # fmt: skip
    with unit_of_work(sessions, OPERATOR) as uow:
        audit_archives.record_archive(uow, row)
    return bundle, row


def _events(sessions) -> dict[int, tuple[str, str | None]]:
    with sessions() as session:
        return {e.seq: (e.body, e.mark) for e in session.scalars(sa.select(AuditEvent))}


def _verify_alone(bundle: Path, *public: Path) -> subprocess.CompletedProcess[str]:
    """Run the verifier that lies in the bundle as an auditor would: another folder, none of our packages."""
    script = bundle.parent / "verify.py"
    with zipfile.ZipFile(bundle) as files:
        script.write_bytes(files.read("verify.py"))
    keys = [word for path in public for word in ("--public-key", str(path))]
    command = [sys.executable, "-I", "-S", str(script), str(bundle), *keys]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.requirement("REQ-AUDIT-18")
def test_two_bundles_hold_every_event_once_and_verify_with_the_public_key_alone(sessions, journey, keys, tmp_path):
    before = _events(sessions)
    first, _ = _archive(sessions, keys, tmp_path / "bundles")
    received(sessions, "1.2.826.0.7").queued()
    keys.rotate()  # the second lies between a head of the old key and one of the new
    second, _ = _archive(sessions, keys, tmp_path / "bundles")
    assert (first.first, second.first) == (0, first.end)
    held = {event.seq: event for bundle in (first, second) for event in bundle_events(bundle)}
    assert {seq: (held[seq].body, held[seq].mark or None) for seq in before} == before
    assert sum(first.classes.values()) == first.end
    assert first.classes["system"] >= 1
    assert first.classes["access"] >= 2
    assert "Bundle^Nobody" not in "".join(event.body for event in held.values())
    old = next(keys.folder.glob("seal-*.pub"))
    done = _verify_alone(first.path, old)
    assert (done.returncode, done.stdout[:2]) == (0, "OK"), done.stdout + done.stderr
    assert _verify_alone(second.path, keys.folder / "seal.pub", old).returncode == 0
    stranger = SealKeys(tmp_path / "others", create=True)
    stranger.current()
    assert "signature" in _verify_alone(first.path, stranger.folder / "seal.pub").stdout


def _changed(bundle: Path, name: str, change) -> Path:
    """Return a copy of a bundle with one file changed, or left out where ``change`` gives None."""
    path = bundle.with_name("changed.zip")
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            content = change(old.read(entry)) if entry == name else old.read(entry)
            if content is not None:
                new.writestr(entry, content)
    return path


ATTACKS = {
    "an event's text": ("events-clinical.tsv", lambda b: b.replace(b'"outcome":"success"', b'"outcome":"failure"', 1)),
    "an event left out": ("events-access.tsv", lambda b: b.split(b"\n", 1)[1]),
    "two events changed about": ("events-clinical.tsv", lambda b: b"\n".join(reversed(b.splitlines())) + b"\n"),
    "a leaf": ("leaves.bin", lambda b: bytes([b[0] ^ 1]) + b[1:]),
    "the last leaf left out": ("leaves.bin", lambda b: b[:-32]),
    "a head": ("after.note", lambda b: b.replace(b"\nat 20", b"\nat 19", 1)),
    "the manifest": ("manifest.note", lambda b: b.replace(b'"clinical":', b'"clinical":1', 1)),
}


@pytest.mark.requirement("REQ-KEEP-6")
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_was_changed_is_refused(sqlite_sessions, keys, tmp_path, attack):
    sessions = sqlite_sessions
    received(sessions).queued().running().drafted()
    with unit_of_work(sessions, OPERATOR) as uow:
        uow.audit(AuditTag.WORKLIST_VIEWED)
        uow.audit(AuditTag.WORKLIST_VIEWED)
    bundle, _ = _archive(sessions, keys, tmp_path / "bundles")
    path = _changed(bundle.path, *ATTACKS[attack])
    assert _verify_alone(bundle.path, keys.folder / "seal.pub").returncode == 0
    assert "BROKEN" in _verify_alone(path, keys.folder / "seal.pub").stdout
    with pytest.raises(RefusedInputError, match="does not verify"):
        open_bundle(path, keys)


def test_even_with_a_new_manifest_a_changed_event_is_named(sqlite_sessions, keys, tmp_path):
    """Somebody with the manifest's key, but not the first heads: the leaf gives the change away."""
    received(sqlite_sessions).queued()
    bundle, _ = _archive(sqlite_sessions, keys, tmp_path / "bundles")
    with zipfile.ZipFile(bundle.path) as files:
        lines = files.read("events-clinical.tsv").splitlines()
        leaves = files.read("leaves.bin")
    position, seq = lines[1].split(b"\t")[:2]
    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(forged, "w") as made:
        lines[1] = lines[1].replace(b"success", b"failure")
        made.writestr("events-clinical.tsv", b"\n".join(lines) + b"\n")
    with zipfile.ZipFile(forged) as files, pytest.raises(offline_verifier.BrokenError) as told:
        list(offline_verifier._events(files, "clinical", leaves, 0))
    assert f"position {int(position)} (seq {int(seq)})" in str(told.value)


@pytest.mark.requirement("REQ-KEEP-6")
def test_archived_events_may_be_taken_out_and_come_back_as_they_were(sessions, engine, journey, keys, tmp_path):
    before = _events(sessions)
    with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit_event"))
    bundle, archive = _archive(sessions, keys, tmp_path / "bundles")
    with unit_of_work(sessions, OPERATOR) as uow:
        gone = audit_archives.remove_archived(uow, archive)
    assert gone == len(before)
    assert not set(before) & set(_events(sessions))
    with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit_event"))  # what no bundle holds stays
    with unit_of_work(sessions, OPERATOR) as uow:
        assert audit_archives.put_back(uow, archive, bundle_events(bundle)) == gone
        assert audit_archives.put_back(uow, archive, bundle_events(bundle)) == 0
    now = _events(sessions)
    assert {seq: now[seq] for seq in before} == before
    with sessions() as session:
        waiting = set(session.scalars(sa.select(AuditPending.seq)))
        sealed = list(session.scalars(sa.select(AuditSeal.seq)))
        tags = list(session.scalars(sa.select(AuditEvent.tag).order_by(AuditEvent.seq)))[-4:]
    assert not waiting & set(before)
    assert len(sealed) == len(set(sealed))
    assert tags == ["audit:archived", "audit:removed", "audit:restored", "audit:restored"]
    head = seal_all(sessions, keys.folder)
    assert head is not None
    assert head.size == len(now)


@pytest.mark.requirement("REQ-KEEP-5")
def test_a_class_whose_time_is_over_leaves_the_bundle_by_a_signed_statement(sessions, journey, keys, tmp_path):
    bundle, archive = _archive(sessions, keys, tmp_path / "bundles")
    assert expired(bundle, YEARS, utcnow()) == []
    assert set(expired(bundle, YEARS, utcnow() + timedelta(days=365 * 7))) == {"access", "system"}
    with unit_of_work(sessions, OPERATOR) as uow:
        audit_archives.record_disposal(uow, archive, ["access"], studies_of(bundle, ["access"]))
    thinned = dispose(bundle, ["access"], keys)
    assert thinned.disposed == ("access",)
    assert {json.loads(event.body)["tag"] for event in bundle_events(thinned)} & {"images:viewed"} == set()
    done = _verify_alone(bundle.path, keys.folder / "seal.pub")
    assert (done.returncode, "class access disposed of" in done.stdout) == (0, True), done.stdout
    quiet = _changed(bundle.path, "disposed.note", lambda _: None)
    assert "CANNOT BE READ" in _verify_alone(quiet, keys.folder / "seal.pub").stdout  # a text is missing, unexplained


@pytest.mark.requirement("REQ-KEEP-7")
def test_what_is_held_is_not_disposed_of(sessions, journey, keys, tmp_path):
    bundle, archive = _archive(sessions, keys, tmp_path / "bundles")
    studies = studies_of(bundle, ["access"])
    assert studies == {journey.study_id}
    with unit_of_work(sessions, OPERATOR) as uow:
        hold = audit_archives.place_hold(uow, reason="court order", since=utcnow() - timedelta(days=1))
    with pytest.raises(LifecycleError, match="legal hold"), unit_of_work(sessions, OPERATOR) as uow:
        audit_archives.record_disposal(uow, archive, ["system"], [])
    with sessions() as session:
        assert audit_archives.held_studies(session, [journey.study_id]) == [journey.study_id]
    with unit_of_work(sessions, OPERATOR) as uow:
        audit_archives.lift_hold(uow, hold.id, reason="the case is closed")
        place_hold(uow, journey.study_id, "another case")
    with pytest.raises(LifecycleError, match="studies"), unit_of_work(sessions, OPERATOR) as uow:
        audit_archives.record_disposal(uow, archive, ["access"], studies)
    with unit_of_work(sessions, OPERATOR) as uow:  # nothing of the held study is in this class
        audit_archives.record_disposal(uow, archive, ["system"], studies_of(bundle, ["system"]))


@pytest.mark.requirement("REQ-KEEP-7")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"reason": " ", "since": utcnow()}, "reason"),
        ({"reason": "x"}, "first or a last day"),
        ({"reason": "x", "since": utcnow(), "until": utcnow() - timedelta(days=2)}, "before it begins"),
    ],
    ids=["no reason", "no interval", "ends first"],
)
def test_a_hold_without_reason_or_interval_is_refused(sqlite_sessions, words, told):
    with pytest.raises(RefusedInputError, match=told), unit_of_work(sqlite_sessions, OPERATOR) as uow:
        audit_archives.place_hold(uow, **words)


@pytest.mark.requirement("REQ-KEEP-6")
def test_a_gap_or_a_second_bundle_of_the_same_events_is_refused(sqlite_sessions, keys, tmp_path):
    received(sqlite_sessions)
    bundle, _ = _archive(sqlite_sessions, keys, tmp_path / "bundles")
    for first in (0, bundle.end + 5):
        row = AuditArchive(first_position=first, end_position=first + 9, file="x", sha256="0" * 64, manifest="")
        with pytest.raises(LifecycleError, match="leaves a gap"), unit_of_work(sqlite_sessions, OPERATOR) as uow:
            audit_archives.record_archive(uow, row)


# RFC 8032 section 7.1: TEST 1, 2, 3 and SHA(abc)'s first three, verified by code that shares nothing with a library
VECTORS = (
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
)  # fmt: skip


@pytest.mark.requirement("REQ-AUDIT-18")
@pytest.mark.parametrize(("key", "message", "signature"), VECTORS, ids=["empty", "72", "af82"])
def test_the_published_signatures_hold_and_one_bit_breaks_them(key, message, signature):
    public, said, signed = (bytes.fromhex(one) for one in (key, message, signature))
    assert offline_verifier.ed25519_holds(public, said, signed)
    assert not offline_verifier.ed25519_holds(public, said + b"x", signed)
    for place in (0, 31, 32, 63):
        bent = bytearray(signed)
        bent[place] ^= 1
        assert not offline_verifier.ed25519_holds(public, said, bytes(bent))


@pytest.mark.requirement("REQ-KEEP-6")
def test_the_verbs_archive_remove_list_restore_and_dispose(sqlite_url, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTREAD_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("FIRSTREAD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FIRSTREAD_AUDIT__ARCHIVE__KEEP_SYSTEM_YEARS", "0.5")
    folder = Path(os.environ["FIRSTREAD_AUDIT__KEY_DIR"])
    sessions = make_sessions(make_engine(sqlite_url))
    received(sessions).queued()
    seal_all(sessions, folder)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["audit", *words])
        return done.exit_code, done.output

    made = run("archive", "make", "--remove")
    assert made[0] == 0, made
    assert "taken out of the table" in made[1]
    (file,) = (tmp_path / "audit-archive").glob("*.zip")
    assert "verified" in run("archive", "list")[1]
    assert "events are back" in run("archive", "restore", str(file))[1]
    assert run("archive", "dispose") == (0, "")
    assert "hold needs a first or a last day" in run("hold", "place", "--reason", "x")[1].replace("on the record ", "")
    hold = run("hold", "place", "--reason", "a case", "--since", "2026-01-01")[1].strip()
    assert "a case" in run("hold", "list")[1]
    assert run("hold", "lift", hold, "--reason", "over") == (0, "lifted\n")
    file.unlink()
    code, told = run("archive", "list")
    assert (code, "is not in" in told) == (1, True)


@pytest.mark.requirement("REQ-AUDIT-20")
def test_the_verb_erases_one_study_and_gives_the_receipt(sqlite_url, tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTREAD_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("FIRSTREAD_DATA_DIR", str(tmp_path))
    sessions = make_sessions(make_engine(sqlite_url))
    study_id = received(sessions, "1.2.826.0.9").study_id
    with unit_of_work(sessions, OPERATOR) as uow:
        uow.audit(AuditTag.IMAGES_VIEWED, study_id=study_id, detail={"patient_name": "Erasable^Eva"})
    words = ["audit", "erase", "--study", "1.2.826.0.9", "--authority", "the law", "--reason", "request 17"]
    asked = CliRunner().invoke(app, words, input="n\n")
    done = CliRunner().invoke(app, [*words, "--yes"])
    again = CliRunner().invoke(app, [*words[:3], "1.2.3", *words[4:], "--yes"])
    assert (asked.exit_code, done.exit_code, again.exit_code) == (1, 0, 2), done.output + again.output
    assert "receipt key" in done.output
    with sessions() as session:
        seen = session.scalars(sa.select(AuditEvent).where(AuditEvent.tag == "images:viewed")).one()
        erased = session.scalars(sa.select(AuditEvent).where(AuditEvent.tag == "audit:erased")).one()
    assert seen.detail == {"patient_name": "[erased]"}
    assert "request 17" not in erased.body
