"""E1: any combination of conditions on events, each with a plan that does not read the whole log.

Conditions come in three kinds. *Narrow* ones (study, patient, report, object) have an index whose entries for one value
are few. *Ordered* ones (actor, tag) have an index in the order of the page. *Loose* ones (role, address, kind, outcome,
object type, text) have none. Without a narrow condition a loose one needs a stretch of at most 31 days, and so does
the absence of any condition; and it is looked for among 20 000 events at a time: a page may be short and go on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, String, cast, exists, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.models import AuditEvent, AuditPrivate, Study
from db.queries.audit.keyset import Key
from db.queries.audit.named_studies import STUDY, named_studies
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import body_of, counted, newest, seq_of, words
from db.report_models import Report
from db.types import Role

LONGEST = timedelta(days=31)
LOOKED_AT = 20_000  # events, for one page, where no index finds what is asked for
_KINDS = {"person": "a person", "process": "a process", "peer": "a peer"}
_NARROW = ("study", "patient", "report", "object_id")
_LOOSE = ("kind", "role", "outcome", "object_type", "address", "text")


@dataclass(frozen=True)
class _Conditions:
    """What was asked for, sorted by what the database can do with it."""

    indexed: Sequence[ColumnElement[bool]]  # and the span
    tags: Sequence[AuditTag]  # empty: any
    loose: Sequence[ColumnElement[bool]]
    narrow: bool


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the events that meet every condition, in the order they were written."""
    asked = _conditions(session, answers)
    oldest_first = answers.text("order") == "oldest"
    if asked.tags and not asked.narrow and not asked.loose:
        events, after = newest(session, asked.tags, None, page, *asked.indexed, oldest_first=oldest_first)
    else:
        events, after = _looked_for(session, asked, page, oldest_first=oldest_first)
    facts: list[tuple[str, Cell]] = []
    if page.is_first and not asked.loose:
        query = select(AuditEvent.seq).where(*asked.indexed, *_tagged(asked.tags))
        facts.append(("events", counted(session, query)))
    return Answered([_row(one) for one in events], after, facts)


def _looked_for(
    session: Session, asked: _Conditions, page: Page, *, oldest_first: bool
) -> tuple[Sequence[AuditEvent], Key | None]:
    """Return the matches among the next 20 000 candidates, and where to go on."""
    start = seq_of(page)
    within = [*asked.indexed, *_tagged(asked.tags)]
    if start is not None:
        within.append(AuditEvent.seq > start if oldest_first else AuditEvent.seq < start)
    order = AuditEvent.seq.asc() if oldest_first else AuditEvent.seq.desc()
    last: int | None = None
    if asked.loose:
        some = select(AuditEvent.seq).where(*within).order_by(order).limit(LOOKED_AT).subquery()
        edge = func.max(some.c.seq) if oldest_first else func.min(some.c.seq)
        number, last = session.execute(select(func.count(), edge).select_from(some)).one()
        if last is None:
            return [], None
        within.append(AuditEvent.seq <= last if oldest_first else AuditEvent.seq >= last)
        last = last if number == LOOKED_AT else None
    query = select(AuditEvent).where(*within, *asked.loose).order_by(order).limit(page.limit + 1)
    events = session.scalars(query).all()
    if len(events) > page.limit:
        return events[: page.limit], (events[page.limit - 1].seq,)
    return events, None if last is None else (last,)


def _tagged(tags: Sequence[AuditTag]) -> list[ColumnElement[bool]]:
    return [AuditEvent.tag.in_(tags)] if tags else []


def _conditions(session: Session, answers: Answers) -> _Conditions:
    since, until = answers.instant("since"), answers.instant("until")
    narrow = any(answers.values.get(name) for name in _NARROW)
    _require_narrow_enough(answers, narrow=narrow, since=since, until=until)
    indexed: list[ColumnElement[bool]] = []
    if since is not None:
        indexed.append(AuditEvent.occurred_at >= since)
    if until is not None:
        indexed.append(AuditEvent.occurred_at < until)
    indexed += _narrow(session, answers)
    if actor := answers.text("actor"):
        indexed.append(AuditEvent.actor == actor)
    return _Conditions(indexed, tags_named(answers.text("tag")), _loose(session, answers), narrow)


def _require_narrow_enough(answers: Answers, *, narrow: bool, since: datetime | None, until: datetime | None) -> None:
    """Refuse what would read the whole log, and say what is missing."""
    loose = [name for name in _LOOSE if answers.text(name)]
    if "text" in loose and (since is None or until is None):
        raise RefusedInputError("text: words are looked for in a stretch of time: give From and To")
    ordered = any(answers.text(name) for name in ("actor", "tag"))
    if narrow or (ordered and not loose):
        return
    if since is None or until is None or until - since > LONGEST:
        needed = f"{loose[0]}: this" if loose else "since: this"
        raise RefusedInputError(
            f"{needed} needs From and To, {LONGEST.days} days apart at most, or a study, patient, report or object id"
        )


def tags_named(text: str) -> Sequence[AuditTag]:
    """Return the kinds of event that ``subject:action`` or ``subject:*`` names; none for an empty text.

    Raises:
        RefusedInputError: there is none.
    """
    if not text:
        return ()
    subject, _, action = text.partition(":")
    tags = [tag for tag in AuditTag if tag.value == text or (action == "*" and tag.value.startswith(f"{subject}:"))]
    if not tags:
        raise RefusedInputError("tag: there is no such kind of event; subject:* names all of a subject")
    return tags


def _narrow(session: Session, answers: Answers) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if study := answers.text("study"):
        found.append(AuditEvent.study_id.in_(named_studies(session, study)))
    if patient := answers.text("patient"):
        found.append(AuditEvent.study_id.in_(_studies_of(session, patient, answers.text("issuer"))))
    if report := answers.uuid("report"):
        # the study has an index, the report has none
        study_id = session.scalar(select(Report.study_id).where(Report.id == report))
        found += [AuditEvent.study_id == study_id, AuditEvent.report_id == report]
    if object_id := answers.text("object_id"):
        found.append(AuditEvent.object_id == object_id)
    return found


def _studies_of(session: Session, patient: str, issuer: str) -> Sequence[UUID]:
    query = select(Study.id).where(Study.patient_id == patient)
    if issuer:
        query = query.where(Study.issuer_of_patient_id == issuer)
    return session.scalars(query.order_by(Study.id).limit(1000)).all()


def _loose(session: Session, answers: Answers) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for name, column in (("kind", AuditEvent.actor_kind), ("object_type", AuditEvent.object_type)):
        if value := answers.text(name):
            found.append(column == value)
    if outcome := answers.text("outcome"):
        found.append(AuditEvent.outcome == "success" if outcome == "success" else AuditEvent.outcome != "success")
    found += [_said(session, name) == answers.text(name) for name in ("role", "address") if answers.text(name)]
    if text := answers.text("text"):
        found.append(_worded(session, text, with_private=answers.text("private") == "yes"))
    return found


def _said(session: Session, name: str) -> ColumnElement[str]:
    """Return what an event's body says of ``name``; of an older one's address, what its details do."""
    if session.get_bind().dialect.name == "sqlite":
        first, second = (func.json_extract(AuditEvent.body, path) for path in (f"$.{name}", f"$.detail.{name}"))
    else:
        body = cast(AuditEvent.body, JSONB)
        first, second = body[name].astext, body["detail"][name].astext
    return func.coalesce(first, second, type_=String())


def _worded(session: Session, text: str, *, with_private: bool) -> ColumnElement[bool]:
    """Return the condition that an event's words hold this text; letters A to Z in either case."""
    wanted = json.dumps(text, ensure_ascii=False)[1:-1]
    # SQLite knows no other letters, PostgreSQL those of its locale
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    wanted = "".join(one.lower() if one.isascii() else one for one in wanted) if is_sqlite else wanted.lower()
    openly = func.lower(AuditEvent.body).contains(wanted, autoescape=True)
    if not with_private:
        return openly
    apart = func.lower(cast(AuditPrivate.content, String)).contains(json.dumps(text)[1:-1].lower(), autoescape=True)
    return openly | exists().where(AuditPrivate.seq == AuditEvent.seq, apart)


def _row(event: AuditEvent) -> list[Cell]:
    body: Mapping[str, Any] = body_of(event)
    detail = event.detail
    return [
        event.seq,
        event.occurred_at,
        event.actor,
        event.actor_kind,
        str(body.get("role", "")),
        str(body.get("address") or detail.get("address") or ""),
        event.tag,
        event.outcome,
        event.study_id,
        event.report_id,
        event.object_type,
        event.object_id,
        words(detail, without=("address",)),
    ]


QUESTIONS = (
    Question(
        name="E1",
        slug="events",
        title="Events by any conditions",
        asks="Which events meet all of these conditions?",
        source="21 CFR 11.10(e); HIPAA 164.312(b)",
        parameters=(
            Parameter("since", Kind.DATE, "From", hint="a day of site time, or an instant with its zone"),
            Parameter("until", Kind.DATE, "To", ends=True, hint="the whole day"),
            Parameter("tag", Kind.TEXT, "Kind of event", longest=64, hint="report:viewed, or report:*"),
            Parameter("actor", Kind.TEXT, "Actor", longest=64, hint="login, process or AE title"),
            Parameter("kind", Kind.CHOICE, "Actor is", choices=_KINDS),
            Parameter("role", Kind.CHOICE, "Role", choices={one.value: one.value for one in Role}),
            Parameter(
                "outcome", Kind.CHOICE, "Outcome", choices={"success": "success", "failure": "anything but success"}
            ),
            Parameter("study", STUDY.kind, STUDY.label, private=True, longest=64),
            Parameter("patient", Kind.TEXT, "Patient ID", private=True, longest=64),
            Parameter("issuer", Kind.TEXT, "Issuer of the Patient ID", private=True, longest=64),
            Parameter("report", Kind.UUID, "Report"),
            Parameter("object_type", Kind.TEXT, "Object is a", longest=32, hint="delivery, model, user …"),
            Parameter("object_id", Kind.TEXT, "Object id", longest=64),
            Parameter("address", Kind.TEXT, "From the address", longest=64),
            Parameter("text", Kind.TEXT, "Words", private=True, longest=100, hint="in a stretch of time"),
            Parameter(
                "private",
                Kind.CHOICE,
                "Words also in what is kept apart",
                default="no",
                choices={"no": "no", "yes": "yes: names and texts of patients"},
            ),
            Parameter(
                "order",
                Kind.CHOICE,
                "Order",
                default="newest",
                choices={"newest": "newest first", "oldest": "oldest first"},
            ),
        ),
        columns=(
            Column("seq", "Event", Shown.NUMBER),
            Column("at", "When", Shown.INSTANT),
            Column("actor", "Actor"),
            Column("kind", "Is"),
            Column("role", "Role"),
            Column("address", "From"),
            Column("tag", "What", Shown.CODE),
            Column("outcome", "Outcome"),
            Column("study_id", "Study", Shown.STUDY),
            Column("report_id", "Report", Shown.CODE),
            Column("object_type", "Of a"),
            Column("object_id", "Object", Shown.CODE),
            Column("said", "Said"),
        ),
        run=run,
    ),
)
