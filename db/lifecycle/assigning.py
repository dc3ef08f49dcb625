"""Who is to read a Study: taken by oneself, or given by a lead. Signing stays one Study at a time."""

from enum import StrEnum
from uuid import UUID

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.lifecycle.review import DRAFTERS, drafter
from db.models import Study
from db.report_models import Report, UserAccount
from db.types import ReportState, Role, utcnow
from db.uow import UnitOfWork
from db.worklist_models import Assignment

CLOSED = frozenset({ReportState.FINAL, ReportState.ADDENDED, ReportState.CORRECTED, ReportState.CANCELLED})


class Before(StrEnum):
    """Who a Report was with, as the one who assigns it saw, where that is no particular person."""

    NOBODY = "nobody"
    ANYBODY = "anybody"  # a lead who gives it away does not need to know


def assign(uow: UnitOfWork, report_id: UUID, reader_id: UUID, *, before: UUID | Before = Before.ANYBODY) -> None:
    """Give a Report to ``reader_id`` to read; nothing happens when that reader has it.

    Args:
        uow: of the reader, who takes it, or of a lead.
        report_id: not final yet.
        reader_id: an active account that may work on reports.
        before: who had it when the Actor looked. Two who take the same Study: the second hears of the first.

    Raises:
        LifecycleError: it is final, was fetched for comparison, or went to somebody else meanwhile.
        NotAuthorisedError: the Actor is no lead and gives it to somebody else.
        RefusedInputError: ``reader_id`` may not work on reports.
    """
    actor = drafter(uow)
    if reader_id != actor.id and actor.role is not Role.LEAD:
        raise NotAuthorisedError("only a lead gives studies to others")
    report = _open_report(uow, report_id)
    held = uow.session.get(Assignment, report_id, populate_existing=True)
    present = held.user_id if held is not None else None
    if present == reader_id:
        return
    if before is not Before.ANYBODY and present != (None if before is Before.NOBODY else before):
        raise LifecycleError(f"report {report_id} was given to somebody else meanwhile")
    reader = uow.session.get(UserAccount, reader_id)
    if reader is None or not reader.active or reader.role not in DRAFTERS:
        raise RefusedInputError("studies are given to active residents and radiologists only")
    if held is None:
        uow.session.add(Assignment(report_id=report_id, user_id=reader_id, assigned_by=actor.id))
    else:
        held.user_id, held.assigned_by, held.assigned_at = reader_id, actor.id, utcnow()
    detail = {"reader": str(reader_id), "before": str(present or "")}
    uow.audit(AuditTag.REPORT_ASSIGNED, study_id=report.study_id, report_id=report_id, detail=detail)
    uow.session.flush()


def unassign(uow: UnitOfWork, report_id: UUID) -> None:
    """Make a Report nobody's in particular; nothing happens when it is nobody's.

    Raises:
        LifecycleError: it is final.
        NotAuthorisedError: it is somebody else's and the Actor is no lead.
    """
    actor = drafter(uow)
    report = _open_report(uow, report_id)
    held = uow.session.get(Assignment, report_id, populate_existing=True)
    if held is None:
        return
    if held.user_id != actor.id and actor.role is not Role.LEAD:
        raise NotAuthorisedError("only a lead takes studies from others")
    uow.session.delete(held)
    detail = {"before": str(held.user_id)}
    uow.audit(AuditTag.REPORT_UNASSIGNED, study_id=report.study_id, report_id=report_id, detail=detail)
    uow.session.flush()


def _open_report(uow: UnitOfWork, report_id: UUID) -> Report:
    """Return the Report, locked, which also lines up those who assign it at the same moment."""
    report = locked(uow, Report, report_id)
    if report.state in CLOSED:
        raise LifecycleError(f"report {report_id} is {report.state.value}; there is nothing left to assign")
    if uow.session.get_one(Study, report.study_id).is_prior:
        raise LifecycleError(f"report {report_id} is of a study that was fetched for comparison")
    return report
