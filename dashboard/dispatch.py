"""The acts on what was signed and not sent yet: look, stop, send now."""

from uuid import UUID

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from dashboard.dispatch_view import dispatch_view
from dashboard.people import sessions, work
from dashboard.permissions import Permission, requires
from dashboard.report_page import report_of
from db import lifecycle
from db.queries.dispatch import latest_dispatch

bp = Blueprint("dispatch", __name__, url_prefix="/dispatch")


@bp.get("")
@requires(Permission.STUDY_READ)
def show(study_id: UUID) -> ResponseReturnValue:
    """Return pause and destinations anew; the page asks while something is on its way."""
    with sessions()() as db:
        view = dispatch_view(db, study_id)
    if view is None:
        abort(404)
    return render_template("_dispatch.html", dispatch=view, study_id=study_id)


show.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/stop")
@requires(Permission.REPORT_SIGN)
def stop(study_id: UUID) -> ResponseReturnValue:
    """Keep what was just signed from being sent, for a reason."""
    hold_id = _hold_of(study_id)
    with work() as uow:
        lifecycle.stop(uow, hold_id, request.form.get("reason", ""))
    flash("Stopped: nothing of this signature was sent. Send it as it is, or correct the report.", "warn")
    return redirect(url_for("reading.report", study_id=study_id), 303)


@bp.post("/release")
@requires(Permission.REPORT_SIGN)
def release(study_id: UUID) -> ResponseReturnValue:
    """Send what was signed now."""
    hold_id = _hold_of(study_id)
    with work() as uow:
        lifecycle.release_hold(uow, hold_id)
    flash("Sending now.", "ok")
    return redirect(url_for("reading.report", study_id=study_id), 303)


def _hold_of(study_id: UUID) -> UUID:
    """Return the pause that the form is about, which must be the one of the newest signature of this study."""
    report_of(study_id)  # 404 for a study that is none
    with sessions()() as db:
        found = latest_dispatch(db, study_id)
    if found is None or found.hold is None or str(found.hold.id) != request.form.get("hold"):
        abort(404)
    return found.hold.id
