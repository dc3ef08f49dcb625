"""T4: what went wrong in a stretch of time, and how each of it was resolved; and which drafts came late.

What failed is found by the partial index over events whose outcome is no success, and by the index (tag, seq) of the
kinds of event that mean trouble whatever their outcome says. How it went on is looked up by reading and object.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Float, func, or_, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag as T
from db.audit_draft_models import DraftModel
from db.models import FAILED, AuditEvent, Reading
from db.queries.audit.keyset import Key, Keyset
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, events_by_seq, newest, seq_of, words
from db.report_models import Draft
from db.types import PackageKind

LONGEST = timedelta(days=31)
_TROUBLE: Mapping[str, frozenset[T]] = {
    "readings": frozenset((T.READING_FAILED, T.READING_RETRYING, T.READING_REQUEUED, T.READING_NO_DRAFT,
                           T.READING_HELD, T.READING_MESSAGE_REPEATED)),
    "deliveries": frozenset((T.DELIVERY_FAILED, T.DELIVERY_POSTPONED, T.DELIVERY_NOT_COMMITTED,
                             T.DELIVERY_COMMITMENT_ALARM, T.NOTICE_FAILED, T.NOTICE_POSTPONED,
                             T.COMMITMENT_REPORT_FAILED)),
    "reception": frozenset((T.ASSOCIATION_REJECTED, T.INSTANCE_QUARANTINED, T.STUDY_IDENTITY_CONFLICT,
                            T.MESSAGE_REFUSED, T.PRIOR_REFUSED, T.PRIOR_FAILED)),
    "people": frozenset((T.USER_LOGIN_FAILED, T.USER_LOCKED_OUT, T.USER_REAUTHENTICATION_FAILED, T.ACCESS_REFUSED,
                         T.PASSKEY_CLONED)),
    "critical": frozenset((T.CRITICAL_ESCALATED,)),
}  # fmt: skip
_WHICH = {
    "all": "everything that failed",
    "readings": "readings that failed, were tried again, or gave no draft",
    "deliveries": "deliveries, notices and commitments that failed or were put off",
    "reception": "what was refused at reception",
    "people": "logins and access refused",
    "critical": "critical results that were escalated",
    "delays": "drafts that came late",
}
# how it can go on; the last of these is what is told
_RESOLVING = frozenset(
    (T.READING_DRAFTED, T.READING_NO_DRAFT, T.READING_FAILED, T.READING_CANCELLED, T.READING_PROCESS_AGAIN,
     T.READING_HELD, T.DELIVERY_DELIVERED, T.DELIVERY_COMMITTED, T.DELIVERY_WITHDRAWN, T.DELIVERY_RESUBMITTED,
     T.DELIVERY_FAILED, T.NOTICE_SENT, T.NOTICE_WITHDRAWN, T.NOTICE_RESUBMITTED, T.CRITICAL_CONFIRMED,
     T.CRITICAL_DISMISSED, T.CRITICAL_COMMUNICATED, T.COMMITMENT_REPORTED)
)  # fmt: skip


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return what went wrong, newest first.

    Raises:
        RefusedInputError: more than 31 days.
    """
    span = Span(*answers.period())
    if span.until - span.since > LONGEST:
        raise RefusedInputError(f"since: at most {LONGEST.days} days")
    which = answers.text("which")
    if which == "delays":
        return _late(session, span, page, slower_than_s=answers.number("minutes") * 60)
    if which == "all":
        events, after = _everything(session, span, page)
    else:
        events, after = newest(session, _TROUBLE[which], span, page)
    resolved = _resolved(session, events)
    return Answered([_row(one, resolved) for one in events], after)


def _everything(session: Session, span: Span, page: Page) -> tuple[Sequence[AuditEvent], Key | None]:
    """Return the page of all that means trouble by its kind, or failed by its outcome."""
    tags = frozenset[T]().union(*_TROUBLE.values())
    by_kind, more = newest(session, tags, span, page)
    query = select(AuditEvent.seq).where(FAILED, *span.holds(AuditEvent.occurred_at))
    before = seq_of(page)
    if before is not None:
        query = query.where(AuditEvent.seq < before)
    failed = session.scalars(query.order_by(AuditEvent.seq.desc()).limit(page.limit + 1)).all()
    chosen = heapq.nlargest(page.limit + 1, {*(one.seq for one in by_kind), *failed})
    shown = chosen[: page.limit]
    is_more = len(chosen) > page.limit or more is not None
    return events_by_seq(session, shown, span), (shown[-1],) if is_more and shown else None


def _resolved(session: Session, events: Sequence[AuditEvent]) -> Mapping[str, Sequence[AuditEvent]]:
    """Return what became of the readings and objects of these events, by their ids, in order."""
    readings = {one.reading_id for one in events if one.reading_id is not None}
    objects = {one.object_id for one in events if one.object_id and one.object_type in _FOLLOWED}
    found: dict[str, list[AuditEvent]] = defaultdict(list)
    first = min((one.occurred_at for one in events), default=None)
    same: list[ColumnElement[bool]] = []
    if readings:
        same.append(AuditEvent.reading_id.in_(readings))
    if objects:
        same.append(AuditEvent.object_id.in_(objects))
    if not same or first is None:
        return found
    # the tag is no condition: the database would read all events of it to intersect them
    query = select(AuditEvent).where(or_(*same), AuditEvent.occurred_at >= first).order_by(AuditEvent.seq)
    for one in session.scalars(query):
        if one.tag in _RESOLVING:
            found[_followed(one)].append(one)
    return found


_FOLLOWED = frozenset(("delivery", "critical_notice", "critical_alert", "commitment"))


def _followed(event: AuditEvent) -> str:
    return event.object_id if event.object_type in _FOLLOWED else str(event.reading_id or "")


def _row(event: AuditEvent, resolved: Mapping[str, Sequence[AuditEvent]]) -> list[Cell]:
    detail = event.detail
    later = [one for one in resolved.get(_followed(event), ()) if one.seq > event.seq] if _followed(event) else []
    last = later[-1] if later else None
    return [
        event.occurred_at,
        event.tag,
        event.outcome,
        event.actor,
        event.study_id,
        event.object_type or ("reading" if event.reading_id else ""),
        event.object_id or str(event.reading_id or ""),
        str(detail.get("reason") or detail.get("error") or ""),
        words(detail, without=("reason", "error")),
        last.tag if last else "",
        last.actor if last else "",
        last.occurred_at if last else None,
    ]


def _late(session: Session, span: Span, page: Page, *, slower_than_s: float) -> Answered:
    """Return the drafts of the time that came later after their Study was whole than they should."""
    took = _seconds(session)
    query = (
        select(Reading, took.label("took"))
        .select_from(DraftModel)
        .join(Draft, Draft.id == DraftModel.draft_id)
        .join(Reading, Reading.id == Draft.reading_id)
        .where(DraftModel.kind == PackageKind.VLM.value, *span.holds(DraftModel.created_at), took > slower_than_s)
    )
    order = Keyset(DraftModel.created_at, DraftModel.draft_id)
    rows: Any
    rows, after = order.page(session, query, page)
    return Answered([_late_row(row[0], row[1], row[2]) for row in rows], after)


def _late_row(reading: Reading, seconds: float, at: Any) -> list[Cell]:
    said = {"attempts": reading.attempts, "priority": reading.priority.value, "rule": reading.rule}
    why = f"{seconds / 60:.1f} minutes after the study was whole"
    return [
        at, "late draft", "", "worker", reading.study_id, "reading", str(reading.id), why, words(said),
        T.READING_DRAFTED.value, "worker", reading.finished_at,
    ]  # fmt: skip


def _seconds(session: Session) -> ColumnElement[float]:
    """Return the seconds from the completion of a Reading's Study to its draft."""
    if session.get_bind().dialect.name == "sqlite":
        days = func.julianday(Reading.finished_at) - func.julianday(Reading.completed_at)
        return (days * 86400.0).cast(Float)
    return func.extract("epoch", Reading.finished_at - Reading.completed_at).cast(Float)


QUESTIONS = (
    Question(
        name="T4",
        slug="incidents",
        title="Incidents in a stretch of time",
        asks="What failed, was refused or came late between these days, and how was each of it resolved?",
        source="EU AI Act Art 26(5), 73; EU MDR Art 87; 21 CFR 11.300(d)",
        parameters=(
            Parameter("since", Kind.DATE, "From", default="-7d", hint="at most 31 days"),
            Parameter("until", Kind.DATE, "To", default="today", ends=True),
            Parameter("which", Kind.CHOICE, "Which", default="all", choices=_WHICH),
            Parameter("minutes", Kind.NUMBER, "Late is more than (minutes)", default="30", most=100_000),
        ),
        columns=(
            Column("at", "When", Shown.INSTANT),
            Column("tag", "What", Shown.CODE),
            Column("outcome", "Outcome"),
            Column("actor", "Actor"),
            Column("study_id", "Study", Shown.STUDY),
            Column("object_type", "Of a"),
            Column("object_id", "Object", Shown.CODE),
            Column("reason", "Reason"),
            Column("said", "More"),
            Column("resolved", "Went on to", Shown.CODE),
            Column("resolved_by", "By"),
            Column("resolved_at", "At", Shown.INSTANT),
        ),
        run=run,
    ),
)
