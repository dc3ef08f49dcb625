"""Keeping Readings moving when a worker dies or a message is lost; the sweeper's part."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, or_, select

from config.broker import TaskName
from config.errors import LifecycleError
from db.audit import AuditTag
from db.lifecycle.moves import locked, move_reading
from db.models import Reading, Study
from db.types import ReadingState, Use, utcnow
from db.uow import UnitOfWork

REMINDER_S = 60.0  # a QUEUED Reading nobody took for so long gets a second message
LOST_WORKER = "the worker stopped answering"


def requeue_expired(uow: UnitOfWork, now: datetime, *, max_attempts: int = 3) -> int:
    """Give RUNNING Readings whose lease ended to another worker, or FAIL them; return how many."""
    ids = _due(uow, and_(Reading.state == ReadingState.RUNNING, Reading.lease_until < now))
    for reading_id in ids:
        reading = uow.session.get_one(Reading, reading_id)
        reading.lease_owner = ""
        reading.lease_until = None
        if reading.attempts >= max_attempts:
            move_reading(uow, reading, ReadingState.FAILED, reason=f"{LOST_WORKER}, {reading.attempts} times")
            reading.finished_at = now
        else:
            queue(uow, reading, now, reason=LOST_WORKER)
    return len(ids)


def requeue_due(uow: UnitOfWork, now: datetime) -> int:
    """Queue RETRYING Readings whose delay is over, and repeat messages that may be lost; return how many.

    The broker only wakes workers: a broker that lost everything costs a delay, never a Study.
    """
    waiting = or_(Reading.state == ReadingState.RETRYING, Reading.state == ReadingState.QUEUED)
    ids = _due(uow, and_(waiting, Reading.next_attempt_at <= now))
    for reading_id in ids:
        reading = uow.session.get_one(Reading, reading_id)
        if reading.state is ReadingState.RETRYING:
            queue(uow, reading, now, reason=reading.reason)
            continue
        uow.enqueue(TaskName.READ_STUDY, reading_id=str(reading.id))
        uow.audit(AuditTag.READING_MESSAGE_REPEATED, study_id=reading.study_id, reading_id=reading.id)
        reading.next_attempt_at = next_reminder(reading, now)
    return len(ids)


def process_again(uow: UnitOfWork, reading_id: UUID, *, profile: str | None = None, use: Use | None = None) -> None:
    """Queue a HELD, IGNORED, FAILED or NO_DRAFT Reading once more, at a person's wish.

    ``profile`` and ``use`` replace the Reading's own when given.

    Raises:
        LifecycleError: it is in another state, later images superseded it, or it was fetched for comparison.
    """
    reading = locked(uow, Reading, reading_id)
    if reading.superseded:
        raise LifecycleError(f"reading {reading_id} is superseded by later images; process the newest revision")
    if uow.session.scalar(select(Study.is_prior).where(Study.id == reading.study_id)):
        raise LifecycleError("this study was fetched for comparison: it is drafted only when it is sent to be read")
    if reading.state in {ReadingState.RUNNING, ReadingState.RETRYING, ReadingState.COMPLETE}:
        raise LifecycleError(f"reading {reading_id} is {reading.state.value}: it is being processed already")
    if profile is not None:
        reading.profile = profile
    if use is not None:
        reading.use = use
    reading.finished_at = None
    queue(uow, reading, utcnow(), attempts=0)


def queue(uow: UnitOfWork, reading: Reading, now: datetime, *, reason: str = "", attempts: int | None = None) -> None:
    """Move a Reading to QUEUED, counting ``attempts`` from there, and set when its message will be repeated."""
    move_reading(uow, reading, ReadingState.QUEUED, reason=reason, attempts=attempts)
    reading.next_attempt_at = next_reminder(reading, now)


def next_reminder(reading: Reading, now: datetime) -> datetime:
    """Return when to repeat the message: rarer with age, so a long queue does not fill the broker."""
    waited = (now - (reading.completed_at or now)).total_seconds()
    return now + timedelta(seconds=max(REMINDER_S, waited / 2))


def _due(uow: UnitOfWork, condition: object) -> list[UUID]:
    # rows another sweeper holds are its business
    rows = uow.session.scalars(
        select(Reading)
        .where(condition)  # type: ignore[arg-type]
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return [row.id for row in rows]
