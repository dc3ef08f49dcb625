"""``firstread node waiting``: the Studies that are being received, and what each waits for."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from config.errors import AppError
from config.settings import Settings
from firstread.terminal import DataDir, console, refuse, start


def node_waiting(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    data_dir: DataDir = None,
) -> None:
    """List the Studies that are being received, with the timer of each."""
    try:
        rows = waiting(start("waiting", data_dir))
    except AppError as exc:
        raise refuse(exc) from exc
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table("accession", "from", "to", "received", "expected", "complete in", "waits for", "at the latest")
    for row in rows:
        table.add_row(
            row["accession_number"] or row["study_instance_uid"],
            row["calling_ae"],
            row["called_ae"],
            str(row["received"]),
            f"{row['expected']} ({row['expected_by']})" if row["expected"] else "",
            f"{row['seconds_left']} s",
            "; ".join(row["waits_for"]),
            row["latest_at"],
        )
    console.print(table)


def waiting(settings: Settings) -> list[dict[str, Any]]:
    """Return the timers as plain values, longest silent first; looking is itself recorded.

    Raises:
        ConfigurationError: the rules, or the database's schema, are not ones to work with.
    """
    from config.routing import load_rule_book
    from db.audit import AuditTag
    from db.engine import current_sessions
    from db.queries import completion_timers
    from db.types import utcnow
    from db.uow import unit_of_work
    from firstread.people import actor

    sessions = current_sessions(settings.database)
    rules = load_rule_book(settings)
    with unit_of_work(sessions, actor()) as uow:
        uow.audit(AuditTag.WORKLIST_VIEWED, detail={"tab": "receiving"})
    with sessions() as session:
        timers = completion_timers(session, rules, priors_wait_s=settings.priors.wait_s, now=utcnow())
    return [
        {
            "study_instance_uid": one.study_instance_uid,
            "accession_number": one.accession_number,
            "calling_ae": one.calling_ae,
            "called_ae": one.called_ae,
            "revision": one.revision,
            "is_prior": one.is_prior,
            "received": one.received,
            "expected": one.expected,
            "expected_by": one.expected_by,
            "last_received_at": one.last_received_at.isoformat(),
            "quiet_until": one.timer.quiet_until.isoformat(),
            "due_at": one.timer.due_at.isoformat(),
            "latest_at": one.timer.latest_at.isoformat(),
            "seconds_left": one.seconds_left,
            "waits_for": list(one.timer.waits_for),
        }
        for one in timers
    ]
