"""Worker processes that say they are there, and the messages that should reach them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import OutboxMessage, Reading
from db.running_models import WorkerPresence
from db.types import ReadingState

ALIVE_S = 60.0
"""A worker that was not seen for so long is counted as gone; it says that it is there four times in that time."""
_SLOW_S = 30.0  # the sweeper publishes twice a second


@dataclass(frozen=True)
class WorkerSeen:
    """One worker process; ``models`` are cards of what it would draft with, each with ``is_warm``."""

    owner: str
    started_at: datetime
    seen_at: datetime
    models: tuple[dict[str, Any], ...]
    reading: int  # Readings it is at

    @property
    def is_warm(self) -> bool:
        """Whether its vision-language model is loaded, so that the next Study does not wait for it."""
        return any(model.get("is_warm") and model.get("role") == "vlm" for model in self.models)


def workers_alive(session: Session, now: datetime) -> list[WorkerSeen]:
    """Return the workers that were seen within a minute, by name."""
    busy: dict[str, int] = dict(
        session.execute(
            select(Reading.lease_owner, func.count())
            .where(Reading.state == ReadingState.RUNNING)
            .group_by(Reading.lease_owner)
        ).all()
    )
    rows = session.scalars(
        select(WorkerPresence)
        .where(WorkerPresence.seen_at > now - timedelta(seconds=ALIVE_S))
        .order_by(WorkerPresence.owner)
    )
    return [
        WorkerSeen(row.owner, row.started_at, row.seen_at, tuple(row.models), busy.get(row.owner, 0)) for row in rows
    ]


def unpublished(session: Session, now: datetime) -> tuple[int, datetime | None]:
    """Return how many messages wait for the sweeper longer than they should, and since when."""
    late = (OutboxMessage.published_at.is_(None), OutboxMessage.created_at < now - timedelta(seconds=_SLOW_S))
    count, oldest = session.execute(select(func.count(), func.min(OutboxMessage.created_at)).where(*late)).one()
    return count, oldest
