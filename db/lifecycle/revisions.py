"""What a Report said at each save: kept, numbered, never changed."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import func, select

from db.report_models import Report, ReportRevision
from db.uow import UnitOfWork


def add_revision(
    uow: UnitOfWork, report: Report, *, author_id: UUID | None, sections: Mapping[str, str] | None = None
) -> int:
    """Keep what the Report says now, or ``sections``, as its next revision; return the revision's number.

    ``author_id`` is None for the pipeline.
    """
    last = uow.session.scalar(select(func.max(ReportRevision.number)).where(ReportRevision.report_id == report.id))
    number = (last or 0) + 1
    said = dict(report.sections if sections is None else sections)
    uow.session.add(ReportRevision(report_id=report.id, number=number, sections=said, author_id=author_id))
    return number
