"""``firstread experts``: which Experts a draft may use, and serving them to other machines."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from config.errors import AppError
from firstread.terminal import DataDir, console, refuse, start

experts_app = typer.Typer(no_args_is_help=True, help="Expert models.")


@experts_app.command("list")
def experts_list(data_dir: DataDir = None) -> None:
    """List the Experts of this site: packages, plug-ins and remotes, available or not."""
    from worker.experts.registry import ExpertRegistry
    from worker.experts.sources import origin

    settings = start("experts", data_dir)
    try:
        registry = ExpertRegistry.open(settings.models.registry)
    except AppError as exc:
        raise refuse(exc) from exc
    table = Table("name", "version", "from", "modality", "licence", "memory", "state")
    for source in registry.sources():
        card = source.card
        state = "available, DEMONSTRATION" if card.demonstration else "available"
        memory = f"{source.memory_mb:g} MB"
        table.add_row(card.name, card.version, origin(source), card.modality, card.licence, memory, state)
    for absent in registry.unavailable():
        table.add_row(absent.entry.name, "", f"remote {absent.entry.url}", "", "", "", f"UNAVAILABLE: {absent.why}")
    console.print(table)


@experts_app.command("serve")
def experts_serve(
    host: Annotated[str, typer.Option(help="Address to listen on; only loopback without TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 8043,
    token_env: Annotated[str, typer.Option(help="Environment variable with the token clients must show.")] = "",
    certificate: Annotated[Path | None, typer.Option(exists=True, help="PEM certificate of this server.")] = None,
    key: Annotated[Path | None, typer.Option(exists=True, help="PEM private key.")] = None,
    client_ca: Annotated[Path | None, typer.Option(exists=True, help="PEM authority of the clients let in.")] = None,
    max_request_mb: Annotated[int, typer.Option(min=1, help="Largest study that is read, MB.")] = 2048,
    data_dir: DataDir = None,
) -> None:
    """Serve the Experts of this machine to workers of others until stopped."""
    from worker.experts.registry import ExpertRegistry
    from worker.experts.serving import ServeOptions, serve

    settings = start("experts", data_dir)
    token = os.environ.get(token_env, "") if token_env else ""
    if token_env and not token:
        console.print(f"[red]error:[/red] {token_env} is not set", highlight=False)
        raise typer.Exit(2)
    options = ServeOptions(
        host=host,
        port=port,
        token=token,
        certificate=str(certificate or ""),
        key=str(key or ""),
        client_ca=str(client_ca or ""),
        max_request_bytes=max_request_mb << 20,
    )
    try:
        # its own remotes are not passed on: two servers could ask each other for ever
        serve(ExpertRegistry.open(settings.models.registry, remotes=False), options)
    except AppError as exc:
        raise refuse(exc) from exc
