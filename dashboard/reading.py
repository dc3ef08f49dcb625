"""The reading page: look, take the review, decide findings, edit, release."""

from uuid import UUID

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from dashboard import editing, without_ai
from dashboard.panels import reading_panels
from dashboard.people import person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.priors import priors_view
from dashboard.report_page import desk, is_fragment, record_view, report_of, seen_version, sent_sections, with_version
from dashboard.signed_view import signed_view
from dashboard.words import words_of
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle.report_text import rewrite
from db.queries import report_detail
from db.queries.orders import ris_side
from db.queries.wording import newest_revision
from db.types import Decision, utcnow
from db.uow import UnitOfWork

__all__ = ["bp", "desk", "record_view", "report_of", "seen_version"]

bp = Blueprint("reading", __name__, url_prefix="/studies/<uuid:study_id>")
bp.register_blueprint(editing.bp)
bp.register_blueprint(without_ai.bp)


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
    with sessions()() as db:
        signed = signed_view(db, page)
    return render_template("report.html", p=page, organization=site().organization, signed=signed)


@bp.post("/review")
@requires(Permission.REPORT_EDIT)
def open_review(study_id: UUID) -> ResponseReturnValue:
    """Lock the report for this reader; with ``take_over`` also from another. An empty one starts from a template."""
    report_id = report_of(study_id)
    with work() as uow:
        version = lifecycle.open_review(uow, report_id, take_over=request.form.get("take_over") == "1")
        _fill_if_empty(uow, report_id, version)
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
    sections = sent_sections()
    report_id = report_of(study_id)
    try:
        with work() as uow:
            version = lifecycle.save_sections(uow, report_id, sections, seen_version=seen_version())
            revision = newest_revision(uow.session, report_id)
    except LifecycleError:
        return editing.conflict(study_id, sections)
    if is_fragment():
        saved = with_version(Response(render_template("_saved.html", version=version, at=utcnow())), version)
        saved.headers["Report-Revision"] = str(revision)  # what the next edit begins from, for the conflict page
        return saved
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
    if is_fragment():
        return with_version(Response(render_template("_findings_again.html", p=desk(study_id))), version)
    return redirect(url_for("reading.show", study_id=study_id, _anchor=f"finding-{finding_id}"), 303)


def _fill_if_empty(uow: UnitOfWork, report_id: UUID, version: int) -> None:
    """Start a report without any text from the template of its procedure, on the record; one with text stays."""
    detail = report_detail(uow.session, report_id)
    if detail is None or any(detail.report.sections.values()):
        return
    order = ris_side(uow.session, detail.study).order
    best = words_of(uow.session, person().id, detail.study, order).best
    if best is not None:
        how = {"template": str(best.id), "how": "empty report"}
        rewrite(uow, report_id, best.sections, AuditTag.REPORT_TEMPLATE_USED, seen_version=version, detail=how)


def _decision(value: str) -> Decision:
    if value not in {Decision.ACCEPTED, Decision.EDITED, Decision.REJECTED}:
        raise RefusedInputError("a finding is accepted, edited or rejected")
    return Decision(value)
