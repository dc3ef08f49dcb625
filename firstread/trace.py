"""``firstread trace``: what became of one Study."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from config.errors import AppError
from config.settings import Settings
from db.queries.trace_values import Trace
from firstread.terminal import DataDir, refuse, start


def trace(
    key: Annotated[str, typer.Argument(help="Accession Number, Study or SOP Instance UID, or a study's id.")],
    data_dir: DataDir = None,
) -> None:
    """Print as JSON what became of a study, from association to commitment; exit 1 when it is not here."""
    try:
        found = trace_study(start("trace", data_dir), key)
    except AppError as exc:
        raise refuse(exc) from exc
    typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False, default=_plain))
    raise typer.Exit(0 if found.studies else 1)


def trace_study(settings: Settings, key: str) -> Trace:
    """Return the trace of ``key``; asking is recorded for each Study that is shown.

    Raises:
        RefusedInputError: nothing, or a Patient ID, was asked for.
        ConfigurationError: the database is not this release's, or the routing rules cannot be read.
    """
    from config.routing import load_rule_book
    from db.audit import AuditTag
    from db.engine import current_sessions
    from db.queries.trace import Ways
    from db.queries.trace import trace as ask
    from db.types import utcnow
    from db.uow import unit_of_work
    from firstread.people import actor
    from instances.retention import retention_terms

    sessions = current_sessions(settings.database)
    ways = Ways(retention_terms(settings), load_rule_book(settings), settings.priors.wait_s)
    with sessions() as session:
        found = ask(session, key, utcnow(), ways)
    with unit_of_work(sessions, actor()) as uow:
        for study in found.studies:
            uow.audit(AuditTag.STUDY_TRACED, study_id=study.id)
        if not found.studies:
            uow.audit(AuditTag.STUDY_TRACED, outcome="failure", object_type="key", object_id=found.key_to_record[:64])
    return found


def _plain(value: object) -> str:
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat()) if isoformat else str(value)
