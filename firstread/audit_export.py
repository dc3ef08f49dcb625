"""``firstread audit export``: the audit log into a file for other systems."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from config.errors import AppError, RefusedInputError
from firstread.terminal import DataDir, console, refuse, start

_WHEN = "Such as 2026-11-22 or 2026-11-22T10:00:00+01:00; UTC where no zone is said."


def audit_export(
    out: Annotated[Path, typer.Option("--out", help="The file; it must not be there yet.")],
    form: Annotated[
        str,
        typer.Option("--format", help="dicom (PS3.15 audit messages), fhir (AuditEvents) or jsonl; one event a line."),
    ] = "dicom",
    since: Annotated[str, typer.Option(help=f"From this moment on. {_WHEN}")] = "",
    until: Annotated[str, typer.Option(help="Up to this moment, without it.")] = "",
    study: Annotated[
        str, typer.Option(help="Accession Number or Study Instance UID; every study of that number.")
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Write events into a file; the export, with its SHA-256, is an event itself."""
    from audit.exporting import export_events
    from db.engine import current_sessions
    from db.queries import find_studies
    from db.queries.audit_telling import EventFilter
    from firstread.people import actor

    settings = start("audit", data_dir)
    try:
        sessions = current_sessions(settings.database)
        study_ids = None
        if study:
            uid = study if "." in study else ""
            with sessions() as session:
                found = find_studies(session, accession="" if uid else study, study_instance_uid=uid)
            if not found:
                raise RefusedInputError("no study has this accession number or UID")
            study_ids = [one.id for one in found]
        wanted = EventFilter(study_ids=study_ids, since=_moment(since), until=_moment(until))
        made = export_events(sessions, settings, wanted, form, out, actor())
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{made.count} events, {made.octets} octets, SHA-256 {made.sha256}", highlight=False, soft_wrap=True)


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedInputError("a moment is like 2026-11-22 or 2026-11-22T10:00:00+01:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
