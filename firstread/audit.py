"""The verbs ``firstread audit``: the record's questions from the command line."""

import json
from pathlib import Path
from typing import Annotated

import typer

from config.errors import AppError
from firstread.audit_archive import archive_app, hold_app
from firstread.audit_ask import audit_ask, audit_questions
from firstread.audit_export import audit_export
from firstread.audit_privacy import audit_erase, audit_roles
from firstread.audit_seal import audit_check_proof, audit_head, audit_keys, audit_prove, audit_verify
from firstread.terminal import DataDir, console, refuse, start

audit_app = typer.Typer(no_args_is_help=True, help="The audit log.")
audit_app.add_typer(archive_app, name="archive")
audit_app.add_typer(hold_app, name="hold")
audit_app.command("questions")(audit_questions)
audit_app.command("ask")(audit_ask)
audit_app.command("export")(audit_export)
audit_app.command("erase")(audit_erase)
audit_app.command("roles")(audit_roles)
audit_app.command("verify")(audit_verify)
audit_app.command("head")(audit_head)
audit_app.command("prove")(audit_prove)
audit_app.command("check-proof")(audit_check_proof)
audit_app.command("keys")(audit_keys)
DraftName = Annotated[
    str, typer.Argument(help="Draft id, Accession Number or Study Instance UID; of a study, its newest draft.")
]


@audit_app.command("study")
def audit_study(
    accession: Annotated[str, typer.Argument(help="Accession Number or Study Instance UID.")],
    data_dir: DataDir = None,
) -> None:
    """Print the events of one Study as JSON lines; the look itself is an event."""
    from firstread.record import study_events

    try:
        events = study_events(start("audit", data_dir), accession)
    except AppError as exc:
        raise refuse(exc) from exc
    for event in events:
        typer.echo(json.dumps(event, ensure_ascii=False))


@audit_app.command("provenance")
def audit_provenance(draft: DraftName, data_dir: DataDir = None) -> None:
    """Print what a draft was made from, by what and where, and what people made of it, as JSON."""
    from firstread.record import draft_record

    try:
        record = draft_record(start("audit", data_dir), draft)
    except AppError as exc:
        raise refuse(exc) from exc
    typer.echo(json.dumps(record, indent=1, ensure_ascii=False, default=str))


@audit_app.command("assessment")
def audit_assessment(
    accession: Annotated[str, typer.Argument(help="Accession Number or Study Instance UID.")],
    data_dir: DataDir = None,
) -> None:
    """Print what readers made of each AI finding of a Study, as JSON (docs/ihe-air.md); the export is an event."""
    from firstread.record import study_assessment

    try:
        record = study_assessment(start("audit", data_dir), accession)
    except AppError as exc:
        raise refuse(exc) from exc
    typer.echo(json.dumps(record, indent=1, ensure_ascii=False))


@audit_app.command("reproduce")
def audit_reproduce(
    draft: DraftName,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the second run's whole record.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Run a draft's attempt again from its kept inputs: identical, same findings, or differs (exit 1)."""
    from firstread.record import reproduce_draft

    try:
        result = reproduce_draft(start("audit", data_dir), draft)
    except AppError as exc:
        raise refuse(exc) from exc
    if out is not None:
        out.write_text(json.dumps(result.record, indent=1, ensure_ascii=False), encoding="utf-8")
    if as_json:
        said = {"verdict": result.verdict, "differences": result.differences, "circumstances": result.circumstances}
        typer.echo(json.dumps(said, indent=1, ensure_ascii=False))
    else:
        console.print(result.verdict, highlight=False)
        for line in (*result.differences, *(f"changed since: {one}" for one in result.circumstances)):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1 if result.verdict == "differs" else 0)
