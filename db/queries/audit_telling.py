"""Questions for telling others of the audit log: what is sealed from a place on, and the Studies it is about."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db.audit_erasure_models import AuditErasure
from db.audit_forwarding_models import AuditForwarding
from db.audit_models import AuditSeal
from db.models import AuditEvent, Instance, Study

_AT_ONCE = 500  # values in one condition
_T = TypeVar("_T")


@dataclass(frozen=True)
class Backlog:
    """How far one audit record repository is behind the record."""

    sink: str
    waiting: int  # sealed events that were not sent
    since: datetime | None  # when the oldest of them happened
    last_error: str

    def waits_s(self, now: datetime) -> float:
        """Return how long the oldest waits, in seconds; 0 when none does."""
        return 0.0 if self.since is None else max((now - self.since).total_seconds(), 0.0)


@dataclass(frozen=True)
class EventFilter:
    """Which events are wanted; what is None is not asked for."""

    study_ids: Sequence[UUID] | None = None
    tags: Sequence[str] | None = None
    actor: str | None = None
    user_id: UUID | None = None
    is_success: bool | None = None
    since: datetime | None = None
    until: datetime | None = None  # without it

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what the database is asked."""
        found: list[ColumnElement[bool]] = []
        if self.study_ids is not None:
            found.append(AuditEvent.study_id.in_(self.study_ids))
        if self.tags is not None:
            found.append(AuditEvent.tag.in_(self.tags))
        if self.is_success is not None:
            is_success = AuditEvent.outcome == "success"
            found.append(is_success if self.is_success else ~is_success)
        exact = ((self.actor, AuditEvent.actor), (self.user_id, AuditEvent.user_id))
        found += [column == value for value, column in exact if value is not None]
        if self.since is not None:
            found.append(AuditEvent.occurred_at >= self.since)
        if self.until is not None:
            found.append(AuditEvent.occurred_at < self.until)
        return found


def events_after(session: Session, wanted: EventFilter, after_seq: int, limit: int) -> list[AuditEvent]:
    """Return the next events in their order, ``seq`` above ``after_seq``."""
    query = select(AuditEvent).where(AuditEvent.seq > after_seq, *wanted.conditions())
    return list(session.scalars(query.order_by(AuditEvent.seq).limit(limit)))


def studies_of_patient(session: Session, patient_id: str, issuers: Sequence[str] | None) -> list[UUID]:
    """Return the Studies that came under a Patient ID, of these issuers or of any."""
    query = select(Study.id).where(Study.patient_id == patient_id)
    if issuers is not None:
        query = query.where(Study.issuer_of_patient_id.in_(issuers))
    return list(session.scalars(query))


def sealed_events(session: Session, position: int, limit: int) -> list[tuple[int, AuditEvent | None]]:
    """Return events with their place in the chain, from ``position`` on; None for one that is not in the database."""
    query = select(AuditSeal).where(AuditSeal.position >= position).order_by(AuditSeal.position).limit(limit)
    seals = list(session.scalars(query))
    found = {event.seq: event for event in _events(session, seals)}
    return [(seal.position, found.get(seal.seq)) for seal in seals]


def _parts(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def _events(session: Session, seals: Sequence[AuditSeal]) -> Iterator[AuditEvent]:
    for part in _parts(seals):
        times = [seal.occurred_at for seal in part]  # PostgreSQL looks into these months only
        yield from session.scalars(
            select(AuditEvent).where(
                AuditEvent.seq.in_([seal.seq for seal in part]),
                AuditEvent.occurred_at >= min(times),
                AuditEvent.occurred_at <= max(times),
            )
        )


def studies_of(session: Session, ids: Collection[UUID]) -> dict[UUID, Study]:
    """Return the Studies of these ids that are there."""
    found: dict[UUID, Study] = {}
    for part in _parts(sorted(ids)):
        found |= {study.id: study for study in session.scalars(select(Study).where(Study.id.in_(part)))}
    return found


def erased_studies(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Return which of these Studies the audit log was made to forget the patient of."""
    if session.scalar(select(AuditErasure.seq).limit(1)) is None:  # as a rule: erasures are few
        return set()
    found: set[UUID] = set()
    for part in _parts(sorted(ids)):
        query = (
            select(AuditEvent.study_id)
            .join(AuditErasure, AuditErasure.seq == AuditEvent.seq)
            .where(AuditEvent.study_id.in_(part))
            .distinct()
        )
        found |= {study_id for study_id in session.scalars(query) if study_id is not None}
    return found


def sop_classes_of(session: Session, ids: Collection[UUID]) -> dict[UUID, dict[str, int]]:
    """Return how many Instances of which SOP Class each Study has."""
    found: dict[UUID, dict[str, int]] = {}
    for part in _parts(sorted(ids)):
        query = (
            select(Instance.study_id, Instance.sop_class_uid, func.count())
            .where(Instance.study_id.in_(part))
            .group_by(Instance.study_id, Instance.sop_class_uid)
        )
        for study_id, sop_class_uid, count in session.execute(query):
            found.setdefault(study_id, {})[sop_class_uid] = count
    return found


def forwarding_backlog(session: Session, sink: str) -> list[Backlog]:
    """Return how far the repository is behind, one that was never told of anything by the whole log; [] for none."""
    if not sink:
        return []
    sealed = session.scalar(select(func.max(AuditSeal.position)))
    row = session.get(AuditForwarding, sink)
    sent, last_error = (row.sent, row.last_error) if row else (0, "")
    since = session.scalar(select(AuditSeal.occurred_at).where(AuditSeal.position == sent))
    return [Backlog(sink, max((-1 if sealed is None else sealed) + 1 - sent, 0), since, last_error)]
