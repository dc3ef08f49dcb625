"""What every verb of the command line shares: the console, the start, and how an error of ours is said."""

import gc
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from config.errors import AppError, ConfigurationError
from config.logs import configure_logs
from config.settings import Settings
from config.settings import settings as read_settings
from db.origin import keys_are_in

console = Console()
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data folder; FIRSTREAD_DATA_DIR when not given.")]


def start(process: str, data_dir: Path | None = None) -> Settings:
    """Read the settings and send the logs through the allow-list; the first step of every verb.

    Raises:
        typer.Exit: the settings cannot be used, as was said.
    """
    chosen: dict[str, Any] = {"data_dir": data_dir} if data_dir else {}
    try:
        settings = read_settings(**chosen)
    except ConfigurationError as exc:
        raise refuse(exc) from None
    configure_logs(level=settings.log_level, json=settings.log_json, process=process)
    keys_are_in(settings.key_dir, create=settings.audit.key_dir is None)
    gc.freeze()  # what was imported stays
    gc.enable()
    return settings


def refuse(exc: AppError) -> typer.Exit:
    """Print an error of ours as one line and return the exit to raise."""
    console.print(f"[red]error:[/red] {escape(str(exc))}", highlight=False, soft_wrap=True)
    return typer.Exit(2)
