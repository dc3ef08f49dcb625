"""Objects owed to destinations: keep, claim, confirm, postpone, withdraw."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select, tuple_, update
from sqlalchemy.orm import aliased

from config.errors import LifecycleError
from config.results import MESSAGES, RETRACTIONS, ResultKind
from db.lifecycle.moves import locked, move_delivery
from db.lifecycle.self_tests import is_self_test
from db.lifecycle.standing import fallen
from db.lifecycle.values import DeliveryJob, NewObject
from db.models import Delivery, ResultObject
from db.report_models import Draft
from db.signing_models import SignatureHold
from db.types import CommitmentState, CountState, DeliveryState, utcnow
from db.uow import UnitOfWork

_MAX_DELAY_S = 3600.0
_SETTLE_S = 5.0  # an archive indexes what it took; and objects that go together are asked for together
_COUNT_SETTLE_S = 30.0  # what it has taken and not indexed yet must not be sent again
UNDELIVERED = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.HELD)


def owe(
    uow: UnitOfWork,
    made: NewObject,
    study_id: UUID,
    *,
    draft_id: UUID | None = None,
    signature_id: UUID | None = None,
    hold: SignatureHold | None = None,
) -> UUID:
    """Keep one object and owe it to each of its destinations, not before ``hold`` ends; a kept one is only owed.

    Raises:
        LifecycleError: its SOP Instance UID is kept with other bytes.
    """
    session = uow.session
    kept = session.scalar(select(ResultObject).where(ResultObject.sop_instance_uid == made.sop_instance_uid))
    if kept is None:
        values = {name: value for name, value in vars(made).items() if name != "destinations"}
        values["tracking_uids"] = list(made.tracking_uids)
        kept = ResultObject(id=uuid4(), study_id=study_id, draft_id=draft_id, signature_id=signature_id, **values)
        session.add(kept)
        session.flush()
    elif kept.sha256 != made.sha256 or kept.study_id != study_id:
        raise LifecycleError("a result object with this SOP Instance UID is kept with other bytes")
    owe_also(uow, kept, made.destinations, hold)
    return kept.id


def owe_also(
    uow: UnitOfWork, kept: ResultObject, destinations: Sequence[str], hold: SignatureHold | None = None
) -> None:
    """Owe a kept object to those of ``destinations`` that have not got it; one of the self-test study to nobody."""
    session = uow.session
    if destinations and is_self_test(session, kept.study_id):
        return
    owed = set(session.scalars(select(Delivery.destination).where(Delivery.result_object_id == kept.id)))
    for name in dict.fromkeys(destinations):
        if name not in owed:
            waits = {} if hold is None else {"hold_id": hold.id, "next_attempt_at": hold.until}
            session.add(Delivery(result_object_id=kept.id, destination=name, **waits))
    session.flush()


def claim_delivery(uow: UnitOfWork, now: datetime, *, lease_s: float) -> DeliveryJob | None:
    """Take the oldest Delivery that is due, or whose sender stopped answering; None when there is none.

    A message waits while an earlier one of the same Study is not delivered there: final must not come before
    preliminary. One that FAILED or was WITHDRAWN holds up no other; the audit event says so.
    """
    due = and_(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= now)
    lost = and_(Delivery.state == DeliveryState.SENDING, Delivery.lease_until < now)
    delivery = uow.session.scalar(
        select(Delivery)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(or_(due, lost), has_turn())
        .order_by(Delivery.next_attempt_at, Delivery.id)
        .limit(1)
        .with_for_update(of=Delivery, key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if delivery is None:
        return None
    made = uow.session.get_one(ResultObject, delivery.result_object_id)
    if delivery.state is DeliveryState.SENDING:
        move_delivery(
            uow, delivery, DeliveryState.PENDING, study_id=made.study_id, detail={"reason": "the sender stopped"}
        )
    delivery.attempts += 1
    delivery.lease_until = now + timedelta(seconds=lease_s)
    detail: dict[str, object] = {**_sent(made)}
    if made.kind in MESSAGES and _has(uow, delivery, other_messages(DeliveryState.FAILED)):
        detail["note"] = "an earlier message of this study was not delivered"
    move_delivery(uow, delivery, DeliveryState.SENDING, study_id=made.study_id, detail=detail)
    return DeliveryJob(
        delivery_id=delivery.id,
        destination=delivery.destination,
        kind=made.kind,
        path=made.path,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
        study_id=made.study_id,
        attempts=delivery.attempts,
        lease_until=delivery.lease_until,
    )


def has_turn() -> ColumnElement[bool]:
    """Return the condition that a Delivery waits for no other; the query around it joins it and its ResultObject."""
    return or_(ResultObject.kind.not_in(MESSAGES), ~exists(other_messages(*UNDELIVERED)))


def other_messages(
    *states: DeliveryState, later: bool = False, kinds: Collection[ResultKind] = MESSAGES
) -> Select[UUID]:
    """Select the Deliveries of earlier (or ``later``) messages of the same Study to the same destination.

    The query around it joins Delivery and ResultObject: those of the message that the others are compared with.
    """
    other, text = aliased(Delivery), aliased(ResultObject)
    this = tuple_(ResultObject.created_at, ResultObject.id)
    that = tuple_(text.created_at, text.id)
    return (
        select(other.id)
        .join(text, text.id == other.result_object_id)
        .where(
            other.destination == Delivery.destination,
            other.state.in_(states),
            text.study_id == ResultObject.study_id,
            text.kind.in_(kinds),
            that > this if later else that < this,
        )
        .correlate(Delivery, ResultObject)
    )


def _has(uow: UnitOfWork, delivery: Delivery, others: Select[UUID]) -> bool:
    """Return whether there are such ``others`` beside this Delivery."""
    query = select(Delivery.id).join(ResultObject, ResultObject.id == Delivery.result_object_id)
    return uow.session.scalar(query.where(Delivery.id == delivery.id, exists(others))) is not None


def renew_delivery(uow: UnitOfWork, job: DeliveryJob, now: datetime, *, lease_s: float) -> bool:
    """Return whether a claimed object is still to be sent, now, by the one who claimed it; its lease begins anew.

    A draft that was superseded, rejected or signed since it was claimed is withdrawn instead.

    Raises:
        LifecycleError: the lease ran out, and somebody else took it.
    """
    delivery, made = _delivery(uow, job.delivery_id)
    if delivery.state is not DeliveryState.SENDING or delivery.attempts != job.attempts:
        raise LifecycleError("somebody else sends this object")
    if not still_wanted(uow, made):
        delivery.lease_until = None
        move_delivery(uow, delivery, DeliveryState.WITHDRAWN, study_id=made.study_id)
        return False
    delivery.lease_until = now + timedelta(seconds=lease_s)
    return True


def hold_deliveries(uow: UnitOfWork, jobs: Sequence[DeliveryJob], now: datetime, *, lease_s: float) -> None:
    """Keep claimed objects for longer: their sender is alive. What somebody else took meanwhile stays theirs."""
    uow.session.execute(
        update(Delivery)
        .where(
            Delivery.state == DeliveryState.SENDING,
            tuple_(Delivery.id, Delivery.attempts).in_([(job.delivery_id, job.attempts) for job in jobs]),
        )
        .values(lease_until=now + timedelta(seconds=lease_s))
        .execution_options(synchronize_session=False)
    )


def delivered(
    uow: UnitOfWork, delivery_id: UUID, *, is_counted: bool = False, answer: Mapping[str, str] | None = None
) -> None:
    """Record that the destination answered Success, and how (``answer``); a second time changes nothing.

    With ``is_counted`` it is asked afterwards whether it holds the object (``db.lifecycle.counts``); not of a
    rejection note, on which an archive acts instead of showing it.

    Raises:
        LifecycleError: it was not being sent.
    """
    delivery, made = _delivery(uow, delivery_id)
    if delivery.state is DeliveryState.DELIVERED:
        return  # two senders, one object: the UID is the same, so the destination holds it once
    delivery.delivered_at = utcnow()
    delivery.lease_until = None
    delivery.last_error = ""
    if delivery.commitment is not CommitmentState.COMMITTED:
        delivery.commitment_due_at = delivery.delivered_at + timedelta(seconds=_SETTLE_S)
    if is_counted and made.kind not in {*MESSAGES, ResultKind.REJECTION_NOTE}:
        delivery.counted = CountState.WAITING
        delivery.count_due_at = delivery.delivered_at + timedelta(seconds=_COUNT_SETTLE_S)
    move_delivery(
        uow,
        delivery,
        DeliveryState.DELIVERED,
        study_id=made.study_id,
        detail={**_sent(made), "attempts": delivery.attempts, **(answer or {})},
    )


def delivery_failed(
    uow: UnitOfWork,
    delivery_id: UUID,
    error: str,
    *,
    base_s: float,
    max_attempts: int,
    attempt: int | None = None,
    at_least_s: float = 0.0,
) -> DeliveryState:
    """Postpone by ``base_s`` doubled per attempt (an hour at most), or give up; return the new state.

    ``at_least_s`` is what the destination asked for; it too is an hour at most.

    A draft that was superseded, rejected or signed meanwhile is withdrawn instead of sent again.

    Raises:
        LifecycleError: it was not being sent, or not in this ``attempt``: whoever lost the lease decides nothing.
    """
    delivery, made = _delivery(uow, delivery_id)
    if attempt is not None and attempt != delivery.attempts:
        raise LifecycleError("somebody else sends this object")
    delivery.last_error = error[:200]
    delivery.lease_until = None
    if not still_wanted(uow, made):
        to = DeliveryState.WITHDRAWN
    elif delivery.attempts >= max_attempts:
        to = DeliveryState.FAILED
    else:
        to = DeliveryState.PENDING
        delay_s = min(max(base_s * 2 ** min(delivery.attempts - 1, 30), at_least_s), _MAX_DELAY_S)
        delivery.next_attempt_at = utcnow() + timedelta(seconds=delay_s)
    detail = {**_sent(made), "error": delivery.last_error, "attempts": delivery.attempts}
    move_delivery(uow, delivery, to, study_id=made.study_id, detail=detail)
    return to


def _sent(made: ResultObject) -> dict[str, str]:
    """Return what an event says of the object it is about."""
    return {"kind": made.kind, "sop_instance_uid": made.sop_instance_uid, "sha256": made.sha256}


def resubmit(uow: UnitOfWork, delivery_id: UUID) -> None:
    """Owe a FAILED Delivery, or one whose commitment or count raised the alarm, again, at a person's wish.

    Raises:
        LifecycleError: it has neither failed nor raised the alarm; or it is a message, and a later one of the same
            Study was delivered, which it would undo.
    """
    delivery, made = _delivery(uow, delivery_id)
    if delivery.state is DeliveryState.HELD:
        raise LifecycleError("whoever signed stopped this: it is released on the report's page")
    # what takes a draft back undoes nothing that may be sent again: that draft itself is withdrawn instead of sent
    others = other_messages(DeliveryState.DELIVERED, later=True, kinds=MESSAGES - {*RETRACTIONS.values()})
    if made.kind in MESSAGES and _has(uow, delivery, others):
        raise LifecycleError("a later message of this study was delivered: this one would undo it")
    detail = {}
    if delivery.state is DeliveryState.DELIVERED:
        if delivery.commitment is not CommitmentState.ALARM and delivery.counted is not CountState.ALARM:
            raise LifecycleError("this object was delivered")
        detail = {"transaction": delivery.commitment_uid, "reason": "sent again at a person's wish"}
        delivery.commitment = CommitmentState.NOT_ASKED
        delivery.commitment_attempts = 0
        delivery.counted = CountState.NOT_ASKED
        delivery.count_attempts = delivery.count_missed = 0
    delivery.attempts = 0
    delivery.next_attempt_at = utcnow()
    move_delivery(uow, delivery, DeliveryState.PENDING, study_id=made.study_id, detail=detail)


def withdraw_drafts(uow: UnitOfWork, draft_id: UUID, *, only_fallen: bool = False) -> int:
    """Stop what is still owed of a draft: everything, or only what no longer stands; return how many.

    What is being sent at this moment is decided when its sender reports.
    """
    query = (
        select(Delivery)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(ResultObject.draft_id == draft_id, Delivery.state.in_((DeliveryState.PENDING, DeliveryState.HELD)))
        .with_for_update(of=Delivery, key_share=True)
        .execution_options(populate_existing=True)
    )
    rows = uow.session.scalars(query).all()
    if only_fallen:
        rows = [one for one in rows if fallen(uow.session, uow.session.get_one(ResultObject, one.result_object_id))]
    study_id = uow.session.scalars(select(Draft.study_id).where(Draft.id == draft_id)).one()
    for delivery in rows:
        move_delivery(uow, delivery, DeliveryState.WITHDRAWN, study_id=study_id)
    return len(rows)


def _delivery(uow: UnitOfWork, delivery_id: UUID) -> tuple[Delivery, ResultObject]:
    delivery = locked(uow, Delivery, delivery_id)
    return delivery, uow.session.get_one(ResultObject, delivery.result_object_id)


def still_wanted(uow: UnitOfWork, made: ResultObject) -> bool:
    """Return False for an object of a draft that no longer stands (`db.lifecycle.standing.fallen`)."""
    return fallen(uow.session, made) is None
