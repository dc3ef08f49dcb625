"""What became of a study: type an accession number or a UID, and see every step, with its reasons."""

from uuid import UUID

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from config.routing import load_rule_book
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.queries.trace import Ways, trace
from db.queries.trace_values import Trace
from db.types import utcnow
from instances.retention import retention_terms

bp = Blueprint("trace", __name__, url_prefix="/trace")
_LONGEST_KEY = 64  # a UID


@bp.get("")
@requires(Permission.TRACE)
def index() -> ResponseReturnValue:
    """Ask for an accession number or UID."""
    return render_template("trace.html", trace=None, refused="")


@bp.post("")
@requires(Permission.TRACE)
def search() -> ResponseReturnValue:
    """Show what the form asks for; the number is in the form, never in the address."""
    try:
        found = _traced(request.form.get("key", "")[:_LONGEST_KEY])
    except RefusedInputError as exc:
        return render_template("trace.html", trace=None, refused=str(exc)), 400
    return render_template("trace.html", trace=found, refused=""), 200 if found.studies else 404


@bp.get("/<uuid:study_id>")
@requires(Permission.TRACE)
def study(study_id: UUID) -> ResponseReturnValue:
    """Show one study."""
    found = _traced(str(study_id))
    return render_template("trace.html", trace=found, refused=""), 200 if found.studies else 404


def _traced(key: str) -> Trace:
    settings = site()
    ways = Ways(retention_terms(settings), load_rule_book(settings), settings.priors.wait_s)
    with sessions()() as db:
        found = trace(db, key, utcnow(), ways)
    with work() as uow:
        for one in found.studies:
            audit_view(uow, AuditTag.STUDY_TRACED, study_id=one.id)
        if not found.studies:
            audit_view(uow, AuditTag.STUDY_TRACED, outcome="failure", object_type="key", object_id=found.key_to_record)
    return found
