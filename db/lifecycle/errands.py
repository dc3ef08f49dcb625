"""A worker's right to a question or a redraft, as `db.lifecycle.work` has it for Readings: lease, fence, attempts."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import and_, or_, select, update

from config.broker import TaskName
from config.errors import LifecycleError
from db.asking_models import ErrandState, Question, Redraft
from db.audit import AuditTag
from db.lifecycle.moves import locked, move_errand
from db.lifecycle.queue_control import RETRIED_BY_A_PERSON, queue_state
from db.lifecycle.queueing import LOST_WORKER, REMINDER_S
from db.lifecycle.review import drafter, held_report
from db.models import Reading
from db.report_models import Draft, Report, UserAccount
from db.types import Priority, Use, utcnow
from db.uow import UnitOfWork

Row = TypeVar("Row", Question, Redraft)
TASKS = {Question: TaskName.ANSWER_QUESTION, Redraft: TaskName.REDRAFT}
PENDING = (ErrandState.ASKED, ErrandState.RUNNING)
ASKED_AGAIN = {Question: AuditTag.QUESTION_ASKED_AGAIN, Redraft: AuditTag.REDRAFT_ASKED_AGAIN}
STOPPED_BY_A_PERSON = "stopped by a person who runs the system"
OVERTAKEN = (*PENDING, ErrandState.OFFERED)  # what later images make worthless


@dataclass(frozen=True)
class ErrandClaim:
    """The right to work on one errand until the lease ends; a newer ``fencing_token`` voids it.

    ``profile``, ``use`` and ``priority`` are those of the Reading whose draft was under review; ``image_set_sha256``
    covers every Instance of the Study up to ``revision``.
    """

    errand_id: UUID
    study_id: UUID
    reading_id: UUID
    revision: int
    profile: str
    use: Use
    priority: Priority
    fencing_token: int
    attempts: int
    owner: str
    image_set_sha256: str
    asked_at: datetime


def held_for_asking(uow: UnitOfWork, report_id: UUID) -> tuple[UserAccount, Report, Reading]:
    """Return the Actor's account, the Report that the Actor holds, and the Reading of its draft.

    Asking changes nothing of the Report, so no version is named.

    Raises:
        LifecycleError: not IN_REVIEW, not locked by the Actor, or there is no draft.
        NotAuthorisedError: the Actor is no active resident or radiologist.
    """
    drafter(uow)
    version = uow.session.scalar(select(Report.version).where(Report.id == report_id))
    reader, report = held_report(uow, report_id, version or 0)
    if report.draft_id is None:
        raise LifecycleError("there is no draft of this study to ask about")
    draft = uow.session.get_one(Draft, report.draft_id)
    return reader, report, uow.session.get_one(Reading, draft.reading_id)


def send(uow: UnitOfWork, row: Question | Redraft, now: datetime) -> None:
    """Wake a worker, and set when that is repeated if nobody comes."""
    arguments = {"question_id": str(row.id)} if isinstance(row, Question) else {"redraft_id": str(row.id)}
    uow.enqueue(TASKS[type(row)], **arguments)
    row.next_attempt_at = now + timedelta(seconds=REMINDER_S)


def take(
    uow: UnitOfWork, kind: type[Row], errand_id: UUID, *, owner: str, lease_s: float
) -> tuple[Row, ErrandClaim] | None:
    """Take an ASKED errand until the lease ends; None when there is nothing to do, or the queue is closed to it.

    Its message is repeated (:func:`requeue`), so that it goes on soon after the queue was opened.
    """
    row = uow.session.get(kind, errand_id, with_for_update={"key_share": True}, populate_existing=True)
    if row is None or row.state is not ErrandState.ASKED or not queue_state(uow.session).takes(row.asked_at):
        return None
    draft = uow.session.get_one(Draft, row.draft_id)
    reading = uow.session.get_one(Reading, draft.reading_id)
    row.attempts += 1
    row.fencing_token += 1
    row.lease_owner = owner[:64]
    row.lease_until = utcnow() + timedelta(seconds=lease_s)
    row.next_attempt_at = None
    move_errand(uow, row, ErrandState.RUNNING, detail={"attempt": row.attempts, "owner": row.lease_owner})
    claim = ErrandClaim(
        errand_id=row.id,
        study_id=row.study_id,
        reading_id=draft.reading_id,
        revision=row.revision,
        profile=reading.profile,
        use=reading.use,
        priority=reading.priority,
        fencing_token=row.fencing_token,
        attempts=row.attempts,
        owner=row.lease_owner,
        image_set_sha256=row.image_set_sha256,
        asked_at=row.asked_at,
    )
    return row, claim


def keep_alive(uow: UnitOfWork, kind: type[Question] | type[Redraft], claim: ErrandClaim, *, lease_s: float) -> None:
    """Prolong the lease; the row's version does not change, so that a heartbeat makes no result stale.

    Raises:
        LifecycleError: somebody else has it, or later images overtook it; stop working.
    """
    result = uow.session.connection().execute(
        update(kind)
        .where(
            kind.id == claim.errand_id,
            kind.state == ErrandState.RUNNING,
            kind.fencing_token == claim.fencing_token,
        )
        .values(lease_until=utcnow() + timedelta(seconds=lease_s))
    )
    if result.rowcount != 1:
        raise _lost(claim)


def claimed(uow: UnitOfWork, kind: type[Row], claim: ErrandClaim) -> Row:
    """Return the errand, locked, if the claim is still good: the fence every result passes.

    Raises:
        LifecycleError: the claim is void.
    """
    row: Row = locked(uow, kind, claim.errand_id)
    if row.state is not ErrandState.RUNNING or row.fencing_token != claim.fencing_token:
        raise _lost(claim)
    return row


def end(uow: UnitOfWork, row: Question | Redraft, to: ErrandState, *, reason: str = "", **detail: object) -> None:
    """Let go of an errand and move it to where no worker takes it."""
    row.lease_owner = ""
    row.lease_until = row.next_attempt_at = None
    row.finished_at = utcnow()
    move_errand(uow, row, to, reason=reason, detail=dict(detail))


def refuse_or_fail(
    uow: UnitOfWork, kind: type[Question] | type[Redraft], claim: ErrandClaim, to: ErrandState, reason: str
) -> None:
    """End an errand as REFUSED or FAILED, for a reason a person will read.

    Raises:
        LifecycleError: the claim is void.
    """
    end(uow, _any(uow, kind, claim), to, reason=reason)


def try_later(
    uow: UnitOfWork,
    kind: type[Question] | type[Redraft],
    claim: ErrandClaim,
    reason: str,
    *,
    base_s: float,
    max_attempts: int,
) -> ErrandState:
    """Ask again after ``base_s`` doubled per attempt, or FAIL when the attempts are used up; return the state.

    Raises:
        LifecycleError: the claim is void.
    """
    row = _any(uow, kind, claim)
    if row.attempts >= max_attempts:
        end(uow, row, ErrandState.FAILED, reason=f"{reason} ({row.attempts} attempts)")
        return row.state
    delay_s = base_s * 2 ** (row.attempts - 1)
    row.lease_owner = ""
    row.lease_until = None
    row.next_attempt_at = utcnow() + timedelta(seconds=delay_s)
    move_errand(uow, row, ErrandState.ASKED, reason=reason, detail={"delay_s": delay_s})
    return row.state


def requeue(uow: UnitOfWork, now: datetime, *, max_attempts: int = 3) -> int:
    """Give errands of lost workers to others or FAIL them, and repeat messages that may be lost; return how many."""
    return _requeue(uow, Question, now, max_attempts) + _requeue(uow, Redraft, now, max_attempts)


def _requeue(uow: UnitOfWork, kind: type[Row], now: datetime, max_attempts: int) -> int:
    lost = and_(kind.state == ErrandState.RUNNING, kind.lease_until < now)
    waiting = and_(kind.state == ErrandState.ASKED, kind.next_attempt_at <= now)
    # rows another sweeper holds are its business
    query = select(kind).where(or_(lost, waiting)).with_for_update(key_share=True, skip_locked=True)
    rows = uow.session.scalars(query.execution_options(populate_existing=True)).all()
    for row in rows:
        if row.state is ErrandState.RUNNING and row.attempts >= max_attempts:
            end(uow, row, ErrandState.FAILED, reason=f"{LOST_WORKER}, {row.attempts} times")
            continue
        if row.state is ErrandState.RUNNING:
            row.lease_owner = ""
            row.lease_until = None
            move_errand(uow, row, ErrandState.ASKED, reason=LOST_WORKER)
        send(uow, row, now)
    return len(rows)


def wake(uow: UnitOfWork, kind: type[Question] | type[Redraft], errand_id: UUID) -> None:
    """Ask a worker at once for an errand that waits, at a person's wish.

    Raises:
        LifecycleError: there is no such errand, or it does not wait.
    """
    row: Question | Redraft = locked(uow, kind, errand_id)
    if row.state is not ErrandState.ASKED:
        raise LifecycleError(f"this {kind.__tablename__} is {row.state.value}: it does not wait for a worker")
    uow.audit(
        ASKED_AGAIN[kind],
        study_id=row.study_id,
        report_id=row.report_id,
        object_type=kind.__tablename__,
        object_id=str(row.id),
        detail={"reason": RETRIED_BY_A_PERSON},
    )
    send(uow, row, utcnow())


def stop(uow: UnitOfWork, kind: type[Question] | type[Redraft], errand_id: UUID) -> None:
    """End an errand that waits or runs, at a person's wish; a worker at it finds its claim void.

    Raises:
        LifecycleError: there is no such errand, or it has ended.
    """
    row: Question | Redraft = locked(uow, kind, errand_id)
    if row.state not in PENDING:
        raise LifecycleError(f"this {kind.__tablename__} is {row.state.value}: there is nothing to stop")
    end(uow, row, ErrandState.REFUSED, reason=STOPPED_BY_A_PERSON)


def overtake(uow: UnitOfWork, study_id: UUID, reason: str) -> None:
    """End what was asked about images that are no longer all of the Study; a worker at it is fenced off."""
    _overtake(uow, Question, study_id, reason)
    _overtake(uow, Redraft, study_id, reason)


def _overtake(uow: UnitOfWork, kind: type[Row], study_id: UUID, reason: str) -> None:
    query = select(kind.id).where(kind.study_id == study_id, kind.state.in_(OVERTAKEN))
    for errand_id in uow.session.scalars(query).all():
        end(uow, locked(uow, kind, errand_id), ErrandState.REFUSED, reason=reason)


def _any(uow: UnitOfWork, kind: type[Question] | type[Redraft], claim: ErrandClaim) -> Question | Redraft:
    return claimed(uow, Question, claim) if kind is Question else claimed(uow, Redraft, claim)


def _lost(claim: ErrandClaim) -> LifecycleError:
    return LifecycleError(f"errand {claim.errand_id} is no longer this worker's")
