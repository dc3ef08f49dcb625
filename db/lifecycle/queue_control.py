"""A person's hand on the queue: pause, drain and open it; hold, release and retry single Readings."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.broker import TaskName
from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked, move_reading
from db.lifecycle.queueing import next_reminder, queue
from db.models import Reading
from db.running_models import QueueSwitch
from db.types import QueueMode as Q
from db.types import ReadingState, utcnow
from db.uow import UnitOfWork

QUEUE_MOVES: Mapping[tuple[Q, Q], AuditTag] = {
    (Q.OPEN, Q.PAUSED): AuditTag.QUEUE_PAUSED,
    (Q.DRAINING, Q.PAUSED): AuditTag.QUEUE_PAUSED,
    (Q.OPEN, Q.DRAINING): AuditTag.QUEUE_DRAINING,
    (Q.PAUSED, Q.DRAINING): AuditTag.QUEUE_DRAINING,
    (Q.PAUSED, Q.OPEN): AuditTag.QUEUE_RESUMED,
    (Q.DRAINING, Q.OPEN): AuditTag.QUEUE_RESUMED,
}
HELD_BY_A_PERSON = "held by a person"
RETRIED_BY_A_PERSON = "a person did not want to wait"
_MOST_REASON = 200


@dataclass(frozen=True)
class QueueState:
    """The queue's mode, and who set it when and why; all empty while nobody ever did."""

    mode: Q = Q.OPEN
    reason: str = ""
    changed_by: str = ""
    changed_at: datetime | None = None

    def takes(self, completed_at: datetime | None) -> bool:
        """Return whether workers take a Reading whose Study was complete at that time."""
        if self.mode is Q.OPEN:
            return True
        return self.mode is Q.DRAINING and bool(completed_at and self.changed_at and completed_at <= self.changed_at)


def queue_state(session: Session) -> QueueState:
    """Return the mode in force, one small statement."""
    row = session.scalar(select(QueueSwitch).order_by(QueueSwitch.id.desc()).limit(1))
    return QueueState() if row is None else QueueState(row.mode, row.reason, row.changed_by, row.changed_at)


def set_queue(uow: UnitOfWork, to: Q, *, reason: str) -> int:
    """Set the queue's mode; opening it wakes workers for everything that waits. Return how many were woken.

    Raises:
        LifecycleError: it is in that mode already.
        RefusedInputError: it is closed without a reason.
    """
    words = " ".join(reason.split())
    if to is not Q.OPEN and not 1 <= len(words) <= _MOST_REASON:
        raise RefusedInputError(f"say why, in 1 to {_MOST_REASON} characters: others will wonder")
    before = queue_state(uow.session).mode
    tag = QUEUE_MOVES.get((before, to))
    if tag is None:
        raise LifecycleError(f"the queue is {before.value} already")
    uow.session.add(QueueSwitch(mode=to, reason=words, changed_by=uow.actor.name[:64], changed_at=utcnow()))
    woken = 0 if to is Q.PAUSED else _wake_all(uow)
    detail = {"from": before.value, **({"woken": woken} if to is Q.OPEN else {"reason": words})}
    uow.audit(tag, object_type="queue", object_id="readings", detail=detail)
    return woken


def _wake_all(uow: UnitOfWork) -> int:
    """Repeat the message of everything queued: those of the pause found a worker that took nothing."""
    waiting = uow.session.scalars(select(Reading.id).where(Reading.state == ReadingState.QUEUED)).all()
    for reading_id in waiting:
        uow.enqueue(TaskName.READ_STUDY, reading_id=str(reading_id))
    return len(waiting)


def hold(uow: UnitOfWork, reading_id: UUID, *, reason: str = "") -> None:
    """Keep a waiting Reading from the workers, or take a running one from its worker, until a person releases it.

    A worker that is at it finds its claim void, whatever it has made by then.

    Raises:
        LifecycleError: it neither waits nor runs, or later images superseded it.
    """
    reading = _present(uow, reading_id)
    if reading.state not in {ReadingState.QUEUED, ReadingState.RETRYING, ReadingState.RUNNING}:
        raise LifecycleError(f"reading {reading_id} is {reading.state.value}: there is nothing to hold")
    words = " ".join(reason.split())[:_MOST_REASON]
    reading.lease_owner = ""
    reading.lease_until = None
    reading.next_attempt_at = None
    reading.finished_at = utcnow()
    move_reading(uow, reading, ReadingState.HELD, reason=f"{HELD_BY_A_PERSON}{f': {words}' if words else ''}")


def retry_now(uow: UnitOfWork, reading_id: UUID) -> None:
    """Queue a RETRYING Reading before its delay is over, or wake a worker for a QUEUED one.

    Raises:
        LifecycleError: it is in another state, or later images superseded it.
    """
    reading = _present(uow, reading_id)
    now = utcnow()
    if reading.state is ReadingState.RETRYING:
        queue(uow, reading, now, reason=RETRIED_BY_A_PERSON)
    elif reading.state is ReadingState.QUEUED:
        uow.enqueue(TaskName.READ_STUDY, reading_id=str(reading.id))
        uow.audit(AuditTag.READING_MESSAGE_REPEATED, study_id=reading.study_id, reading_id=reading.id)
        reading.next_attempt_at = next_reminder(reading, now)
    else:
        raise LifecycleError(f"reading {reading_id} is {reading.state.value}: it does not wait for a worker")


def _present(uow: UnitOfWork, reading_id: UUID) -> Reading:
    reading = locked(uow, Reading, reading_id)
    if reading.superseded:
        raise LifecycleError(f"reading {reading_id} is superseded by later images")
    return reading
