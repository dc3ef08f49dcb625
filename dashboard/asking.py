"""Questions to the model about a study, and drafts made anew: asked, shown when they come, used on request."""

from uuid import UUID

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from dashboard.asking_panel import AskingPanel, asking_panel
from dashboard.desk import DeskPage
from dashboard.editing import conflict
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import SECTION_TITLES
from dashboard.report_page import desk, is_fragment, report_of, seen_version, sent_sections, with_version
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle import asking, redrafting
from db.lifecycle.asking import NewQuestion
from db.lifecycle.redrafting import NewRedraft

bp = Blueprint("asking", __name__, url_prefix="/studies/<uuid:study_id>")


@bp.post("/questions")
@requires(Permission.REPORT_EDIT)
def ask(study_id: UUID) -> ResponseReturnValue:
    """Put a question to the model, about the images as drafting chooses them or about the one on screen."""
    report_id = report_of(study_id)
    shown = request.form.get("about") == "shown"
    new = NewQuestion(
        request.form.get("question", ""),
        sop_instance_uid=request.form.get("sop_instance_uid", "")[:64] if shown else "",
        frame_number=request.form.get("frame_number", type=int, default=1) if shown else 1,
        with_experts=request.form.get("with_experts") == "1",
    )
    try:
        with work() as uow:
            asking.ask(uow, report_id, new, limit=site().review.max_questions)
    except (RefusedInputError, LifecycleError) as exc:
        if not is_fragment():
            raise
        return _asked(study_id, problem=str(exc), question=new.text)
    if is_fragment():
        return _asked(study_id)
    flash("The question is with the model. Its answer appears under AI evidence.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="asking"), 303)


@bp.get("/questions")
@requires(Permission.REPORT_EDIT)
def questions(study_id: UUID) -> ResponseReturnValue:
    """Return the questions and answers anew; the page asks while an answer is to come."""
    page = desk(study_id)
    return render_template("_questions.html", p=page, a=_panel(page))


questions.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/questions/<uuid:question_id>/copy")
@requires(Permission.REPORT_EDIT)
def copy(study_id: UUID, question_id: UUID) -> ResponseReturnValue:
    """Put an answer into a section, marked as the AI's; the act is on the record."""
    report_id, typed, version = report_of(study_id), sent_sections(), seen_version()
    section = request.form.get("section", "")
    try:
        with work() as uow:
            if typed:
                version = lifecycle.save_sections(uow, report_id, typed, seen_version=version)
            version = asking.copy_answer(uow, report_id, question_id, section, seen_version=version)
    except LifecycleError:
        if typed:
            return conflict(study_id, typed)
        raise
    words = f"The answer is at the end of {SECTION_TITLES[section]}, marked as the AI's: check it, and remove the mark."
    if not is_fragment():
        flash(words, "ok")
        return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)
    page = desk(study_id)
    undo = page.revision - 1 if page.revision > 1 else 0
    text = render_template("_text_again.html", p=page, said=words, undo=undo)
    questions_now = render_template("_questions.html", p=page, a=_panel(page, version), oob=True)
    return with_version(Response(text + questions_now), version)


@bp.post("/redrafts")
@requires(Permission.REPORT_EDIT)
def ask_redraft(study_id: UUID) -> ResponseReturnValue:
    """Ask for another draft of the same images: by a changed prompt, or by another model."""
    report_id = report_of(study_id)
    new = NewRedraft(
        request.form.get("instruction", ""),
        style=request.form.get("style", ""),
        package_id=request.form.get("package", type=UUID),
    )
    try:
        with work() as uow:
            redrafting.ask_redraft(uow, report_id, new, limit=site().review.max_redrafts)
    except (RefusedInputError, LifecycleError) as exc:
        if not is_fragment():
            raise
        return _redrafts(study_id, problem=str(exc), wanted=new)
    if is_fragment():
        return _redrafts(study_id)
    flash("Another draft is being made. Your text stays as it is.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="redraft"), 303)


@bp.get("/redrafts")
@requires(Permission.REPORT_EDIT)
def redrafts(study_id: UUID) -> ResponseReturnValue:
    """Return what became of the new draft; the page asks while it is being made."""
    return _redrafts(study_id)


redrafts.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/redrafts/<uuid:redraft_id>/adopt")
@requires(Permission.REPORT_EDIT)
def adopt(study_id: UUID, redraft_id: UUID) -> ResponseReturnValue:
    """Make the new draft the report's; the text before stays in the history."""
    report_id = report_of(study_id)
    with work() as uow:
        redrafting.adopt(uow, report_id, redraft_id, seen_version=seen_version())
    flash("The new draft is the report's now; its findings are undecided. Your text before is in the history.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)


@bp.post("/redrafts/<uuid:redraft_id>/discard")
@requires(Permission.REPORT_EDIT)
def discard(study_id: UUID, redraft_id: UUID) -> ResponseReturnValue:
    """Keep the report as it is."""
    report_id = report_of(study_id)
    with work() as uow:
        redrafting.discard(uow, report_id, redraft_id)
    if is_fragment():
        return _redrafts(study_id)
    flash("Your report stays as it is.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="redraft"), 303)


def _asked(study_id: UUID, *, problem: str = "", question: str = "") -> str:
    page = desk(study_id)
    return render_template("_asking.html", p=page, a=_panel(page), problem=problem, question=question)


def _redrafts(study_id: UUID, *, problem: str = "", wanted: NewRedraft | None = None) -> str:
    page = desk(study_id)
    panel = _panel(page)
    if panel is not None and panel.offer is not None and request.method == "GET":
        with work() as uow:
            detail = {"page": "new draft", "redraft": str(panel.offer.row.redraft.id)}
            audit_view(uow, AuditTag.REPORT_VIEWED, study_id=study_id, report_id=page.report.id, detail=detail)
    return render_template("_redraft.html", p=page, a=panel, problem=problem, wanted=wanted)


def _panel(page: DeskPage, version: int | None = None) -> AskingPanel | None:
    """Return the panel; its forms carry the version of the page on screen, so that a stale page stays stale."""
    seen = request.values.get("version", type=int, default=0) if version is None else version
    with sessions()() as db:
        return asking_panel(db, page, person(), site(), version=seen)
