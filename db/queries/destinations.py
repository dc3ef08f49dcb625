"""Questions about destinations: what is owed to each, when it took something last, and what it said last."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.delivery_models import DestinationTest
from db.lifecycle.deliveries import has_turn
from db.models import Delivery, ResultObject
from db.queries.details import DeliveryRow
from db.types import CommitmentState, CountState, DeliveryState

_WAITING = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.HELD)


@dataclass
class DestinationState:
    """What one destination was sent and is owed; times are None where there is nothing to tell."""

    waiting: int = 0
    delivered: int = 0
    failed: int = 0
    withdrawn: int = 0
    alarms: int = 0  # delivered, and not committed to or not held
    oldest_waiting_at: datetime | None = None
    next_attempt_at: datetime | None = None
    last_success_at: datetime | None = None
    last_error: str = ""  # of what is still owed, or failed
    test: DestinationTest | None = field(default=None)  # the newest: one that is waited for, or the last one done


def destination_states(session: Session) -> Mapping[str, DestinationState]:
    """Return the state of every destination that was ever owed something or tested, by name."""
    found: dict[str, DestinationState] = defaultdict(DestinationState)
    _add_counts(session, found)
    _add_next_attempts(session, found)
    _add_errors(session, found)
    alarm = (Delivery.commitment == CommitmentState.ALARM) | (Delivery.counted == CountState.ALARM)
    query = select(Delivery.destination, func.count()).where(alarm).group_by(Delivery.destination)
    for name, count in session.execute(query):
        found[name].alarms = count
    for test in session.scalars(select(DestinationTest).order_by(DestinationTest.asked_at)):
        found[test.destination].test = test
    return found


def _add_counts(session: Session, found: dict[str, DestinationState]) -> None:
    query = select(
        Delivery.destination,
        Delivery.state,
        func.count(),
        func.min(Delivery.created_at),
        func.max(Delivery.delivered_at),
    ).group_by(Delivery.destination, Delivery.state)
    for name, state, count, oldest, newest in session.execute(query):
        one = found[name]
        one.last_success_at = max(filter(None, (one.last_success_at, newest)), default=None)
        if state in _WAITING:
            one.waiting += count
            one.oldest_waiting_at = min(filter(None, (one.oldest_waiting_at, oldest)), default=None)
        if state is DeliveryState.DELIVERED:
            one.delivered = count
        elif state is DeliveryState.FAILED:
            one.failed = count
        elif state is DeliveryState.WITHDRAWN:
            one.withdrawn = count


def _add_next_attempts(session: Session, found: dict[str, DestinationState]) -> None:
    """A message that waits for an earlier one of its Study is not tried before that one, whatever its own time says."""
    query = (
        select(Delivery.destination, func.min(Delivery.next_attempt_at))
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(Delivery.state == DeliveryState.PENDING, has_turn())
        .group_by(Delivery.destination)
    )
    for name, soonest in session.execute(query):
        found[name].next_attempt_at = soonest


def _add_errors(session: Session, found: dict[str, DestinationState]) -> None:
    latest = (
        select(Delivery.destination, func.max(Delivery.next_attempt_at).label("at"))
        .where(Delivery.last_error != "", Delivery.state.in_((*_WAITING, DeliveryState.FAILED)))
        .group_by(Delivery.destination)
        .subquery()
    )
    query = select(Delivery.destination, Delivery.last_error).join(
        latest,
        (latest.c.destination == Delivery.destination) & (latest.c.at == Delivery.next_attempt_at),
    )
    for name, error in session.execute(query.where(Delivery.last_error != "")):
        found[name].last_error = error


def count_alarms(session: Session, *, limit: int = 200) -> list[DeliveryRow]:
    """Return what a destination accepted, and did not hold or would not count; newest first."""
    query = (
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(Delivery.counted == CountState.ALARM)
        .order_by(Delivery.delivered_at.desc())
        .limit(limit)
    )
    return [DeliveryRow(delivery, made) for delivery, made in session.execute(query)]
