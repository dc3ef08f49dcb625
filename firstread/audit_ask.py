"""``firstread audit questions`` and ``firstread audit ask``: the named questions from the command line."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from config.errors import AppError, RefusedInputError
from firstread.terminal import DataDir, console, refuse, start

if TYPE_CHECKING:
    from audit.answer_files import AnswerFile
    from config.settings import Settings
    from db.queries.audit import Question

Given = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter; may be repeated.")]


def audit_questions() -> None:
    """List the questions with their parameters."""
    from db.queries.audit import ALL

    table = Table("Question", "Asks", "Parameters (* needed)")
    for one in ALL.values():
        names = (f"{p.name}{'*' if p.required else ''}{'=' + p.default if p.default else ''}" for p in one.parameters)
        table.add_row(f"{one.name} {one.slug}", one.asks, ", ".join(names))
    console.print(table)


def audit_ask(
    question: Annotated[str, typer.Argument(help="Q1 … or its name in words; firstread audit questions lists them.")],
    given: Given = None,
    form: Annotated[str, typer.Option("--format", help="json, csv or pdf.")] = "json",
    out: Annotated[Path | None, typer.Option(help="File to write; printed when not given (json and csv).")] = None,
    data_dir: DataDir = None,
) -> None:
    """Ask one question and print or write the whole answer; that it was asked is an event."""
    try:
        made = _asked(start("audit", data_dir), question, given or [], form, is_file=out is not None)
    except AppError as exc:
        raise refuse(exc) from exc
    with made.content:
        if out is None:
            shutil.copyfileobj(made.content, sys.stdout.buffer)
            return
        with out.open("wb") as file:
            shutil.copyfileobj(made.content, file)
    console.print(f"{made.rows} rows, SHA-256 {made.sha256}", highlight=False, soft_wrap=True)


def _asked(settings: "Settings", name: str, given: list[str], form: str, *, is_file: bool) -> "AnswerFile":
    """Return the answer as a file; the event of it is committed.

    Raises:
        RefusedInputError: there is no such question, or a parameter is refused.
    """
    from audit.answer_files import answer_file
    from db.audit import AuditTag
    from db.engine import current_sessions
    from db.uow import unit_of_work
    from firstread.people import actor

    question = _question(name)
    if form == "pdf" and not is_file:
        raise RefusedInputError("out: a PDF needs a file")
    sessions = current_sessions(settings.database)
    who = actor()
    made = answer_file(
        sessions, question, _parameters(given), form, asked_by=who.name, organization=settings.organization
    )
    try:
        with unit_of_work(sessions, who) as uow:
            tag = AuditTag.AUDIT_EXPORTED if is_file else AuditTag.AUDIT_VIEWED
            uow.audit(tag, study_id=made.first.study_id, detail=made.said(form))
    except BaseException:
        made.content.close()
        raise
    return made


def _question(name: str) -> "Question":
    from db.queries.audit import ALL, named

    found = named(name)
    if found is None:
        raise RefusedInputError(f"there is no such question; there are: {', '.join(ALL)}")
    return found


def _parameters(given: list[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as parameters.

    Raises:
        RefusedInputError: one has no ``=``, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name in found:
            raise RefusedInputError(f"set: NAME=VALUE, each name once, not {name[:40]!r}")
        found[name] = value
    return found
