"""Images that arrive after a Study was complete: a new revision, and what becomes of the old one."""

from uuid import UUID

from sqlalchemy import exists, select

from db.audit import AuditTag
from db.lifecycle.deliveries import withdraw_drafts
from db.lifecycle.errands import overtake
from db.lifecycle.moves import locked, move_reading, move_report
from db.lifecycle.tables import WAITING_READINGS
from db.lifecycle.workitem_events import reading_created, reading_superseded
from db.models import Reading, Study
from db.report_models import Report, Signature
from db.types import ReadingState, ReportState, utcnow
from db.uow import UnitOfWork


def reopen(uow: UnitOfWork, study_id: UUID, *, because: str = "images arrived later") -> int:
    """Start a new revision with a RECEIVING Reading, supersede what stands; return the revision's number."""
    session = uow.session
    study = locked(uow, Study, study_id)
    study.revision += 1
    uow.audit(AuditTag.STUDY_REVISED, study_id=study.id, detail={"revision": study.revision})
    standing = select(Reading.id).where(Reading.study_id == study.id, Reading.superseded.is_(False))
    for reading_id in session.scalars(standing).all():
        _supersede(uow, locked(uow, Reading, reading_id), study.revision, because)
    overtake(uow, study.id, f"{because}: open the report again")
    reading = Reading(study_id=study.id, revision=study.revision)
    session.add(reading)
    _invalidate_report(uow, study)
    session.flush()
    reading_created(uow, reading)
    return study.revision


def _supersede(uow: UnitOfWork, reading: Reading, revision: int, because: str) -> None:
    reading.superseded = True
    uow.audit(
        AuditTag.READING_SUPERSEDED, study_id=reading.study_id, reading_id=reading.id, detail={"by_revision": revision}
    )
    reading_superseded(uow, reading)
    if reading.state in WAITING_READINGS:
        # a worker that runs it is fenced off by the state and finds out at its next heartbeat
        reason = f"{because}: superseded by revision {revision}"
        reading.lease_owner = ""
        reading.lease_until = None
        reading.finished_at = utcnow()
        move_reading(uow, reading, ReadingState.NO_DRAFT, reason=reason)


def _invalidate_report(uow: UnitOfWork, study: Study) -> None:
    """Send an unsigned Report back to UNREAD; flag a signed one, whose text is never changed by images.

    One that is written without AI stays with its reader.
    """
    session = uow.session
    report_id = session.scalars(select(Report.id).where(Report.study_id == study.id)).one()
    report = locked(uow, Report, report_id)
    detail = {"revision": study.revision}
    if session.scalar(select(exists().where(Signature.report_id == report.id))):
        report.late_images = True
        uow.audit(AuditTag.REPORT_LATE_IMAGES, study_id=study.id, report_id=report.id, detail=detail)
    elif report.state is ReportState.IN_REVIEW and report.draft_id is None:
        # its reader's own words; what was not looked at is not signed: the image set differs
        uow.audit(AuditTag.REPORT_LATE_IMAGES, study_id=study.id, report_id=report.id, detail=detail)
    elif report.state is not ReportState.UNREAD:
        if report.draft_id is not None:
            withdraw_drafts(uow, report.draft_id)
        move_report(uow, report, ReportState.UNREAD, detail=detail)
        report.draft_id = None
        report.sections = {}
        report.image_set_sha256 = ""
        report.locked_by = report.locked_at = None
