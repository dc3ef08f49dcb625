"""What happens to old audit events: archived in a bundle, taken out of the table, put back, disposed of; and holds.

Taking events out leaves their seals: the chain and the tree are whole without the text, and a bundle that is put back
has to fit the leaves. The database lets an event go only when an archive covers it (migration 0033).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, insert, or_, select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.audit_archive_models import AuditArchive, AuditHold
from db.audit_models import AuditHead, AuditPending, AuditSeal
from db.audit_record import instant
from db.models import AuditEvent, Study
from db.types import utcnow
from db.uow import UnitOfWork

_AT_ONCE = 5000  # rows of one statement


@dataclass(frozen=True)
class ArchivedEvent:
    """One event as a bundle holds it; ``at`` as in the body."""

    position: int
    seq: int
    at: str
    mark: str
    body: str
    occurred_at: datetime


def next_interval(session: Session, before: datetime) -> tuple[AuditHead | None, AuditHead] | None:
    """Return the heads that the next bundle lies between: the last bundle's end, and the last one signed by ``before``.

    The first head is None for the beginning of the log. None when there is nothing new to archive.
    """
    first = session.scalar(select(func.max(AuditArchive.end_position))) or 0
    newest = select(AuditHead).where(AuditHead.signed_at < before, AuditHead.size > first)
    end = session.scalars(newest.order_by(AuditHead.size.desc()).limit(1)).first()
    if end is None:
        return None
    return (session.get(AuditHead, first) if first else None), end


def archives(session: Session) -> list[AuditArchive]:
    """Return what was archived, oldest first."""
    return list(session.scalars(select(AuditArchive).order_by(AuditArchive.first_position)))


def sealed_events(session: Session, first: int, end: int) -> Iterator[tuple[bytes, ArchivedEvent]]:
    """Yield leaf and event of each position of an interval, in order.

    Raises:
        RefusedInputError: the event of a position is not in the table.
    """
    query = (
        select(
            AuditSeal.position, AuditSeal.seq, AuditSeal.leaf, AuditEvent.occurred_at, AuditEvent.mark, AuditEvent.body
        )
        .join(
            AuditEvent,
            (AuditEvent.seq == AuditSeal.seq) & (AuditEvent.occurred_at == AuditSeal.occurred_at),
            isouter=True,
        )
        .where(AuditSeal.position >= first, AuditSeal.position < end)
        .order_by(AuditSeal.position)
        .execution_options(yield_per=2000)
    )
    for position, seq, leaf, occurred_at, mark, body in session.execute(query):
        if body is None:
            raise RefusedInputError(f"the event at position {position} (seq {seq}) is not in the table")
        yield leaf, ArchivedEvent(position, seq, instant(occurred_at), mark or "", body, occurred_at)


def record_archive(uow: UnitOfWork, archive: AuditArchive) -> None:
    """Record that a bundle holds an interval.

    Raises:
        LifecycleError: the interval does not follow the last bundle.
    """
    last = uow.session.scalar(select(func.max(AuditArchive.end_position))) or 0
    if archive.first_position != last:
        raise LifecycleError(f"the last bundle ends at {last}: somebody else archived, or this one leaves a gap")
    uow.session.add(archive)
    _tell(uow, AuditTag.AUDIT_ARCHIVED, archive)


def remove_archived(uow: UnitOfWork, archive: AuditArchive) -> int:
    """Take the events of a bundle out of the table; return how many. Their text is in the bundle, so a hold is kept."""
    gone = 0
    for first in range(archive.first_position, archive.end_position, _AT_ONCE):
        end = min(first + _AT_ONCE, archive.end_position)
        chosen = select(AuditSeal.seq).where(AuditSeal.position >= first, AuditSeal.position < end)
        done = uow.session.connection().execute(delete(AuditEvent.__table__).where(AuditEvent.seq.in_(chosen)))  # type: ignore[arg-type]
        gone += done.rowcount
    _tell(uow, AuditTag.AUDIT_REMOVED, archive, events=gone)
    return gone


def put_back(uow: UnitOfWork, archive: AuditArchive, events: Iterable[ArchivedEvent]) -> int:
    """Put the events of a bundle back into the table; those that are there stay. Return how many came back."""
    came = 0
    chunk: list[ArchivedEvent] = []
    for event in events:
        chunk.append(event)
        if len(chunk) == _AT_ONCE:
            came += _insert(uow.session, chunk)
            chunk = []
    came += _insert(uow.session, chunk)
    _tell(uow, AuditTag.AUDIT_RESTORED, archive, events=came)
    return came


def _insert(session: Session, events: Sequence[ArchivedEvent]) -> int:
    if not events:
        return 0
    first, end = events[0].position, events[-1].position + 1
    sealed = select(AuditSeal.seq).where(AuditSeal.position >= first, AuditSeal.position < end)
    there = set(session.scalars(select(AuditEvent.seq).where(AuditEvent.seq.in_(sealed))))
    rows = [
        {"seq": e.seq, "occurred_at": e.occurred_at, "body": e.body, "mark": e.mark or None}
        for e in events
        if e.seq not in there
    ]
    if rows:
        session.connection().execute(insert(AuditEvent.__table__), rows)  # type: ignore[arg-type]
        # they have their seals: they do not wait for another
        session.execute(delete(AuditPending).where(AuditPending.seq.in_(sealed)))
    return len(rows)


def record_disposal(uow: UnitOfWork, archive: AuditArchive, classes: Sequence[str], studies: Collection[UUID]) -> None:
    """Record that the texts of some classes of a bundle, which are about ``studies`` too, are disposed of.

    Raises:
        LifecycleError: a legal hold stands on one of the studies, or on an instant of the bundle.
    """
    held = [key for key in studies if (study := uow.session.get(Study, key)) is not None and study.legal_hold]
    if held:
        raise LifecycleError(f"a legal hold stands on {len(held)} of the studies these events are about")
    for hold in standing_holds(uow.session):
        if _covers(uow.session, hold, archive):
            raise LifecycleError(f"a legal hold stands on these events since {hold.placed_at:%Y-%m-%d}: {hold.id}")
    _tell(uow, AuditTag.AUDIT_DISPOSED, archive, classes=list(classes))


def _covers(session: Session, hold: AuditHold, archive: AuditArchive) -> bool:
    """Return whether an event of the bundle occurred in the interval of a hold; the seals know, the text may be out."""
    query = select(AuditSeal.seq).where(
        AuditSeal.position >= archive.first_position, AuditSeal.position < archive.end_position
    )
    query = query.where(AuditSeal.occurred_at >= hold.since) if hold.since else query
    query = query.where(AuditSeal.occurred_at < hold.until) if hold.until else query
    return session.scalars(query.limit(1)).first() is not None


def _tell(uow: UnitOfWork, tag: AuditTag, archive: AuditArchive, **more: object) -> None:
    detail = {
        "first": archive.first_position,
        "end": archive.end_position,
        "file": archive.file,
        "sha256": archive.sha256,
        **more,
    }
    uow.audit(tag, object_type="audit_archive", object_id=str(archive.first_position), detail=detail)


# --- holds ---------------------------------------------------------------------------------------------------


def place_hold(
    uow: UnitOfWork, *, reason: str, since: datetime | None = None, until: datetime | None = None
) -> AuditHold:
    """Place a legal hold on the record of an interval (an open end reaches to the end of the log).

    Raises:
        RefusedInputError: no reason, no interval, or one that ends before it begins.
    """
    words = reason.strip()[:400]
    if not words:
        raise RefusedInputError("a legal hold needs a reason")
    if since is None and until is None:
        raise RefusedInputError("a legal hold on the record needs a first or a last day; a study is held by itself")
    if since and until and since >= until:
        raise RefusedInputError("the interval ends before it begins")
    hold = AuditHold(since=since, until=until, reason=words, placed_by=uow.actor.name)
    uow.session.add(hold)
    uow.session.flush()
    _tell_hold(uow, AuditTag.AUDIT_HOLD_PLACED, hold, words)
    return hold


def lift_hold(uow: UnitOfWork, hold_id: UUID, *, reason: str) -> None:
    """Lift a legal hold.

    Raises:
        RefusedInputError: no reason, or no such hold.
        LifecycleError: it was lifted before.
    """
    hold = uow.session.get(AuditHold, hold_id)
    if hold is None or not reason.strip():
        raise RefusedInputError("there is no such hold" if hold is None else "lifting a hold needs a reason")
    if hold.lifted_at is not None:
        raise LifecycleError("the hold was lifted before")
    hold.lifted_at, hold.lifted_by = utcnow(), uow.actor.name
    _tell_hold(uow, AuditTag.AUDIT_HOLD_LIFTED, hold, reason.strip()[:400])


def _tell_hold(uow: UnitOfWork, tag: AuditTag, hold: AuditHold, reason: str) -> None:
    ends = {name: instant(at) for name, at in (("since", hold.since), ("until", hold.until)) if at}
    uow.audit(tag, object_type="audit_hold", object_id=str(hold.id), detail={"reason": reason, **ends})


def standing_holds(session: Session) -> list[AuditHold]:
    """Return the holds that stand, oldest first."""
    return list(session.scalars(select(AuditHold).where(AuditHold.lifted_at.is_(None)).order_by(AuditHold.placed_at)))


def held_studies(session: Session, study_ids: Collection[UUID]) -> list[UUID]:
    """Return those of the studies that are held, by themselves or by an event of theirs in a held interval."""
    held = select(Study.id).where(Study.id.in_(study_ids), Study.legal_hold)
    named = set(session.scalars(held))
    spans = [
        (AuditEvent.occurred_at >= hold.since if hold.since else AuditEvent.seq > 0)
        & (AuditEvent.occurred_at < hold.until if hold.until else AuditEvent.seq > 0)
        for hold in standing_holds(session)
    ]
    if spans:
        query = select(AuditEvent.study_id).where(AuditEvent.study_id.in_(study_ids), or_(*spans)).distinct()
        named |= {one for one in session.scalars(query) if one}
    return sorted(named, key=str)
