"""The record, for the auditor: named questions, and every event of one study. Looking at the record is recorded."""

from uuid import UUID

from flask import Blueprint, Response, abort, render_template, request
from flask.typing import ResponseReturnValue

from audit.answer_files import answer_file
from config.errors import RefusedInputError
from dashboard.auditing import events
from dashboard.auditing.forms import PAGE_ROWS, QuestionPage, fields, given_in, permission_of
from dashboard.auditing.verifying import verified
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.queries import audit_events, find_studies, study_detail
from db.queries.audit import ALL, Question, named
from db.queries.audit.asking import ask, stand

bp = Blueprint("audit", __name__, url_prefix="/audit")
bp.register_blueprint(events.bp)
MOST_EVENTS = 5000
_BLOCK = 64 * 1024


@bp.get("")
@requires(Permission.AUDIT_QUALITY)
def index() -> ResponseReturnValue:
    """List the questions this person may ask."""
    return _index()


def _index(**shown: object) -> str:
    asked = [one for one in ALL.values() if person().may(permission_of(one))]
    return render_template("audit.html", questions=asked, **({"studies": None} | shown))


@bp.post("/search")
@requires(Permission.AUDIT)
def search() -> ResponseReturnValue:
    """List the studies of an accession number; the number is in the form, never in the address."""
    accession = request.form.get("accession", "").strip()[:16]
    with sessions()() as db:
        studies = find_studies(db, accession=accession)
    with work() as uow:
        audit_view(uow, AuditTag.AUDIT_VIEWED, detail={"query": "accession", "studies": [str(s.id) for s in studies]})
    return _index(studies=studies)


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


@bp.get("/questions/<name>")
@requires(Permission.AUDIT_QUALITY)
def question(name: str) -> ResponseReturnValue:
    """Show a question's form, with nothing asked yet."""
    asked = _question(name)
    return render_template("audit_question.html", q=QuestionPage(asked, fields(asked, {})))


@bp.post("/questions/<name>", endpoint="answer")
@requires(Permission.AUDIT_QUALITY)
def answer(name: str) -> ResponseReturnValue:
    """Show one page of the answer; parameters come in the form, for they may name a patient."""
    asked = _question(name)
    given = given_in(request.form)
    try:
        with sessions()() as db:
            found = ask(db, asked, given, limit=PAGE_ROWS, cursor=request.form.get("cursor", ""))
            log = stand(db)
    except RefusedInputError as exc:
        return _refused(asked, given, exc)
    with work() as uow:
        detail = found.said() | {"rows": len(found.rows), "first_page": not request.form.get("cursor")}
        audit_view(uow, AuditTag.AUDIT_VIEWED, study_id=found.study_id, detail=detail)
    shown = QuestionPage(asked, fields(asked, found.answers.given or given), found, log)
    return render_template("audit_question.html", q=shown)


@bp.post("/verify")
@requires(Permission.AUDIT)
def verify() -> ResponseReturnValue:
    """Verify the log of a stretch of time and show the verdict; it is recorded, whatever it is."""
    asked, given = ALL["Q5"], given_in(request.form)
    try:
        with sessions()() as db:
            result = verified(db, site(), asked, given)
            found, log = ask(db, asked, given, limit=PAGE_ROWS), stand(db)
    except RefusedInputError as exc:
        return _refused(asked, given, exc)
    with work() as uow:
        outcome = "success" if result.verdict.holds else "failure"
        audit_view(uow, AuditTag.AUDIT_VERIFIED, outcome=outcome, object_type="audit_log", detail=result.said())
    shown = QuestionPage(asked, fields(asked, found.answers.given), found, log, verified=result)
    return render_template("audit_question.html", q=shown)


@bp.post("/questions/<name>/<kind>")
@requires(Permission.AUDIT_QUALITY)
def export(name: str, kind: str) -> ResponseReturnValue:
    """Give the whole answer as CSV, JSON or PDF; the event of it is written before any of it leaves."""
    asked = _question(name)
    given = given_in(request.form)
    try:
        made = answer_file(sessions(), asked, given, kind, asked_by=person().login, organization=site().organization)
    except RefusedInputError as exc:
        return _refused(asked, given, exc)
    try:
        with work() as uow:
            audit_view(uow, AuditTag.AUDIT_EXPORTED, study_id=made.first.study_id, detail=made.said(kind))
    except BaseException:
        made.content.close()
        raise
    response = Response(iter(lambda: made.content.read(_BLOCK), b""), content_type=made.mimetype)
    response.call_on_close(made.content.close)
    response.headers["Content-Disposition"] = f'attachment; filename="{made.name}"'
    return response


def _question(name: str) -> Question:
    """Return the question of an address, if this person may ask it; a refusal is recorded."""
    found = named(name)
    if found is None:
        abort(404)
    if not person().may(permission_of(found)):
        with work() as uow:
            detail = {"endpoint": request.endpoint, "question": found.name}
            audit_view(uow, AuditTag.ACCESS_REFUSED, outcome="failure", detail=detail)
        abort(403)
    return found


def _refused(asked: Question, given: dict[str, str], error: RefusedInputError) -> Response:
    known = {one.name for one in asked.parameters}
    kept = {name: value for name, value in given.items() if name in known}
    shown = QuestionPage(asked, fields(asked, kept), error=str(error))
    return Response(render_template("audit_question.html", q=shown), 400)
