"""The timers of the Studies that are being received: what each waits for, and until when."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.routing import RuleBook
from db import lifecycle
from db.lifecycle.timers import Timer, judge
from db.models import Study


@dataclass(frozen=True)
class CompletionTimer:
    """One Study that is being received, and its timer as the sweeper would find it."""

    study_id: UUID
    reading_id: UUID
    study_instance_uid: str
    accession_number: str
    calling_ae: str
    called_ae: str
    revision: int
    is_prior: bool
    received: int
    expected: int | None  # None when nobody gave a number
    expected_by: str  # mpps, ian, c-find
    last_received_at: datetime
    timer: Timer
    asked_at: datetime

    @property
    def seconds_left(self) -> int:
        """Whole seconds until it is complete if nothing happens any more; 0 when it is due."""
        return max(0, round((self.timer.due_at - self.asked_at).total_seconds()))


def completion_timers(
    session: Session,
    rules: RuleBook,
    *,
    priors_wait_s: float,
    now: datetime,
    study_ids: Iterable[UUID] | None = None,
) -> list[CompletionTimer]:
    """Return the timers, longest silent first; only of ``study_ids`` when given."""
    waiting = lifecycle.receiving(session, study_ids)
    studies = {
        study.id: study for study in session.scalars(select(Study).where(Study.id.in_([w.study_id for w in waiting])))
    }
    found = []
    for one in waiting:
        study = studies[one.study_id]
        situation = lifecycle.situation(session, one, rules.of(one.called_ae), now=now, priors_wait_s=priors_wait_s)
        found.append(
            CompletionTimer(
                study_id=one.study_id,
                reading_id=one.reading_id,
                study_instance_uid=study.study_instance_uid,
                accession_number=study.accession_number,
                calling_ae=study.calling_ae,
                called_ae=one.called_ae,
                revision=study.revision,
                is_prior=one.is_prior,
                received=one.instance_count,
                expected=situation.announcement.expected or None,
                expected_by=situation.announcement.by,
                last_received_at=one.last_received_at,
                timer=judge(situation, now),
                asked_at=now,
            )
        )
    return found
