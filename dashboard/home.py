"""The start page of each role, and what a monitor asks."""

from flask import Blueprint, Response, current_app, jsonify, redirect, url_for
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response as BaseResponse

from dashboard.people import person, sessions, site
from dashboard.permissions import Permission, requires
from dashboard.running.health import Readiness
from db.types import Role

bp = Blueprint("home", __name__)
_READINESS = "firstread.readiness"
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
def ready() -> ResponseReturnValue:
    """Answer that database, disk and broker work, each tried; 503 with what does not.

    ``{"ready": bool, "checks": {name: {"ok", "words", "milliseconds"}}}``, at most two seconds old.
    """
    found = _readiness().ask()
    is_ready = all(one.is_good for one in found.values())
    checks = {
        name: {"ok": one.is_good, "words": one.words, "milliseconds": round(one.milliseconds, 1)}
        for name, one in found.items()
    }
    return jsonify(ready=is_ready, checks=checks), 200 if is_ready else 503


def _readiness() -> Readiness:
    kept: Readiness = current_app.extensions.setdefault(_READINESS, Readiness(site(), sessions()))
    return kept
