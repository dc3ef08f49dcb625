"""Which workitems keys match: the same conditions for a search and for a filtered subscription (PS3.4 CC.2.3.3.1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, exists, false, func, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.models import AuditEvent, ImagingOrder, Reading, Study
from db.types import ReadingState
from db.workitem_models import ReadingRun, StepState, Workitem
from db.workitem_values import (
    PRIORITIES,
    READING_CODE,
    READING_LABEL,
    STATION,
    WORKLIST_LABEL,
    Step,
    reading_of,
    step_of,
)


class Key(StrEnum):
    """What workitems are matched by."""

    UID = "SOPInstanceUID"
    STATE = "ProcedureStepState"
    READINESS = "InputReadinessState"
    PRIORITY = "ScheduledProcedureStepPriority"
    LABEL = "ProcedureStepLabel"
    WORKLIST = "WorklistLabel"
    CODE = "ScheduledWorkitemCodeSequence.CodeValue"
    STATION = "ScheduledStationNameCodeSequence.CodeValue"
    SCHEDULED = "ScheduledProcedureStepStartDateTime"
    MODIFIED = "ScheduledProcedureStepModificationDateTime"
    PATIENT_ID = "PatientID"
    PATIENT_NAME = "PatientName"
    ACCESSION = "ReferencedRequestSequence.AccessionNumber"
    STUDY = "StudyInstanceUID"
    INPUT_STUDY = "InputInformationSequence.StudyInstanceUID"


INSTANTS = frozenset({Key.SCHEDULED, Key.MODIFIED})
_COLUMNS: Mapping[Key, InstrumentedAttribute[Any]] = {
    Key.UID: Workitem.uid,
    Key.STATE: Workitem.state,
    Key.READINESS: Workitem.readiness,
    Key.PRIORITY: Workitem.priority,
    Key.LABEL: Workitem.label,
    Key.WORKLIST: Workitem.worklist_label,
    Key.CODE: Workitem.code,
    Key.STATION: Workitem.station,
    Key.SCHEDULED: Workitem.scheduled_at,
    Key.MODIFIED: Workitem.modified_at,
    Key.PATIENT_ID: Workitem.patient_id,
    Key.PATIENT_NAME: Workitem.patient_name,
    Key.ACCESSION: Workitem.accession_number,
    Key.STUDY: Workitem.study_instance_uid,
    Key.INPUT_STUDY: Workitem.study_instance_uid,
}
_OF_STUDY: Mapping[Key, InstrumentedAttribute[Any]] = {
    Key.PATIENT_ID: Study.patient_id,
    Key.PATIENT_NAME: Study.patient_name,
    Key.ACCESSION: Study.accession_number,
    Key.STUDY: Study.study_instance_uid,
    Key.INPUT_STUDY: Study.study_instance_uid,
}
_CONSTANT: Mapping[Key, str] = {  # of every Reading
    Key.LABEL: READING_LABEL,
    Key.WORKLIST: WORKLIST_LABEL,
    Key.CODE: READING_CODE[0],
    Key.STATION: STATION[0],
}
_CLOSED = frozenset({Key.STATE, Key.READINESS, Key.PRIORITY})  # vocabularies: compared as words, not in SQL


@dataclass(frozen=True)
class Wanted:
    """One key and its values: patterns with ``*`` and ``?``, any of which fits; or the two ends of a time."""

    key: Key
    values: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def fits(self, value: str) -> bool:
        """Return whether a value of ours fits."""
        return any(fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in self.values)

    def kept(self) -> list[Any]:
        """Return it as a subscription keeps it."""
        ends = [None if end is None else end.isoformat() for end in (self.since, self.until)]
        return [self.key.value, list(self.values), *ends]


def kept_filter(kept: Sequence[Sequence[Any]]) -> list[Wanted]:
    """Return the keys that a subscription keeps."""
    return [
        Wanted(Key(key), tuple(values), *(datetime.fromisoformat(end) if end else None for end in (since, until)))
        for key, values, since, until in kept
    ]


def workitem_conditions(session: Session, wanted: Sequence[Wanted]) -> ColumnElement[bool]:
    """Return what the workitems of clients must fulfil; one that was deleted never does."""
    return and_(Workitem.deleted_at.is_(None), *(_of_workitem(session, one) for one in wanted))


def reading_conditions(session: Session, wanted: Sequence[Wanted]) -> ColumnElement[bool]:
    """Return what Readings, joined with their Study, must fulfil."""
    return and_(true(), *(_of_reading(session, one) for one in wanted))


def _of_workitem(session: Session, one: Wanted) -> ColumnElement[bool]:
    column = _COLUMNS[one.key]
    if one.key in INSTANTS:
        return _between(column, one)
    if one.key in _CLOSED:
        return column.in_([word for word in column.type.python_type if one.fits(word.value)])
    return _like(session, column, one)


def _of_reading(session: Session, one: Wanted) -> ColumnElement[bool]:
    if one.key in _CONSTANT:
        return true() if one.fits(_CONSTANT[one.key]) else false()
    special: dict[Key, Callable[[], ColumnElement[bool]]] = {
        Key.SCHEDULED: lambda: _between(Reading.created_at, one),
        Key.MODIFIED: lambda: _modified(one),
        Key.STATE: lambda: _in_state([state for state in StepState if one.fits(state.value)]),
        Key.READINESS: lambda: _of_step(lambda step: one.fits(step.readiness.value)),
        Key.PRIORITY: lambda: Reading.priority.in_([ours for ours, word in PRIORITIES.items() if one.fits(word)]),
        Key.UID: lambda: _of_uids(one.values),
    }
    if one.key in special:
        return special[one.key]()
    ours = _like(session, _OF_STUDY[one.key], one)
    if one.key is Key.ACCESSION:  # the order knows it when the images do not
        asked = select(ImagingOrder.id).where(_like(session, ImagingOrder.accession_number, one))
        return or_(ours, Study.order_id.in_(asked))
    return ours


def _of_step(holds: Callable[[Step], bool]) -> ColumnElement[bool]:
    """Return the Readings whose step ``holds``: every combination that decides it, asked of the one function."""
    return or_(
        false(),
        *(
            and_(
                Reading.state == state,
                Reading.attempts > 0 if attempts else Reading.attempts == 0,
                Reading.superseded.is_(superseded),
            )
            for state in ReadingState
            for attempts in (0, 1)
            for superseded in (False, True)
            if holds(step_of(state, attempts=attempts, superseded=superseded))
        ),
    )


def _in_state(states: Sequence[StepState]) -> ColumnElement[bool]:
    return _of_step(lambda step: step.state in states)


def _of_uids(uids: Sequence[str]) -> ColumnElement[bool]:
    """Return the Readings whose present run has one of these UIDs."""
    first: list[UUID] = [key for key in map(reading_of, uids) if key is not None]
    later = select(ReadingRun.reading_id).where(ReadingRun.uid.in_(uids), ReadingRun.ended_at.is_(None))
    has_runs = exists().where(ReadingRun.reading_id == Reading.id)
    return or_(and_(Reading.id.in_(first), ~has_runs), Reading.id.in_(later))


def _modified(one: Wanted) -> ColumnElement[bool]:
    """Return the Readings that changed last within a time: every change of one writes an event of it."""
    told = exists().where(AuditEvent.reading_id == Reading.id)
    conditions: list[ColumnElement[bool]] = []
    if one.since is not None:
        later = select(AuditEvent.reading_id).where(
            AuditEvent.occurred_at >= one.since, AuditEvent.reading_id.is_not(None)
        )
        conditions.append(or_(Reading.created_at >= one.since, Reading.id.in_(later)))
    if one.until is not None:
        conditions += [Reading.created_at <= one.until, ~told.where(AuditEvent.occurred_at > one.until)]
    return and_(true(), *conditions)


def _between(column: SQLColumnExpression[Any], one: Wanted) -> ColumnElement[bool]:
    ends: list[ColumnElement[bool]] = [column.is_not(None)]
    if one.since is not None:
        ends.append(column >= one.since)
    if one.until is not None:
        ends.append(column <= one.until)
    return and_(*ends)


def _like(session: Session, column: SQLColumnExpression[str], one: Wanted) -> ColumnElement[bool]:
    """Match with ``*`` and ``?``; names without case (PS3.4 C.2.2.2.1)."""
    compared: SQLColumnExpression[str] = column
    values = one.values
    if one.key is Key.PATIENT_NAME:
        compared = func.lower(column)
        values = tuple(form for value in values for form in (value.lower(), f"{value.lower()}=*"))
    sqlite = session.get_bind().dialect.name == "sqlite"
    return or_(false(), *(_pattern(compared, value, sqlite=sqlite) for value in values))


def _pattern(column: SQLColumnExpression[str], pattern: str, *, sqlite: bool) -> ColumnElement[bool]:
    if not any(sign in pattern for sign in "*?"):
        return column == pattern
    if sqlite:  # its LIKE ignores case; GLOB has DICOM's own signs
        return column.op("GLOB")(pattern.replace("[", "[[]"))
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")
