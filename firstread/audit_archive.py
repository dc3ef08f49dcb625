"""``firstread audit archive`` and ``firstread audit hold``: bundles of old events, and what must not be disposed of."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from config.errors import AppError, RefusedInputError
from config.settings import Settings
from db.audit_archive_models import AuditArchive
from db.engine import current_sessions
from db.lifecycle import audit_archives
from db.types import utcnow
from db.uow import unit_of_work
from firstread.people import actor
from firstread.terminal import DataDir, console, refuse, start

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from audit.bundle_files import Bundle
    from audit.keys import SealKeys

archive_app = typer.Typer(no_args_is_help=True, help="Bundles of old audit events: signed, verifiable offline.")
hold_app = typer.Typer(no_args_is_help=True, help="Legal holds on the record of an interval; a study has its own.")
BundleFile = Annotated[Path, typer.Argument(help="The bundle's file.", exists=True, dir_okay=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]


@contextmanager
def _site(data_dir: Path | None) -> Iterator[tuple[Settings, "sessionmaker[Session]", "SealKeys"]]:
    """Give settings, sessions and keys; an error of ours is said as one line."""
    from audit.keys import SealKeys

    settings = start("audit", data_dir)
    try:
        yield settings, current_sessions(settings.database), SealKeys(settings.key_dir)
    except AppError as exc:
        raise refuse(exc) from exc


@archive_app.command("make")
def archive_make(
    before: Annotated[
        datetime | None, typer.Option(help="Archive up to the last head signed before this day; now when not given.")
    ] = None,
    remove: Annotated[bool, typer.Option(help="Then take the events out of the table; their seals stay.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write what no bundle holds yet into the next one, verify it, and record it."""
    from audit.bundles import write_bundle
    from audit.forwarding import require_told

    with _site(data_dir) as (settings, sessions, keys):
        with sessions() as session:
            interval = audit_archives.next_interval(session, before.replace(tzinfo=UTC) if before else utcnow())
            if interval is None:
                raise RefusedInputError("there is no signed head beyond the last bundle: nothing to archive")
            bundle = write_bundle(session, *interval, settings.audit_archive_dir, keys)
        row = AuditArchive(
            first_position=bundle.first,
            end_position=bundle.end,
            file=bundle.path.name,
            sha256=_sha256(bundle.path),
            manifest=bundle.manifest,
        )
        with unit_of_work(sessions, actor()) as uow:
            audit_archives.record_archive(uow, row)
        console.print(f"{bundle.path}  events {bundle.first} to {bundle.end - 1}", highlight=False, soft_wrap=True)
        if remove:
            with unit_of_work(sessions, actor()) as uow:
                require_told(uow.session, settings, row.end_position)
                gone = audit_archives.remove_archived(uow, row)
            console.print(f"{gone} events taken out of the table", highlight=False)


@archive_app.command("list")
def archive_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False, data_dir: DataDir = None
) -> None:
    """Verify every bundle there is and list it; exit 1 when one is missing or does not verify."""
    with _site(data_dir) as (settings, sessions, keys), sessions() as session:
        rows = [_row(settings, keys, archive) for archive in audit_archives.archives(session)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        table = Table("events", "file", "stands", "classes", "time is over for")
        for row in rows:
            table.add_row(
                f"{row['first']}–{row['end'] - 1}", row["file"], row["stands"], row["classes"], row["expired"]
            )
        console.print(table)
    raise typer.Exit(0 if all(row["stands"] == "verified" for row in rows) else 1)


def _row(settings: Settings, keys: "SealKeys", archive: AuditArchive) -> dict[str, Any]:
    from audit.bundle_files import expired

    said = {"first": archive.first_position, "end": archive.end_position, "file": archive.file}
    try:
        bundle = _opened(settings, keys, archive)
    except AppError as exc:
        return {**said, "stands": str(exc), "classes": "", "expired": ""}
    kept = ", ".join(f"{name} {count}" for name, count in bundle.classes.items() if name not in bundle.disposed)
    over = ", ".join(expired(bundle, settings.audit.archive.years(), utcnow()))
    return {**said, "stands": "verified", "classes": kept, "expired": over}


def _opened(settings: Settings, keys: "SealKeys", archive: AuditArchive) -> "Bundle":
    """Return an archive's bundle.

    Raises:
        RefusedInputError: it is not there, does not verify, or is another one.
    """
    from audit.bundle_files import open_bundle

    path = settings.audit_archive_dir / archive.file
    if not path.is_file():
        raise RefusedInputError(f"the bundle {archive.file} is not in {settings.audit_archive_dir}")
    bundle = open_bundle(path, keys)
    if bundle.manifest != archive.manifest:
        raise RefusedInputError(f"the bundle {archive.file} is not the one that was recorded")
    return bundle


@archive_app.command("restore")
def archive_restore(file: BundleFile, data_dir: DataDir = None) -> None:
    """Put the events of a bundle back into the table, after it was verified against its seals."""
    from audit.bundle_files import bundle_events, open_bundle

    with _site(data_dir) as (_, sessions, keys):
        bundle = open_bundle(file, keys)
        with unit_of_work(sessions, actor()) as uow:
            archive = uow.session.get(AuditArchive, bundle.first)
            if archive is None or archive.manifest != bundle.manifest:
                raise RefusedInputError("this bundle is not one of this log")
            came = audit_archives.put_back(uow, archive, bundle_events(bundle))
    console.print(f"{came} events are back", highlight=False)


@archive_app.command("dispose")
def archive_dispose(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only say what would be done.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Take the texts of retention classes whose time is over out of the bundles; leaves and heads stay."""
    from audit.bundle_files import dispose, expired, studies_of

    with _site(data_dir) as (settings, sessions, keys):
        with sessions() as session:
            archives = audit_archives.archives(session)
        for archive in archives:
            bundle = _opened(settings, keys, archive)
            over = expired(bundle, settings.audit.archive.years(), utcnow())
            if not over:
                continue
            if apply:
                # recorded first: a disposal that nobody recorded must not be
                with unit_of_work(sessions, actor()) as uow:
                    audit_archives.record_disposal(uow, archive, over, studies_of(bundle, over))
                dispose(bundle, over, keys)
            words = "disposed of" if apply else "would be disposed of"
            console.print(f"{archive.file}: {', '.join(over)} {words}", highlight=False, soft_wrap=True)


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- holds ---------------------------------------------------------------------------------------------------


@hold_app.command("place")
def hold_place(
    reason: Reason,
    since: Annotated[datetime | None, typer.Option(help="First day, UTC.", formats=["%Y-%m-%d"])] = None,
    until: Annotated[datetime | None, typer.Option(help="Last day, UTC.", formats=["%Y-%m-%d"])] = None,
    data_dir: DataDir = None,
) -> None:
    """Let nothing recorded in an interval be disposed of or erased."""
    with _site(data_dir) as (_, sessions, _keys), unit_of_work(sessions, actor()) as uow:
        first = since.replace(tzinfo=UTC) if since else None
        end = until.replace(tzinfo=UTC) + timedelta(days=1) if until else None
        hold = audit_archives.place_hold(uow, reason=reason, since=first, until=end)
        console.print(str(hold.id), highlight=False)


@hold_app.command("list")
def hold_list(data_dir: DataDir = None) -> None:
    """List the holds that stand."""
    with _site(data_dir) as (_, sessions, _keys), sessions() as session:
        table = Table("id", "from", "to", "reason", "placed by", "placed")
        for hold in audit_archives.standing_holds(session):
            ends = [f"{at:%Y-%m-%d}" if at else "" for at in (hold.since, hold.until)]
            table.add_row(str(hold.id), *ends, hold.reason, hold.placed_by, f"{hold.placed_at:%Y-%m-%d}")
        console.print(table)


@hold_app.command("lift")
def hold_lift(hold: Annotated[UUID, typer.Argument(help="Its id.")], reason: Reason, data_dir: DataDir = None) -> None:
    """Lift a hold."""
    with _site(data_dir) as (_, sessions, _keys), unit_of_work(sessions, actor()) as uow:
        audit_archives.lift_hold(uow, hold, reason=reason)
    console.print("lifted", highlight=False)
