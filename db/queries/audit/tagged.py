"""Events of several kinds together, newest first, without reading the events between them."""

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.models import AuditEvent
from db.queries.audit.keyset import Key
from db.queries.audit.questions import Cell, Page
from db.report_models import UserAccount

COUNTED = 10_000  # nobody needs to know how many more there are


@dataclass(frozen=True)
class Span:
    """From ``since`` up to, not including, ``until``."""

    since: datetime
    until: datetime

    def holds(self, column: Any) -> Sequence[ColumnElement[bool]]:
        """Return the conditions that an instant is in it."""
        return (column >= self.since, column < self.until)


def newest(
    session: Session,
    tags: Iterable[AuditTag],
    span: Span | None,
    page: Page,
    *conditions: ColumnElement[bool],
    oldest_first: bool = False,
) -> tuple[Sequence[AuditEvent], Key | None]:
    """Return a page of the events with these tags, newest first, and the key of the next.

    One statement per tag, each of which reads as many entries of the index (tag, seq) as the page has rows, in the
    partitions of the span; then the events themselves by their numbers. One statement for all tags would make the
    database choose between sorting all of their events and reading all events there are.
    """
    within = (*(span.holds(AuditEvent.occurred_at) if span else ()), *conditions)
    after = seq_of(page)
    if after is not None:
        within = (*within, AuditEvent.seq > after if oldest_first else AuditEvent.seq < after)
    order = AuditEvent.seq.asc() if oldest_first else AuditEvent.seq.desc()
    found: list[int] = []
    for tag in sorted(tags):
        query = select(AuditEvent.seq).where(AuditEvent.tag == tag, *within)
        found += session.scalars(query.order_by(order).limit(page.limit + 1))
    chosen = (heapq.nsmallest if oldest_first else heapq.nlargest)(page.limit + 1, found)
    shown = chosen[: page.limit]
    return events_by_seq(session, shown, span), (shown[-1],) if len(chosen) > page.limit else None


def seq_of(page: Page) -> int | None:
    """Return the number that a page of events begins after; None on the first.

    Raises:
        RefusedInputError: the key is none of events.
    """
    if page.after is None:
        return None
    match page.after:
        case (int(seq),) if 0 <= seq < 2**63:
            return seq
    raise RefusedInputError("cursor: it is not of this question")


def events_by_seq(session: Session, numbers: Sequence[int], span: Span | None = None) -> Sequence[AuditEvent]:
    """Return the events with these numbers in this order; a span names the partitions they are in."""
    if not numbers:
        return []
    query = select(AuditEvent).where(AuditEvent.seq.in_(numbers))
    if span is not None:
        query = query.where(*span.holds(AuditEvent.occurred_at))
    rows = {one.seq: one for one in session.scalars(query)}
    return [rows[number] for number in numbers if number in rows]


def counted(session: Session, query: Select[Any]) -> Cell:
    """Return how many rows a query has, or ``more than 10 000``."""
    number = session.scalar(select(func.count()).select_from(query.limit(COUNTED + 1).subquery())) or 0
    return number if number <= COUNTED else f"more than {COUNTED:,}".replace(",", " ")


def body_of(event: AuditEvent) -> Mapping[str, Any]:
    """Return what an event's body says openly."""
    read: Mapping[str, Any] = json.loads(event.body)
    return read


def words(detail: Mapping[str, Any], *, without: Iterable[str] = ()) -> str:
    """Return details as text, ``name: value``, by name."""
    left_out = set(without)
    said = [f"{name}: {_word(value)}" for name, value in sorted(detail.items()) if name not in left_out]
    return "; ".join(said)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def logins(session: Session, ids: Iterable[UUID | None]) -> Mapping[UUID | None, str]:
    """Return the logins of accounts."""
    wanted = {one for one in ids if one is not None}
    rows = session.execute(select(UserAccount.id, UserAccount.login).where(UserAccount.id.in_(wanted)))
    return {key: login for key, login in rows} if wanted else {}  # noqa: C416 rows are no pairs to the type checker


def minutes(start: datetime | None, end: datetime | None) -> float | None:
    """Return the minutes between two instants, to a tenth; None when one of them is not known."""
    return None if start is None or end is None else round((end - start).total_seconds() / 60, 1)
