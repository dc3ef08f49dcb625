"""The record, for the auditor: every event of one study. Looking at the record is recorded."""

from uuid import UUID

from flask import Blueprint, abort, render_template, request
from flask.typing import ResponseReturnValue

from dashboard.people import audit_view, sessions, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.queries import audit_events, find_studies, study_detail

bp = Blueprint("audit", __name__, url_prefix="/audit")
MOST_EVENTS = 5000


@bp.get("")
@requires(Permission.AUDIT)
def index() -> ResponseReturnValue:
    """Ask for an accession number."""
    return render_template("audit.html", studies=None)


@bp.post("/search")
@requires(Permission.AUDIT)
def search() -> ResponseReturnValue:
    """List the studies of an accession number; the number is in the form, never in the address."""
    accession = request.form.get("accession", "").strip()[:16]
    with sessions()() as db:
        studies = find_studies(db, accession=accession)
    with work() as uow:
        audit_view(uow, AuditTag.AUDIT_VIEWED, detail={"query": "accession", "studies": [str(s.id) for s in studies]})
    return render_template("audit.html", studies=studies)


@bp.get("/studies/<uuid:study_id>")
@requires(Permission.AUDIT)
def study(study_id: UUID) -> ResponseReturnValue:
    """List the events of one study in the order they were committed, this look included."""
    with sessions()() as db:
        if study_detail(db, study_id) is None:
            abort(404)
    with work() as uow:
        audit_view(uow, AuditTag.AUDIT_VIEWED, study_id=study_id, detail={"query": "study"})
    with sessions()() as db:
        detail = study_detail(db, study_id)
        events = audit_events(db, study_id=study_id, limit=MOST_EVENTS + 1)
    assert detail is not None
    return render_template(
        "audit_study.html", study=detail.study, events=events[:MOST_EVENTS], cut=len(events) > MOST_EVENTS
    )
