"""The reading list: what waits for whom, most urgent first, oldest first; pages by key, never by offset.

A page is found in two steps: the keys of its rows in the order of an index over ``report`` alone, then what is shown
of these few. So a page costs the same wherever it is, and however many Studies there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, literal, select, tuple_
from sqlalchemy.orm import Session, aliased

from config.errors import RefusedInputError
from db.models import Reading, Study
from db.queries.worklist_lists import LANES, Narrowing, Tab, Wanted, on_tab
from db.report_models import Draft, Finding, Report, UserAccount
from db.types import Decision, Presence, Priority, ReadingState, ReportState, UtcDateTime
from db.worklist_models import Assignment

COUNT_LIMIT = 1000  # counts end here: a longer list is long, however long it is
EVERYTHING = Wanted()
_ARCHIVES = frozenset({Tab.SIGNED, Tab.ALL})  # grow for ever
_Holder, _Reader = aliased(UserAccount), aliased(UserAccount)


class Sort(StrEnum):
    """The order of a list."""

    URGENT = "urgent"  # STAT, suspected critical, URGENT, ROUTINE; the oldest first in each
    OLDEST = "oldest"
    NEWEST = "newest"


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
    urgency: int
    suspected_critical: bool
    late_images: bool
    is_prior: bool  # fetched for comparison
    locked_by_id: UUID | None
    locked_by: str  # printed name, empty when nobody reads it
    locked_at: datetime | None
    assigned_to_id: UUID | None
    assigned_to: str  # printed name, empty when it is nobody's
    has_draft: bool  # else a person writes it without AI, or nobody yet
    demonstration: bool
    findings_present: int
    findings_undecided: int


@dataclass(frozen=True)
class Worklist:
    """One page, the counts of every tab under the same filters, and where the pages beside it begin.

    A count of ``COUNT_LIMIT`` means that many or more; None that nobody counted (the two archives, under filters).
    """

    rows: list[WorklistRow]
    counts: dict[Tab, int | None]
    next_cursor: str | None
    previous_cursor: str | None = None


class _Place(NamedTuple):
    """Where a row stands in the list."""

    study_id: UUID
    urgency: int
    listed_at: datetime

    @property
    def cursor(self) -> str:
        return f"{self.urgency}_{self.listed_at.isoformat()}_{self.study_id}"


def worklist(
    session: Session,
    tab: Tab = Tab.TO_READ,
    *,
    wanted: Wanted = EVERYTHING,
    reader: UUID | None = None,
    sort: Sort = Sort.URGENT,
    after: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> Worklist:
    """Return one page of a tab.

    Args:
        session: for reading only.
        tab: which list.
        wanted: what narrows it.
        reader: whose MINE is.
        sort: its order.
        after: ``next_cursor`` of the page before.
        before: ``previous_cursor`` of the page after; with too few rows before it, the first page comes.
        limit: rows per page.

    Raises:
        RefusedInputError: ``after`` or ``before`` is no cursor of ours.
    """
    narrow = Narrowing(session, wanted)
    keys = narrow(select(Report.study_id, Report.urgency, Report.listed_at)).where(on_tab(tab, reader))
    places = _places(session, keys, sort, before, limit, backwards=True) if before else []
    came_back = bool(before) and len(places) >= limit
    if not came_back:
        places = _places(session, keys, sort, None if before else after, limit)
    shown = places[:limit] if not came_back else places[:limit][::-1]
    has_next = came_back or len(places) > limit
    has_previous = len(places) > limit if came_back else bool(after and not before)
    counts = _counts(session, narrow, reader)
    if counts[tab] is None and not (has_next or has_previous):
        counts[tab] = len(shown)
    return Worklist(
        rows=worklist_rows(session, [one.study_id for one in shown]),
        counts=counts,
        next_cursor=shown[-1].cursor if has_next and shown else None,
        previous_cursor=shown[0].cursor if has_previous and shown else None,
    )


def worklist_row(session: Session, study_id: UUID) -> WorklistRow | None:
    """Return one Study as the list shows it; None when there is none."""
    found = worklist_rows(session, [study_id])
    return found[0] if found else None


def worklist_rows(session: Session, study_ids: Sequence[UUID]) -> list[WorklistRow]:
    """Return these Studies as the list shows them, in this order; without those there are none of."""
    if not study_ids:
        return []
    found = session.execute(_rows().where(Report.study_id.in_(study_ids)))
    rows = {row.study_id: WorklistRow(**row._mapping) for row in found}
    return [rows[one] for one in study_ids if one in rows]


def still_listed(
    session: Session, tab: Tab, wanted: Wanted, reader: UUID | None, study_ids: Sequence[UUID]
) -> frozenset[UUID]:
    """Return which of these Studies are on a list, on whatever page of it."""
    if not study_ids:
        return frozenset()
    narrow = Narrowing(session, wanted)
    query = narrow(select(Report.study_id)).where(Report.study_id.in_(study_ids), on_tab(tab, reader))
    return frozenset(session.scalars(query))


def _places(
    session: Session,
    keys: Select[*tuple[Any, ...]],
    sort: Sort,
    cursor: str | None,
    limit: int,
    *,
    backwards: bool = False,
) -> list[_Place]:
    columns = (Report.urgency, Report.listed_at, Report.study_id)
    if sort is not Sort.URGENT:
        columns = columns[1:]  # type: ignore[assignment]
    descending = backwards != (sort is Sort.NEWEST)
    if cursor:
        position = _position(cursor)[-len(columns) :]
        beyond: ColumnElement[bool] = (
            tuple_(*columns) < tuple_(*position) if descending else tuple_(*columns) > tuple_(*position)
        )
        keys = keys.where(beyond)
    order = [column.desc() if descending else column for column in columns]
    return [_Place(*row) for row in session.execute(keys.order_by(*order).limit(limit + 1))]


def _position(cursor: str) -> tuple[Any, ...]:
    try:
        rank, instant, key = cursor.split("_")
        listed, study_id = datetime.fromisoformat(instant).astimezone(UTC), UUID(key)
        return (literal(int(rank)), literal(listed, UtcDateTime()), literal(study_id, Report.study_id.type))
    except (ValueError, OverflowError) as exc:
        raise RefusedInputError("this is no cursor of the worklist") from exc


def _rows() -> Select[*tuple[Any, ...]]:
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
    shown = select(
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
        Report.urgency,
        Report.suspected_critical,
        Report.late_images,
        Report.locked_by.label("locked_by_id"),
        func.coalesce(_Holder.printed_name, "").label("locked_by"),
        Report.locked_at,
        Assignment.user_id.label("assigned_to_id"),
        func.coalesce(_Reader.printed_name, "").label("assigned_to"),
        Report.draft_id.is_not(None).label("has_draft"),
        func.coalesce(Draft.demonstration, False).label("demonstration"),
        _count(present).label("findings_present"),
        _count(undecided).label("findings_undecided"),
    )
    return (
        shown.select_from(Report)
        .join(Study, Study.id == Report.study_id)
        .join(Reading, and_(Reading.study_id == Report.study_id, Reading.superseded.is_(False)))
        .outerjoin(_Holder, _Holder.id == Report.locked_by)
        .outerjoin(Assignment, Assignment.report_id == Report.id)
        .outerjoin(_Reader, _Reader.id == Assignment.user_id)
        .outerjoin(Draft, Draft.id == Report.draft_id)
    )


def _count(condition: ColumnElement[bool]) -> Any:
    return select(func.count(Finding.id)).where(condition).correlate(Report).scalar_subquery()


def _counts(session: Session, narrow: Narrowing, reader: UUID | None) -> dict[Tab, int | None]:
    """Return the length of each list, up to ``COUNT_LIMIT``; under filters without the two archives.

    A count that finds little has to go through the whole of a list, and the archives grow for ever.
    """
    counts: dict[Tab, int | None] = dict.fromkeys(Tab, None)
    apart = list(Tab)
    if not narrow.wanted.is_all:
        working = _working(session, narrow, reader)
        counts |= working
        apart = [tab for tab in Tab if tab not in _ARCHIVES | working.keys()]
    each = narrow(select(literal(1).label("one")).select_from(Report))
    numbers = [
        select(func.count())
        .select_from(each.where(on_tab(tab, reader)).limit(COUNT_LIMIT).subquery())
        .scalar_subquery()
        .label(tab.name)
        for tab in apart
    ]
    return counts | dict(zip(apart, session.execute(select(*numbers)).one(), strict=True))


def _working(session: Session, narrow: Narrowing, reader: UUID | None) -> dict[Tab, int]:
    """Return the lengths of the lists that people work off, which are short, and of MINE out of them; in one go."""
    lanes = {lane: tab for lane, tab in LANES.items() if tab not in _ARCHIVES}
    mine = func.count().filter(on_tab(Tab.MINE, reader))
    query = narrow(select(Report.lane, func.count(), mine)).where(Report.lane.in_(lanes)).group_by(Report.lane)
    lengths = dict.fromkeys((*lanes.values(), Tab.MINE), 0)
    for lane, number, of_reader in session.execute(query):
        lengths[lanes[lane]] = min(number, COUNT_LIMIT)
        lengths[Tab.MINE] = min(lengths[Tab.MINE] + of_reader, COUNT_LIMIT)
    return lengths
