"""Signing and rejecting: one report, one person, one fresh proof of who it is each time. There is no bulk sign."""

from collections.abc import Callable
from uuid import UUID, uuid4

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from config.errors import AppError, LifecycleError, RefusedInputError
from dashboard import dispatch
from dashboard.checks import Checks, check_report, hides_impression
from dashboard.desk import SIGNED, DeskPage
from dashboard.errors import status_of
from dashboard.identity.proof import prove
from dashboard.next_study import next_study
from dashboard.people import end_session, person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.report_page import desk, record_view, report_of, seen_version
from db import lifecycle
from db.lifecycle.review import REJECTIONS
from db.queries import ReportDetail, report_detail
from db.types import Decision, ReportState, utcnow
from db.users import find_user, is_locked_out
from publishing.outgoing import Outgoing, outgoing
from publishing.signed import Signing, discard, write_signed_documents

bp = Blueprint("signoff", __name__, url_prefix="/studies/<uuid:study_id>")
bp.register_blueprint(dispatch.bp)

MEANINGS = {
    ReportState.FINAL: "I have personally reviewed the images and this report, and I am its author.",
    ReportState.PRELIMINARY: "I have reviewed the images and wrote this preliminary report; it awaits final review.",
}


@bp.get("/sign/<state>")
@requires(Permission.REPORT_SIGN)
def sign(study_id: UUID, state: str) -> ResponseReturnValue:
    """Show what is about to be signed, what the checks say of it, for whom, and where it goes."""
    page = desk(study_id)
    record_view(page, "sign page")
    return _sign_page(page, _state(state))


@bp.post("/sign/<state>", endpoint="sign_submit")
@requires(Permission.REPORT_SIGN)
def submit(study_id: UUID, state: str) -> ResponseReturnValue:
    """Sign the version the radiologist saw, after a fresh password or passkey."""
    wanted = _state(state)
    page = desk(study_id)
    checks = _checks(page, wanted).answered(request.form)
    error = _lacks(page, checks)
    if error:
        return Response(_sign_page(page, wanted, error=error), 400)
    blocks = blocks_of(page) or [one.issue.words for one in checks.blocking]
    if blocks:
        raise LifecycleError("; ".join(blocks))
    if prove(purpose_of(page, checks)) is None:
        return refused(lambda error: _sign_page(page, wanted, error=error))
    try:
        _sign(page, wanted)
    except RefusedInputError as exc:  # a check that was not there a moment ago
        return Response(_sign_page(desk(study_id), wanted, error=f"Not signed: {exc}."), status_of(exc))
    flash(f"Signed as {wanted.value.lower()}.", "ok")
    return redirect(_where_to(study_id), 303)


def _where_to(study_id: UUID) -> str:
    """Return the page after a signature: this study, or the next one of the worklist."""
    following = next_study(study_id) if request.form.get("then") == "next" else None
    if following is None and request.form.get("then") == "next":
        return url_for("worklist.show")
    return url_for("reading.show", study_id=following or study_id)


def _lacks(page: DeskPage, checks: Checks) -> str:
    """Return what the form still needs before anybody is asked who they are."""
    if request.form.get("text", checks.text_sha256) != checks.text_sha256:
        raise LifecycleError("the text changed since it was checked: look at it again before signing")
    if marks_of(page) and request.form.get("checked") != "1":
        return "Confirm that you have checked the points above."
    if checks.unanswered and not checks.blocking:
        return "Give a reason of 5 characters or more for each check that you sign all the same."
    return ""


def _sign(page: DeskPage, wanted: ReportState) -> None:
    """Write everything the signature makes, then commit state, signature, checks, objects and deliveries together.

    Text and version come from one reading of the report, so what is written is what is signed; a report
    that moved on meanwhile loses at the commit. The checks are done once more inside that commit.
    """
    authenticated_at = signed_at = utcnow()
    signing = Signing(uuid4(), wanted, person().login, person().printed_name, signed_at, MEANINGS[wanted])
    settings = site()
    with sessions()() as db:
        detail = _detail(report_detail(db, page.report.id))
        if detail.report.version != seen_version():
            raise LifecycleError("the report changed since it was shown: look at it again before signing")
        made = write_signed_documents(db, detail, signing, settings)
    try:
        with work() as uow:
            now = _detail(report_detail(uow.session, page.report.id))
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
                checked=check_report(uow.session, now, wanted).answered(request.form).checked(),
                destinations=settings.destinations,
                hold_s=settings.review.hold_s,
                method=method_of_proof(),
            )
    except AppError:
        discard(made, settings)
        raise


def _detail(found: ReportDetail | None) -> ReportDetail:
    assert found is not None
    return found


def method_of_proof() -> str:
    """Return how the form proves who signs, for the signature's record."""
    return "passkey" if request.form.get("passkey") else "password" if request.form.get("password") else "sign-on"


def purpose_of(page: DeskPage, checks: Checks) -> str:
    """Return what a passkey's answer is good for: this report with this text, and nothing else."""
    return f"sign:{page.report.id}:{checks.text_sha256}"


def _checks(page: DeskPage, wanted: ReportState) -> Checks:
    with sessions()() as db:
        return check_report(db, _detail(report_detail(db, page.report.id)), wanted)


def blocks_of(page: DeskPage) -> list[str]:
    """Return what stands in the way of a signature."""
    blocks = []
    if page.report.state is not ReportState.PRELIMINARY and not page.can_edit:
        blocks.append("The report is not open for you: open it for review first.")
    if page.report.state in SIGNED - {ReportState.PRELIMINARY}:
        blocks.append("The report is signed already.")
    asked = [*page.findings, *(page.absent if site().review.resolve_absent else ())]
    open_ones = [one.row.label for one in asked if one.row.decision is Decision.PENDING]
    if open_ones:
        blocks.append(f"{len(open_ones)} finding(s) undecided: {', '.join(open_ones)}. Accept, edit or reject each.")
    if not any(one.text for one in page.sections if one.key in {"findings", "impression"}):
        blocks.append("Findings and impression are empty.")
    return blocks + _unseen(page)


def _unseen(page: DeskPage) -> list[str]:
    """Return what the reader has to look at first, where the site asks for it."""
    least = site().review.min_view_s
    with sessions()() as db:
        hidden = hides_impression(db, page, person())
        seen = lifecycle.seconds_of(db, page.study.id, person().id) if least else 0.0
    blocks = ["The AI's impression is hidden until you have opened the images."] if hidden else []
    if least and seen < least:
        blocks.append(f"You have looked at the images for {int(seen)} s; this site asks for {least:.0f} s.")
    return blocks


def marks_of(page: DeskPage) -> list[str]:
    """Return what the pipeline doubted in its own draft, to be looked at once more."""
    marks = [f"{mark.title}: {mark.text}" for mark in page.marks]
    return [*marks, *(["Images arrived after the draft was made."] if page.draft_is_stale else [])]


def refused(page: Callable[[str], str]) -> ResponseReturnValue:
    """Answer a wrong proof: the same page with what was typed, or the end of a session that tried too often."""
    with sessions()() as db:
        account = find_user(db, person().login)
        locked = account is None or is_locked_out(account)
    if not locked:
        way = "passkey was not accepted" if request.form.get("passkey") else "password is wrong"
        return Response(page(f"Not signed: the {way}."), 403)
    end_session()
    flash("Too many wrong passwords: the account is locked for a while, and nothing was signed.", "bad")
    return redirect(url_for("auth.login"), 303)


def _sign_page(page: DeskPage, wanted: ReportState, *, error: str = "") -> str:
    checks = _checks(page, wanted).answered(request.form)
    return render_template(
        "sign.html",
        p=page,
        state=wanted.value,
        meaning=MEANINGS[wanted],
        destinations=destinations_of(page, wanted),
        blocks=blocks_of(page),
        warnings=marks_of(page),
        checks=checks,
        purpose=purpose_of(page, checks),
        review=site().review,
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
    return render_template("reject.html", p=page, kinds=REJECTIONS, error="", kind="", note="")


@bp.post("/reject", endpoint="reject_submit")
@requires(Permission.REPORT_EDIT)
def submit_rejection(study_id: UUID) -> ResponseReturnValue:
    """Reject the draft for a coded reason, with one's own words if there are any."""
    kind, note = request.form.get("kind", ""), " ".join(request.form.get("note", "").split())[:500]
    code = kind if kind in REJECTIONS else next((one for one, words in REJECTIONS.items() if words == kind), "")
    if not code:
        error = "Choose why the draft is rejected."
        page = render_template("reject.html", p=desk(study_id), kinds=REJECTIONS, error=error, kind=kind, note=note)
        return Response(page, 400)
    report_id, words = report_of(study_id), REJECTIONS[code]
    with work() as uow:
        reason = f"{words}: {note}" if note else words
        lifecycle.reject(uow, report_id, reason=reason, seen_version=seen_version(), code=code)
    flash("Draft rejected. Open the study again to read it from scratch.", "ok")
    return redirect(url_for("reading.show", study_id=study_id), 303)
