"""Q5: what shows that the log of a stretch of time is whole: seals, signed heads, where those went, who verified it.

The first and the last event are found by the index over the time, their places in the chain by the index over their
numbers, the heads of the period by the index over the time of signing, and the head that covers the period by its size.
Counting stops at 200 000. None of this is a proof by itself: ``firstread audit verify`` hashes every event again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.audit_anchor_models import AuditAnchor
from db.audit_models import AuditHead, AuditPending, AuditSeal
from db.models import AuditEvent
from db.queries.audit.keyset import Keyset
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Page, Question, Shown
from db.queries.audit.tagged import words

MOST_COUNTED = 200_000
_ORDER = Keyset(AuditHead.signed_at, AuditHead.size)


@dataclass(frozen=True)
class Interval:
    """Where the events of a period stand in the chain; places are None while the events wait for the seal."""

    events: int  # counted up to MOST_COUNTED + 1
    first: int | None = None  # position of the first event by time
    last: int | None = None  # of the last
    first_at: datetime | None = None
    last_at: datetime | None = None

    @property
    def is_sealed(self) -> bool:
        """Whether its ends have their places."""
        return self.first is not None and self.last is not None


def interval(session: Session, since: datetime, until: datetime) -> Interval:
    """Return where the events of ``since`` up to ``until`` stand."""
    inside = (AuditEvent.occurred_at >= since, AuditEvent.occurred_at < until)
    query = select(AuditEvent.seq, AuditEvent.occurred_at).where(*inside).limit(1)
    first = session.execute(query.order_by(AuditEvent.occurred_at, AuditEvent.seq)).first()
    last = session.execute(query.order_by(AuditEvent.occurred_at.desc(), AuditEvent.seq.desc())).first()
    if first is None or last is None:
        return Interval(0)
    some = select(AuditEvent.seq).where(*inside).limit(MOST_COUNTED + 1).subquery()
    events = session.scalar(select(func.count()).select_from(some)) or 0
    return Interval(events, _place(session, first.seq), _place(session, last.seq), first.occurred_at, last.occurred_at)


def sealed_to(session: Session) -> int:
    """Return the last place of the chain; -1 of an empty one."""
    last = session.scalar(select(func.max(AuditSeal.position)))
    return -1 if last is None else last


def _place(session: Session, seq: int) -> int | None:
    return session.scalar(select(AuditSeal.position).where(AuditSeal.seq == seq))


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the heads that were signed in the period, newest first, and what is known of the period."""
    since, until = answers.period()
    query = select(AuditHead).where(AuditHead.signed_at >= since, AuditHead.signed_at < until)
    rows, after = _ORDER.page(session, query, page)
    heads: list[AuditHead] = [row[0] for row in rows]
    anchors = _anchors(session, heads)
    facts = _facts(session, since, until) if page.is_first else []
    return Answered([_cells(head, anchors[head.size]) for head in heads], after, facts)


def _anchors(session: Session, heads: Sequence[AuditHead]) -> Mapping[int, list[AuditAnchor]]:
    found: dict[int, list[AuditAnchor]] = defaultdict(list)
    sizes = [head.size for head in heads]
    query = select(AuditAnchor).where(AuditAnchor.size.in_(sizes)).order_by(AuditAnchor.id)
    for one in session.scalars(query):
        found[one.size].append(one)
    return found


def _cells(head: AuditHead, anchors: Sequence[AuditAnchor]) -> Sequence[Cell]:
    good = [one for one in anchors if one.outcome == "success"]
    failed = [one.kind for one in anchors if one.outcome != "success" and one.kind not in {g.kind for g in good}]
    return (
        head.signed_at,
        head.size,
        head.root.hex(),
        head.chain.hex(),
        head.key_name,
        _said(good),
        ", ".join(sorted(set(failed))),
    )


def _said(anchors: Sequence[AuditAnchor]) -> str:
    return ", ".join(f"{one.kind} {one.anchored_at.isoformat(timespec='seconds')}" for one in anchors)


def _facts(session: Session, since: datetime, until: datetime) -> list[tuple[str, Cell]]:
    found = interval(session, since, until)
    facts: list[tuple[str, Cell]] = [
        ("events", found.events if found.events <= MOST_COUNTED else f"more than {MOST_COUNTED:,}".replace(",", " ")),
        ("first event at", found.first_at),
        ("last event at", found.last_at),
        ("place of the first", found.first if found.first is not None or not found.events else "waits for the seal"),
        ("place of the last", found.last if found.last is not None or not found.events else "waits for the seal"),
        ("events that wait for the seal now", session.scalar(select(func.count()).select_from(AuditPending))),
    ]
    if found.first is not None and found.last is not None:
        facts += [("places without a seal between them", _missing(session, found.first, found.last))]
        facts += _cover(session, found.last)
    return [*facts, *_verified(session)]


def _missing(session: Session, first: int, last: int) -> Cell:
    """Return how many places between two have no seal."""
    low, high = min(first, last), max(first, last)
    if high - low >= MOST_COUNTED:
        return "not counted: more than 200 000 places"
    held = session.scalar(select(func.count()).where(AuditSeal.position >= low, AuditSeal.position <= high))
    return high - low + 1 - (held or 0)


def _cover(session: Session, last: int) -> list[tuple[str, Cell]]:
    """Return the first head that covers the last event, and where it went."""
    query = select(AuditHead).where(AuditHead.size > last).order_by(AuditHead.size).limit(1)
    head = session.scalars(query).first()
    if head is None:
        return [("covered by the head of", "none is signed yet")]
    anchors = _anchors(session, [head])[head.size]
    return [
        ("covered by the head of", f"{head.size} events"),
        ("its root", head.root.hex()),
        ("signed at", head.signed_at),
        ("signed with the key", head.key_name),
        ("outside this system", _said([one for one in anchors if one.outcome == "success"]) or "nowhere yet"),
    ]


def _verified(session: Session) -> list[tuple[str, Cell]]:
    """Return the last verification on record."""
    query = select(AuditEvent).where(AuditEvent.tag == AuditTag.AUDIT_VERIFIED).order_by(AuditEvent.seq.desc())
    event = session.scalars(query.limit(1)).first()
    if event is None:
        return [("last verification", "none is on record")]
    return [
        ("last verification", event.occurred_at),
        ("by", event.actor),
        ("with the outcome", event.outcome),
        ("it said", words(event.detail)),
    ]


QUESTIONS = (
    Question(
        name="Q5",
        slug="integrity",
        title="Is the log of a period whole?",
        asks="Which seals and signed heads cover this time, where did they go, and who verified the log last?",
        source="21 CFR 11.10(a), (e); HIPAA 45 CFR 164.312(c)",
        parameters=PERIOD,
        columns=(
            Column("signed_at", "Signed at", Shown.INSTANT),
            Column("size", "Events", Shown.NUMBER),
            Column("root", "Root", Shown.CODE),
            Column("chain", "Chain", Shown.CODE),
            Column("key", "Key", Shown.CODE),
            Column("anchored", "Outside this system"),
            Column("failed", "Not there yet"),
        ),
        run=run,
    ),
)
