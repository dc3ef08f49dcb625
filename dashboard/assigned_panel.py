"""Who is to read the study of a reading page, and what may be changed about it."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from dashboard.desk import DeskPage
from dashboard.people import person
from dashboard.permissions import Permission
from db.lifecycle.assigning import CLOSED
from db.queries.worklist_people import ReaderChoice, assigned_to, readers


@dataclass(frozen=True)
class AssignedPanel:
    """Who is to read the study of a reading page, and what this person may change about it."""

    study_id: UUID
    reader: ReaderChoice | None
    readers: list[ReaderChoice]  # to choose from; empty for who may not give studies away
    can_take: bool
    can_leave: bool


def assigned_panel(db: Session, page: DeskPage) -> AssignedPanel:
    """Return who is to read the study of this page."""
    reader = assigned_to(db, page.report.id)
    is_open = page.report.state not in CLOSED and not page.study.is_prior
    takes = is_open and person().may(Permission.REPORT_EDIT)
    is_mine = reader is not None and reader.id == person().id
    gives = is_open and person().may(Permission.STUDY_ASSIGN)
    return AssignedPanel(page.study.id, reader, readers(db) if gives else [], takes and not is_mine, takes and is_mine)
