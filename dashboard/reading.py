"""The reading page: look, take the review, decide findings, edit, release."""

from uuid import UUID

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from dashboard.desk import DeskPage, load_desk, report_id_of
from dashboard.images import shelf
from dashboard.panels import reading_panels
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import EDITABLE_SECTIONS
from dashboard.priors import priors_view
from db import lifecycle
from db.audit import AuditTag
from db.types import Decision

bp = Blueprint("reading", __name__, url_prefix="/studies/<uuid:study_id>")


@bp.get("")
@requires(Permission.STUDY_READ)
def show(study_id: UUID) -> ResponseReturnValue:
    """Show images and report of a study; recorded, and nothing is locked by looking."""
    page = desk(study_id, with_viewer=True)
    record_view(page, "reading page")
    with sessions()() as db:
        priors = priors_view(db, study_id)
        panels = reading_panels(db, page)
    return render_template("reading.html", p=page, priors=priors, panels=panels)


@bp.get("/viewer")
@requires(Permission.STUDY_READ)
def viewer(study_id: UUID) -> ResponseReturnValue:
    """Return the viewer alone, for another series."""
    return render_template("_viewer.html", p=desk(study_id, with_viewer=True))


@bp.get("/report")
@requires(Permission.STUDY_READ)
def report(study_id: UUID) -> ResponseReturnValue:
    """Show the report alone, with its signature block, for reading and printing."""
    page = desk(study_id)
    record_view(page, "report page")
    return render_template("report.html", p=page, organization=site().organization)


@bp.post("/review")
@requires(Permission.REPORT_EDIT)
def open_review(study_id: UUID) -> ResponseReturnValue:
    """Lock the report for this reader; with ``take_over`` also from another."""
    report_id = report_of(study_id)
    with work() as uow:
        lifecycle.open_review(uow, report_id, take_over=request.form.get("take_over") == "1")
    return redirect(url_for("reading.show", study_id=study_id), 303)


@bp.post("/release")
@requires(Permission.REPORT_EDIT)
def release(study_id: UUID) -> ResponseReturnValue:
    """Give up the lock; the text stays."""
    report_id = report_of(study_id)
    with work() as uow:
        lifecycle.release(uow, report_id)
    flash("Released. The report stays in review for whoever reads next.", "ok")
    return redirect(url_for("worklist.show"), 303)


@bp.post("/sections")
@requires(Permission.REPORT_EDIT)
def save(study_id: UUID) -> ResponseReturnValue:
    """Keep the text as the next revision; when somebody was faster, show both texts instead."""
    sections = {key: _text(request.form[key]) for key in EDITABLE_SECTIONS if key in request.form}
    report_id = report_of(study_id)
    try:
        with work() as uow:
            version = lifecycle.save_sections(uow, report_id, sections, seen_version=seen_version())
    except LifecycleError as exc:
        return _conflict(study_id, sections, exc)
    if request.headers.get("HX-Request"):
        return _with_version(Response(render_template("_saved.html", version=version)), version)
    flash(f"Saved as version {version}.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)


@bp.post("/findings/<uuid:finding_id>")
@requires(Permission.REPORT_EDIT)
def decide(study_id: UUID, finding_id: UUID) -> ResponseReturnValue:
    """Accept, edit or reject one finding; an edit says what is true instead, a rejection why."""
    decision = _decision(request.form.get("decision", ""))
    reason = " ".join(request.form.get("reason", "").split())[:500]
    if decision in {Decision.EDITED, Decision.REJECTED} and not reason:
        raise RefusedInputError("say what is true instead, or why the finding is rejected")
    report_id = report_of(study_id)
    with work() as uow:
        version = lifecycle.decide_finding(
            uow, report_id, finding_id, decision, reason=reason, seen_version=seen_version()
        )
    if request.headers.get("HX-Request"):
        return _with_version(Response(render_template("_findings.html", p=desk(study_id))), version)
    return redirect(url_for("reading.show", study_id=study_id, _anchor=f"finding-{finding_id}"), 303)


def desk(study_id: UUID, *, with_viewer: bool = False) -> DeskPage:
    """Return the page of a study for who is logged in; 404 when there is none."""
    with sessions()() as db:
        page = load_desk(
            db,
            study_id,
            reader=person(),
            settings=site(),
            server=shelf().slices,
            asked=request.args if with_viewer else None,
        )
    if page is None:
        abort(404)
    return page


def report_of(study_id: UUID) -> UUID:
    """Return the Report of a study; 404 when there is none."""
    with sessions()() as db:
        found = report_id_of(db, study_id)
    if found is None:
        abort(404)
    return found


def record_view(page: DeskPage, what: str) -> None:
    """Record that this person saw this patient's report."""
    with work() as uow:
        audit_view(
            uow,
            AuditTag.REPORT_VIEWED,
            study_id=page.study.id,
            report_id=page.report.id,
            detail={"page": what, "state": page.report.state.value, "version": page.report.version},
        )


def seen_version() -> int:
    """Return the version the form was made from; 0, which is always stale, when it names none."""
    return request.form.get("version", type=int, default=0)


def _text(value: str) -> str:
    return value.replace("\r\n", "\n").strip()


def _decision(value: str) -> Decision:
    if value not in {Decision.ACCEPTED, Decision.EDITED, Decision.REJECTED}:
        raise RefusedInputError("a finding is accepted, edited or rejected")
    return Decision(value)


def _with_version(response: Response, version: int) -> Response:
    """Tell every form on the page the new version."""
    response.headers["HX-Trigger"] = f'{{"reportVersion": {version}}}'
    return response


def _conflict(study_id: UUID, yours: dict[str, str], error: LifecycleError) -> Response:
    page = desk(study_id)
    both = [
        {"title": one.title, "yours": yours[one.key], "theirs": one.text, "rows": one.rows}
        for one in page.sections
        if one.key in yours
    ]
    text = {True: "It is open for you again.", False: f"It is now: {page.pill[0]}."}[page.can_edit]
    del error  # its words are for the log; the page shows the two texts
    return Response(render_template("conflict.html", p=page, both=both, text=text), 409)
