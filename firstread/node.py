"""``firstread node``: serve DICOM, and see whether peers answer."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from config.errors import AppError
from firstread.terminal import DataDir, console, refuse, start

node_app = typer.Typer(no_args_is_help=True, help="The DICOM node.")
peers_app = typer.Typer(no_args_is_help=True, help="Who may call the node.")
node_app.add_typer(peers_app, name="peers")


@node_app.command("run")
def node_run() -> None:
    """Serve DICOM and deliver results until SIGTERM."""
    from dicom_node.scp import run_node

    try:
        run_node(start("node"))
    except AppError as exc:
        raise refuse(exc) from exc


@node_app.command("archive")
def node_archive(
    folder: Path,
    ae_title: str = "ARCHIVE",
    port: Annotated[int, typer.Option()] = 11113,
) -> None:
    """Serve a minimal second SCP that keeps what is delivered: the demonstration's PACS."""
    from dicom_node.archive import run_archive

    start("archive")
    run_archive(folder, ae_title=ae_title, port=port)


@node_app.command("echo")
def node_echo(
    name: Annotated[str, typer.Argument(help="Name of a destination, or AE title of a peer.")],
    data_dir: DataDir = None,
) -> None:
    """Ask a destination of any protocol, or a peer by C-ECHO, whether it is there."""
    _echo(name, data_dir)


@peers_app.command("echo")
def peers_echo(
    name: Annotated[str, typer.Argument(help="Name of a destination, or AE title of a peer.")],
    data_dir: DataDir = None,
) -> None:
    """Ask a destination of any protocol, or a peer by C-ECHO, whether it is there."""
    _echo(name, data_dir)


@peers_app.command("add")
def peers_add(
    ae_title: Annotated[str, typer.Argument(help="Calling AE title.")],
    host: Annotated[str | None, typer.Option(help="Only from this address, network (192.0.2.0/24) or name.")] = None,
    port: Annotated[int | None, typer.Option(help="Where it listens itself: for echo, test, commitment.")] = None,
    certificate_subject: Annotated[str, typer.Option(help="Subject its TLS certificate must have (RFC 4514).")] = "",
    called_ae: Annotated[
        list[str] | None, typer.Option(help="AE title of ours it may use; all when not given.")
    ] = None,
    max_associations: Annotated[int | None, typer.Option(help="At once, instead of the general cap.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="We call it with TLS.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Let a calling AE in; the running node knows it within seconds."""
    from firstread.peers import add

    try:
        remark = add(
            start("peers", data_dir),
            ae_title=ae_title,
            host=host,
            port=port,
            certificate_subject=certificate_subject,
            called_ae=tuple(called_ae or ()),
            max_associations=max_associations,
            tls=tls,
        )
    except AppError as exc:
        raise refuse(exc) from exc
    _say(f"{ae_title} may call{f' from {host}' if host else ' from any address'}")
    if remark:
        _say(remark)


@peers_app.command("remove")
def peers_remove(
    ae_title: str,
    host: Annotated[str | None, typer.Option(help="Only what was added with this host.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Take a peer out that was added; the record of it stays."""
    from firstread.peers import remove

    try:
        count = remove(start("peers", data_dir), ae_title, host)
    except AppError as exc:
        raise refuse(exc) from exc
    _say(f"{ae_title} was removed" if count == 1 else f"{ae_title} was removed {count} times")


@peers_app.command("list")
def peers_list(
    refused: Annotated[bool, typer.Option("--refused", help="Who was refused lately, and what lets each in.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    data_dir: DataDir = None,
) -> None:
    """List who may call, or who was refused."""
    from firstread import peers

    settings = start("peers", data_dir)
    try:
        rows = peers.refused(settings) if refused else peers.listed(settings)
    except AppError as exc:
        raise refuse(exc) from exc
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif refused:
        _print_refused(rows)
    else:
        table = Table(*(Column(name, overflow="fold") for name in peers.COLUMNS))
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)


@peers_app.command("test")
def peers_test(
    name: Annotated[str, typer.Argument(help="Name of a destination, or AE title of a peer.")],
    data_dir: DataDir = None,
) -> None:
    """Look at a destination or peer step by step, one line each; exit 1 when a step fails."""
    from firstread.peers import test

    good = True
    try:
        for step in test(start("peers", data_dir), name):
            good = good and step.is_good
            took = f"  {step.milliseconds:.0f} ms" if step.milliseconds else ""
            _say(f"{'ok ' if step.is_good else 'bad'}  {step.name}: {step.note}{took}")
    except AppError as exc:
        raise refuse(exc) from exc
    raise typer.Exit(0 if good else 1)


def _echo(name: str, data_dir: Path | None) -> None:
    from firstread.peers import echo

    try:
        answered = echo(start("node", data_dir), name)
    except AppError as exc:
        raise refuse(exc) from exc
    _say(f"{answered} answers")


def _print_refused(rows: list[dict[str, Any]]) -> None:
    """Print two lines for each, so that the command can be taken as it is."""
    if not rows:
        _say("nobody was refused in the last seven days who would be refused now")
    for row in rows:
        who = f"{row['calling_ae'] or '(no AE title)'} from {row['address']} to {row['called_ae'] or '(no AE title)'}"
        _say(f"{row['last']}  {who}, {row['times']}x: {row['reason']}")
        _say(f"    {row['what_to_do']}")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
