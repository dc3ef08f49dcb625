"""T2: what one person did: opened, signed, overrode, broke the glass; and how long they looked before they signed.

The page is read from the index (actor, seq), within the partitions of the period; the figures above it from the index
(user_id, signed_at) of the signatures.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.identity_models import BreakGlass
from db.models import AuditEvent
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, body_of, counted, seq_of, words
from db.report_models import Signature, UserAccount
from db.signing_models import SafetyCheck

_SIGNED = (
    AuditTag.REPORT_SIGNED_PRELIMINARY, AuditTag.REPORT_SIGNED_FINAL, AuditTag.REPORT_ADDENDED,
    AuditTag.REPORT_CORRECTED,
)  # fmt: skip
_WHICH: Mapping[str, tuple[str, Sequence[AuditTag]]] = {
    "all": ("everything", ()),
    "opened": ("reports opened", (AuditTag.REPORT_OPENED,)),
    "signed": ("signatures, with the warnings they override", _SIGNED),
    "decided": ("decisions on findings and drafts", (AuditTag.FINDING_DECIDED, AuditTag.REPORT_REJECTED)),
    "glass": ("breaking the glass", (AuditTag.BREAK_GLASS_GRANTED, AuditTag.BREAK_GLASS_USED)),
    "failed": ("what failed or was refused", ()),
}
_NEWEST = 500  # signatures that the median is of


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the events of one person in a period, newest first."""
    login = answers.text("login")
    span = Span(*answers.period())
    user_id = session.scalar(select(UserAccount.id).where(UserAccount.login == login))
    if user_id is None:
        raise RefusedInputError("login: there is no such account")
    which = answers.text("which")
    query = select(AuditEvent).where(AuditEvent.actor == login, *span.holds(AuditEvent.occurred_at))
    query = query.where(AuditEvent.actor_kind == "person")
    if tags := _WHICH[which][1]:
        query = query.where(AuditEvent.tag.in_(tags))
    if which == "failed":
        query = query.where(AuditEvent.outcome != "success")
    before = seq_of(page)
    if before is not None:
        query = query.where(AuditEvent.seq < before)
    events = session.scalars(query.order_by(AuditEvent.seq.desc()).limit(page.limit + 1)).all()
    shown = events[: page.limit]
    after = (shown[-1].seq,) if len(events) > page.limit else None
    facts = _facts(session, login, user_id, span) if page.is_first else ()
    return Answered([_row(one) for one in shown], after, facts)


def _facts(session: Session, login: str, user_id: UUID, span: Span) -> Sequence[tuple[str, Cell]]:
    opened = select(AuditEvent.seq).where(
        AuditEvent.actor == login, AuditEvent.tag == AuditTag.REPORT_OPENED, *span.holds(AuditEvent.occurred_at)
    )
    signed = select(Signature.id).where(Signature.user_id == user_id, *span.holds(Signature.signed_at))
    checks = (
        select(SafetyCheck.view_s, SafetyCheck.issues)
        .join(Signature, Signature.id == SafetyCheck.signature_id)
        .where(Signature.user_id == user_id, *span.holds(Signature.signed_at))
        .order_by(Signature.signed_at.desc())
        .limit(_NEWEST)
    )
    rows = session.execute(checks).all()
    glass = select(BreakGlass.id).where(BreakGlass.user_id == user_id, *span.holds(BreakGlass.granted_at))
    return (
        ("reports opened", counted(session, opened)),
        ("signatures", counted(session, signed)),
        (f"median seconds on the images before signing (newest {_NEWEST})", _median([row[0] for row in rows])),
        (f"warnings overridden with a reason (newest {_NEWEST} signatures)", sum(len(row[1]) for row in rows)),
        ("times the glass was broken", counted(session, glass)),
    )


def _median(seconds: Sequence[float]) -> float | None:
    return round(median(seconds), 1) if seconds else None


def _row(event: AuditEvent) -> list[Cell]:
    detail: Mapping[str, Any] = event.detail
    body = body_of(event)
    checks = detail.get("checks")
    seconds = checks.get("view_s") if isinstance(checks, dict) else None
    at: datetime = event.occurred_at
    return [
        event.seq,
        at,
        event.tag,
        event.outcome,
        event.study_id,
        event.object_type,
        event.object_id,
        str(detail.get("reason") or ""),
        _overridden(checks),
        seconds,
        str(body.get("role", "")),
        str(body.get("address") or detail.get("address") or ""),
        words(detail, without=("address", "reason", "checks", "objects")),
    ]


def _overridden(checks: Any) -> str:
    """Return the warnings a signature overrode, each with its reason."""
    issues = checks.get("overridden", []) if isinstance(checks, dict) else []
    return "; ".join(f"{one.get('rule', '')} ({one.get('section', '')}): {one.get('reason', '')}" for one in issues)


QUESTIONS = (
    Question(
        name="T2",
        slug="timeline-user",
        title="Timeline of one person",
        asks="What did this person open, sign, decide and override, and how long did they look before signing?",
        source="EU AI Act Art 14; 21 CFR 11.10(d)(g), 11.200; HIPAA 164.308(a)(1)(ii)(D)",
        parameters=(
            Parameter("login", Kind.TEXT, "Login", required=True, longest=64),
            *PERIOD,
            Parameter(
                "which",
                Kind.CHOICE,
                "Which",
                default="all",
                choices={name: told for name, (told, _) in _WHICH.items()},
            ),
        ),
        columns=(
            Column("seq", "Event", Shown.NUMBER),
            Column("at", "When", Shown.INSTANT),
            Column("tag", "What", Shown.CODE),
            Column("outcome", "Outcome"),
            Column("study_id", "Study", Shown.STUDY),
            Column("object_type", "Of a"),
            Column("object_id", "Object", Shown.CODE),
            Column("reason", "Reason"),
            Column("overridden", "Warnings overridden"),
            Column("seconds", "Seconds on the images", Shown.NUMBER),
            Column("role", "Role"),
            Column("address", "From"),
            Column("said", "More"),
        ),
        run=run,
    ),
)
