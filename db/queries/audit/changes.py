"""Q11: what was changed about people, models, rules, peers and wording: before, after, by whom, why, and who agreed.

The kinds of event are few and rare among views and images, so each is read from the index (tag, seq)
(``db.queries.audit.tagged``). Which kinds belong where follows from the vocabulary, so that a new one is not missed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.models import AuditEvent
from db.queries.audit.questions import PERIOD, Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import Span, body_of, logins, newest, words

_GROUPS: Mapping[str, str] = {
    "people": "people, roles, passkeys and tokens",
    "models": "models and licences",
    "configuration": "configuration, rules, certificates and the queue",
    "peers": "peers and destinations",
    "wording": "templates and macros",
    "retention": "legal holds, archives, erasure",
}
# subject of a tag -> group; None for those about what people do rather than what is in force
_SUBJECTS: Mapping[str, str] = {
    "user": "people", "passkey": "people", "token": "people", "role": "people",
    "model": "models", "licence": "models",
    "config": "configuration", "rule": "configuration", "rules": "configuration", "certificate": "configuration",
    "queue": "configuration", "schema": "configuration", "key": "configuration", "seal": "configuration",
    "peer": "peers", "destination": "peers",
    "wording": "wording",
}  # fmt: skip
_ACTS = frozenset(  # acts of those subjects that change nothing
    ("user:login", "user:login_failed", "user:logout", "user:reauthenticated", "user:reauthentication_failed",
     "user:screen_locked", "user:screen_unlocked", "model:loaded", "peer:tested", "destination:tested")
)  # fmt: skip
_RETAINED = ("study:hold_placed", "study:hold_lifted", "audit:hold_placed", "audit:hold_lifted", "audit:archived",
             "audit:removed", "audit:restored", "audit:disposed", "study:pixels_deleted")  # fmt: skip
_SECOND = frozenset((AuditTag.MODEL_SWITCH_APPROVED, AuditTag.MODEL_SWITCH_DECLINED))
_BEFORE, _AFTER = ("before", "from", "digest_before"), ("after", "to", "digest_after")
_WHY = ("reason", "answer", "why")


def group_of(tag: AuditTag) -> str:
    """Return the group of changes a kind of event belongs to; empty when it records no change."""
    subject = tag.value.partition(":")[0]
    if tag.value in _RETAINED or "erase" in tag.value:
        return "retention"
    if tag is AuditTag.AUDIT_KEY_ROTATED:
        return "configuration"
    return "" if tag.value in _ACTS else _SUBJECTS.get(subject, "")


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the changes of a period, newest first."""
    wanted = answers.text("what")
    tags = [tag for tag in AuditTag if group_of(tag) and wanted in {"", group_of(tag)}]
    actor = answers.text("actor")
    conditions = [AuditEvent.actor == actor] if actor else []
    events, after = newest(session, tags, Span(*answers.period()), page, *conditions)
    people = logins(session, (_account(one) for one in events))
    return Answered([_row(one, people) for one in events], after)


def _account(event: AuditEvent) -> UUID | None:
    if event.object_type == "user":
        with suppress(ValueError):
            return UUID(event.object_id)
    return None


def _row(event: AuditEvent, people: Mapping[UUID | None, str]) -> list[Cell]:
    detail, body = event.detail, body_of(event)
    before, after, why = (_first(detail, names) for names in (_BEFORE, _AFTER, _WHY))
    is_second = event.tag in _SECOND
    # "keys" are the digests of every setting there is
    rest = words(detail, without=(*_BEFORE, *_AFTER, *_WHY, "address", "proposed_by", "keys"))
    return [
        event.seq,
        event.occurred_at,
        str(detail.get("proposed_by", "")) if is_second else event.actor,
        event.actor if is_second else "",
        str(body.get("role", "")),
        event.tag,
        event.outcome,
        event.object_type,
        people.get(_account(event)) or str(detail.get("name") or event.object_id),
        before,
        after,
        why,
        rest,
        str(body.get("address") or detail.get("address") or ""),
        event.study_id,
    ]


def _first(detail: Mapping[str, Any], names: Sequence[str]) -> str:
    found = next((detail[name] for name in names if detail.get(name) not in (None, "")), "")
    return found if isinstance(found, str) else words({"": found})[2:]


QUESTIONS = (
    Question(
        name="Q11",
        slug="changes",
        title="Changes of people, models, rules and configuration",
        asks="What was changed in who may do what, which models draft and how this is set up: before, after, why?",
        source="21 CFR 11.10(d)(e)(k); EU AI Act Art 18; FDA PCCP guidance",
        parameters=(
            *PERIOD,
            Parameter("what", Kind.CHOICE, "What", choices=_GROUPS),
            Parameter("actor", Kind.TEXT, "By (login or process)", longest=64),
        ),
        columns=(
            Column("seq", "Event", Shown.NUMBER),
            Column("at", "When", Shown.INSTANT),
            Column("author", "Author"),
            Column("second", "Second person"),
            Column("role", "Role"),
            Column("tag", "What", Shown.CODE),
            Column("outcome", "Outcome"),
            Column("object_type", "Of a"),
            Column("object", "Which"),
            Column("before", "Before"),
            Column("after", "After"),
            Column("reason", "Reason"),
            Column("more", "More"),
            Column("address", "From"),
            Column("study_id", "Study", Shown.STUDY),
        ),
        run=run,
    ),
)
