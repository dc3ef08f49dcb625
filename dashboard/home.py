"""The start page of each role, and what a monitor asks."""

from flask import Blueprint, Response, redirect, url_for
from werkzeug.wrappers import Response as BaseResponse

from dashboard.people import person, sessions
from dashboard.permissions import Permission, requires
from db.types import Role
from db.users import count_users

bp = Blueprint("home", __name__)
_START = {Role.ADMIN: "problems.show", Role.AUDITOR: "audit.index"}  # everybody else reads


@bp.get("/")
@requires(Permission.ACCOUNT)
def index() -> BaseResponse:
    """Go to where this role works."""
    return redirect(url_for(_START.get(person().role, "worklist.show")), 303)


@bp.get("/livez")
@requires(Permission.PUBLIC)
def alive() -> Response:
    """Answer that the process serves requests."""
    return Response("ok\n", mimetype="text/plain")


@bp.get("/readyz")
@requires(Permission.PUBLIC)
def ready() -> Response:
    """Answer that the database can be asked; 503 when it cannot."""
    with sessions()() as db:
        count_users(db)
    return Response("ok\n", mimetype="text/plain")
