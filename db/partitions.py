"""The months of ``audit_event`` on PostgreSQL: which have a partition, and what fell beside all of them."""

from collections.abc import Iterator
from datetime import date

from sqlalchemy import text
from sqlalchemy.orm import Session

_LOCK_WAIT = "2s"  # who records acts would queue behind a partition that waits for a long reader; tried again later
_MAKE = text("SELECT audit_partition(:month)")
_STRAYS = text(
    "SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM') m, count(*) FROM audit_event_other GROUP BY m"
)


def is_partitioned(session: Session) -> bool:
    """Return whether this database keeps events by month: PostgreSQL does, SQLite does not."""
    return session.get_bind().dialect.name == "postgresql"


def months(first: date, ahead: int) -> Iterator[date]:
    """Yield the first day of the month of ``first``, and of so many months after it."""
    at = first.replace(day=1)
    for _ in range(ahead + 1):
        yield at
        at = date(at.year + at.month // 12, at.month % 12 + 1, 1)


def make_month(session: Session, month: date) -> bool:
    """Make the partition of a month; return False when there is one.

    Raises:
        DBAPIError: it waited too long for a lock (55P03), or events of the month lie beside all partitions (23514).
    """
    session.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
    return bool(session.scalar(_MAKE, {"month": month}))


def strays(session: Session) -> dict[str, int]:
    """Return how many events lie in no month's partition, by month ("2026-11"); they are found all the same, slower."""
    if not is_partitioned(session):
        return {}
    return {str(month): int(count) for month, count in session.execute(_STRAYS)}
