"""What the safety linter says of a report while it is written, and the clock of the images."""

from uuid import UUID

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import generate_csrf

from dashboard.checks import checking_view
from dashboard.people import person, sessions, work
from dashboard.permissions import Permission, requires
from dashboard.report_page import desk, report_of
from db import lifecycle

bp = Blueprint("checking", __name__, url_prefix="/studies/<uuid:study_id>")


@bp.get("/checks")
@requires(Permission.REPORT_EDIT)
def show(study_id: UUID) -> ResponseReturnValue:
    """Return the checks of the text as it is saved; the page asks after each save and each decision."""
    page = desk(study_id)
    with sessions()() as db:
        return render_template("_checks.html", p=page, panels={"checking": checking_view(db, page)})


show.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/viewed")
@requires(Permission.REPORT_EDIT)
def viewed(study_id: UUID) -> ResponseReturnValue:
    """Count seconds the images were on the screen, no more than passed since the page was opened."""
    report_of(study_id)  # 404 for a study that is none
    seconds = request.form.get("seconds", type=float, default=0.0)
    with work() as uow:
        total = lifecycle.count_view(uow, study_id, person().id, seconds)
    return Response(f"{total:.0f}", mimetype="text/plain")


viewed.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.get("/session")
@requires(Permission.REPORT_SIGN)
def session_state(study_id: UUID) -> ResponseReturnValue:
    """Answer with the form mark of the session at hand, so that a form may be sent after logging in again."""
    del study_id
    return Response(generate_csrf(), mimetype="text/plain", headers={"Cache-Control": "no-store"})


session_state.passive = True  # type: ignore[attr-defined]  # does not keep a session alive
