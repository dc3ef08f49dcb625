"""What moves a Study up the worklist: its Reading's priority, which only rises, and a suspected critical result."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import select, update

from config.errors import LifecycleError
from db.audit import AuditTag
from db.models import Reading
from db.report_models import Report
from db.types import Priority
from db.uow import UnitOfWork

_URGENCY: Mapping[Priority, int] = {Priority.STAT: 0, Priority.URGENT: 1, Priority.ROUTINE: 2}


def raise_priority(uow: UnitOfWork, reading: Reading, asked: Priority | None, **because: str) -> None:
    """Raise the priority of a Reading that is locked to ``asked``, if that is higher; audited with ``because``."""
    if asked is None or _URGENCY[asked] >= _URGENCY[reading.priority]:
        return
    detail = {"from": reading.priority.value, "to": asked.value, **because}
    uow.audit(AuditTag.READING_PRIORITY_RAISED, study_id=reading.study_id, reading_id=reading.id, detail=detail)
    reading.priority = asked


def suspect_critical(uow: UnitOfWork, study_id: UUID, *, suspected: bool) -> None:
    """Say that a Study may show a critical result, or that this was confirmed or dismissed; audited when it changes.

    A suspected one stands on the worklist right after STAT. The Report's version stays: nobody's open text is stale.

    Raises:
        LifecycleError: there is no report of such a Study.
    """
    report = uow.session.execute(
        select(Report.id, Report.suspected_critical).where(Report.study_id == study_id).with_for_update(key_share=True)
    ).one_or_none()
    if report is None:
        raise LifecycleError(f"there is no report of study {study_id}")
    if report.suspected_critical == suspected:
        return
    uow.session.execute(
        update(Report)
        .where(Report.id == report.id)
        .values(suspected_critical=suspected)
        .execution_options(synchronize_session=False)
    )
    detail = {"suspected": suspected}
    uow.audit(AuditTag.REPORT_CRITICAL_SUSPECTED, study_id=study_id, report_id=report.id, detail=detail)
