"""Whom a Study can be given to, who has it, and which lists a person keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from db.lifecycle.review import DRAFTERS
from db.models import Study
from db.report_models import Report, UserAccount
from db.worklist_models import Assignment, KeptList


@dataclass(frozen=True)
class ReaderChoice:
    """An account that studies can be given to."""

    id: UUID
    printed_name: str


@dataclass(frozen=True)
class KeptListRow:
    """A list that somebody keeps, as this person sees it."""

    id: UUID
    name: str
    query: str
    shared: bool
    is_mine: bool


def readers(session: Session) -> list[ReaderChoice]:
    """Return the active accounts that may work on reports, by name."""
    query = select(UserAccount.id, UserAccount.printed_name).where(
        UserAccount.active.is_(True), UserAccount.role.in_(DRAFTERS)
    )
    return [ReaderChoice(*row) for row in session.execute(query.order_by(UserAccount.printed_name, UserAccount.id))]


def assigned_to(session: Session, report_id: UUID) -> ReaderChoice | None:
    """Return who is to read a Report; None when it is nobody's."""
    query = select(UserAccount.id, UserAccount.printed_name).join(Assignment, Assignment.user_id == UserAccount.id)
    row = session.execute(query.where(Assignment.report_id == report_id)).one_or_none()
    return ReaderChoice(*row) if row is not None else None


def reports_of(session: Session, study_ids: Sequence[UUID]) -> list[UUID]:
    """Return the Reports of these Studies, in the one order in which they are locked."""
    return list(session.scalars(select(Report.id).where(Report.study_id.in_(study_ids)).order_by(Report.id)))


def kept_lists(session: Session, person_id: UUID) -> list[KeptListRow]:
    """Return the lists this person keeps, and those that are shared, by name."""
    query = select(KeptList).where(or_(KeptList.owner_id == person_id, KeptList.shared.is_(True)))
    rows = session.scalars(query.order_by(KeptList.name, KeptList.id))
    return [KeptListRow(one.id, one.name, one.query, one.shared, one.owner_id == person_id) for one in rows]


def senders(session: Session, limit: int = 50) -> list[str]:
    """Return the AE titles that sent Studies lately, sorted; for choosing one."""
    lately = select(Study.calling_ae).order_by(Study.last_received_at.desc()).limit(5000).subquery()
    return sorted(one for one in session.scalars(select(lately.c[0]).distinct().limit(limit)) if one)
