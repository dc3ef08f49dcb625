"""``firstread retention``: what may be deleted when, and what must not be."""

import json
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from config.errors import AppError, RefusedInputError
from config.settings import Settings
from firstread.terminal import DataDir, console, refuse, start

retention_app = typer.Typer(no_args_is_help=True, help="Pixel data that may go, and legal holds.")
StudyName = Annotated[str, typer.Argument(help="Accession Number or Study Instance UID; every study of that number.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]
_GIB = 1024**3


@retention_app.command("hold")
def retention_hold(study: StudyName, reason: Reason, data_dir: DataDir = None) -> None:
    """Place a legal hold: nothing of the study is deleted until it is lifted."""
    from db.lifecycle.retention import place_hold

    _hold(start("retention", data_dir), study, reason, place_hold, "is held")


@retention_app.command("lift")
def retention_lift(study: StudyName, reason: Reason, data_dir: DataDir = None) -> None:
    """Lift a legal hold."""
    from db.lifecycle.retention import lift_hold

    _hold(start("retention", data_dir), study, reason, lift_hold, "is no longer held")


def _hold(settings: Settings, name: str, reason: str, act: Callable[[Any, UUID, str], None], words: str) -> None:
    from db import queries
    from db.engine import current_sessions
    from db.uow import unit_of_work
    from firstread.people import actor

    try:
        with unit_of_work(current_sessions(settings.database), actor()) as uow:
            uid = name if "." in name else ""
            studies = queries.find_studies(uow.session, accession="" if uid else name, study_instance_uid=uid)
            if not studies:
                raise RefusedInputError(f"no study has the accession number or UID {name}")
            for study in studies:
                act(uow, study.id, reason)
    except AppError as exc:
        raise refuse(exc) from exc
    for study in studies:
        gone = study.pixels_deleted_at
        note = f"; its pixel data were deleted on {gone:%Y-%m-%d}: only results and records are left" if gone else ""
        console.print(f"{study.study_instance_uid} {words}{note}", highlight=False, soft_wrap=True)


@retention_app.command("plan")
def retention_plan(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False, data_dir: DataDir = None
) -> None:
    """Say what would be deleted now, oldest first, and delete nothing."""
    from db.engine import current_sessions
    from db.types import utcnow
    from firstread.people import record_look
    from instances.retention import plan

    settings = start("retention", data_dir)
    try:
        sessions = current_sessions(settings.database)
        record_look(sessions, "retention plan")
        found = plan(sessions, settings, utcnow())
    except AppError as exc:
        raise refuse(exc) from exc
    rows = [
        {
            "study_instance_uid": one.study.study_instance_uid,
            "accession_number": one.study.accession_number,
            "last_received_at": one.study.last_received_at.isoformat(),
            "files": one.study.files,
            "bytes": one.study.size_bytes,
            "why": one.why,
        }
        for one in found
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("received", "accession", "files", "MB", "why", "study")
    for row, one in zip(rows, found, strict=True):
        table.add_row(
            f"{one.study.last_received_at:%Y-%m-%d %H:%M}",
            one.study.accession_number,
            str(one.study.files),
            f"{one.study.size_bytes / 1e6:.1f}",
            one.why,
            str(row["study_instance_uid"]),
        )
    console.print(table)


@retention_app.command("run")
def retention_run(data_dir: DataDir = None) -> None:
    """Delete now what ``plan`` lists; the node does the same every minute."""
    from db.engine import current_sessions
    from db.types import utcnow
    from firstread.people import actor
    from instances.retention import delete_due

    settings = start("retention", data_dir)
    files = 0
    try:
        sessions = current_sessions(settings.database)
        while gone := delete_due(sessions, settings, utcnow(), actor=actor()):
            files += gone
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{files} files deleted", highlight=False)


@retention_app.command("status")
def retention_status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False, data_dir: DataDir = None
) -> None:
    """Say how full the disk is, when it fills, what keeps studies, and what goes next."""
    settings = start("retention", data_dir)
    try:
        said = _status(settings)
    except AppError as exc:
        raise refuse(exc) from exc
    if as_json:
        typer.echo(json.dumps(said, indent=1))
        return
    disk = said["disk"]
    console.print(
        f"{disk['free_bytes'] / _GIB:.1f} of {disk['total_bytes'] / _GIB:.1f} GiB are free; "
        f"{disk['bytes_per_day'] / _GIB:.2f} GiB arrive per day; refused from "
        f"{disk['refuses_at'] or 'never, at this rate'}",
        highlight=False,
        soft_wrap=True,
    )
    for name, value in said["settings"].items():
        console.print(f"  {name}: {value}", highlight=False)
    table = Table("studies", "GiB", "kept because")
    for row in said["kept"]:
        table.add_row(str(row["studies"]), f"{row['bytes'] / _GIB:.2f}", row["because"] or "may go when its time comes")
    console.print(table)
    console.print(f"{said['due']['studies']} studies would go now, {said['due']['bytes'] / _GIB:.2f} GiB")


def _status(settings: Settings) -> dict[str, Any]:
    from db.engine import current_sessions
    from db.lifecycle.retention import kept_studies, next_to_go
    from db.types import utcnow
    from firstread.people import record_look
    from instances.retention import forecast, plan, retention_terms

    sessions, now, terms = current_sessions(settings.database), utcnow(), retention_terms(settings)
    record_look(sessions, "retention status")
    settings.instances_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    with sessions() as session:
        disk = forecast(session, settings, now)
        kept = kept_studies(session, terms)
        following = next_to_go(session, terms, limit=5)
    due = plan(sessions, settings, now)
    return {
        "disk": {
            "total_bytes": disk.total_bytes,
            "free_bytes": disk.free_bytes,
            "bytes_per_day": round(disk.bytes_per_day),
            "refuses_at": disk.refuses_at.isoformat(timespec="minutes") if disk.refuses_at else None,
        },
        "settings": {
            **settings.retention.model_dump(),
            "min_free_bytes": settings.dicom.min_free_bytes,
        },
        "kept": [{"because": one.reason, "studies": one.studies, "bytes": one.size_bytes} for one in kept],
        "due": {"studies": len(due), "bytes": sum(one.study.size_bytes for one in due)},
        "next": [
            {
                "study_instance_uid": one.study_instance_uid,
                "last_received_at": one.last_received_at.isoformat(),
                "bytes": one.size_bytes,
            }
            for one in following
        ],
    }
