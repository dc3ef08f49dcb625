"""Tokens of machines: scoped, expiring, shown once."""

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.people import sessions, work
from dashboard.permissions import Permission, requires
from db.tokens import Scope, create_token, list_tokens, revoke_token
from db.types import utcnow

bp = Blueprint("api_tokens", __name__, url_prefix="/tokens")


@bp.get("")
@requires(Permission.USERS)
def show() -> ResponseReturnValue:
    """Show every token, without its secret."""
    return _page()


@bp.post("")
@requires(Permission.USERS)
def create() -> ResponseReturnValue:
    """Add a token; its secret is in this answer and nowhere else."""
    scopes, days = request.form.getlist("scope"), request.form.get("days", "")
    if not set(scopes) <= set(Scope) or not days.isdecimal() or len(days) > 5:
        raise RefusedInputError("a token needs scopes that exist and a number of days")
    name = request.form.get("name", "").strip()
    with work() as uow:
        token = create_token(uow, name=name, scopes=[Scope(one) for one in scopes], days=int(days))
    return _page((name, token))


@bp.post("/revoke")
@requires(Permission.USERS)
def revoke() -> ResponseReturnValue:
    """Make a token worthless from now on."""
    with work() as uow:
        revoke_token(uow, request.form.get("name", ""))
    return _page()


def _page(shown_once: tuple[str, str] | None = None) -> str:
    with sessions()() as db:
        tokens = list_tokens(db)
    return render_template("tokens.html", tokens=tokens, scopes=list(Scope), shown_once=shown_once, now=utcnow())
