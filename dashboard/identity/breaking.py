"""Break-glass: access to one study for a stated reason, and the list of those that were taken."""

from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.lifecycle.breaking import all_grants, break_glass
from db.types import utcnow

bp = Blueprint("breaking", __name__, url_prefix="/break-glass")


@bp.get("")
@requires(Permission.BREAK_GLASS_REVIEW)
def index() -> str:
    """Show who broke the glass, when, and why."""
    with work() as uow:
        audit_view(uow, AuditTag.BREAK_GLASS_REVIEWED)
    with sessions()() as db:
        rows = all_grants(db)
    return render_template("break_glass_list.html", rows=rows, now=utcnow())


@bp.get("/<uuid:study_id>")
@requires(Permission.BREAK_GLASS)
def ask(study_id: UUID) -> str:
    """Show the form that asks for the reason; it says nothing about the study."""
    return render_template("break_glass.html", study_id=study_id, error="")


@bp.post("/<uuid:study_id>", endpoint="ask_submit")
@requires(Permission.BREAK_GLASS)
def submit(study_id: UUID) -> ResponseReturnValue:
    """Give access for the reason stated, and go to the study."""
    try:
        with work() as uow:
            break_glass(uow, study_id, reason=request.form.get("reason", ""), lasts_s=site().identity.break_glass_s)
    except RefusedInputError as exc:
        return render_template("break_glass.html", study_id=study_id, error=f"Not opened: {exc}."), 400
    return redirect(url_for("reading.show", study_id=study_id), 303)
