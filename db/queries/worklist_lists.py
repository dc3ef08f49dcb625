"""Which Studies a list of the worklist holds: the tabs, and the filters that narrow them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select, union
from sqlalchemy.orm import Session

from db.lifecycle.self_tests import SELF_TEST_LANE
from db.models import Delivery, Reading, ResultObject, Study
from db.report_models import Report, Signature
from db.types import DeliveryState, Priority, ReadingState, ReportState, utcnow
from db.worklist_models import Assignment


class Tab(StrEnum):
    """One list of the reading room.

    Every Study is on exactly one of TO_READ, IN_REVIEW, PRELIMINARY, SIGNED, REJECTED, PROCESSING and NO_DRAFT, or it
    is a prior; ALL holds everything. MINE, FINAL_TODAY and PROBLEMS show some of the same Studies again.
    """

    MINE = "mine"
    NO_DRAFT = "no_draft"
    TO_READ = "to_read"
    IN_REVIEW = "in_review"
    PRELIMINARY = "preliminary"
    FINAL_TODAY = "final_today"
    SIGNED = "signed"
    REJECTED = "rejected"
    PROBLEMS = "problems"
    PROCESSING = "processing"
    ALL = "all"


SIGNED_LANE, PRIOR_LANE = Tab.SIGNED.value, "prior"
NOBODY = "nobody"
_FEW = 500  # Studies that match, to be asked for one by one; of more, a page is soon met
_STUCK = (ReadingState.FAILED, ReadingState.HELD)


@dataclass(frozen=True)
class Wanted:
    """What narrows a list.

    Args:
        search: part of a Patient's name, or the beginning of a Patient ID or Accession Number.
        modality: one Modality code.
        priority: only this priority.
        assigned: the account that is to read it; ``nobody`` for what is nobody's; empty for all.
        sender: the calling AE title.
        first_date: no Study Date before this one (VR DA).
        last_date: no Study Date after this one (VR DA).
    """

    search: str = ""
    modality: str = ""
    priority: Priority | None = None
    assigned: UUID | str = ""
    sender: str = ""
    first_date: str = ""
    last_date: str = ""

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return not any(getattr(self, one.name) for one in fields(self))


class Narrowing:
    """What a session's lists are narrowed to; few Studies that match are looked up once, for all of its questions.

    What is rare would otherwise be searched along the whole order of each list; what is frequent is met soon.
    ``on_study`` is what a Study fulfils that is wanted.
    """

    def __init__(self, session: Session, wanted: Wanted) -> None:
        self.wanted = wanted
        self.on_study = _on_study(wanted)
        self._among: list[UUID] | None = None
        if self.on_study:
            found = list(session.scalars(select(Study.id).where(*self.on_study).limit(_FEW + 1)))
            self._among = found if len(found) <= _FEW else None

    def __call__(self, query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
        """Return a query over Report without what is not wanted."""
        if self._among is not None:
            query = query.where(Report.study_id.in_(self._among))
        elif self.on_study:
            query = query.join(Study, Study.id == Report.study_id).where(*self.on_study)
        return _narrowed(query, self.wanted)


def _narrowed(query: Select[*tuple[Any, ...]], wanted: Wanted) -> Select[*tuple[Any, ...]]:
    if wanted.priority is Priority.STAT:
        query = query.where(Report.urgency == 0)
    elif wanted.priority is not None:
        of_it = and_(Reading.study_id == Report.study_id, Reading.superseded.is_(False))
        query = query.join(Reading, of_it).where(Reading.priority == wanted.priority, Report.urgency > 0)
    if wanted.assigned == NOBODY:
        query = query.where(~select(Assignment.report_id).where(Assignment.report_id == Report.id).exists())
    elif wanted.assigned:
        query = query.where(Report.id.in_(select(Assignment.report_id).where(Assignment.user_id == wanted.assigned)))
    return query


def _on_study(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    words = wanted.search.strip().lower()
    if words:
        conditions.append(_named(words))
    if wanted.modality:
        conditions.append(_of_modality(wanted.modality))
    if wanted.sender:
        conditions.append(Study.calling_ae == wanted.sender)
    if wanted.first_date:
        conditions.append(Study.study_date >= wanted.first_date)
    if wanted.last_date:
        conditions.append(and_(Study.study_date <= wanted.last_date, Study.study_date != ""))
    return conditions


def _of_modality(code: str) -> ColumnElement[bool]:
    # of the column as it is the database knows how frequent which value is
    listed = Study.modalities
    return or_(
        listed == code,
        listed.startswith(f"{code},", autoescape=True),
        listed.endswith(f",{code}", autoescape=True),
        listed.contains(f",{code},", autoescape=True),
    )


def _named(words: str) -> ColumnElement[bool]:
    name = func.lower(Study.patient_name)
    spellings = {words, words.replace(", ", "^").replace(" ", "^")}  # as people write it, and as DICOM does (VR PN)
    return or_(
        *(name.contains(one, autoescape=True) for one in sorted(spellings)),
        func.lower(Study.patient_id).startswith(words, autoescape=True),
        func.lower(Study.accession_number).startswith(words, autoescape=True),
    )


def on_tab(tab: Tab, reader: UUID | None) -> ColumnElement[bool]:
    """Return what a Report on ``tab`` fulfils; ``reader`` is whose MINE is."""
    if tab is Tab.ALL:
        return Report.lane != SELF_TEST_LANE
    if tab is Tab.MINE:
        return _mine(reader)
    if tab is Tab.FINAL_TODAY:
        today = select(Signature.report_id).where(
            Signature.signed_at >= midnight(), Signature.state != ReportState.PRELIMINARY
        )
        return and_(Report.lane == SIGNED_LANE, Report.id.in_(today))
    if tab is Tab.PROBLEMS:
        return and_(Report.lane != PRIOR_LANE, Report.study_id.in_(_troubled()))
    return Report.lane == tab.value


def _mine(reader: UUID | None) -> ColumnElement[bool]:
    """Return: assigned to the reader and not signed yet, or locked by the reader."""
    if reader is None:
        return false()
    # by Study, which the indexes of the lists hold
    given = select(Report.study_id).join(Assignment).where(Assignment.user_id == reader)
    held = select(Report.study_id).where(Report.lane == Tab.IN_REVIEW.value, Report.locked_by == reader)
    either = union(given, held).subquery()
    return and_(Report.lane.not_in((SIGNED_LANE, PRIOR_LANE)), Report.study_id.in_(select(either.c[0])))


def _troubled() -> Any:
    """Return what does not go on by itself: a Reading that is stuck without a draft, a delivery that failed."""
    stuck = (
        select(Reading.study_id)
        .join(Report, Report.study_id == Reading.study_id)
        .where(Reading.state.in_(_STUCK), Reading.superseded.is_(False), Report.lane == Tab.NO_DRAFT.value)
    )
    undelivered = (
        select(ResultObject.study_id)
        .join(Delivery, Delivery.result_object_id == ResultObject.id)
        .where(Delivery.state == DeliveryState.FAILED)
    )
    either = union(stuck, undelivered).subquery()
    return select(either.c[0])


def midnight() -> datetime:
    """Return when today began, in site time."""
    return utcnow().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)


LANES: Mapping[str, Tab] = {
    tab.value: tab for tab in Tab if tab not in {Tab.MINE, Tab.FINAL_TODAY, Tab.PROBLEMS, Tab.ALL}
}
