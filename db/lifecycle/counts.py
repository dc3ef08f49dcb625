"""Whether a destination holds what it accepted: asked once all that is owed of a Study is there, and sent again if not.

Only of destinations with ``count: true``; ``db.lifecycle.deliveries.delivered`` notes what has to be asked for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, exists, select
from sqlalchemy.orm import aliased

from db.audit import AuditTag
from db.lifecycle.deliveries import still_wanted
from db.lifecycle.moves import move_delivery
from db.models import Delivery, ResultObject, Study
from db.types import CommitmentState, CountState, DeliveryState, utcnow
from db.uow import UnitOfWork

MAX_DELAY_S = 86400.0
_AT_ONCE = 500  # objects in one question
_NOT_COUNTED = "not counted"


@dataclass(frozen=True)
class CountPatience:
    """How long the next question waits (doubled each time, a day at most), and when a person has to look."""

    wait_s: float
    max_attempts: int  # questions without an answer
    max_missed: int  # times one object is sent again


@dataclass(frozen=True)
class CountedObject:
    """One object that should be there; ``path`` is relative to the result store."""

    delivery_id: UUID
    sop_instance_uid: str
    path: str


@dataclass(frozen=True)
class CountWanted:
    """What to ask a destination about: the objects of one Study that it accepted since it was last asked."""

    destination: str
    study_id: UUID
    study_instance_uid: str
    objects: tuple[CountedObject, ...]


@dataclass(frozen=True)
class Counted:
    """What an answer changed."""

    held: int = 0
    owed_again: int = 0
    alarms: int = 0


def order_count(uow: UnitOfWork, destination: str, now: datetime, patience: CountPatience) -> CountWanted | None:
    """Return one Study whose objects should be there by now; None when there is none.

    It is asked about when nothing of it is on its way to the destination any more. Two askers never take the same
    Study: the time of the next question is their lease.
    """
    first = uow.session.execute(
        select(ResultObject.study_id, Study.study_instance_uid)
        .join(Delivery, Delivery.result_object_id == ResultObject.id)
        .join(Study, Study.id == ResultObject.study_id)
        .where(_waits(destination), Delivery.count_due_at <= now, ~_is_busy(destination, now))
        .order_by(Delivery.count_due_at, Delivery.id)
        .limit(1)
    ).first()
    if first is None:
        return None
    study_id, study_instance_uid = first
    rows = _rows(uow, destination, study_id, Delivery.count_due_at <= now)
    if not rows:
        return None  # another asker has them
    for delivery, _ in rows:
        delivery.count_attempts += 1
        delay_s = min(patience.wait_s * 2.0 ** min(delivery.count_attempts - 1, 30), MAX_DELAY_S)
        delivery.count_due_at = now + timedelta(seconds=delay_s)
    objects = tuple(CountedObject(one.id, made.sop_instance_uid, made.path) for one, made in rows)
    return CountWanted(destination, study_id, study_instance_uid, objects)


def _waits(destination: str) -> ColumnElement[bool]:
    return and_(
        Delivery.destination == destination,
        Delivery.state == DeliveryState.DELIVERED,
        Delivery.counted == CountState.WAITING,
    )


def _is_busy(destination: str, now: datetime) -> ColumnElement[bool]:
    """Say that something of the same Study is on its way, or was taken a moment ago and is not to be asked for yet."""
    owed, made = aliased(Delivery), aliased(ResultObject)
    on_its_way = owed.state.in_((DeliveryState.PENDING, DeliveryState.SENDING))
    just_taken = and_(
        owed.state == DeliveryState.DELIVERED, owed.counted == CountState.WAITING, owed.count_due_at > now
    )
    return exists(
        select(owed.id)
        .join(made, made.id == owed.result_object_id)
        .where(owed.destination == destination, made.study_id == ResultObject.study_id, on_its_way | just_taken)
        .correlate(ResultObject)
    )


def _rows(
    uow: UnitOfWork, destination: str, study_id: UUID, which: ColumnElement[bool]
) -> Sequence[Row[Delivery, ResultObject]]:
    query = (
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(_waits(destination), ResultObject.study_id == study_id, which)
        .order_by(Delivery.id)
        .limit(_AT_ONCE)
        .with_for_update(of=Delivery, key_share=True)
        .execution_options(populate_existing=True)
    )
    return uow.session.execute(query).all()


def _asked(uow: UnitOfWork, asked: CountWanted) -> Sequence[Row[Delivery, ResultObject]]:
    which = Delivery.id.in_([one.delivery_id for one in asked.objects])
    return _rows(uow, asked.destination, asked.study_id, which)


def take_count(uow: UnitOfWork, asked: CountWanted, held: Collection[str], patience: CountPatience) -> Counted:
    """Believe a destination that said which SOP Instances it holds of those it was asked about.

    What it does not hold is owed again, first at once and then after longer pauses; after ``max_missed`` times it is
    the alarm. Of a draft that no longer stands nothing is sent again.
    """
    held_now = owed_again = alarms = 0
    missing = []
    rows = _asked(uow, asked)
    for delivery, made in rows:
        delivery.count_due_at = None
        delivery.count_attempts = 0
        if made.sop_instance_uid in held:
            delivery.counted = CountState.HELD
            if delivery.last_error.startswith(_NOT_COUNTED):
                delivery.last_error = ""
            held_now += 1
            continue
        missing.append(made.sop_instance_uid)
        if not still_wanted(uow, made):
            delivery.counted = CountState.NOT_ASKED
        elif delivery.count_missed >= patience.max_missed:
            delivery.counted = CountState.ALARM
            delivery.last_error = f"accepted {delivery.count_missed + 1} times, and not there when it was asked"
            alarms += 1
        else:
            _owe_again(uow, delivery, made, patience)
            owed_again += 1
    _record(uow, asked, sent=len(rows), held=held_now, missing=missing)
    return Counted(held_now, owed_again, alarms)


def _owe_again(uow: UnitOfWork, delivery: Delivery, made: ResultObject, patience: CountPatience) -> None:
    pause_s = min(patience.wait_s * (2.0**delivery.count_missed - 1), MAX_DELAY_S)
    delivery.counted = CountState.NOT_ASKED
    delivery.count_missed += 1
    delivery.commitment = CommitmentState.NOT_ASKED  # whatever it promised, our bytes stay
    delivery.commitment_attempts = 0
    delivery.attempts = 0
    delivery.next_attempt_at = utcnow() + timedelta(seconds=pause_s)
    delivery.last_error = "accepted, and not there when it was asked"
    detail = {"reason": delivery.last_error, "times": delivery.count_missed}
    move_delivery(uow, delivery, DeliveryState.PENDING, study_id=made.study_id, detail=detail)


def count_unanswered(uow: UnitOfWork, asked: CountWanted, error: str, patience: CountPatience) -> int:
    """Keep the question for later; after ``max_attempts`` it is the alarm. Return how many alarms were raised."""
    alarms = 0
    rows = _asked(uow, asked)
    for delivery, _ in rows:
        delivery.last_error = f"{_NOT_COUNTED}: {error}"[:200]
        if delivery.count_attempts >= patience.max_attempts:
            delivery.counted = CountState.ALARM
            delivery.count_due_at = None
            alarms += 1
    if alarms:
        _record(uow, asked, sent=len(rows), held=None, missing=[], reason=error[:200])
    return alarms


def _record(
    uow: UnitOfWork, asked: CountWanted, *, sent: int, held: int | None, missing: list[str], reason: str = ""
) -> None:
    uow.audit(
        AuditTag.DELIVERY_COUNTED,
        outcome="success" if held == sent else "failure",
        study_id=asked.study_id,
        object_type="destination",
        object_id=asked.destination,
        detail={
            "destination": asked.destination,
            "sent": sent,
            "held": held,
            "missing": missing,
            **({"reason": reason} if reason else {}),
        },
    )
