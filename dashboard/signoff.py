"""Signing and rejecting: one report, one person, one password each time. There is no bulk sign."""

import re
from collections.abc import Callable
from uuid import UUID, uuid4

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import AppError, LifecycleError
from dashboard.auth import check_password
from dashboard.desk import SIGNED, DeskPage
from dashboard.people import end_session, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.reading import desk, record_view, report_of, seen_version
from db import lifecycle
from db.queries import report_detail
from db.types import Decision, ReportState, utcnow
from db.users import find_user, is_locked_out
from publishing.outgoing import Outgoing, outgoing
from publishing.signed import Signing, discard, write_signed_documents

bp = Blueprint("signoff", __name__, url_prefix="/studies/<uuid:study_id>")

MEANINGS = {
    ReportState.FINAL: "I have personally reviewed the images and this report, and I am its author.",
    ReportState.PRELIMINARY: "I have reviewed the images and wrote this preliminary report; it awaits final review.",
}
REJECTION_KINDS = (
    "Findings wrong",
    "Findings missed",
    "Wrong side or location",
    "Text unusable",
    "Image quality",
    "Wrong protocol or body part",
    "Other",
)


@bp.get("/sign/<state>")
@requires(Permission.REPORT_SIGN)
def sign(study_id: UUID, state: str) -> ResponseReturnValue:
    """Show what is about to be signed, for whom, and where it goes."""
    page = desk(study_id)
    record_view(page, "sign page")
    return _sign_page(page, _state(state))


@bp.post("/sign/<state>", endpoint="sign_submit")
@requires(Permission.REPORT_SIGN)
def submit(study_id: UUID, state: str) -> ResponseReturnValue:
    """Sign the version the radiologist saw, after a fresh password."""
    wanted = _state(state)
    page = desk(study_id)
    if warnings_of(page) and request.form.get("checked") != "1":
        return Response(_sign_page(page, wanted, error="Confirm that you have checked the points above."), 400)
    if check_password(person().login, request.form.get("password", ""), again=True) is None:
        return refused(lambda error: _sign_page(page, wanted, error=error))
    _sign(page, wanted)
    flash(f"Signed as {wanted.value.lower()}.", "ok")
    return redirect(url_for("reading.show", study_id=study_id), 303)


def _sign(page: DeskPage, wanted: ReportState) -> None:
    """Write everything the signature makes, then commit state, signature, objects and deliveries together.

    Text and version come from one reading of the report, so what is written is what is signed; a report
    that moved on meanwhile loses at the commit.
    """
    authenticated_at = signed_at = utcnow()
    signing = Signing(uuid4(), wanted, person().login, person().printed_name, signed_at, MEANINGS[wanted])
    settings = site()
    with sessions()() as db:
        detail = report_detail(db, page.report.id)
        assert detail is not None
        if detail.report.version != seen_version():
            raise LifecycleError("the report changed since it was shown: look at it again before signing")
        blocks = blocks_of(page)
        if blocks:
            raise LifecycleError("; ".join(blocks))
        made = write_signed_documents(db, detail, signing, settings)
    try:
        with work() as uow:
            lifecycle.sign(
                uow,
                page.report.id,
                state=wanted,
                meaning=signing.meaning,
                printed_name=signing.printed_name,
                authenticated_at=authenticated_at,
                seen_version=seen_version(),
                objects=made,
                signed_at=signed_at,
                signature_id=signing.signature_id,
                destinations=settings.destinations,
            )
    except AppError:
        discard(made, settings)
        raise


def blocks_of(page: DeskPage) -> list[str]:
    """Return what stands in the way of a signature."""
    blocks = []
    if page.report.state is not ReportState.PRELIMINARY and not page.can_edit:
        blocks.append("The report is not open for you: open it for review first.")
    if page.report.state in SIGNED - {ReportState.PRELIMINARY}:
        blocks.append("The report is signed already.")
    if page.undecided:
        names = ", ".join(one.row.label for one in page.findings if one.row.decision is Decision.PENDING)
        blocks.append(f"{page.undecided} finding(s) undecided: {names}. Accept, edit or reject each.")
    if not any(one.text for one in page.sections if one.key in {"findings", "impression"}):
        blocks.append("Findings and impression are empty.")
    return blocks


def warnings_of(page: DeskPage) -> list[str]:
    """Return what the reader should look at once more."""
    warnings = [f"{mark.title}: {mark.text}" for mark in page.marks]
    if page.draft_is_stale:
        warnings.append("Images arrived after the draft was made.")
    sentences = [one for part in page.sections for one in re.split(r"(?<=[.!?])\s+|\n+", part.text)]
    for finding in page.findings:
        kept = [one for one in sentences if _asserts(one, finding.row.label)]
        if finding.row.decision is Decision.REJECTED and kept:
            warnings.append(f"You rejected “{finding.row.label}”, but the text still says: “{kept[0]}”")
        elif finding.row.decision is Decision.EDITED and finding.row.sentence in sentences:
            warnings.append(f"You edited “{finding.row.label}”, but the text still has the AI's sentence.")
    return warnings


def _asserts(sentence: str, label: str) -> bool:
    said = sentence.lower()
    return label.lower() in said and not re.search(r"\b(no|not|without|absent|negative)\b", said)


def refused(page: Callable[[str], str]) -> ResponseReturnValue:
    """Answer a wrong password: the same page with what was typed, or the end of a session that tried too often."""
    with sessions()() as db:
        account = find_user(db, person().login)
        locked = account is None or is_locked_out(account)
    if not locked:
        return Response(page("Not signed: the password is wrong."), 403)
    end_session()
    flash("Too many wrong passwords: the account is locked for a while, and nothing was signed.", "bad")
    return redirect(url_for("auth.login"), 303)


def _sign_page(page: DeskPage, wanted: ReportState, *, error: str = "") -> str:
    return render_template(
        "sign.html",
        p=page,
        state=wanted.value,
        meaning=MEANINGS[wanted],
        destinations=destinations_of(page, wanted),
        blocks=blocks_of(page),
        warnings=warnings_of(page),
        error=error,
    )


def destinations_of(page: DeskPage, state: ReportState) -> list[Outgoing]:
    """Return what each destination gets when the report is signed as ``state``."""
    own = [one for one in page.made if one.draft_id == page.report.draft_id]
    return outgoing(site().destinations, state, {one.kind for one in own})


def _state(name: str) -> ReportState:
    """Return the state a signature makes; 404 for anything else, 403 where the role may not make it."""
    if name not in {ReportState.FINAL, ReportState.PRELIMINARY}:
        abort(404)
    if name == ReportState.FINAL and not person().may(Permission.REPORT_FINAL):
        abort(403)
    return ReportState(name)


@bp.get("/reject")
@requires(Permission.REPORT_EDIT)
def reject(study_id: UUID) -> ResponseReturnValue:
    """Ask why the draft is rejected."""
    page = desk(study_id)
    record_view(page, "reject page")
    return render_template("reject.html", p=page, kinds=REJECTION_KINDS, error="")


@bp.post("/reject", endpoint="reject_submit")
@requires(Permission.REPORT_EDIT)
def submit_rejection(study_id: UUID) -> ResponseReturnValue:
    """Reject the draft for a reason."""
    kind, note = request.form.get("kind", ""), " ".join(request.form.get("note", "").split())[:500]
    if kind not in REJECTION_KINDS:
        page = render_template(
            "reject.html", p=desk(study_id), kinds=REJECTION_KINDS, error="Choose why the draft is rejected."
        )
        return Response(page, 400)
    report_id = report_of(study_id)
    with work() as uow:
        lifecycle.reject(uow, report_id, reason=f"{kind}: {note}" if note else kind, seen_version=seen_version())
    flash("Draft rejected. Open the study again to read it from scratch.", "ok")
    return redirect(url_for("reading.show", study_id=study_id), 303)
