"""``firstread retention``: what may be deleted when, and what must not be."""

import typer

retention_app = typer.Typer(no_args_is_help=True, help="Pixel data that may go, and legal holds.")
