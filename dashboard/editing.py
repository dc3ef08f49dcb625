"""Acts on a report's text beside typing: accept it, settle a sentence, use a template, compare, restore, resolve."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import LifecycleError, RefusedInputError
from dashboard.desk import DeskPage
from dashboard.history import Comparison, Side, compare, sides
from dashboard.people import sessions, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import EDITABLE_SECTIONS, SECTION_TITLES
from dashboard.report_page import (
    desk,
    is_fragment,
    plain_text,
    record_view,
    report_of,
    seen_version,
    sent_sections,
    with_version,
)
from dashboard.sentences import told, without
from db import lifecycle
from db.audit import AuditTag
from db.lifecycle.report_text import accept_text, restore, rewrite
from db.queries import report_detail
from db.report_models import Finding, Report
from db.types import Decision
from db.uow import UnitOfWork
from db.wording_models import ReportTemplate

bp = Blueprint("editing", __name__)

_WAYS = ("empty", "append", "replace")


@bp.post("/text/accept")
@requires(Permission.REPORT_EDIT)
def accept(study_id: UUID) -> ResponseReturnValue:
    """Take one section of the AI's text as it is; its mark goes, and the act is on the record."""
    section = request.form.get("section", "")

    def act(uow: UnitOfWork, report_id: UUID, version: int) -> tuple[int, str]:
        return accept_text(uow, report_id, section, seen_version=version), ""

    return _on_text(study_id, act)


@bp.post("/text/template")
@requires(Permission.REPORT_EDIT)
def use_template(study_id: UUID) -> ResponseReturnValue:
    """Put a template into the report: into empty sections only, behind the text, or, when asked for, instead of it."""
    how, key = request.form.get("how", "empty"), request.form.get("template", type=UUID)
    if how not in _WAYS:
        raise RefusedInputError("a template goes into empty sections, is appended, or replaces")

    def act(uow: UnitOfWork, report_id: UUID, version: int) -> tuple[int, str]:
        chosen = uow.session.get(ReportTemplate, key) if key else None
        if chosen is None or chosen.retired_at is not None:
            raise RefusedInputError("there is no such template")
        before = uow.session.get_one(Report, report_id).sections
        made = {key: _filled(str(before.get(key) or ""), text, how) for key, text in chosen.sections.items()}
        detail = {"template": str(chosen.id), "how": how}
        made_version = rewrite(uow, report_id, made, AuditTag.REPORT_TEMPLATE_USED, seen_version=version, detail=detail)
        if made_version == version:
            return version, ""
        return made_version, f"Template “{chosen.name}” inserted."

    return _on_text(study_id, act)


@bp.post("/findings/<uuid:finding_id>/settle")
@requires(Permission.REPORT_EDIT)
def settle(study_id: UUID, finding_id: UUID) -> ResponseReturnValue:
    """Strike the sentences of a rejected finding, or put the reader's words in place of those of an edited one."""

    def act(uow: UnitOfWork, report_id: UUID, version: int) -> tuple[int, str]:
        finding, others = _finding(uow, report_id, finding_id)
        sections = uow.session.get_one(Report, report_id).sections
        found = told(sections, finding, others)
        if not found or finding.decision not in {Decision.REJECTED, Decision.EDITED}:
            raise RefusedInputError("the text has no sentence of this finding alone, or the finding stands")
        instead = finding.decision_reason if finding.decision is Decision.EDITED else ""
        made = {key: without(str(sections[key]), gone, instead) for key, gone in found.items()}
        detail = {"finding": str(finding_id), "as": finding.decision.value, "sections": sorted(made)}
        made_version = rewrite(
            uow, report_id, made, AuditTag.REPORT_SENTENCE_SETTLED, seen_version=version, detail=detail
        )
        where = " and ".join(SECTION_TITLES[key] for key in sorted(found))
        gone = " ".join(one for key in sorted(found) for one in found[key])
        return made_version, f"{'Replaced' if instead else 'Struck'} in {where}: “{gone}”"

    return _on_text(study_id, act)


@bp.post("/revisions/<int:number>/restore", endpoint="restore")
@requires(Permission.REPORT_EDIT)
def restore_revision(study_id: UUID, number: int) -> ResponseReturnValue:
    """Make an earlier text the newest revision; nothing of what came between is lost."""

    def act(uow: UnitOfWork, report_id: UUID, version: int) -> tuple[int, str]:
        return restore(uow, report_id, number, seen_version=version), f"The text is as revision {number} said."

    return _on_text(study_id, act)


@bp.get("/compare", endpoint="compare")
@requires(Permission.STUDY_READ)
def show_comparison(study_id: UUID) -> ResponseReturnValue:
    """Show two or three texts of the report beside each other, word by word: draft, signed, now, or revisions."""
    page = desk(study_id)
    found, known = _compared(page)
    record_view(page, "comparison")
    title = SECTION_TITLES.get(request.args.get("section", ""))
    if is_fragment() and title:
        return render_template("_section_diff.html", row=next((one for one in found.rows if one.title == title), None))
    template = "_comparison.html" if is_fragment() else "compare.html"
    return render_template(template, p=page, comparison=found, sides=known)


@bp.post("/resolve")
@requires(Permission.REPORT_EDIT)
def resolve(study_id: UUID) -> ResponseReturnValue:
    """Save what the reader chose on the conflict page, section by section; with ``take_over`` from another's lock."""
    typed = {
        key: plain_text(request.form[f"yours-{key}"]) for key in EDITABLE_SECTIONS if f"yours-{key}" in request.form
    }
    chosen = {key: text for key, text in ((key, _choice(key, typed[key])) for key in typed) if text is not None}
    report_id = report_of(study_id)
    try:
        with work() as uow:
            version = _taken_over(uow, report_id) if request.form.get("take_over") == "1" else seen_version()
            version = lifecycle.save_sections(uow, report_id, chosen, seen_version=version)
    except LifecycleError:
        return conflict(study_id, typed | chosen)
    flash(f"Saved as version {version}.", "ok")
    return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)


def conflict(study_id: UUID, yours: Mapping[str, str]) -> Response:
    """Answer a save that came too late, or without the lock: both texts, and what can be done about them (409)."""
    page = desk(study_id)
    base = _revision_text(page.report.id, request.form.get("revision", type=int, default=0))
    both = [
        {
            "key": one.key,
            "title": one.title,
            "yours": yours[one.key],
            "theirs": one.text,
            "rows": one.rows,
            "keep": _proposal(yours[one.key], one.text, base.get(one.key)),
        }
        for one in page.sections
        if one.key in yours
    ]
    return Response(render_template("conflict.html", p=page, both=both), 409)


def _proposal(yours: str, theirs: str, base: str | None) -> str:
    """Whose text is ticked at first: the side that changed it, and nobody's where both did."""
    if base is None or base not in {yours, theirs}:
        return "merged"
    return "theirs" if yours == base else "yours"


def _choice(key: str, yours: str) -> str | None:
    """What to save for a section; None leaves the report's own text."""
    choice = request.form.get(f"keep-{key}", "yours")
    if choice == "theirs":
        return None
    return plain_text(request.form.get(f"merged-{key}", "")) if choice == "merged" else yours


def _taken_over(uow: UnitOfWork, report_id: UUID) -> int:
    report = uow.session.get(Report, report_id)
    if report is None or report.version != seen_version():
        raise LifecycleError(f"report {report_id} changed since it was shown")
    return lifecycle.open_review(uow, report_id, take_over=True)


def _filled(before: str, text: str, how: str) -> str:
    if before and how == "empty":
        return before
    return f"{before}\n{text}" if before and how == "append" else text


def _finding(uow: UnitOfWork, report_id: UUID, finding_id: UUID) -> tuple[Finding, list[Finding]]:
    """Return a finding of this report's draft, and the others of it."""
    detail = report_detail(uow.session, report_id)
    rows = detail.findings if detail else []
    finding = next((one for one in rows if one.id == finding_id), None)
    if finding is None:
        raise LifecycleError(f"finding {finding_id} is not of report {report_id}")
    return finding, [one for one in rows if one is not finding]


def _compared(page: DeskPage) -> tuple[Comparison, list[Side]]:
    """The texts asked for, of the sections this reader may see now, and every text there is to choose from."""
    shown = {one.title for one in page.sections}
    with sessions()() as db:
        detail = report_detail(db, page.report.id)
        if detail is None:
            abort(404)
        found = compare(detail, [one for one in request.args.getlist("with") if one][:4])
        known = list(sides(detail).values())
    return Comparison(found.sides, [one for one in found.rows if one.title in shown]), known


def _revision_text(report_id: UUID, number: int) -> Mapping[str, Any]:
    """The text both sides began from; nothing when the form does not say."""
    with sessions()() as db:
        detail = report_detail(db, report_id)
        rows = detail.revisions if detail else []
        found = next((one.sections for one in rows if one.number == number), None)
    return {key: str(found.get(key) or "") for key in EDITABLE_SECTIONS} if found is not None else {}


def _on_text(study_id: UUID, act: Callable[[UnitOfWork, UUID, int], tuple[int, str]]) -> ResponseReturnValue:
    """Save what was typed meanwhile, then act on it, in one transaction; answer with the text as it is then.

    ``act`` gets the unit of work, the report and the version to act on; it gives the new version and what to say.
    """
    report_id, typed, version = report_of(study_id), sent_sections(), seen_version()
    try:
        with work() as uow:
            if typed:
                version = lifecycle.save_sections(uow, report_id, typed, seen_version=version)
            version, words = act(uow, report_id, version)
    except LifecycleError:
        if typed:
            return conflict(study_id, typed)
        raise
    return _text_again(study_id, version, words)


def _text_again(study_id: UUID, version: int, words: str) -> ResponseReturnValue:
    """Answer an act on the text: the text and the findings anew, with a way back."""
    if not is_fragment():
        if words:
            flash(f"{words} The text before is in the history.", "ok")
        return redirect(url_for("reading.show", study_id=study_id, _anchor="text"), 303)
    page = desk(study_id)
    undo = page.revision - 1 if words and page.revision > 1 else 0
    return with_version(Response(render_template("_text_again.html", p=page, said=words, undo=undo)), version)
