"""Every Reading that waits, runs or is held, and why, in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config.routing import RuleBook
from db.lifecycle.queue_control import QueueState, queue_state
from db.models import Reading, Study
from db.queries.errands import ErrandRow, errand_rows
from db.queries.trace_steps import URGENCY
from db.queries.waiting import CompletionTimer, completion_timers
from db.queries.workers import WorkerSeen, unpublished, workers_alive
from db.types import QueueMode, ReadingState

_R = ReadingState
SHOWN = (_R.RUNNING, _R.RETRYING, _R.QUEUED, _R.COMPLETE, _R.HELD, _R.RECEIVING)
MOST = 200  # rows of one state; their number is shown beside


@dataclass(frozen=True)
class QueueRow:
    """One Reading of the queue; ``why`` says what it waits for."""

    reading_id: UUID
    study_id: UUID
    accession_number: str
    modalities: str
    description: str
    calling_ae: str
    state: ReadingState
    priority: str
    profile: str
    attempts: int
    since: datetime  # it has been waiting, or was received first
    why: str


@dataclass(frozen=True)
class QueueView:
    """The queue as it is at one moment."""

    state: QueueState
    rows: tuple[QueueRow, ...]
    errands: tuple[ErrandRow, ...]
    counts: Mapping[ReadingState, int]
    workers: tuple[WorkerSeen, ...]
    unpublished: int
    unpublished_since: datetime | None
    asked_at: datetime

    @property
    def left_out(self) -> int:
        """How many Readings are not among the rows."""
        return sum(self.counts.values()) - len(self.rows)


@dataclass(frozen=True)
class _Situation:
    state: QueueState
    workers: Sequence[WorkerSeen]
    running: int
    now: datetime
    places: Mapping[UUID, int]  # in the queue, from 1
    queued: int
    timers: Mapping[UUID, CompletionTimer]


def queue_view(session: Session, rules: RuleBook, now: datetime, *, priors_wait_s: float) -> QueueView:
    """Return what waits, runs or is held: running first, then in the order workers take it; and readers' errands."""
    counted = session.execute(
        select(Reading.state, func.count())
        .where(Reading.state.in_(SHOWN), Reading.superseded.is_(False))
        .group_by(Reading.state)
    )
    counts: dict[ReadingState, int] = dict(counted.all())  # type: ignore[arg-type, unused-ignore]
    found = {state: _rows(session, state) for state in SHOWN if counts.get(state)}
    receiving = [study.id for _, study in found.get(_R.RECEIVING, [])]
    timers = completion_timers(session, rules, priors_wait_s=priors_wait_s, now=now, study_ids=receiving)
    workers = workers_alive(session, now)
    situation = _Situation(
        queue_state(session),
        workers,
        counts.get(_R.RUNNING, 0),
        now,
        {reading.id: place for place, (reading, _) in enumerate(found.get(_R.QUEUED, []), start=1)},
        counts.get(_R.QUEUED, 0),
        {one.study_id: one for one in timers},
    )
    late, since = unpublished(session, now)
    rows = tuple(_row(reading, study, situation) for state in SHOWN for reading, study in found.get(state, []))
    errands = errand_rows(session, situation.state, workers)
    return QueueView(situation.state, rows, errands, counts, tuple(workers), late, since, now)


def _rows(session: Session, state: ReadingState) -> list[tuple[Reading, Study]]:
    query = (
        select(Reading, Study)
        .join(Study, Study.id == Reading.study_id)
        .where(Reading.state == state, Reading.superseded.is_(False))
        .order_by(URGENCY, func.coalesce(Reading.completed_at, Study.first_received_at), Reading.id)
        .limit(MOST)
    )
    return [(reading, study) for reading, study in session.execute(query)]


def _row(reading: Reading, study: Study, situation: _Situation) -> QueueRow:
    return QueueRow(
        reading_id=reading.id,
        study_id=study.id,
        accession_number=study.accession_number,
        modalities=study.modalities,
        description=study.study_description or study.body_part,
        calling_ae=study.calling_ae,
        state=reading.state,
        priority=reading.priority.value,
        profile=reading.profile,
        attempts=reading.attempts,
        since=_since(reading, study),
        why=_WHY[reading.state](reading, study, situation),
    )


def _since(reading: Reading, study: Study) -> datetime:
    if reading.state is _R.RUNNING and reading.started_at:
        return reading.started_at
    if reading.state is _R.HELD and reading.finished_at:
        return reading.finished_at
    return reading.completed_at or study.first_received_at


def _queued(reading: Reading, study: Study, situation: _Situation) -> str:
    del study
    place = situation.places.get(reading.id, 0)
    where = f"place {place} of {situation.queued}"
    if not situation.state.takes(reading.completed_at):
        how = "paused" if situation.state.mode is QueueMode.PAUSED else "draining, and this came later"
        return f"the queue is {how}; {where}"
    if not situation.workers:
        return f"no worker is running; {where}"
    idle = sum(1 for worker in situation.workers if not worker.reading)
    if idle:
        return f"next for a worker that is free; {where}" if place <= idle else f"{where}; {idle} free"
    return f"{where}; every worker is busy ({situation.running} being read)"


def _running(reading: Reading, study: Study, situation: _Situation) -> str:
    del study
    who = f"being read by {reading.lease_owner or 'a worker'}, attempt {reading.attempts}"
    if reading.lease_until and reading.lease_until < situation.now:
        return f"{who}; it stopped answering, and another worker is asked within seconds"
    if reading.lease_until:
        return f"{who}; it is counted as lost if nothing is heard until {_clock(reading.lease_until)}"
    return who


def _retrying(reading: Reading, study: Study, situation: _Situation) -> str:
    del study
    again = f"tried again at {_clock(reading.next_attempt_at)}" if reading.next_attempt_at else "tried again soon"
    paused = "; the queue is paused" if situation.state.mode is QueueMode.PAUSED else ""
    return f"{again}: {reading.reason or 'an attempt failed'}{paused}"


def _held(reading: Reading, study: Study, situation: _Situation) -> str:
    del study, situation
    by = f" (rule {reading.rule})" if reading.rule and not reading.reason.startswith("held by a person") else ""
    return f"{reading.reason or 'held'}{by}"


def _receiving(reading: Reading, study: Study, situation: _Situation) -> str:
    del reading
    one = situation.timers.get(study.id)
    here = f"{study.instance_count} images so far"
    if one is None:
        return here
    if one.is_prior:
        here = f"fetched for comparison; {here}"
    if one.timer.waits_for:
        return f"waits for {' and '.join(one.timer.waits_for)}, at the latest {_clock(one.timer.due_at)}; {here}"
    return f"complete at {_clock(one.timer.due_at)} if nothing more comes; {here}"


def _complete(reading: Reading, study: Study, situation: _Situation) -> str:
    del reading, study, situation
    return "complete; the rules are asked at once"


_WHY: Mapping[ReadingState, Callable[[Reading, Study, _Situation], str]] = {
    _R.QUEUED: _queued,
    _R.RUNNING: _running,
    _R.RETRYING: _retrying,
    _R.HELD: _held,
    _R.RECEIVING: _receiving,
    _R.COMPLETE: _complete,
}


def _clock(at: datetime) -> str:
    return f"{at.astimezone():%H:%M:%S}"
