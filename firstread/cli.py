"""The command line: ``firstread VERB``. Heavy libraries load with the verb that needs them."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from config.errors import AppError
from firstread.audit import audit_app
from firstread.conformance import node_conformance
from firstread.experts import experts_app
from firstread.models import models_app
from firstread.node import node_app
from firstread.release import release_app
from firstread.retention import retention_app
from firstread.terminal import DataDir, console, refuse, start
from firstread.tokens import tokens_app
from firstread.trace import trace
from firstread.waiting import node_waiting
from training.cli import evaluate_app, train_app

app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False, help="Every study gets a first read.")
users_app = typer.Typer(no_args_is_help=True, help="People who may log in.")
app.add_typer(node_app, name="node")
app.add_typer(models_app, name="models")
app.add_typer(experts_app, name="experts")
app.add_typer(users_app, name="users")
app.add_typer(audit_app, name="audit")
app.add_typer(retention_app, name="retention")
app.add_typer(tokens_app, name="tokens")
app.add_typer(release_app, name="release")
app.command("trace")(trace)
node_app.command("conformance")(node_conformance)
node_app.command("waiting")(node_waiting)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")


# --- the whole system --------------------------------------------------------------------------------------


@app.command()
def up(
    data_dir: DataDir = None,
    demo: Annotated[bool, typer.Option(help="Also play the synthetic hospital into it.")] = False,
) -> None:
    """Run node, worker, sweeper and dashboard under one parent until Ctrl-C."""
    from firstread.up import run_up

    run_up(start("firstread", data_dir), demo=demo)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Play once, wait, report, stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(help="Which synthetic hospital.")] = 7,
    timeout_s: Annotated[float, typer.Option(help="Give up waiting after this.")] = 1800.0,
) -> None:
    """Play a small synthetic hospital: with --once to the end, else into a system that keeps running."""
    from firstread.demo import play_once
    from firstread.up import run_up

    settings = start("demo", data_dir)
    if not once:
        run_up(settings, demo=True)
        return
    rows, good = play_once(settings, seed=seed, timeout_s=timeout_s)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _print_rows(rows)
    raise typer.Exit(0 if good else 1)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    table = Table("modality", "state", "expected", "seconds", "findings", "truth", "reason")
    for row in rows:
        table.add_row(
            row["modality"],
            row["state"],
            row["expected_state"],
            str(row["seconds_to_draft"]),
            ", ".join(row["findings"]),
            ", ".join(row["truth_findings"]),
            row["reason"],
        )
    console.print(table)


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to this release's schema."""
    from db.engine import migrate as upgrade

    upgrade(start("migrate", data_dir).database)
    console.print("database is up to date")


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(exists=True, help="Folder or file; every file below it is tried.")],
    host: str = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="The node's port; settings when not given.")] = None,
    called_ae: Annotated[str | None, typer.Option(help="Called AE title; settings when not given.")] = None,
    calling_ae: str = "FIRSTREAD_SEND",
) -> None:
    """Send real DICOM files over real associations and list what became of each."""
    from dicom_node.send import send_folder

    settings = start("send")
    summary = send_folder(
        folder,
        host=host,
        port=port or settings.dicom.port,
        called_ae=called_ae or settings.dicom.ae_title,
        calling_ae=calling_ae,
    )
    counts = summary.counts
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no files", highlight=False)
    for reason, count in summary.reasons().items():
        console.print(f"{count:6d}  {reason}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{summary.seconds:.1f} s, {summary.bytes_stored / 1e6:.1f} MB", highlight=False)
    raise typer.Exit(0 if counts.get("not sent", 0) == 0 else 1)


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Check what this installation needs, one line each; exit 1 when something is missing."""
    from firstread.doctor import examine

    good = True
    for name, ok, note in examine(start("doctor", data_dir)):
        good = good and ok
        console.print(f"{'[green]ok[/green]  ' if ok else '[red]bad[/red] '} {name}: {note}", highlight=False)
    raise typer.Exit(0 if good else 1)


# --- single processes --------------------------------------------------------------------------------------


@app.command()
def worker() -> None:
    """Read Studies until SIGTERM."""
    # threads that spin at a barrier starve the very thread they wait for when cores are shared; libgomp reads
    # this when torch loads it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from worker.main import run_worker

    run_worker(start("worker"))


@app.command()
def sweeper() -> None:
    """Complete quiet Studies, give expired work back, publish messages, until SIGTERM."""
    from firstread.sweeper import run_sweeper

    run_sweeper(start("sweeper"))


@app.command()
def sealer() -> None:
    """Seal the audit log, sign and anchor its heads, verify it, until SIGTERM."""
    from audit.process import run_sealer

    run_sealer(start("sealer"))


@app.command()
def web() -> None:
    """Serve the dashboard until SIGTERM."""
    from dashboard.serve import run_web

    run_web(start("web"))


# --- users ----------------------------------------------------------------------------------


@users_app.command("add")
def users_add(
    login: str,
    role: Annotated[str, typer.Argument(help="radiologist, admin or auditor")],
    printed_name: Annotated[str, typer.Option("--name", help="As printed in signatures.")],
    data_dir: DataDir = None,
) -> None:
    """Create a user with a random password, printed once."""
    from firstread.people import add_user

    try:
        password = add_user(start("users", data_dir), login=login, role=role, printed_name=printed_name)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{login}: {password}", highlight=False, markup=False)


@users_app.command("list")
def users_list(data_dir: DataDir = None) -> None:
    """List the users."""
    from firstread.people import list_people

    table = Table("login", "name", "role", "active")
    try:
        people = list_people(start("users", data_dir))
    except AppError as exc:
        raise refuse(exc) from exc
    for row in people:
        table.add_row(*row)
    console.print(table)
