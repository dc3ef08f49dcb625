"""Celery's door: the task's name, its log context, and the hand-over to the Reader."""

from typing import Protocol
from uuid import UUID

import structlog
from celery import Celery

from config.broker import TaskName


class Reads(Protocol):
    """What a task hands over to."""

    def read_with_others(self, reading_id: UUID) -> None:
        """Bring one Reading, and others that wait, to an end a person can see; do nothing a second time."""
        ...


def register(app: Celery, reader: Reads) -> None:
    """Register this worker's task.

    There is no Celery retry: the database decides when a Reading is tried again, and the sweeper wakes it.
    """

    @app.task(name=TaskName.READ_STUDY, shared=False, acks_late=True)  # type: ignore[untyped-decorator]
    def read_study(*, reading_id: str) -> None:
        with structlog.contextvars.bound_contextvars(reading_id=reading_id, task=TaskName.READ_STUDY):
            reader.read_with_others(UUID(reading_id))

    del read_study
