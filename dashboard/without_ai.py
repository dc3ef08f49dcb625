"""Reports without AI on the reading page: begun, put back, and a draft that comes while they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from dashboard.desk import DeskPage
from dashboard.people import audit_view, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import EDITABLE_SECTIONS, SECTION_TITLES
from dashboard.report_page import desk, is_fragment, report_of, seen_version
from dashboard.words import words_of
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle.report_text import rewrite
from db.lifecycle.viewing import has_seen_images
from db.lifecycle.without_ai import (
    leave_draft,
    open_without_ai,
    put_back,
    set_aside_of,
    take_draft,
    waiting_draft,
    why_not,
)
from db.queries import report_detail
from db.queries.orders import ris_side
from db.report_models import Draft, Finding
from db.types import Presence, ReadingState, ReportState
from db.uow import UnitOfWork

bp = Blueprint("without_ai", __name__)
_MAY_DRAFT = frozenset(
    {ReadingState.RECEIVING, ReadingState.COMPLETE, ReadingState.QUEUED, ReadingState.RUNNING, ReadingState.RETRYING}
)


@dataclass(frozen=True)
class WithoutAi:
    """What the reading page shows of a report that is, or may be, written without AI.

    Attributes:
        can_start: this person may begin it now.
        why_not: why nobody reports this study; empty where it may be reported, or has a draft.
        is_mine: this person writes it now.
        new_images: images arrived that were not here when its reader opened it.
        is_awaited: a draft may yet come.
        draft: that came meanwhile and waits for its reader; texts and findings are empty without one.
        texts: (title, the reader's text, the AI's) of each section that the AI wrote.
        findings: that the AI asserts as present.
        set_aside: (made, why) of drafts that were not used.
        version: of the report that the page on screen was made from.
    """

    can_start: bool
    why_not: str
    is_mine: bool
    new_images: bool
    is_awaited: bool
    draft: Draft | None
    texts: Sequence[tuple[str, str, str]]
    findings: Sequence[Finding]
    set_aside: Sequence[tuple[datetime, str]]
    version: int


def without_ai_panel(db: Session, page: DeskPage, *, version: int | None = None) -> WithoutAi:
    """Return what is shown of a report with regard to its being written without AI.

    Args:
        db: for reading only.
        page: the reading page as this person sees it.
        version: of the report that the page on screen was made from; None for the one now.
    """
    is_unread = page.report.state is ReportState.UNREAD
    is_mine = page.can_edit and page.draft is None
    refusal = why_not(page.study, page.reading) if is_unread else ""
    draft = waiting_draft(db, page.report) if is_mine else None
    return WithoutAi(
        can_start=is_unread and not refusal and person().may(Permission.REPORT_EDIT),
        why_not=refusal,
        is_mine=is_mine,
        new_images=is_mine and page.report.image_set_sha256 != page.images_seen,
        is_awaited=page.reading.state in _MAY_DRAFT,
        draft=draft,
        texts=_texts(db, page, draft) if draft else (),
        findings=_findings(db, draft) if draft else (),
        set_aside=set_aside_of(db, page.study.id),
        version=page.report.version if version is None else version,
    )


@bp.post("/without-ai")
@requires(Permission.REPORT_EDIT)
def start(study_id: UUID) -> ResponseReturnValue:
    """Open a report that has no draft, with the empty sections of the procedure's template."""
    report_id = report_of(study_id)
    try:
        with work() as uow:
            version = open_without_ai(uow, report_id)
            _begin_text(uow, report_id, version)
    except LifecycleError as exc:
        flash(_not_opened(study_id, exc), "warn")
    return redirect(url_for("reading.show", study_id=study_id), 303)


@bp.post("/put-back")
@requires(Permission.REPORT_EDIT)
def put_back_report(study_id: UUID) -> ResponseReturnValue:
    """Give up a report without AI: the study is unread again, and what was written stays in its history."""
    report_id = report_of(study_id)
    with work() as uow:
        put_back(uow, report_id, seen_version=seen_version())
    flash("Put back. What you wrote is in the history.", "ok")
    return redirect(url_for("reading.show", study_id=study_id), 303)


@bp.get("/late-draft")
@requires(Permission.REPORT_EDIT)
def late_draft(study_id: UUID) -> ResponseReturnValue:
    """Return what is to be said of a draft that came meanwhile; the page asks while one may come."""
    return _late(study_id)


late_draft.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


@bp.post("/late-draft/take")
@requires(Permission.REPORT_EDIT)
def take(study_id: UUID) -> ResponseReturnValue:
    """Make the draft that came meanwhile the report's; the text before stays in the history."""
    report_id = report_of(study_id)
    with work() as uow:
        take_draft(uow, report_id, _draft_id(), seen_version=seen_version())
    flash("The AI draft is the report's now; its findings are undecided. Your text before is in the history.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)


@bp.post("/late-draft/leave")
@requires(Permission.REPORT_EDIT)
def leave(study_id: UUID) -> ResponseReturnValue:
    """Go on without the draft that came meanwhile; it is kept as evidence."""
    report_id = report_of(study_id)
    with work() as uow:
        leave_draft(uow, report_id, _draft_id())
    if is_fragment():
        return _late(study_id)
    flash("Your report stays as it is.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)


def _late(study_id: UUID) -> str:
    page = desk(study_id)
    with sessions()() as db:
        panel = without_ai_panel(db, page, version=request.values.get("version", type=int, default=0))
    if panel.draft is not None:
        with work() as uow:
            detail = {"page": "draft that came late", "draft": str(panel.draft.id)}
            audit_view(uow, AuditTag.REPORT_VIEWED, study_id=study_id, report_id=page.report.id, detail=detail)
    return render_template("_late_draft.html", p=page, late=panel)


def _draft_id() -> UUID:
    found = request.form.get("draft", type=UUID)
    if found is None:
        raise RefusedInputError("no draft is named")
    return found


def _not_opened(study_id: UUID, error: LifecycleError) -> str:
    state = desk(study_id).report.state
    if state is ReportState.DRAFTED:
        return "The AI draft came a moment before: nothing is locked. Start its review, and reject it to read without."
    if state is ReportState.IN_REVIEW:
        return "Somebody began to report this study a moment before."
    return f"Not opened: {error}."


def _begin_text(uow: UnitOfWork, report_id: UUID, version: int) -> None:
    """Start from the template of the procedure; the history is the order's to say, as in a draft."""
    detail = report_detail(uow.session, report_id)
    assert detail is not None
    order = ris_side(uow.session, detail.study).order
    best = words_of(uow.session, person().id, detail.study, order).best
    sections = dict(best.sections) if best is not None else {}
    said = order.indication.strip() if order is not None and not order.cancelled else ""
    if said and not sections.get("history"):
        sections["history"] = f"Indication (from the order): {said}"
    if best is not None:
        how = {"template": str(best.id), "how": "report without AI"}
        rewrite(uow, report_id, sections, AuditTag.REPORT_TEMPLATE_USED, seen_version=version, detail=how)
    elif sections:
        lifecycle.save_sections(uow, report_id, sections, seen_version=version)


def _texts(db: Session, page: DeskPage, draft: Draft) -> list[tuple[str, str, str]]:
    hides = site().review.hide_impression and not has_seen_images(db, page.study.id, person().id)
    mine = page.report.sections
    return [
        (SECTION_TITLES[key], str(mine.get(key) or ""), str(draft.sections[key]))
        for key in EDITABLE_SECTIONS
        if draft.sections.get(key) and not (hides and key == "impression")
    ]


def _findings(db: Session, draft: Draft) -> Sequence[Finding]:
    query = select(Finding).where(Finding.draft_id == draft.id, Finding.presence == Presence.PRESENT)
    return db.scalars(query.order_by(Finding.position)).all()
