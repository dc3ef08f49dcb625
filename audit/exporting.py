"""Events of the audit log into a file: DICOM audit messages, FHIR AuditEvents or the events themselves, one a line."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from audit.recorded import audit_source, recorded
from config.errors import RefusedInputError
from config.settings import Settings
from db.audit import AuditTag
from db.models import AuditEvent
from db.queries.audit_telling import EventFilter, events_after
from db.uow import Actor, unit_of_work
from reports.audit_message import AuditSource, RecordedEvent, audit_message, audit_resource

_PAGE = 500


@dataclass(frozen=True)
class Exported:
    """What was written."""

    count: int
    sha256: str
    octets: int


def _dicom(event: RecordedEvent, source: AuditSource) -> bytes:
    return audit_message(event, source)


def _fhir(event: RecordedEvent, source: AuditSource) -> bytes:
    return json.dumps(audit_resource(event, source), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _jsonl(event: RecordedEvent, _: AuditSource) -> bytes:
    """Return the body as the chain holds it, and the details with what was kept apart."""
    said = {"seq": event.seq, "body": event.body, "detail": event.detail}
    return json.dumps(said, ensure_ascii=False, default=str).encode("utf-8", "replace")


FORMATS: dict[str, Callable[[RecordedEvent, AuditSource], bytes]] = {"dicom": _dicom, "fhir": _fhir, "jsonl": _jsonl}


def export_events(
    sessions: sessionmaker[Session], settings: Settings, wanted: EventFilter, kind: str, out: Path, actor: Actor
) -> Exported:
    """Write the events that are there now and wanted to ``out``, one a line in their order; the export is an event.

    The file is whole or not there: it takes its name after the event of it is committed. Only its owner can read it.

    Args:
        sessions: where the log is.
        settings: of this installation.
        wanted: which events.
        kind: ``dicom`` (audit messages, PS3.15 A.5), ``fhir`` (AuditEvents, NDJSON) or ``jsonl``.
        out: the file, which must not be there yet.
        actor: who exports.

    Raises:
        RefusedInputError: there is no such format, or the file is there already or cannot be written.
    """
    form = FORMATS.get(kind)
    if form is None:
        raise RefusedInputError(f"format is one of {', '.join(FORMATS)}")
    if out.exists():
        raise RefusedInputError("the file is there already")
    source = audit_source(settings)
    part = out.with_name(f"{out.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            digest, count, octets = hashlib.sha256(), 0, 0
            for event in _events(sessions, wanted):
                line = form(event, source) + b"\n"
                digest.update(line)
                file.write(line)
                count, octets = count + 1, octets + len(line)
            file.flush()
            os.fsync(file.fileno())
        made = Exported(count, digest.hexdigest(), octets)
        _note(sessions, wanted, kind, made, actor)
        part.rename(out)
    except OSError as exc:
        raise RefusedInputError(f"the file cannot be written ({type(exc).__name__})") from exc
    finally:
        part.unlink(missing_ok=True)
    return made


def _events(sessions: sessionmaker[Session], wanted: EventFilter) -> Iterator[RecordedEvent]:
    """Yield the events that are there at the start, page by page."""
    with sessions() as session:
        last = session.scalar(select(func.max(AuditEvent.seq))) or 0
    after = 0
    while after < last:
        with sessions() as session:
            page = [one for one in events_after(session, wanted, after, _PAGE) if one.seq <= last]
            yield from recorded(session, page)
        if len(page) < _PAGE:
            return
        after = page[-1].seq


def _note(sessions: sessionmaker[Session], wanted: EventFilter, kind: str, made: Exported, actor: Actor) -> None:
    studies = wanted.study_ids or ()
    asked = {"since": wanted.since, "until": wanted.until, "tags": wanted.tags, "actor": wanted.actor}
    detail = {
        "format": kind,
        "count": made.count,
        "sha256": made.sha256,
        **{name: value for name, value in asked.items() if value},
    }
    with unit_of_work(sessions, actor) as uow:
        for study_id in studies or (None,):
            uow.audit(AuditTag.AUDIT_EXPORTED, study_id=study_id, object_type="audit_log", detail=detail)
