"""Addenda and corrections of a signed report: each with its own password, and nothing that was signed changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from config.errors import AppError, LifecycleError, RefusedInputError
from dashboard.checks import Checks, check_report
from dashboard.desk import DeskPage
from dashboard.errors import status_of
from dashboard.identity.proof import prove
from dashboard.people import person, sessions, site, work
from dashboard.permissions import Permission, requires
from dashboard.presentation import EDITABLE_SECTIONS, SECTION_TITLES
from dashboard.report_page import desk, record_view, seen_version
from dashboard.signoff import destinations_of, method_of_proof, refused
from db import lifecycle
from db.lifecycle import Amending, NewObject
from db.queries import report_detail
from db.types import ReportState, utcnow
from publishing.signed import Signing, discard, write_signed_documents

bp = Blueprint("amendments", __name__, url_prefix="/studies/<uuid:study_id>")

MEANINGS: Mapping[ReportState, str] = {
    ReportState.ADDENDED: "I have reviewed the images and this report, and I am the author of this addendum.",
    ReportState.CORRECTED: "I have reviewed the images and this report, and I am the author of its correction.",
}


@dataclass(frozen=True)
class Typed:
    """What stands in the form: the addendum, or reason and sections of a correction."""

    text: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)


@bp.get("/addendum")
@requires(Permission.REPORT_FINAL)
def addendum(study_id: UUID) -> ResponseReturnValue:
    """Show the signed report, and a form for what is to be added."""
    page = desk(study_id)
    record_view(page, "addendum page")
    return _page(page, ReportState.ADDENDED, Typed())


@bp.get("/correction")
@requires(Permission.REPORT_FINAL)
def correction(study_id: UUID) -> ResponseReturnValue:
    """Show the signed report as a form, to be replaced for a reason."""
    page = desk(study_id)
    record_view(page, "correction page")
    return _page(page, ReportState.CORRECTED, Typed(sections=_texts(page)))


@bp.post("/addendum", endpoint="addendum_submit")
@requires(Permission.REPORT_FINAL)
def submit_addendum(study_id: UUID) -> ResponseReturnValue:
    """Sign an addendum, after a fresh password, to the report and images that were seen."""
    return _submit(study_id, ReportState.ADDENDED, Typed(_field("text")))


@bp.post("/correction", endpoint="correction_submit")
@requires(Permission.REPORT_FINAL)
def submit_correction(study_id: UUID) -> ResponseReturnValue:
    """Sign a corrected report, after a fresh password, in place of the one that was seen."""
    sections = {key: _field(key) for key in EDITABLE_SECTIONS if key in request.form}
    return _submit(study_id, ReportState.CORRECTED, Typed(_field("reason"), sections))


def _submit(study_id: UUID, state: ReportState, typed: Typed) -> ResponseReturnValue:
    """Check what was typed, then the password, then sign; whatever fails shows the form with what was typed."""
    page = desk(study_id)
    error = _lacks(page, state, typed)
    if error:
        return Response(_page(page, state, typed, error=error), 400)
    with sessions()() as db:
        checks = _checks(db, page.report.id, state, typed)
    if checks.blocking or checks.unanswered:
        error = "Look at the checks: change the text, or say why it is signed all the same."
        return Response(_page(page, state, typed, error=error, checks=checks), 400)
    if prove(purpose_of(page)) is None:
        return refused(lambda error: _page(page, state, typed, error=error, checks=checks))
    try:
        _sign(page, state, typed)
    except (LifecycleError, RefusedInputError) as exc:
        return Response(_page(desk(study_id), state, typed, error=f"Not signed: {exc}."), status_of(exc))
    flash("Addendum signed." if state is ReportState.ADDENDED else "Correction signed.", "ok")
    return redirect(url_for("reading.show", study_id=study_id), 303)


def purpose_of(page: DeskPage) -> str:
    """Return what a passkey's answer is good for: an amendment of this version of this report."""
    return f"amend:{page.report.id}:{page.report.version}"


def _checks(db: Session, report_id: UUID, state: ReportState, typed: Typed) -> Checks:
    """Return what the linter says of what was typed, with the reasons of the form."""
    detail = report_detail(db, report_id)
    assert detail is not None
    sections = {**detail.report.sections, **typed.sections}
    text = {"addendum": typed.text} if state is ReportState.ADDENDED else sections
    return check_report(db, detail, state, text).answered(request.form)


def _lacks(page: DeskPage, state: ReportState, typed: Typed) -> str:
    if state is ReportState.ADDENDED:
        return "" if typed.text else "Write the addendum."
    if not typed.text:
        return "Say why the report is corrected."
    if not any(typed.sections.get(key) for key in ("findings", "impression")):
        return "Findings and impression are empty."
    same = all(text == one.text.strip() for one in page.sections if (text := typed.sections.get(one.key)) is not None)
    return "Nothing is changed. To add to the report, write an addendum." if same else ""


def _sign(page: DeskPage, state: ReportState, typed: Typed) -> None:
    """Write everything the signature makes, then commit state, signature, text, objects and deliveries together."""
    now = utcnow()
    added = state is ReportState.ADDENDED
    settings = site()
    with sessions()() as db:
        detail = report_detail(db, page.report.id)
        assert detail is not None
        if detail.report.version != seen_version():
            raise LifecycleError("the report changed since it was shown: look at it again")
        if detail.report.state not in lifecycle.AMENDABLE:
            raise LifecycleError("only a report that was signed as final has addenda and corrections")
        signing = Signing(
            signature_id=uuid4(),
            state=state,
            login=person().login,
            printed_name=person().printed_name,
            signed_at=now,
            meaning=MEANINGS[state],
            addendum=typed.text if added else "",
            correction="" if added else typed.text,
            sections=None if added else lifecycle.corrected_sections(detail.report.sections, typed.sections),
        )
        made = write_signed_documents(db, detail, signing, settings)
    try:
        _commit(page, signing, typed, made)
    except AppError:
        discard(made, settings)
        raise


def _commit(page: DeskPage, signing: Signing, typed: Typed, made: Sequence[NewObject]) -> None:
    report_id = page.report.id
    addenda = [one.amendment.text for one in page.amended[::-1] if one.amendment.state is ReportState.ADDENDED]
    signed = lifecycle.with_addenda(
        signing.sections if signing.sections is not None else page.report.sections,
        [*addenda, *([typed.text] if signing.state is ReportState.ADDENDED else [])],
    )
    with work() as uow:
        checks = _checks(uow.session, report_id, signing.state, typed)
        act = Amending(
            signature_id=signing.signature_id,
            meaning=signing.meaning,
            printed_name=signing.printed_name,
            authenticated_at=signing.signed_at,
            signed_at=signing.signed_at,
            seen_version=seen_version(),
            seen_images=request.form.get("images", ""),
            objects=made,
            checked=checks.checked(lifecycle.text_sha256(signed)),
            hold_s=site().review.hold_s,
            method=method_of_proof(),
        )
        if signing.state is ReportState.ADDENDED:
            lifecycle.addend(uow, report_id, typed.text, act)
        else:
            lifecycle.correct(uow, report_id, typed.sections, typed.text, act)


def _page(page: DeskPage, state: ReportState, typed: Typed, *, error: str = "", checks: Checks | None = None) -> str:
    blocks = [] if page.can_amend else ["Only a report that was signed as final has addenda and corrections."]
    return render_template(
        "amend.html",
        p=page,
        state=state.value,
        typed=typed,
        titles={key: SECTION_TITLES[key] for key in EDITABLE_SECTIONS},
        meaning=MEANINGS[state],
        destinations=destinations_of(page, state),
        blocks=blocks,
        checks=checks,
        purpose=purpose_of(page),
        review=site().review,
        error=error,
    )


def _texts(page: DeskPage) -> dict[str, str]:
    return {one.key: one.text for one in page.sections if one.key in EDITABLE_SECTIONS}


def _field(name: str) -> str:
    return request.form.get(name, "").replace("\r\n", "\n").strip()
