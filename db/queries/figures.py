"""The figures of a running system, for monitors: counts and ages, never a patient, a UID or a name."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from db.critical_models import OPEN_ALERTS, CriticalAlert
from db.lifecycle.queue_control import queue_state
from db.lifecycle.self_tests import self_test_studies
from db.models import Delivery, PeerAssociation, Quarantined, Reading, Study
from db.queries.workers import workers_alive
from db.report_models import SET_ASIDE, Draft, DraftRejection, Report, Signature
from db.types import DeliveryState, ReadingState, ReportState

LATELY = timedelta(hours=24)
_STAGES = ("reception", "waiting", "reading")
_MOST = 20_000  # Readings whose times are looked at


@dataclass(frozen=True)
class Latency:
    """How long one step took, in seconds, over the last day."""

    count: int
    total_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True)
class Figures:
    """What :func:`figures` returns; keys are states, tags or destinations of the settings."""

    studies: int = 0
    instances: int = 0
    associations: Mapping[str, int] = field(default_factory=dict)  # accepted, rejected
    readings: Mapping[str, int] = field(default_factory=dict)  # by state
    oldest_waiting_s: float = 0.0
    latency: Mapping[str, Latency] = field(default_factory=dict)  # by step
    reports: Mapping[str, int] = field(default_factory=dict)  # by state
    drafts: Mapping[tuple[str, str], int] = field(default_factory=dict)  # of the last day, by model and version
    rejected: int = 0  # drafts that a reader refused
    signatures: Mapping[str, int] = field(default_factory=dict)  # by state
    turnaround: Latency | None = None  # from a complete Study to its first signature
    deliveries: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by destination and state
    oldest_delivery_s: Mapping[str, float] = field(default_factory=dict)  # by destination
    quarantined: int = 0
    critical_open: int = 0  # suspected or confirmed, and nobody told
    workers: int = 0
    workers_warm: int = 0
    queue_mode: str = ""


def figures(session: Session, now: datetime) -> Figures:
    """Return the figures at one moment, without self-tests; each is a query on an indexed column or a small table."""
    workers = workers_alive(session, now)
    received = select(func.count(Study.id), func.coalesce(func.sum(Study.instance_count), 0))
    studies, instances = session.execute(received).one()
    of_tests = session.execute(received.where(Study.id.in_(self_test_studies()))).one()
    rejected = case((PeerAssociation.rejected == "", "accepted"), else_="rejected")
    return Figures(
        studies=studies - of_tests[0],
        instances=int(instances - of_tests[1]),
        associations={"accepted": 0, "rejected": 0} | _counted(session, rejected),
        readings={state.value: 0 for state in ReadingState} | _counted(session, Reading.state, Reading.study_id),
        oldest_waiting_s=_oldest_waiting(session, now),
        latency=_latency(session, now),
        reports={state.value: 0 for state in ReportState} | _counted(session, Report.state, Report.study_id),
        signatures=_counted(session, Signature.state),
        drafts=_drafts(session, now),
        rejected=session.scalar(select(func.count(DraftRejection.id)).where(DraftRejection.code != SET_ASIDE)) or 0,
        turnaround=_turnaround(session, now),
        deliveries=_deliveries(session),
        oldest_delivery_s=_oldest_deliveries(session, now),
        quarantined=session.scalar(select(func.count()).select_from(Quarantined)) or 0,
        critical_open=_critical_open(session),
        workers=len(workers),
        workers_warm=sum(worker.is_warm for worker in workers),
        queue_mode=queue_state(session).mode.value,
    )


def _counted(session: Session, key: Any, study_id: Any = None) -> dict[str, int]:
    """Count by ``key``; what is of a self-test is counted apart and taken off, so that the index alone is read."""
    query = select(key, func.count()).group_by(key)
    found = Counter({str(name): number for name, number in session.execute(query)})
    if study_id is not None:
        tests = session.execute(query.where(study_id.in_(self_test_studies())))
        found -= Counter({str(name): number for name, number in tests})
    return dict(found)


def _oldest_waiting(session: Session, now: datetime) -> float:
    waiting = (ReadingState.QUEUED, ReadingState.RETRYING)
    oldest = session.scalar(
        select(func.min(Reading.completed_at)).where(
            Reading.state.in_(waiting), Reading.superseded.is_(False), Reading.study_id.not_in(self_test_studies())
        )
    )
    return _seconds(oldest, now)


def _latency(session: Session, now: datetime) -> dict[str, Latency]:
    """Return how long Readings that ended lately took: first image to complete, to a worker, to the end."""
    query: Select[*tuple[Any, ...]] = (
        select(Study.first_received_at, Reading.completed_at, Reading.started_at, Reading.finished_at)
        .join(Study, Study.id == Reading.study_id)
        .where(
            Reading.state.in_((ReadingState.DRAFTED, ReadingState.NO_DRAFT)),
            Reading.finished_at > now - LATELY,
            Reading.study_id.not_in(self_test_studies()),
            Reading.started_at.is_not(None),
            Reading.revision == 1,
        )
        .order_by(Reading.finished_at.desc())
        .limit(_MOST)
    )
    rows = session.execute(query).all()
    return {
        stage: _summed([(row[at + 1] - row[at]).total_seconds() for row in rows if row[at] and row[at + 1]])
        for at, stage in enumerate(_STAGES)
    }


def _turnaround(session: Session, now: datetime) -> Latency:
    first = (
        select(Signature.report_id, func.min(Signature.signed_at).label("at")).group_by(Signature.report_id).subquery()
    )
    query = (
        select(Reading.completed_at, first.c.at)
        .join(Report, Report.study_id == Reading.study_id)
        .join(first, first.c.report_id == Report.id)
        .where(first.c.at > now - LATELY, Reading.revision == 1, Reading.completed_at.is_not(None))
        .limit(_MOST)
    )
    return _summed([(at - complete).total_seconds() for complete, at in session.execute(query)])


def _summed(seconds: list[float]) -> Latency:
    if not seconds:
        return Latency(0, 0.0, 0.0, 0.0)
    ordered = sorted(max(0.0, one) for one in seconds)
    return Latency(len(ordered), sum(ordered), _rank(ordered, 0.5), _rank(ordered, 0.95))


def _rank(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _drafts(session: Session, now: datetime) -> dict[tuple[str, str], int]:
    """Count the drafts of the last day by the language model that wrote them, the first of the provenance record."""
    model = Draft.provenance["models"][0]
    name, version = model["name"].as_string(), model["version"].as_string()
    query = (
        select(name, version, func.count())
        .join(Reading, Reading.id == Draft.reading_id)
        .where(Draft.created_at > now - LATELY, Reading.study_id.not_in(self_test_studies()))
        .group_by(name, version)
    )
    return {(str(one or "unknown"), str(of or "")): number for one, of, number in session.execute(query)}


def _deliveries(session: Session) -> dict[tuple[str, str], int]:
    query = select(Delivery.destination, Delivery.state, func.count()).group_by(Delivery.destination, Delivery.state)
    return {(name, state.value): number for name, state, number in session.execute(query)}


def _oldest_deliveries(session: Session, now: datetime) -> dict[str, float]:
    query = (
        select(Delivery.destination, func.min(Delivery.created_at))
        .where(Delivery.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)))
        .group_by(Delivery.destination)
    )
    return {name: _seconds(oldest, now) for name, oldest in session.execute(query)}


def _critical_open(session: Session) -> int:
    return session.scalar(select(func.count()).where(CriticalAlert.state.in_(OPEN_ALERTS))) or 0


def _seconds(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0
