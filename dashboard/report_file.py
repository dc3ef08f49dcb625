"""The report as a file for people: PDF, and what readers made of the AI's findings."""

import hashlib
import json
from uuid import UUID

from flask import Blueprint, Response, abort, request
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.report_page import desk
from db.audit import AuditTag
from db.queries import report_detail, study_detail
from publishing.assessment import assessment
from publishing.documents import report_document
from reports.document import ReportDocument
from reports.pdf import build_pdf

bp = Blueprint("report_file", __name__, url_prefix="/studies/<uuid:study_id>")


@bp.get("/report.pdf")
@requires(Permission.STUDY_READ)
def report_pdf(study_id: UUID) -> ResponseReturnValue:
    """Return the report as it was last signed, or the marked draft; with ``download=1`` to be kept as a file.

    Built anew each time, and recorded before a byte leaves. The file name carries nothing of the patient.

    Raises:
        LifecycleError: the site hides the AI's impression from whoever has not opened the images.
    """
    if all(one.key != "impression" for one in desk(study_id).sections):
        raise LifecycleError("the impression is hidden until you have opened the images")
    report_id, document = _document(study_id)
    content = build_pdf(document)
    detail = {"format": "pdf", "state": document.state, "sha256": hashlib.sha256(content).hexdigest()}
    with work() as uow:
        audit_view(uow, AuditTag.REPORT_EXPORTED, study_id=study_id, report_id=report_id, detail=detail)
    return _file(content, "application/pdf", f"report-{str(study_id)[:8]}-{document.state}.pdf")


@bp.get("/assessment.json")
@requires(Permission.STUDY_READ)
def assessment_json(study_id: UUID) -> ResponseReturnValue:
    """Return what readers made of each AI finding (docs/ihe-air.md); recorded before a byte leaves."""
    with sessions()() as db:
        if study_detail(db, study_id) is None:
            abort(404)
        record = assessment(db, study_id)
    content = json.dumps(record, ensure_ascii=False, indent=1).encode()
    with work() as uow:
        detail = {"findings": len(record["assessments"]), "sha256": hashlib.sha256(content).hexdigest()}
        audit_view(uow, AuditTag.ASSESSMENT_EXPORTED, study_id=study_id, detail=detail)
    return _file(content, "application/json", f"assessment-{str(study_id)[:8]}.json")


def _document(study_id: UUID) -> tuple[UUID, ReportDocument]:
    """Return the report of a study and its id; 404 when there is none."""
    with sessions()() as db:
        study = study_detail(db, study_id)
        detail = report_detail(db, study.report.id) if study and study.report else None
        if detail is None:
            abort(404)
        return detail.report.id, report_document(db, detail, site())


def _file(content: bytes, mimetype: str, name: str) -> Response:
    response = Response(content, mimetype=mimetype)
    kind = "attachment" if request.args.get("download") == "1" else "inline"
    response.headers["Content-Disposition"] = f'{kind}; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response
