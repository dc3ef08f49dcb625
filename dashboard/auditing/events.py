"""The page of question E1: conditions on events that are added and taken away one by one.

It works without a script: each act sends the form and shows it again. An address that is kept holds the conditions
that name no patient, and asks nothing by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Blueprint, Response, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.auditing.forms import PAGE_ROWS, Field, QuestionPage, given_in
from dashboard.people import audit_view, sessions, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.queries.audit import ALL
from db.queries.audit.asking import ask, stand
from db.queries.audit.questions import Parameter

bp = Blueprint("events", __name__, url_prefix="/events")
_LONGEST = 200  # characters of a value in an address
_AT_FIRST = {"since": "-7d", "until": "today"}


@dataclass(frozen=True)
class Conditions:
    """The conditions on the page: those that are there, and those that may be added.

    ``kept`` is the address of the page with what names no patient; ``left_out`` says whether that is not all.
    ``fresh`` is the condition that was just added.
    """

    shown: Sequence[Field]
    others: Sequence[Parameter]
    kept: str = ""
    left_out: bool = False
    fresh: str = ""


@bp.get("")
@requires(Permission.AUDIT)
def show() -> ResponseReturnValue:
    """Show the conditions that the address names; nothing is asked yet."""
    openly = [one.name for one in _parameters().values() if not one.private]
    given = {name: request.args[name][:_LONGEST] for name in openly if request.args.get(name)}
    return _page(given or _AT_FIRST, list(given or _AT_FIRST))


@bp.post("")
@requires(Permission.AUDIT)
def answer() -> ResponseReturnValue:
    """Add a condition, take one away, or show the events that meet all of them."""
    given = given_in(request.form)
    names = [name for name in dict.fromkeys(request.form.getlist("on")) if name in _parameters()]
    given = {name: given[name] for name in names if name in given}
    act, _, which = request.form.get("act", "ask").partition(" ")
    if act == "add":
        added = request.form.get("add", "")
        return _page(given, [*names, added] if added in _parameters() else names, fresh=added)
    if act == "remove":
        return _page(given, [name for name in names if name != which])
    return _asked(given, names)


def _asked(given: dict[str, str], names: Sequence[str]) -> ResponseReturnValue:
    cursor = request.form.get("cursor", "")
    try:
        with sessions()() as db:
            found = ask(db, ALL["E1"], given, limit=PAGE_ROWS, cursor=cursor)
            log = stand(db)
    except RefusedInputError as exc:
        shown = QuestionPage(ALL["E1"], (), error=str(exc))
        return Response(_page(given, names, page=shown), 400)
    with work() as uow:
        detail = found.said() | {"rows": len(found.rows), "first_page": not cursor}
        audit_view(uow, AuditTag.AUDIT_VIEWED, study_id=found.study_id, detail=detail)
    return _page(given, names, page=QuestionPage(ALL["E1"], (), found, log))


def _parameters() -> Mapping[str, Parameter]:
    return {one.name: one for one in ALL["E1"].parameters}


def _page(given: Mapping[str, str], names: Sequence[str], *, page: QuestionPage | None = None, fresh: str = "") -> str:
    known = _parameters()
    openly = {name: value for name, value in given.items() if not known[name].private}
    conditions = Conditions(
        shown=[Field(known[name], given.get(name, known[name].default)) for name in dict.fromkeys(names)],
        others=[one for name, one in known.items() if name not in names],
        kept=f"{url_for('audit.events.show')}?{urlencode(openly)}" if openly else "",
        left_out=len(openly) < len(given),
        fresh=fresh,
    )
    return render_template("audit_events.html", q=page or QuestionPage(ALL["E1"], ()), c=conditions)
