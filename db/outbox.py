"""From committed messages to the broker: at least once, so every task is idempotent."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker

from db.models import OutboxMessage
from db.types import utcnow
from db.uow import Actor, UnitOfWork, unit_of_work

RELAY = Actor("outbox", "process")
Publish = Callable[[str, dict[str, Any]], None]


def relay(sessions: sessionmaker[Session], publish: Publish, limit: int = 100) -> int:
    """Publish up to ``limit`` waiting messages in their order; return how many were published.

    A message is marked after ``publish`` returned: when it raises, or this process dies, the message stays
    and is published again. On PostgreSQL the rows stay locked meanwhile, so relays run side by side, each
    skipping what another holds. SQLite has only one writer's lock, so nothing is held while publishing: two
    relays there may publish a message twice.

    Raises:
        Whatever ``publish`` raises; messages published before it stay published.
    """
    waiting = (
        select(OutboxMessage.id, OutboxMessage.task, OutboxMessage.arguments)
        .where(OutboxMessage.published_at.is_(None))
        .order_by(OutboxMessage.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    done: list[int] = []
    with sessions() as session:
        messages = session.execute(waiting).all()
        alone = session.connection().dialect.name == "sqlite"
        if alone:
            session.rollback()
        try:
            for key, task, arguments in messages:
                publish(task, dict(arguments))
                done.append(key)
        finally:
            if done:
                _mark(sessions, None if alone else session, done)
    return len(done)


def _mark(sessions: sessionmaker[Session], holder: Session | None, published: list[int]) -> None:
    """Mark messages as published, in the transaction that locks them if there is one."""
    change = update(OutboxMessage).where(OutboxMessage.id.in_(published)).values(published_at=utcnow())
    if holder is not None:
        holder.execute(change)
        holder.commit()
        return
    with unit_of_work(sessions, RELAY) as uow:
        uow.session.execute(change)


def purge(uow: UnitOfWork, before: datetime) -> int:
    """Remove messages published before an instant; return how many. Audit events tell the story, not these."""
    old = delete(OutboxMessage).where(OutboxMessage.published_at < before)
    return uow.session.connection().execute(old).rowcount
