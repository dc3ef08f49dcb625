"""The audit log leaves as a file: every event, in the form asked for, and the export is an event."""

import hashlib
import json
import re
from base64 import b64decode
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from audit.exporting import FORMATS, export_events
from config.errors import RefusedInputError
from config.settings import Settings
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.lifecycle.erasing import Erasing, erase
from db.models import AuditEvent
from db.queries import find_studies
from db.queries.audit_telling import EventFilter
from db.types import utcnow
from db.uow import Actor, unit_of_work
from firstread.audit import audit_app
from tests.db_support import received
from tests.fhir_support import judged
from tests.unit.test_audit_message import SCHEMA

Sessions = sessionmaker[Session]
AUDITOR = Actor("ann", "person", role="auditor")
COUNT = 1103  # more than two pages


@pytest.fixture
def filled(sessions: Sessions) -> Sessions:
    """A Study's events, and many that are about none."""
    received(sessions)
    with unit_of_work(sessions, AUDITOR) as uow:
        for number in range(COUNT):
            uow.audit(AuditTag.WORKLIST_VIEWED, detail={"n": number, "words": "Größe\x0b ]]>"})
    return sessions


def seqs(sessions: Sessions) -> list[int]:
    with sessions() as session:
        return list(session.scalars(select(AuditEvent.seq).order_by(AuditEvent.seq)))


def seq_of(line: bytes, kind: str) -> int:
    """The number of the event of a line, when the line is what its format says."""
    if kind == "dicom":
        tree = etree.fromstring(line)
        SCHEMA.assertValid(tree)
        (found,) = tree.xpath("//ParticipantObjectDetail[@type='seq']/@value")
        return int(b64decode(found))
    said = json.loads(line)
    if kind == "fhir":
        judged(said)
        return int(said["id"])
    assert json.loads(said["body"])["v"] == 1
    return int(said["seq"])


def last_export(sessions: Sessions) -> tuple[AuditEvent, dict[str, Any]]:
    with sessions() as session:
        query = select(AuditEvent).where(AuditEvent.tag == AuditTag.AUDIT_EXPORTED).order_by(AuditEvent.seq.desc())
        event = session.scalars(query).first()
        assert event is not None
        return event, event.detail


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_event_is_in_the_file_once_and_in_order(filled: Sessions, tmp_path: Path, kind: str) -> None:
    there, out = seqs(filled), tmp_path / "log"
    made = export_events(filled, Settings(data_dir=tmp_path), EventFilter(), kind, out, AUDITOR)
    lines = out.read_bytes().split(b"\n")[:-1]
    assert len(lines) == made.count == len(there) > COUNT
    some = slice(None, None, 50)  # each is judged, which takes its time
    assert [seq_of(line, kind) for line in lines[some]] == there[some]
    assert out.stat().st_mode & 0o777 == 0o600
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    event, detail = last_export(filled)
    assert (event.actor, event.object_type) == ("ann", "audit_log")
    assert (detail["format"], detail["count"], detail["sha256"]) == (kind, made.count, digest)
    assert made.sha256 == digest
    assert list(tmp_path.iterdir()) == [out]


def test_what_was_erased_is_in_no_form_of_the_file(sessions: Sessions, tmp_path: Path) -> None:
    known = {"patient_id": "PAT-0815", "patient_name": "Kowalska^Zofia", "accession_number": "ACC-4711"}
    uids = [received(sessions, uid, **known).study().study_instance_uid for uid in ("1.2.1", "1.2.2")]
    for uid in uids:
        with unit_of_work(sessions, AUDITOR) as uow:
            study_id = find_studies(uow.session, study_instance_uid=uid)[0].id
            uow.audit(AuditTag.REPORT_EDITED, study_id=study_id, detail={"after": "Kowalska has a nodule"})

    def told(kind: str, name: str, uid: str) -> str:
        with sessions() as session:
            study_ids = [one.id for one in find_studies(session, study_instance_uid=uid)]
        out = tmp_path / name
        export_events(sessions, Settings(data_dir=tmp_path), EventFilter(study_ids=study_ids), kind, out, AUDITOR)
        text = out.read_text()
        return text + "".join(b64decode(one).decode() for one in re.findall(r' value="([^"]+)"', text))

    words = (*known.values(), "Kowalska")
    said = told("dicom", "before", uids[0])
    assert all(word in said for word in words)
    with unit_of_work(sessions, AUDITOR) as uow:
        erase(uow, Erasing(reason="request of the patient", authority="Court", study_instance_uid=uids[0]))
    for kind in FORMATS:
        after = told(kind, f"after-{kind}", uids[0])
        assert [word for word in words if word in after] == [], kind
        assert "[erased]" in after
    said = told("dicom", "other", uids[1])
    assert all(word in said for word in words)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(sqlite_sessions: Sessions, tmp_path: Path) -> None:
    settings, out = Settings(data_dir=tmp_path), tmp_path / "log"
    out.write_text("mine")
    for path, kind in ((out, "dicom"), (tmp_path / "none" / "log", "dicom"), (tmp_path / "new", "xml")):
        with pytest.raises(RefusedInputError):
            export_events(sqlite_sessions, settings, EventFilter(), kind, path, AUDITOR)
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]
    assert seqs(sqlite_sessions) == []


def test_the_verb_exports_one_study_or_a_span_of_time(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRSTREAD_DATABASE_URL", sqlite_url)
    engine = make_engine(sqlite_url)
    sessions = make_sessions(engine)
    journey, other = received(sessions), received(sessions, "1.2.9")

    def exported(name: str, *options: str) -> list[dict[str, Any]]:
        out = tmp_path / name
        command = ["export", "--data-dir", str(tmp_path), "--format", "jsonl", "--out", str(out), *options]
        shown = CliRunner().invoke(audit_app, command)
        assert shown.exit_code == 0, shown.output
        assert hashlib.sha256(out.read_bytes()).hexdigest() in shown.output
        return [json.loads(json.loads(line)["body"]) for line in out.read_text().splitlines()]

    of_study = exported("study", "--study", other.study().study_instance_uid)
    assert {one["study_id"] for one in of_study} == {str(other.study_id)}
    event, _ = last_export(sessions)
    assert event.study_id == other.study_id
    everything = exported("all")
    assert {str(journey.study_id), str(other.study_id)} <= {one.get("study_id") for one in everything}
    assert everything[-1]["tag"] == "audit:exported"
    later = (utcnow() + timedelta(hours=1)).isoformat()
    assert exported("later", "--since", later) == []
    assert len(exported("until", "--until", later)) == len(everything) + 2
    for bad in (["--since", "yesterday"], ["--study", "NOBODY"], ["--format", "xml"]):
        command = ["export", "--data-dir", str(tmp_path), "--out", str(tmp_path / "bad"), *bad]
        assert CliRunner().invoke(audit_app, command).exit_code == 2
    engine.dispose()
