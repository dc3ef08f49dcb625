"""Storage commitment of what we delivered: asked, given, refused, and in the end a matter for a person.

An object may leave our disk when each of its Deliveries to a destination with ``commitment: true`` is COMMITTED.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.commitment_models import CommitmentOrder
from db.lifecycle.deliveries import still_wanted
from db.lifecycle.moves import move_delivery
from db.models import Delivery, ResultObject
from db.types import CommitmentState, DeliveryState, utcnow
from db.uow import UnitOfWork

MAX_DELAY_S = 86400.0
DUPLICATE_TRANSACTION = 0x0131
# Failure Reason (0008,1197), PS3.3 C.14.1.1. The same bytes would be refused again:
_NEVER = {0x0119: "class-instance conflict", 0x0122: "SOP Class not supported"}
_IN_WORDS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
    0x0213: "resource limitation",
    **_NEVER,
}
_OPEN = (CommitmentState.ASKED, CommitmentState.ALARM)  # better late than never
Owed = tuple[Delivery, ResultObject]


@dataclass(frozen=True)
class Patience:
    """How long an answer is awaited (doubled with each asking, a day at most), and how often it is asked."""

    wait_s: float
    max_attempts: int


@dataclass(frozen=True)
class CommitmentWanted:
    """One N-ACTION to send: the references are pairs of SOP Class and SOP Instance UID."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CommitmentAnswer:
    """An N-EVENT-REPORT as it came: references, and SOP Instance UID → Failure Reason."""

    transaction_uid: str
    committed: Collection[tuple[str, str]]
    failed: Mapping[str, int]


@dataclass(frozen=True)
class AnswerTaken:
    """What an answer changed; of ``unmentioned`` objects it said nothing, so they are asked for again."""

    committed: int = 0
    refused: int = 0
    unmentioned: int = 0


def order_commitment(
    uow: UnitOfWork, destination: str, now: datetime, patience: Patience, *, at_most: int
) -> CommitmentWanted | None:
    """Name a new transaction for what a destination should commit to now; None when there is nothing.

    What was delivered and never asked for, what got no answer in time, and what was delivered again. Objects whose
    attempts are used up raise the alarm instead. Two askers never take the same object: the time until it is due
    again is their lease.
    """
    due = uow.session.execute(
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(_is_due(destination, now))
        .order_by(Delivery.delivered_at, Delivery.id)
        .limit(at_most)
        .with_for_update(of=Delivery, key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    transaction_uid = f"2.25.{uuid4().int}"
    references, asked = [], []
    for delivery, made in due:
        if delivery.commitment_attempts >= patience.max_attempts:
            _alarm(uow, delivery, made, delivery.last_error or "no answer")
            continue
        references.append((made.sop_class_uid, made.sop_instance_uid))
        asked.append(str(delivery.id))
        delivery.commitment = CommitmentState.ASKED
        delivery.commitment_uid = transaction_uid
        delivery.commitment_attempts += 1
        delivery.commitment_due_at = now + timedelta(seconds=_doubled(patience.wait_s, delivery, MAX_DELAY_S))
        delivery.last_error = ""
        _record(uow, AuditTag.DELIVERY_COMMITMENT_ASKED, delivery, made, attempt=delivery.commitment_attempts)
    if due and not references:
        return order_commitment(uow, destination, now, patience, at_most=at_most)
    if not references:
        return None
    uow.session.add(
        CommitmentOrder(transaction_uid=transaction_uid, destination=destination, deliveries=asked, asked_at=now)
    )
    return CommitmentWanted(transaction_uid, tuple(references))


def _is_due(destination: str, now: datetime) -> Any:
    never_asked = and_(Delivery.commitment == CommitmentState.NOT_ASKED, Delivery.commitment_due_at.is_(None))
    waiting = (CommitmentState.NOT_ASKED, CommitmentState.ASKED, CommitmentState.REFUSED)
    return and_(
        Delivery.destination == destination,
        Delivery.state == DeliveryState.DELIVERED,
        Delivery.commitment.in_(waiting),
        or_(never_asked, Delivery.commitment_due_at <= now),
    )


def order_not_taken(uow: UnitOfWork, transaction_uid: str, error: str, *, base_s: float, was_refused: bool) -> None:
    """Ask again after ``base_s`` doubled per attempt: the destination was not reached, or did not take the request.

    A request it refused is over (PS3.4 J.3.2.1.2); one that was lost may have arrived, and may still be answered.
    """
    order = uow.session.get_one(CommitmentOrder, transaction_uid)
    for delivery, made in _objects_of(uow, order):
        if delivery.commitment is not CommitmentState.ASKED or delivery.commitment_uid != transaction_uid:
            continue
        delivery.last_error = error[:200]
        delivery.commitment_due_at = utcnow() + timedelta(seconds=_doubled(base_s, delivery, MAX_DELAY_S))
        if was_refused:
            delivery.commitment = CommitmentState.REFUSED
            _record(uow, AuditTag.DELIVERY_NOT_COMMITTED, delivery, made, reason=delivery.last_error)
    if was_refused:
        uow.session.delete(order)


def take_answer(
    uow: UnitOfWork,
    answer: CommitmentAnswer,
    destinations: Collection[str],
    patience: Patience,
    *,
    resend_s: float,
) -> AnswerTaken | None:
    """Believe an N-EVENT-REPORT of one of these destinations; None when none of them has such a transaction.

    Objects it commits to are COMMITTED; those it names as failed are owed again, unless the reason says that the
    same bytes would be refused again. A repeated answer changes nothing. An answer to a question that was asked
    again meanwhile is taken when it is yes, and of the object as it was delivered last.
    """
    order = uow.session.get(CommitmentOrder, answer.transaction_uid)
    if order is None or order.destination not in destinations:
        return None
    committed = refused = unmentioned = 0
    for delivery, made in _objects_of(uow, order):
        reason = answer.failed.get(made.sop_instance_uid)
        if reason is not None:
            if delivery.commitment is CommitmentState.ASKED and delivery.commitment_uid == order.transaction_uid:
                _refuse(uow, delivery, made, reason, patience, resend_s=resend_s)
                refused += 1
        elif delivery.commitment in _OPEN and delivery.delivered_at and delivery.delivered_at <= order.asked_at:
            if (made.sop_class_uid, made.sop_instance_uid) in answer.committed:
                _commit(uow, delivery, made)
                committed += 1
            else:
                unmentioned += 1
    return AnswerTaken(committed, refused, unmentioned)


def _commit(uow: UnitOfWork, delivery: Delivery, made: ResultObject) -> None:
    delivery.commitment = CommitmentState.COMMITTED
    delivery.committed_at = utcnow()
    delivery.commitment_due_at = None
    delivery.last_error = ""
    _record(uow, AuditTag.DELIVERY_COMMITTED, delivery, made)


def _refuse(
    uow: UnitOfWork, delivery: Delivery, made: ResultObject, reason: int, patience: Patience, *, resend_s: float
) -> None:
    words = f"0x{reason:04X} {_IN_WORDS.get(reason, '')}".strip()
    delivery.last_error = f"not committed: {words}"
    if reason in _NEVER or delivery.commitment_attempts >= patience.max_attempts:
        _alarm(uow, delivery, made, delivery.last_error)
        return
    delivery.commitment = CommitmentState.REFUSED
    notes = {"transaction": delivery.commitment_uid, "reason": words}
    if reason == DUPLICATE_TRANSACTION:
        delivery.commitment_due_at = utcnow()  # nothing is wrong with the object: ask under another name
        _record(uow, AuditTag.DELIVERY_NOT_COMMITTED, delivery, made, reason=words)
        return
    delivery.commitment_due_at = None
    if not still_wanted(uow, made):
        _record(uow, AuditTag.DELIVERY_NOT_COMMITTED, delivery, made, reason=f"{words}; the draft no longer stands")
        return
    delivery.attempts = 0
    # at once for the first time, then after longer and longer pauses
    pause_s = _doubled(resend_s, delivery, MAX_DELAY_S) - resend_s
    delivery.next_attempt_at = utcnow() + timedelta(seconds=pause_s)
    move_delivery(uow, delivery, DeliveryState.PENDING, study_id=made.study_id, detail=notes)


def _alarm(uow: UnitOfWork, delivery: Delivery, made: ResultObject, reason: str) -> None:
    delivery.commitment = CommitmentState.ALARM
    delivery.commitment_due_at = None
    delivery.last_error = reason[:200]
    uow.audit(
        AuditTag.DELIVERY_COMMITMENT_ALARM,
        outcome="failure",
        study_id=made.study_id,
        object_type="delivery",
        object_id=str(delivery.id),
        detail={
            "destination": delivery.destination,
            "transaction": delivery.commitment_uid,
            "attempts": delivery.commitment_attempts,
            "reason": delivery.last_error,
        },
    )


def is_answered(session: Session, transaction_uid: str) -> bool:
    """Return whether nothing of this transaction waits for an answer any more."""
    waiting = select(Delivery.id).where(
        Delivery.commitment_uid == transaction_uid, Delivery.commitment == CommitmentState.ASKED
    )
    return session.scalar(waiting.limit(1)) is None


def _objects_of(uow: UnitOfWork, order: CommitmentOrder) -> Sequence[Owed]:
    """Return the Deliveries of a transaction, locked in one order."""
    rows = uow.session.execute(
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(Delivery.id.in_([UUID(key) for key in order.deliveries]))
        .order_by(Delivery.id)
        .with_for_update(of=Delivery, key_share=True)
        .execution_options(populate_existing=True)
    )
    return [(delivery, made) for delivery, made in rows]


def _record(uow: UnitOfWork, tag: AuditTag, delivery: Delivery, made: ResultObject, **notes: Any) -> None:
    uow.audit(
        tag,
        outcome="failure" if tag is AuditTag.DELIVERY_NOT_COMMITTED else "success",
        study_id=made.study_id,
        object_type="delivery",
        object_id=str(delivery.id),
        detail={"destination": delivery.destination, "transaction": delivery.commitment_uid, **notes},
    )


def _doubled(base_s: float, delivery: Delivery, limit_s: float) -> float:
    return min(base_s * float(2 ** min(max(delivery.commitment_attempts - 1, 0), 30)), limit_s)
