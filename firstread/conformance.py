"""``firstread node conformance``: the conformance statement, from the code and from this site's settings."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from config.errors import AppError
from config.settings import ROOT, Settings
from firstread.terminal import DataDir, console, refuse, start

PAGE = ROOT / "docs" / "conformance.md"


def node_conformance(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 when the page is not up to date.")
    ] = False,
    site: Annotated[bool, typer.Option("--site", help="Print what this installation's settings make of it.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write the tables of docs/conformance.md anew from the code; or print the statement of this site."""
    settings = start("conformance", data_dir)
    try:
        if site:
            typer.echo(_site(settings), nl=False)
            return
        committed = PAGE.read_text(encoding="utf-8")
        current = generated(committed)
    except AppError as exc:
        raise refuse(exc) from exc
    if current == committed:
        console.print("docs/conformance.md is up to date")
        return
    if check:
        console.print("docs/conformance.md is not up to date: run firstread node conformance")
        raise typer.Exit(1)
    PAGE.write_text(current, encoding="utf-8")
    console.print("docs/conformance.md was written anew")


def generated(page: str) -> str:
    """Return the page with its tables as the code is now.

    Raises:
        ConfigurationError: its marks are not those of the tables.
    """
    from dicom_node.conformance import fill, tables

    return fill(page, tables(dicomweb_routes()))


def dicomweb_routes() -> list[tuple[str, str]]:
    """Return method and path of every DICOMweb transaction the dashboard serves."""
    from sqlalchemy.orm import sessionmaker

    from dashboard.app import create_app

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)), sessionmaker())
    return [
        (method, rule.rule.replace("<path:", "<"))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/dicomweb/")
        for method in sorted(rule.methods or ())
        if method in {"GET", "POST", "DELETE"}
    ]


def _site(settings: Settings) -> str:
    from db.engine import current_sessions
    from dicom_node.peers import known_peers
    from dicom_node.site_statement import site_statement

    with current_sessions(settings.database)() as session:
        return site_statement(settings, known_peers(session, settings))
