"""Questions and redrafts that wait for a worker or are at one, and why; without a word of what was asked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.asking_models import ErrandState, Question, Redraft
from db.lifecycle.errands import PENDING
from db.lifecycle.queue_control import QueueState
from db.models import Study
from db.queries.workers import WorkerSeen
from db.report_models import UserAccount

MOST = 200  # rows of one kind


@dataclass(frozen=True)
class ErrandRow:
    """One question or redraft on its way; ``kind`` is ``"question"`` or ``"redraft"``."""

    errand_id: UUID
    kind: str
    study_id: UUID
    accession_number: str
    modalities: str
    description: str
    asked_by: str
    state: ErrandState
    attempts: int
    since: datetime  # it was asked
    why: str


def errand_rows(session: Session, queue: QueueState, workers: Sequence[WorkerSeen]) -> tuple[ErrandRow, ...]:
    """Return what readers asked of the models and have not got yet, oldest first."""
    found = [row for kind in (Question, Redraft) for row in _of_kind(session, kind, queue, workers)]
    return tuple(sorted(found, key=lambda one: (one.since, str(one.errand_id))))


def _of_kind(
    session: Session, kind: type[Question] | type[Redraft], queue: QueueState, workers: Sequence[WorkerSeen]
) -> list[ErrandRow]:
    rows = session.execute(
        select(kind, Study, UserAccount.printed_name)
        .join(Study, Study.id == kind.study_id)
        .join(UserAccount, UserAccount.id == kind.asked_by)
        .where(kind.state.in_(PENDING))
        .order_by(kind.asked_at, kind.id)
        .limit(MOST)
    )
    found = cast("Iterable[tuple[Question | Redraft, Study, str]]", rows)
    return [
        ErrandRow(
            errand_id=one.id,
            kind=kind.__tablename__,
            study_id=study.id,
            accession_number=study.accession_number,
            modalities=study.modalities,
            description=study.study_description or study.body_part,
            asked_by=name,
            state=one.state,
            attempts=one.attempts,
            since=one.asked_at,
            why=_why(one, queue, workers),
        )
        for one, study, name in found
    ]


def _why(one: Question | Redraft, queue: QueueState, workers: Sequence[WorkerSeen]) -> str:
    if one.state is ErrandState.RUNNING:
        return f"at {one.lease_owner or 'a worker'}, attempt {one.attempts}"
    if not queue.takes(one.asked_at):
        return f"the queue is {queue.mode.value.lower()}"
    if not workers:
        return "no worker is running"
    if one.reason:
        again = f"{one.next_attempt_at.astimezone():%H:%M:%S}" if one.next_attempt_at else "once"
        return f"tried again at {again}: {one.reason}"
    is_idle = any(not worker.reading for worker in workers)
    return "next for a worker that is free" if is_idle else "every worker is busy"
