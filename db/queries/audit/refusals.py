"""Q7: which studies got no draft, and what drafts could not assess, by reason.

What the gates and the pipeline refused are events of a few kinds that are rare among all others, each read by the index
(tag, seq) in the partitions of the period. What an Expert failed at stands in ``draft_gap``, by its index over the
time. Each source gives as many rows as a page has; they are merged here.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, cast, func, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.audit_draft_models import DraftGap
from db.models import AuditEvent
from db.queries.audit.keyset import Key
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.report_models import Draft

_SOURCES: Mapping[str, tuple[AuditTag, ...]] = {
    "gate": (AuditTag.READING_NO_DRAFT,),
    "pipeline": (AuditTag.READING_FAILED, AuditTag.READING_RETRYING),
    "held": (AuditTag.READING_HELD,),
    "door": (AuditTag.INSTANCE_QUARANTINED,),
    "expert": (),  # draft_gap
}
_WORDS = {
    "gate": "a gate refused the study: no draft",
    "pipeline": "the pipeline failed",
    "held": "held for a person",
    "door": "an image was refused or doubted at the door",
    "expert": "an expert failed: not assessed",
}
_MOST_COUNTED = 20_000  # rows of each kind that the counts are made of
_MOST_REASONS = 30


@dataclass(frozen=True)
class _Refusal:
    """One row; ``rank`` and ``key`` order those of one instant."""

    at: datetime
    rank: int  # 1 of events, 0 of gaps
    key: Key
    cells: Sequence[Cell]


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return what was refused or failed, newest first; on the first page also how often by reason."""
    wanted = [answers.text("kind")] if answers.text("kind") else list(_SOURCES)
    after = _Position.of(page)
    found: list[Iterator[_Refusal]] = [
        iter(_events(session, answers, kind, tag, page.limit + 1, after)) for kind in wanted for tag in _SOURCES[kind]
    ]
    if "expert" in wanted:
        found.append(iter(_gaps(session, answers, page.limit + 1, after)))
    merged = list(heapq.merge(*found, key=lambda one: (one.at, one.rank, one.key if one.rank else ()), reverse=True))
    shown = merged[: page.limit]
    last = shown[-1] if len(merged) > page.limit else None
    facts = _counts(session, answers, wanted) if page.is_first else []
    return Answered(
        [one.cells for one in shown], None if last is None else (last.at.isoformat(), last.rank, *last.key), facts
    )


@dataclass(frozen=True)
class _Position:
    """The row that a page begins after; nothing came before the first."""

    at: datetime
    rank: int
    key: tuple[Any, ...]

    @classmethod
    def of(cls, page: Page) -> "_Position | None":
        """Return where the page begins.

        Raises:
            RefusedInputError: the key is not of this question.
        """
        try:
            match page.after:
                case None:
                    return None
                case (str(at), 1, int(seq)) if 0 <= seq < 2**63:
                    return cls(_instant(at), 1, (seq,))
                case (str(at), 0, str(draft), int(position)) if 0 <= position < 2**31:
                    return cls(_instant(at), 0, (UUID(draft), position))
        except ValueError:
            pass
        raise RefusedInputError("cursor: it is not of this question")


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment


def _events(
    session: Session, answers: Answers, kind: str, tag: AuditTag, limit: int, after: _Position | None
) -> Iterator[_Refusal]:
    query = select(AuditEvent).where(*_of_event(answers, tag))
    reason = _reason_of(session)
    if answers.text("reason"):
        query = query.where(reason == answers.text("reason"))
    if after is not None and after.rank == 1:
        query = query.where(tuple_(AuditEvent.occurred_at, AuditEvent.seq) < (after.at, *after.key))
    elif after is not None:
        query = query.where(AuditEvent.occurred_at < after.at)
    query = query.order_by(AuditEvent.occurred_at.desc(), AuditEvent.seq.desc()).limit(limit)
    for event in session.scalars(query):
        cells = (
            event.occurred_at, kind, "", str(event.detail.get("reason", "")), event.tag, event.study_id,
            event.reading_id, None,
        )  # fmt: skip
        yield _Refusal(event.occurred_at, 1, (event.seq,), cells)


def _gaps(session: Session, answers: Answers, limit: int, after: _Position | None) -> Iterator[_Refusal]:
    query = select(DraftGap, Draft.study_id, Draft.reading_id).join(Draft, Draft.id == DraftGap.draft_id)
    query = query.where(*_of_gap(answers))
    if answers.text("reason"):
        query = query.where(DraftGap.why == answers.text("reason"))
    if after is not None and after.rank == 0:
        this = tuple_(DraftGap.created_at, DraftGap.draft_id, DraftGap.position)
        query = query.where(this < (after.at, *after.key))
    elif after is not None:
        query = query.where(DraftGap.created_at <= after.at)
    order = (DraftGap.created_at.desc(), DraftGap.draft_id.desc(), DraftGap.position.desc())
    for gap, study_id, reading_id in session.execute(query.order_by(*order).limit(limit)):
        cells = (
            gap.created_at, "expert", gap.what, gap.why, "draft:not_assessed", study_id, reading_id, gap.draft_id,
        )  # fmt: skip
        yield _Refusal(gap.created_at, 0, (str(gap.draft_id), gap.position), cells)


def _of_event(answers: Answers, tag: AuditTag) -> Sequence[ColumnElement[bool]]:
    since, until = answers.period()
    return AuditEvent.tag == tag, AuditEvent.occurred_at >= since, AuditEvent.occurred_at < until


def _of_gap(answers: Answers) -> Sequence[ColumnElement[bool]]:
    since, until = answers.period()
    return DraftGap.created_at >= since, DraftGap.created_at < until


def _reason_of(session: Session) -> ColumnElement[str]:
    """Return the reason that an event's body states; null where it states none."""
    if session.get_bind().dialect.name == "postgresql":
        found: ColumnElement[str] = cast(AuditEvent.body, JSONB)[("detail", "reason")].astext
        return found
    return func.json_extract(AuditEvent.body, "$.detail.reason", type_=Text)


def _counts(session: Session, answers: Answers, wanted: Sequence[str]) -> list[tuple[str, Cell]]:
    """Return how often each reason was given, the most frequent first, among the newest of the period."""
    counts: Counter[str] = Counter()
    cut = False
    for kind in wanted:
        for tag in _SOURCES[kind]:
            query = select(_reason_of(session).label("why")).where(*_of_event(answers, tag))
            cut |= _count(session, query.order_by(AuditEvent.seq.desc()), kind, counts)
    if "expert" in wanted:
        query = select(DraftGap.why.label("why")).where(*_of_gap(answers)).order_by(DraftGap.created_at.desc())
        cut |= _count(session, query, "expert", counts)
    facts: list[tuple[str, Cell]] = [(words, number) for words, number in counts.most_common(_MOST_REASONS)]
    if len(counts) > _MOST_REASONS:
        facts.append(("other reasons", sum(counts.values()) - sum(int(str(number)) for _, number in facts)))
    note = [("counted", f"the newest {_MOST_COUNTED} of each kind; narrow the days for all")] if cut else []
    return [*facts, *note]


def _count(session: Session, query: Any, kind: str, counts: Counter[str]) -> bool:
    """Add one kind's reasons; return whether there were more than are counted."""
    newest = query.limit(_MOST_COUNTED + 1).subquery()
    total = 0
    for why, number in session.execute(select(newest.c.why, func.count()).group_by(newest.c.why)):
        counts[f"{kind}: {why or 'no reason given'}"] += number
        total += number
    return total > _MOST_COUNTED


QUESTIONS = (
    Question(
        name="Q7",
        slug="refusals-and-failures",
        title="Gate refusals and expert failures",
        asks="Which studies got no draft, and which experts failed, for which reasons and how often?",
        source="ISO 14971 clause 10; EU AI Act Art. 12, 26(5)",
        parameters=(
            Parameter("kind", Kind.CHOICE, "What", choices=_WORDS),
            Parameter("reason", Kind.TEXT, "Reason", longest=2000, hint="exactly as it is counted, without its kind"),
            *PERIOD,
        ),
        columns=(
            Column("at", "When", Shown.INSTANT),
            Column("kind", "Kind"),
            Column("what", "Not assessed"),
            Column("reason", "Reason"),
            Column("event", "Event", Shown.CODE),
            Column("study", "Study", Shown.STUDY),
            Column("reading", "Reading", Shown.CODE),
            Column("draft", "Draft", Shown.CODE),
        ),
        run=run,
    ),
)
