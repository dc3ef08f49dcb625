"""Reports that a person writes without a draft, and what becomes of a draft that comes after all.

A Report without AI has no ``draft_id``; that is what everything else goes by. A draft that comes while its reader
writes is kept with its findings and objects and waits beside the Report: the reader takes it or leaves it. A signature
ends the wait: a draft that waits is set aside, a Reading that still has to be done is cancelled. One that comes all
the same is set aside as too late. A draft that was set aside stays on the record as evidence; as of a rejected one,
nothing of it is sent and what was sent is taken back, but nobody judged it, so it counts in no figure of quality.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from config.errors import LifecycleError
from db.audit import AuditTag
from db.image_set import image_set_sha256
from db.lifecycle.deliveries import withdraw_drafts
from db.lifecycle.moves import locked, move_reading, move_report
from db.lifecycle.review import drafter, held_report, text_change, text_sha256
from db.lifecycle.revisions import add_revision
from db.lifecycle.tables import WAITING_READINGS
from db.lifecycle.values import IDENTITY_REASON
from db.models import Reading, Study
from db.report_models import SET_ASIDE, Draft, DraftRejection, Report, Signature
from db.types import ReadingState, ReportState, utcnow
from db.uow import UnitOfWork

LEFT = "its reader reported without it"
UNUSED = "the report was signed without it"
TOO_LATE = "it came after the report was signed without AI"
CANCELLED = "the report was signed without AI before the draft came"


def open_without_ai(uow: UnitOfWork, report_id: UUID) -> int:
    """Lock an UNREAD Report for the Actor and put it IN_REVIEW without any text; return the version to edit.

    Whatever its Reading does: one that waits or runs goes on, and its draft will wait beside the text.

    Raises:
        LifecycleError: not UNREAD (its draft came a moment before, or somebody has it), a Study that was only fetched
            for comparison, or one that is held because its images name two patients.
        NotAuthorisedError: the Actor is no active resident or radiologist.
    """
    reader = drafter(uow)
    report = locked(uow, Report, report_id)
    if report.state is not ReportState.UNREAD:
        raise LifecycleError(f"report {report_id} is {report.state.value}: only one without a draft is opened so")
    reading = _standing(uow.session, report.study_id)
    why = why_not(uow.session.get_one(Study, report.study_id), reading)
    if why:
        raise LifecycleError(why)
    report.sections = {}
    detail = {"without_ai": True, "reading": reading.state.value}
    move_report(uow, report, ReportState.IN_REVIEW, detail=detail)
    report.image_set_sha256 = image_set_sha256(uow.session, report.study_id)
    report.locked_by = reader.id
    report.locked_at = utcnow()
    uow.session.flush()
    return report.version


def why_not(study: Study, reading: Reading) -> str:
    """Return why this Study is reported by nobody at all, AI or not; empty when it may be."""
    if study.is_prior:
        return "this study was fetched for comparison only"
    if reading.state is ReadingState.HELD and reading.reason == IDENTITY_REASON:
        return f"{IDENTITY_REASON}: have that settled first"
    return ""


def put_back(uow: UnitOfWork, report_id: UUID, *, seen_version: int) -> None:
    """Give up a report without AI: back to UNREAD, or to DRAFTED with the draft that waits. Its text stays on record.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, not locked by the Actor, a draft, or a signature.
    """
    _, report = held_report(uow, report_id, seen_version)
    if report.draft_id is not None or _is_signed(uow.session, report):
        raise LifecycleError(f"report {report_id} has a draft or a signature: it is not put back")
    detail = {"text_sha256": text_sha256(report.sections)} | text_change(report.sections, {})
    uow.audit(AuditTag.REPORT_PUT_BACK, study_id=report.study_id, report_id=report.id, detail=detail)
    waits = waiting_draft(uow.session, report)
    move_report(uow, report, ReportState.UNREAD, reason="put back by its reader")
    report.reason = ""
    report.sections = {}
    report.image_set_sha256 = ""
    report.locked_by = report.locked_at = None
    if waits is not None:
        fill(uow, report, waits)
    uow.session.flush()


def fill(uow: UnitOfWork, report: Report, draft: Draft) -> None:
    """Make a draft the UNREAD Report's."""
    move_report(uow, report, ReportState.DRAFTED, detail={"draft_id": str(draft.id)})
    report.draft_id = draft.id
    report.sections = dict(draft.sections)
    report.image_set_sha256 = draft.image_set_sha256
    add_revision(uow, report, author_id=None)


def waiting_draft(session: Session, report: Report) -> Draft | None:
    """Return the draft that came while the Report is written without AI and that nobody decided about, or None."""
    if report.state is not ReportState.IN_REVIEW or report.draft_id is not None or _is_signed(session, report):
        return None
    query = (
        select(Draft)
        .join(Reading, Reading.id == Draft.reading_id)
        .where(
            Draft.study_id == report.study_id,
            Reading.superseded.is_(False),
            ~exists().where(DraftRejection.draft_id == Draft.id),
        )
        .order_by(Draft.created_at.desc())
    )
    return session.scalars(query.limit(1)).first()


def take_draft(uow: UnitOfWork, report_id: UUID, draft_id: UUID, *, seen_version: int) -> int:
    """Make the waiting draft the Report's at its reader's wish; return the Report's new version.

    The AI's sections replace those of the same name, the text before stays in its revision, and from here the Report
    is one with a draft: its findings are undecided.

    Raises:
        LifecycleError: stale version, not IN_REVIEW, not locked by the Actor, not the draft that waits, or images that
            came since the draft was made.
    """
    _, report = held_report(uow, report_id, seen_version)
    draft = _waiting(uow.session, report, draft_id)
    if draft.image_set_sha256 != image_set_sha256(uow.session, report.study_id):
        raise LifecycleError("images arrived after this draft was made")
    before = dict(report.sections)
    report.draft_id = draft.id
    report.sections = before | dict(draft.sections)
    report.image_set_sha256 = draft.image_set_sha256
    report.updated_at = utcnow()
    number = add_revision(uow, report, author_id=None)
    detail = {
        "draft_id": str(draft.id),
        "revision": number,
        "before_sha256": text_sha256(before),
        "after_sha256": text_sha256(report.sections),
    } | text_change(before, report.sections)
    uow.audit(AuditTag.REPORT_DRAFT_TAKEN, study_id=report.study_id, report_id=report.id, detail=detail)
    uow.session.flush()
    return report.version


def leave_draft(uow: UnitOfWork, report_id: UUID, draft_id: UUID) -> None:
    """Set the waiting draft aside at its reader's wish; the Report stays as it is, so no version is named.

    Raises:
        LifecycleError: not IN_REVIEW, not locked by the Actor, or not the draft that waits.
    """
    version = uow.session.scalar(select(Report.version).where(Report.id == report_id))
    reader, report = held_report(uow, report_id, version or 0)
    _set_aside(uow, report, _waiting(uow.session, report, draft_id), reader.id, LEFT)


def came(uow: UnitOfWork, report: Report, draft: Draft) -> None:
    """Say of a draft that just came what becomes of it when its Report is no longer UNREAD, and is without AI.

    A signed Report keeps a draft of images that came later, as any signed Report does.
    """
    if report.draft_id is not None:
        return
    if report.state is ReportState.IN_REVIEW and not _is_signed(uow.session, report):
        detail = {"draft_id": str(draft.id)}
        uow.audit(AuditTag.REPORT_DRAFT_WAITS, study_id=report.study_id, report_id=report.id, detail=detail)
        return
    signer = select(Signature.user_id).where(Signature.report_id == report.id).order_by(Signature.signed_at.desc())
    signed_by = uow.session.scalars(signer.limit(1)).first()
    if signed_by is not None and report.image_set_sha256 == draft.image_set_sha256:
        _set_aside(uow, report, draft, signed_by, TOO_LATE)


def awaited_reading(uow: UnitOfWork, report_id: UUID) -> Reading | None:
    """Return, locked, the Reading that may yet draft a Report without AI; to be asked before the Report is locked."""
    query = (
        select(Reading.id)
        .join(Report, Report.study_id == Reading.study_id)
        .where(Report.id == report_id, Report.draft_id.is_(None), Reading.superseded.is_(False))
    )
    key = uow.session.scalars(query).first()
    return locked(uow, Reading, key) if key is not None else None


def await_no_longer(uow: UnitOfWork, report: Report, reading: Reading | None, signer_id: UUID) -> None:
    """Set aside what waits beside a Report without AI that is being signed, and cancel a Reading that would be late.

    To be called before the Report moves. A worker at it is fenced off and finds out at its next heartbeat.
    """
    draft = waiting_draft(uow.session, report)
    if draft is not None:
        _set_aside(uow, report, draft, signer_id, UNUSED)
    if reading is not None and report.draft_id is None and reading.state in WAITING_READINGS:
        reading.lease_owner = ""
        reading.lease_until = reading.next_attempt_at = None
        reading.finished_at = utcnow()
        move_reading(uow, reading, ReadingState.NO_DRAFT, reason=CANCELLED)


def _waiting(session: Session, report: Report, draft_id: UUID) -> Draft:
    draft = waiting_draft(session, report)
    if draft is None or draft.id != draft_id:
        raise LifecycleError("this draft does not wait for the report as it is now")
    return draft


def _set_aside(uow: UnitOfWork, report: Report, draft: Draft, by: UUID, reason: str) -> None:
    uow.session.add(DraftRejection(draft_id=draft.id, rejected_by=by, reason=reason, code=SET_ASIDE))
    uow.session.flush()
    withdraw_drafts(uow, draft.id)
    detail = {"draft_id": str(draft.id), "reason": reason}
    uow.audit(AuditTag.REPORT_DRAFT_SET_ASIDE, study_id=report.study_id, report_id=report.id, detail=detail)


def _standing(session: Session, study_id: UUID) -> Reading:
    query = select(Reading).where(Reading.study_id == study_id, Reading.superseded.is_(False))
    return session.scalars(query).one()


def _is_signed(session: Session, report: Report) -> bool:
    return bool(session.scalar(select(exists().where(Signature.report_id == report.id))))


def set_aside_of(session: Session, study_id: UUID) -> list[tuple[datetime, str]]:
    """Return when each draft of a Study that was set aside was made, and why it was not used; oldest first."""
    query = (
        select(Draft.created_at, DraftRejection.reason)
        .join(DraftRejection, DraftRejection.draft_id == Draft.id)
        .where(Draft.study_id == study_id, DraftRejection.code == SET_ASIDE)
        .order_by(Draft.created_at)
    )
    return [(made, reason) for made, reason in session.execute(query)]
