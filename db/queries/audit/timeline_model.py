"""T3: the life of a model version here: how it came, who let it draft on what grounds, what it drafted, its end.

Its events are found by the index (object_id, seq) under the ids of its packages and the hashes of their licences; what
it drafted is counted over ``draft_model``. The drafts themselves are Q13.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit_draft_models import DraftModel
from db.models import AuditEvent
from db.package_models import Package
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.recall import WHAT_FOLLOWED
from db.queries.audit.tagged import counted, seq_of, words

_GROUNDS = ("reason", "answer", "source", "faults")


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the events of a model's packages, oldest first."""
    name, version = answers.text("package"), answers.text("version")
    packages = _packages(session, name, version)
    drafted = _drafted(name, version)
    if not packages and session.scalar(drafted.limit(1)) is None:
        raise RefusedInputError("package: there is none of this name and version, and no draft by one")
    # a worker says by name which it loaded
    named = [name, *(str(one.id) for one in packages), *(one.licence_sha256 for one in packages)]
    query = select(AuditEvent).where(AuditEvent.object_id.in_(named), AuditEvent.object_type.in_(("model", "licence")))
    start = seq_of(page)
    if start is not None:
        query = query.where(AuditEvent.seq > start)
    events = session.scalars(query.order_by(AuditEvent.seq).limit(page.limit + 1)).all()
    shown = events[: page.limit]
    after = (shown[-1].seq,) if len(events) > page.limit else None
    known = {str(one.id): one for one in packages}
    facts = _facts(session, drafted, packages) if page.is_first else ()
    return Answered([_row(one, known) for one in shown], after, facts)


def _packages(session: Session, name: str, version: str) -> Sequence[Package]:
    query = select(Package).where(Package.name == name)
    if version:
        query = query.where(Package.version == version)
    return session.scalars(query.order_by(Package.imported_at)).all()


def _drafted(name: str, version: str) -> Any:
    query = select(DraftModel.draft_id).where(DraftModel.package == name)
    return query.where(DraftModel.version == version) if version else query


def _facts(session: Session, drafted: Select[UUID], packages: Sequence[Package]) -> Sequence[tuple[str, Cell]]:
    at: Any = drafted.with_only_columns(DraftModel.created_at).limit(1)
    first = session.scalar(at.order_by(DraftModel.created_at.asc()))  # each from one end of the index
    last = session.scalar(at.order_by(DraftModel.created_at.desc()))
    facts: list[tuple[str, Cell]] = [
        (f"{one.name} {one.version} {one.revision[:12]}".strip(), f"{one.state.value} {one.manifest_sha256}")
        for one in packages
    ]
    facts += [("drafts", counted(session, drafted)), ("first draft", first), ("last draft", last)]
    return [*facts, *((told, counted(session, among(drafted))) for told, among in WHAT_FOLLOWED.items())]


def _row(event: AuditEvent, packages: Mapping[str, Package]) -> list[Cell]:
    detail = event.detail
    package = packages.get(event.object_id)
    return [
        event.seq,
        event.occurred_at,
        event.tag,
        event.outcome,
        str(detail.get("proposed_by", "")),
        event.actor,
        package.version if package else str(detail.get("version", "")),
        package.manifest_sha256 if package else event.object_id,
        words({name: detail[name] for name in _GROUNDS if detail.get(name)}),
        words(detail, without=(*_GROUNDS, "proposed_by", "name", "version")),
    ]


QUESTIONS = (
    Question(
        name="T3",
        slug="timeline-model",
        title="Timeline of one model version",
        asks="Who let this version draft, when and on what grounds, what did it draft, and what became of that?",
        source="FDA PCCP guidance; EU AI Act Art 12, 18, 72; EU MDR Annex I 17",
        parameters=(
            Parameter("package", Kind.TEXT, "Model package", required=True, longest=64),
            Parameter("version", Kind.TEXT, "Version", longest=64),
        ),
        columns=(
            Column("seq", "Event", Shown.NUMBER),
            Column("at", "When", Shown.INSTANT),
            Column("tag", "What", Shown.CODE),
            Column("outcome", "Outcome"),
            Column("proposed_by", "Proposed by"),
            Column("actor", "By"),
            Column("version", "Version"),
            Column("sha256", "Manifest or licence", Shown.CODE),
            Column("grounds", "On what grounds"),
            Column("said", "More"),
        ),
        run=run,
    ),
)
