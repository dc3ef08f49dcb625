"""``firstread node``: serve DICOM, and see whether peers answer."""

from pathlib import Path
from typing import Annotated

import typer

from config.errors import AppError
from firstread.terminal import console, refuse, start

node_app = typer.Typer(no_args_is_help=True, help="The DICOM node.")
peers_app = typer.Typer(no_args_is_help=True, help="Who may call the node.")
node_app.add_typer(peers_app, name="peers")


@node_app.command("run")
def node_run() -> None:
    """Serve DICOM and deliver results until SIGTERM."""
    from dicom_node.scp import run_node

    run_node(start("node"))


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
def node_echo(destination: str) -> None:
    """Send a C-ECHO to a configured destination."""
    from dicom_node.delivery import echo

    settings = start("node")
    found = next((d for d in settings.destinations if d.name == destination), None)
    if found is None:
        names = ", ".join(d.name for d in settings.destinations) or "none"
        console.print(f"no destination {destination!r}; configured: {names}")
        raise typer.Exit(2)
    try:
        echo(found, calling_ae=settings.dicom.ae_title)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print("the destination answers")
