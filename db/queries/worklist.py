"""The reading list: what waits for whom, most urgent first, oldest first; pages by key, never by offset."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, true, tuple_
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.models import Reading, Study
from db.report_models import Draft, Finding, Report, UserAccount
from db.types import Decision, Presence, Priority, ReadingState, ReportState, UtcDateTime

_ENDED = (ReadingState.NO_DRAFT, ReadingState.FAILED, ReadingState.HELD, ReadingState.IGNORED, ReadingState.DRAFTED)


class Tab(StrEnum):
    """One list of the reading room; every Study is on exactly one of them, and on ALL; a prior is on ALL alone."""

    TO_READ = "to_read"
    IN_REVIEW = "in_review"
    PRELIMINARY = "preliminary"
    SIGNED = "signed"
    REJECTED = "rejected"
    PROCESSING = "processing"
    NO_DRAFT = "no_draft"
    ALL = "all"


_STATES: Mapping[Tab, tuple[ReportState, ...]] = {
    Tab.TO_READ: (ReportState.DRAFTED,),
    Tab.IN_REVIEW: (ReportState.IN_REVIEW,),
    Tab.PRELIMINARY: (ReportState.PRELIMINARY,),
    Tab.SIGNED: (ReportState.FINAL, ReportState.ADDENDED, ReportState.CORRECTED),
    Tab.REJECTED: (ReportState.REJECTED, ReportState.CANCELLED),
}
_UNREAD = Report.state == ReportState.UNREAD
_ASKED_FOR = Study.is_prior.is_(False)  # what is fetched for comparison waits for nobody
_RANK = case(
    (Reading.priority == Priority.STAT, 0),
    (Reading.priority == Priority.URGENT, 1),
    else_=2,
)


@dataclass(frozen=True)
class WorklistRow:
    """One Study as the list shows it; ``reading`` is the newest revision's."""

    study_id: UUID
    study_instance_uid: str
    patient_name: str
    patient_id: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_time: str
    study_description: str
    modalities: str
    body_part: str
    calling_ae: str
    instance_count: int
    first_received_at: datetime
    last_received_at: datetime
    reading_id: UUID
    reading_state: ReadingState
    reading_reason: str
    profile: str
    priority: Priority
    revision: int
    report_id: UUID
    report_state: ReportState
    report_version: int
    late_images: bool
    is_prior: bool  # fetched for comparison
    locked_by: str  # printed name, empty when nobody reads it
    demonstration: bool
    findings_present: int
    findings_undecided: int


@dataclass(frozen=True)
class Worklist:
    """One page, the counts of every tab under the same filters, and where the next page begins."""

    rows: list[WorklistRow]
    counts: dict[Tab, int]
    next_cursor: str | None


def worklist(
    session: Session,
    *,
    tab: Tab = Tab.TO_READ,
    search: str = "",
    modality: str = "",
    priority: Priority | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Worklist:
    """Return one page of a tab.

    Args:
        session: for reading only.
        tab: which list.
        search: part of a Patient's name, or the beginning of a Patient ID or Accession Number.
        modality: one Modality code.
        priority: only this priority.
        after: ``next_cursor`` of the page before.
        limit: rows per page.

    Raises:
        RefusedInputError: ``after`` is no cursor of ours.
    """
    filters = _filters(search, modality, priority)
    page = _rows().where(filters, _on_tab(tab)).order_by(_RANK, Study.first_received_at, Study.id).limit(limit + 1)
    if after:
        page = page.where(_beyond(after))
    found = session.execute(page).all()
    rows = [WorklistRow(**row._mapping) for row in found[:limit]]
    return Worklist(rows, _counts(session, filters), _cursor(rows[-1]) if len(found) > limit else None)


def worklist_row(session: Session, study_id: UUID) -> WorklistRow | None:
    """Return one Study as the list shows it; None when there is none."""
    row = session.execute(_rows().where(Study.id == study_id)).one_or_none()
    return None if row is None else WorklistRow(**row._mapping)


def _rows() -> Select[Any]:
    present = and_(Finding.draft_id == Report.draft_id, Finding.presence == Presence.PRESENT)
    undecided = and_(present, Finding.decision == Decision.PENDING)
    study = (
        Study.study_instance_uid,
        Study.patient_name,
        Study.patient_id,
        Study.patient_birth_date,
        Study.patient_sex,
        Study.accession_number,
        Study.study_date,
        Study.study_time,
        Study.study_description,
        Study.modalities,
        Study.body_part,
        Study.calling_ae,
        Study.instance_count,
        Study.first_received_at,
        Study.last_received_at,
        Study.is_prior,
    )
    return (
        _joined(
            select(
                Study.id.label("study_id"),
                *study,
                Reading.id.label("reading_id"),
                Reading.state.label("reading_state"),
                Reading.reason.label("reading_reason"),
                Reading.profile,
                Reading.priority,
                Reading.revision,
                Report.id.label("report_id"),
                Report.state.label("report_state"),
                Report.version.label("report_version"),
                Report.late_images,
                func.coalesce(UserAccount.printed_name, "").label("locked_by"),
                func.coalesce(Draft.demonstration, False).label("demonstration"),
                _count(present).label("findings_present"),
                _count(undecided).label("findings_undecided"),
            )
        )
        .outerjoin(UserAccount, UserAccount.id == Report.locked_by)
        .outerjoin(Draft, Draft.id == Report.draft_id)
    )


def _count(condition: ColumnElement[bool]) -> Any:
    return select(func.count(Finding.id)).where(condition).correlate(Report).scalar_subquery()


def _joined(query: Any) -> Select[Any]:
    joined: Select[Any] = (
        query.select_from(Study)
        .join(Report, Report.study_id == Study.id)
        .join(Reading, and_(Reading.study_id == Study.id, Reading.superseded.is_(False)))
    )
    return joined


def _on_tab(tab: Tab) -> ColumnElement[bool]:
    if tab is Tab.ALL:
        return true()
    if tab is Tab.PROCESSING:
        return and_(_UNREAD, _ASKED_FOR, Reading.state.not_in(_ENDED))
    if tab is Tab.NO_DRAFT:
        return and_(_UNREAD, _ASKED_FOR, Reading.state.in_(_ENDED))
    return and_(_ASKED_FOR, Report.state.in_(_STATES[tab]))


def _filters(search: str, modality: str, priority: Priority | None) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [true()]
    wanted = search.strip().lower()
    if wanted:
        conditions.append(
            or_(
                func.lower(Study.patient_name).contains(wanted, autoescape=True),
                func.lower(Study.patient_name).contains(wanted.replace(", ", "^").replace(" ", "^"), autoescape=True),
                func.lower(Study.patient_id).startswith(wanted, autoescape=True),
                func.lower(Study.accession_number).startswith(wanted, autoescape=True),
            )
        )
    if modality:
        listed = "," + Study.modalities + ","
        conditions.append(listed.contains(f",{modality},", autoescape=True))
    if priority is not None:
        conditions.append(Reading.priority == priority)
    return and_(*conditions)


def _counts(session: Session, filters: ColumnElement[bool]) -> dict[Tab, int]:
    query = _joined(select(Report.state, Reading.state, Study.is_prior, func.count()))
    grouped = query.where(filters).group_by(Report.state, Reading.state, Study.is_prior)
    counts = dict.fromkeys(Tab, 0)
    for report, reading, is_prior, number in session.execute(grouped):
        counts[Tab.ALL] += number
        if not is_prior:
            counts[_tab_of(report, reading)] += number
    return counts


def _tab_of(report: ReportState, reading: ReadingState) -> Tab:
    if report is ReportState.UNREAD:
        return Tab.NO_DRAFT if reading in _ENDED else Tab.PROCESSING
    return next(tab for tab, states in _STATES.items() if report in states)


def _cursor(row: WorklistRow) -> str:
    rank = list(Priority).index(row.priority)
    return f"{rank}_{row.first_received_at.isoformat()}_{row.study_id}"


def _beyond(cursor: str) -> ColumnElement[bool]:
    try:
        rank, instant, key = cursor.split("_")
        first, study_id = datetime.fromisoformat(instant).astimezone(UTC), UUID(key)
        position = (literal(int(rank)), literal(first, UtcDateTime()), literal(study_id, Study.id.type))
    except ValueError as exc:
        raise RefusedInputError("this is no cursor of the worklist") from exc
    return tuple_(_RANK, Study.first_received_at, Study.id) > tuple_(*position)
