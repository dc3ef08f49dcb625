"""``firstread tokens``: bearer tokens of DICOMweb clients."""

from typing import Annotated

import typer
from rich.table import Table

from config.errors import AppError
from db.tokens import Scope
from firstread.terminal import DataDir, console, refuse, start

tokens_app = typer.Typer(no_args_is_help=True, help="Bearer tokens of DICOMweb clients.")


@tokens_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="1 to 16 letters, digits, - or _; objects it stores name it.")],
    scope: Annotated[list[Scope], typer.Option(help="read: search and retrieve; write: store. May be given twice.")],
    days: Annotated[int, typer.Option(help="Days until it expires.")] = 365,
    data_dir: DataDir = None,
) -> None:
    """Make a token and print it; it is shown once and kept nowhere."""
    from db.engine import current_sessions
    from db.tokens import create_token
    from db.uow import unit_of_work
    from firstread.people import actor

    settings = start("tokens", data_dir)
    try:
        with unit_of_work(current_sessions(settings.database), actor()) as uow:
            token = create_token(uow, name=name, scopes=scope, days=days)
    except AppError as exc:
        raise refuse(exc) from exc
    typer.echo(token)


@tokens_app.command("list")
def show(data_dir: DataDir = None) -> None:
    """List every token that was ever made, without its secret."""
    from db.engine import current_sessions
    from db.tokens import list_tokens

    settings = start("tokens", data_dir)
    try:
        with current_sessions(settings.database)() as session:
            tokens = list_tokens(session)
    except AppError as exc:
        raise refuse(exc) from exc
    table = Table("name", "may", "made by", "made", "expires", "last used", "revoked")
    for one in tokens:
        last = f"{one.last_used_at:%Y-%m-%d %H:%M}" if one.last_used_at else "never"
        gone = f"{one.revoked_at:%Y-%m-%d} by {one.revoked_by}" if one.revoked_at else ""
        table.add_row(
            one.name, one.scopes, one.created_by, f"{one.created_at:%Y-%m-%d}", f"{one.expires_at:%Y-%m-%d}", last, gone
        )
    console.print(table)


@tokens_app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="Which token.")], data_dir: DataDir = None) -> None:
    """Take a token back; whoever holds it is refused from now on."""
    from db.engine import current_sessions
    from db.tokens import revoke_token
    from db.uow import unit_of_work
    from firstread.people import actor

    settings = start("tokens", data_dir)
    try:
        with unit_of_work(current_sessions(settings.database), actor()) as uow:
            revoke_token(uow, name)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"{name} is revoked", highlight=False)
