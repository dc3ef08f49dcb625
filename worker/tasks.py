"""Celery's door: the tasks' names, their log context, and the hand-over to who does the work."""

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


class Runs(Protocol):
    """What a reader's errand is handed over to."""

    def run(self, errand_id: UUID) -> None:
        """Bring one errand to an end a person can see; do nothing a second time."""
        ...


def register_errands(app: Celery, *, questions: Runs, redrafts: Runs) -> None:
    """Register the tasks of what readers ask; as with Readings, the database decides when one is tried again."""

    @app.task(name=TaskName.ANSWER_QUESTION, shared=False, acks_late=True)  # type: ignore[untyped-decorator]
    def answer_question(*, question_id: str) -> None:
        with structlog.contextvars.bound_contextvars(question_id=question_id, task=TaskName.ANSWER_QUESTION):
            questions.run(UUID(question_id))

    @app.task(name=TaskName.REDRAFT, shared=False, acks_late=True)  # type: ignore[untyped-decorator]
    def redraft(*, redraft_id: str) -> None:
        with structlog.contextvars.bound_contextvars(redraft_id=redraft_id, task=TaskName.REDRAFT):
            redrafts.run(UUID(redraft_id))

    del answer_question, redraft


def register(app: Celery, reader: Reads) -> None:
    """Register this worker's task.

    There is no Celery retry: the database decides when a Reading is tried again, and the sweeper wakes it.
    """

    @app.task(name=TaskName.READ_STUDY, shared=False, acks_late=True)  # type: ignore[untyped-decorator]
    def read_study(*, reading_id: str) -> None:
        with structlog.contextvars.bound_contextvars(reading_id=reading_id, task=TaskName.READ_STUDY):
            reader.read_with_others(UUID(reading_id))

    del read_study
