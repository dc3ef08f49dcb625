"""What becomes of workitems when something moves, and who is told: in the transaction of the move (PS3.4 CC.2.4.3)."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from config.errors import LifecycleError
from db.audit import AuditTag
from db.lifecycle.priority import raise_priority
from db.lifecycle.self_tests import is_self_test
from db.lifecycle.tables import WORKITEM_MOVES
from db.models import Reading, Study
from db.types import ReadingState, utcnow
from db.uow import UnitOfWork
from db.workitem_matching import Wanted, kept_filter, reading_conditions, workitem_conditions
from db.workitem_models import EventType, Readiness, ReadingRun, StepState, Subscription, Workitem, WorkitemEvent
from db.workitem_values import (
    FILTERED_UID,
    FINAL,
    GLOBAL_UID,
    PRIORITIES,
    Step,
    present_step,
    run_uid,
    state_report,
    step_of,
)

KEPT = timedelta(days=7)  # an event report that nobody fetched is worth nothing after that
Report = tuple[EventType, dict[str, Any]]
_S = StepState


def reading_created(uow: UnitOfWork, reading: Reading) -> None:
    """Tell who subscribed to everything that a Reading is there; it is flushed by its caller."""
    _tell_of_reading(uow, reading, run_uid(reading.id), [_state(present_step(reading))], None)


def reading_moved(uow: UnitOfWork, reading: Reading, left: ReadingState, said: str, tried: int) -> None:
    """Let workitems follow a Reading that just ``left`` a state, whose reason was ``said``, and tell who subscribed.

    ``tried`` is how often it had been attempted, with the attempt that just began.

    Called by ``moves.move_reading`` alone; it costs three small queries when nobody uses the worklist.
    """
    now = present_step(reading)
    attempts = tried - 1 if reading.state is ReadingState.RUNNING else tried  # counted already
    before = step_of(left, attempts=attempts, superseded=reading.superseded)
    with uow.session.no_autoflush:
        if before.state is StepState.CANCELED and now.state is not StepState.CANCELED:
            run: ReadingRun | None = _next_run(uow, reading, said)
            steps = [now]
        else:
            run = None
            steps = _steps(before, now)
        if steps:
            run = run or _present_run(uow.session, reading.id)
            uid = run.uid if run else run_uid(reading.id)
            _tell_of_reading(uow, reading, uid, [_state(step, reading.reason) for step in steps], run)
        _follow(uow, reading, now)


def reading_superseded(uow: UnitOfWork, reading: Reading) -> None:
    """Tell that a HELD Reading will never be read: later images took its place."""
    if reading.state is not ReadingState.HELD:
        return
    run = _present_run(uow.session, reading.id)
    steps = [Step(_S.IN_PROGRESS, Readiness.INCOMPLETE), present_step(reading)]
    reports = [_state(step, reading.reason) for step in steps]
    _tell_of_reading(uow, reading, run.uid if run else run_uid(reading.id), reports, run)


def move_workitem(uow: UnitOfWork, workitem: Workitem, to: StepState, *, reason: str = "", **detail: Any) -> None:
    """Move a client's workitem and tell who subscribed.

    Raises:
        LifecycleError: PS3.4 table CC.1.1-2 does not list this move.
    """
    tag = WORKITEM_MOVES.get((workitem.state, to))
    if tag is None:
        raise LifecycleError(f"workitem {workitem.uid} cannot become {to.value}: it is {workitem.state.value}")
    workitem.state = to
    workitem.modified_at = utcnow()
    if to in FINAL:
        workitem.reason = reason
        workitem.finished_at = workitem.modified_at
    words = {"reason": reason} if reason else {}
    audit(uow, tag, workitem, **words, **detail)
    tell(uow, workitem, [_state(Step(to, workitem.readiness), workitem.reason)])


def set_readiness(uow: UnitOfWork, workitem: Workitem, to: Readiness) -> None:
    """Note that the input of a workitem is, or is not, ready; tell who subscribed."""
    if workitem.readiness is to:
        return
    workitem.readiness = to
    workitem.modified_at = utcnow()
    tell(uow, workitem, [_state(Step(workitem.state, to))])


def audit(uow: UnitOfWork, tag: AuditTag, workitem: Workitem, **detail: Any) -> None:
    """Record what was done to a client's workitem."""
    told = {"workitem_uid": workitem.uid, **detail}
    uow.audit(tag, reading_id=workitem.reading_id, object_type="workitem", object_id=workitem.uid, detail=told)


def tell(uow: UnitOfWork, workitem: Workitem, reports: Sequence[Report]) -> None:
    """Keep event reports about a client's workitem for everybody who subscribed to it."""

    def fits(wanted: Sequence[Wanted]) -> bool:
        uow.session.flush()
        known = select(Workitem.id).where(Workitem.id == workitem.id, workitem_conditions(uow.session, wanted))
        return uow.session.scalar(known) is not None

    _keep(uow.session, _subscribers(uow.session, workitem.uid, workitem.created_at, fits), workitem.uid, reports)


def _tell_of_reading(
    uow: UnitOfWork, reading: Reading, uid: str, reports: Sequence[Report], run: ReadingRun | None
) -> None:
    def fits(wanted: Sequence[Wanted]) -> bool:
        uow.session.flush()
        found = select(Reading.id).join(Study, Study.id == Reading.study_id).where(Reading.id == reading.id)
        return uow.session.scalar(found.where(reading_conditions(uow.session, wanted))) is not None

    created_at = run.started_at if run else reading.created_at
    told = _subscribers(uow.session, uid, created_at, fits)
    if told and not is_self_test(uow.session, reading.study_id):
        _keep(uow.session, told, uid, reports)


def tell_one(session: Session, ae_title: str, uid: str, reports: Sequence[Report]) -> None:
    """Keep event reports for one subscriber: the initial ones."""
    _keep(session, [ae_title], uid, reports)


def _keep(session: Session, ae_titles: Iterable[str], uid: str, reports: Sequence[Report]) -> None:
    rows = [
        WorkitemEvent(ae_title=one, uid=uid, event_type=kind, attributes=attributes)
        for one in ae_titles
        for kind, attributes in reports
    ]
    if rows:
        session.add_all(rows)
        session.execute(delete(WorkitemEvent).where(WorkitemEvent.created_at < utcnow() - KEPT))


def _subscribers(
    session: Session, uid: str, created_at: datetime, fits: Callable[[Sequence[Wanted]], bool]
) -> list[str]:
    """Return who is subscribed to a workitem; one whose filter it fits now is subscribed to it from now on."""
    with session.no_autoflush:
        rows = list(session.scalars(select(Subscription).where(Subscription.uid.in_([uid, GLOBAL_UID, FILTERED_UID]))))
    by_title: dict[str, dict[str, Subscription]] = {}
    for row in rows:
        by_title.setdefault(row.ae_title, {})[row.uid] = row
    found = []
    for ae_title, theirs in sorted(by_title.items()):
        own = theirs.get(uid)
        if own is not None:
            covered = own.is_subscribed
        else:
            covered = _covers(theirs.get(GLOBAL_UID), created_at)
            filtered = theirs.get(FILTERED_UID)
            if not covered and filtered is not None and _covers(filtered, created_at):
                covered = fits(kept_filter(filtered.filter))
                if covered:
                    session.add(Subscription(ae_title=ae_title, uid=uid, deletion_lock=filtered.deletion_lock))
        if covered:
            found.append(ae_title)
    return found


def _covers(subscription: Subscription | None, created_at: datetime) -> bool:
    if subscription is None:
        return False
    return subscription.suspended_at is None or created_at <= subscription.suspended_at


def _state(step: Step, reason: str = "") -> Report:
    return EventType.STATE_REPORT, state_report(step, reason)


def _steps(before: Step, now: Step) -> list[Step]:
    """Return what is reported of a move: nothing reaches a final state but through IN PROGRESS."""
    if now == before:
        return []
    if now.state in FINAL and before.state is StepState.SCHEDULED:
        return [Step(StepState.IN_PROGRESS, now.readiness), now]
    return [now]


def _present_run(session: Session, reading_id: UUID) -> ReadingRun | None:
    return session.scalar(select(ReadingRun).where(ReadingRun.reading_id == reading_id, ReadingRun.ended_at.is_(None)))


def _next_run(uow: UnitOfWork, reading: Reading, reason: str) -> ReadingRun:
    """Close the run that ended without a draft, and open the next under a UID of its own."""
    session, now = uow.session, utcnow()
    last = _present_run(session, reading.id)
    if last is None:
        last = ReadingRun(reading_id=reading.id, number=1, uid=run_uid(reading.id), started_at=reading.created_at)
        session.add(last)
    last.reason, last.ended_at = reason, now
    told = session.scalar(select(func.max(ReadingRun.number)).where(ReadingRun.reading_id == reading.id)) or 1
    number = max(told, last.number) + 1
    run = ReadingRun(reading_id=reading.id, number=number, uid=run_uid(reading.id, number), started_at=now)
    session.add(run)
    return run


def _follow(uow: UnitOfWork, reading: Reading, now: Step) -> None:
    """Let the workitems of clients that ask for this Study follow: all in readiness, ours in everything."""
    asked = select(Study.study_instance_uid).where(Study.id == reading.study_id).scalar_subquery()
    rows = uow.session.scalars(
        select(Workitem)
        .where(Workitem.study_instance_uid == asked, Workitem.state.not_in(list(FINAL)), Workitem.deleted_at.is_(None))
        .order_by(Workitem.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    for workitem in list(rows):
        if now.readiness is Readiness.READY:
            set_readiness(uow, workitem, Readiness.READY)
        if workitem.is_ours:
            perform(uow, workitem, reading)


def perform(uow: UnitOfWork, workitem: Workitem, reading: Reading) -> None:
    """Bring a workitem that is ours to where its Reading stands; never back, and not to an end that another follows."""
    now = present_step(reading)
    if now.state is StepState.CANCELED and reading.superseded:
        return
    workitem.reading_id = reading.id
    if reading.state is ReadingState.QUEUED:
        asked = next(ours for ours, theirs in PRIORITIES.items() if theirs is workitem.priority)
        raise_priority(uow, reading, asked, workitem_uid=workitem.uid)
    if now.state is not StepState.SCHEDULED and workitem.state is StepState.SCHEDULED:
        workitem.transaction_uid = f"2.25.{uuid4().int}"
        move_workitem(uow, workitem, StepState.IN_PROGRESS)
    if now.state in FINAL:
        reason = reading.reason if now.state is StepState.CANCELED else ""
        move_workitem(uow, workitem, now.state, reason=reason)


def tell_of_request(uow: UnitOfWork, found: Workitem | Reading, uid: str, told: dict[str, Any]) -> None:
    """Tell who subscribed that somebody wants a workitem canceled (UPS Cancel Requested)."""
    report = (EventType.CANCEL_REQUESTED, told)
    if isinstance(found, Workitem):
        tell(uow, found, [report])
    else:
        _tell_of_reading(uow, found, uid, [report], _present_run(uow.session, found.id))
