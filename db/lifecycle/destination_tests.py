"""Tests of destinations: asked for by a person, done by the node, recorded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import delete, or_, select

from config.errors import LifecycleError
from db.audit import AuditTag
from db.delivery_models import DestinationTest
from db.lifecycle.moves import locked
from db.types import utcnow
from db.uow import UnitOfWork


@dataclass(frozen=True)
class StepSeen:
    """One thing that was looked at; ``note`` is what was seen, or why it failed."""

    name: str
    is_good: bool
    note: str
    milliseconds: float = 0.0


@dataclass(frozen=True)
class AskedTest:
    """A test to be done now."""

    test_id: UUID
    destination: str


def ask_test(uow: UnitOfWork, destination: str) -> UUID:
    """Ask the node to try a destination; one that is waited for already is not asked for twice."""
    waiting = uow.session.scalar(
        select(DestinationTest.id).where(
            DestinationTest.destination == destination, DestinationTest.finished_at.is_(None)
        )
    )
    if waiting is not None:
        return waiting
    row = DestinationTest(id=uuid4(), destination=destination, asked_by=uow.actor.name[:64], asked_at=utcnow())
    uow.session.add(row)
    uow.session.flush()
    return row.id


def claim_test(uow: UnitOfWork, now: datetime, *, lease_s: float) -> AskedTest | None:
    """Take the test that waits longest, or whose node stopped in the middle; None when there is none."""
    row = uow.session.scalar(
        select(DestinationTest)
        .where(
            DestinationTest.finished_at.is_(None),
            or_(DestinationTest.lease_until.is_(None), DestinationTest.lease_until < now),
        )
        .order_by(DestinationTest.asked_at, DestinationTest.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    if row is None:
        return None
    row.lease_until = now + timedelta(seconds=lease_s)
    return AskedTest(row.id, row.destination)


def finish_test(uow: UnitOfWork, test_id: UUID, steps: Sequence[StepSeen]) -> None:
    """Keep what was seen, record it, and forget earlier tests of this destination.

    Raises:
        LifecycleError: somebody else finished it.
    """
    row = locked(uow, DestinationTest, test_id)
    if row.finished_at is not None:
        raise LifecycleError("this test was done already")
    row.finished_at = utcnow()
    row.is_good = bool(steps) and all(step.is_good for step in steps)
    row.steps = [asdict(step) for step in steps]
    uow.session.execute(
        delete(DestinationTest).where(
            DestinationTest.destination == row.destination,
            DestinationTest.id != row.id,
            DestinationTest.finished_at.is_not(None),
        )
    )
    record_test(uow, row.destination, steps, asked_by=row.asked_by)


def record_test(uow: UnitOfWork, destination: str, steps: Sequence[StepSeen], *, asked_by: str) -> None:
    """Record a test and its outcome in the audit log; a failed one with the first thing that was wrong."""
    bad = next((step for step in steps if not step.is_good), None)
    uow.audit(
        AuditTag.DESTINATION_TESTED,
        outcome="failure" if bad or not steps else "success",
        object_type="destination",
        object_id=destination,
        detail={
            "asked_by": asked_by,
            "steps": [step.name for step in steps],
            **({"failed": bad.name, "reason": bad.note[:200]} if bad else {}),
        },
    )
