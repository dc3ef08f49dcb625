"""Q13: which drafts a version had a part in, what became of each, who saw it and where it went: the recall list.

The page is read from the index (package, version, created_at, draft_id) of ``draft_model``, or the one that begins
with the hash of the weights; what is told of its drafts is looked up by the ids of their studies, a statement each.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.audit_draft_models import DraftModel, ModelWeights
from db.models import AuditEvent, Delivery, ResultObject, Study
from db.queries.audit.keyset import Keyset
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import counted
from db.report_models import SET_ASIDE, Amendment, Draft, DraftRejection, Report, Signature
from db.types import DeliveryState, ReportState

_UNSIGNED = (ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY, ReportState.REJECTED)
# who did one of these had the draft, or what was made of it, in front of them
EXPOSING = (
    AuditTag.REPORT_OPENED, AuditTag.REPORT_VIEWED, AuditTag.REPORT_EDITED, AuditTag.REPORT_EXPORTED,
    AuditTag.IMAGES_VIEWED, AuditTag.DICOMWEB_RETRIEVED, AuditTag.FHIR_READ,
)  # fmt: skip
_WHICH = {
    "all": "all drafts",
    "unsigned": "reports that rest on it and are not final: to be read again",
    "signed": "drafts over which somebody signed",
}


@dataclass
class _Told:
    """What is known of one draft beside its row."""

    signatures: list[Signature] = field(default_factory=list)
    rejected: str = ""
    viewers: set[str] = field(default_factory=set)
    sent: list[tuple[str, DeliveryState]] = field(default_factory=list)


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the drafts a version had a part in, newest first."""
    chosen = _chosen(answers)
    query = _asked(chosen, answers.text("which"))
    order = Keyset(DraftModel.created_at, DraftModel.draft_id, DraftModel.kind)
    rows: Any
    rows, after = order.page(session, query, page)
    told = _told(session, [(row[0], row[1].study_id) for row in rows])
    facts: list[tuple[str, Cell]] = []
    if page.is_first:
        drafted = select(DraftModel.draft_id).where(*chosen)
        facts.append(("drafts", counted(session, drafted)))
        facts.append(("reports to be read again", counted(session, _unsigned(drafted))))
    return Answered([_row(row[0], row[1], row[2], told[row[0].draft_id]) for row in rows], after, facts)


def _chosen(answers: Answers) -> list[ColumnElement[bool]]:
    """Return the conditions on ``DraftModel``; an index begins with the package, another with the weights."""
    package, weights = answers.text("package"), answers.text("weights").lower()
    if not (package or weights):
        raise RefusedInputError("package: name a package, or the SHA-256 of a weights file")
    exact = {DraftModel.package: package, DraftModel.version: answers.text("version")}
    chosen = [column == value for column, value in exact.items() if value]
    if weights:
        sets = select(ModelWeights.weights_sha256).where(ModelWeights.sha256 == weights)
        chosen.append(or_(DraftModel.weights_sha256 == weights, DraftModel.weights_sha256.in_(sets)))
    since, until = answers.instant("since"), answers.instant("until")
    if since is not None:
        chosen.append(DraftModel.created_at >= since)
    if until is not None:
        chosen.append(DraftModel.created_at < until)
    return chosen


def _asked(chosen: Sequence[ColumnElement[bool]], which: str) -> Any:
    """Select drafts with their report and accession number."""
    query: Any = select(DraftModel, Report, Study.accession_number).where(*chosen)
    if which == "unsigned":
        return _unsigned(query).join(Study, Study.id == Report.study_id)
    query = query.join(Draft, Draft.id == DraftModel.draft_id).join(Report, Report.study_id == Draft.study_id)
    query = query.join(Study, Study.id == Draft.study_id)
    return query if which == "all" else query.where(_signed())


def _unsigned(drafted: Any) -> Any:
    """Narrow a selection of drafts to those that a report rests on which is not final; the index (state) is short."""
    return drafted.join(Report, Report.draft_id == DraftModel.draft_id).where(Report.state.in_(_UNSIGNED))


def _signed() -> ColumnElement[bool]:
    return exists().where(Signature.report_id == Report.id, Signature.draft_id == DraftModel.draft_id)


def _told(session: Session, drafts: Sequence[tuple[DraftModel, UUID]]) -> Mapping[UUID, _Told]:
    """Return what is known of these drafts, each with its study."""
    told: dict[UUID, _Told] = defaultdict(_Told)
    if not drafts:
        return told
    ids, studies = {one.draft_id for one, _ in drafts}, {study for _, study in drafts}
    _signatures(session, told, ids, studies)
    for rejection in session.scalars(select(DraftRejection).where(DraftRejection.draft_id.in_(ids))):
        told[rejection.draft_id].rejected = rejection.code or "rejected"
    _viewers(session, told, drafts)
    _sent(session, told, studies)
    return told


def _signatures(session: Session, told: dict[UUID, _Told], ids: set[UUID], studies: set[UUID]) -> None:
    reports = select(Report.id).where(Report.study_id.in_(studies))
    query = select(Signature).where(Signature.report_id.in_(reports), Signature.draft_id.in_(ids))
    for one in session.scalars(query.order_by(Signature.signed_at)):
        if one.draft_id is not None:
            told[one.draft_id].signatures.append(one)


def _viewers(session: Session, told: dict[UUID, _Told], drafts: Sequence[tuple[DraftModel, UUID]]) -> None:
    """Note who had the report or its objects in front of them from the draft on, and succeeded."""
    made: dict[UUID, list[tuple[datetime, UUID]]] = defaultdict(list)
    for one, study in drafts:
        made[study].append((one.created_at, one.draft_id))
    first = min(one.created_at for one, _ in drafts)
    seen = (AuditEvent.study_id, AuditEvent.actor, AuditEvent.occurred_at, AuditEvent.tag, AuditEvent.outcome)
    # neither tag nor outcome among the conditions: the database would read all of such a month to intersect them
    query = select(*seen).where(AuditEvent.study_id.in_(made), AuditEvent.occurred_at >= first)
    for of_study, actor, at, tag, outcome in session.execute(query):
        if tag in EXPOSING and outcome == "success":
            told_of = [draft_id for created, draft_id in made[of_study] if at >= created] if of_study else []
            for draft_id in told_of:
                told[draft_id].viewers.add(actor)


def _sent(session: Session, told: dict[UUID, _Told], studies: set[UUID]) -> None:
    signed = {one.id: draft_id for draft_id, known in told.items() for one in known.signatures}
    query = (
        select(ResultObject.draft_id, ResultObject.signature_id, Delivery.destination, Delivery.state)
        .join(Delivery, Delivery.result_object_id == ResultObject.id)
        .where(ResultObject.study_id.in_(studies))
    )
    for of_draft, signature_id, destination, state in session.execute(query):
        rests_on = of_draft or (signed.get(signature_id) if signature_id else None)
        if rests_on is not None:
            told[rests_on].sent.append((destination, state))


def _row(model: DraftModel, report: Report, accession: str, told: _Told) -> list[Cell]:
    signers = [f"{one.printed_name} ({one.state.value.lower()})" for one in told.signatures]
    delivered = sorted({name for name, state in told.sent if state is DeliveryState.DELIVERED})
    owed = sorted({name for name, state in told.sent if state in {DeliveryState.PENDING, DeliveryState.SENDING}})
    return [
        model.created_at,
        report.study_id,
        accession,
        model.draft_id,
        model.package,
        model.version,
        model.kind,
        model.weights_sha256,
        _became(model, report, told),
        report.state.value,
        ", ".join(signers),
        told.signatures[0].signed_at if told.signatures else None,
        ", ".join(sorted(told.viewers)),
        ", ".join(delivered),
        ", ".join(owed),
    ]


def _became(model: DraftModel, report: Report, told: _Told) -> str:
    if any(one.state is not ReportState.PRELIMINARY for one in told.signatures):
        return "signed"
    if told.signatures:
        return "signed preliminary"
    if told.rejected:
        return f"refused: {told.rejected}"
    return "unsigned" if report.draft_id == model.draft_id else "superseded"


def _rejected(drafted: Any) -> Any:
    mine = DraftRejection.draft_id == DraftModel.draft_id
    return drafted.join(DraftRejection, mine).where(DraftRejection.code != SET_ASIDE)


def _amended(drafted: Any) -> Any:
    """Narrow a selection of drafts to those over which somebody signed an amendment; there are few of them."""
    later = select(Signature.draft_id).join(Amendment, Amendment.signature_id == Signature.id)
    return drafted.where(DraftModel.draft_id.in_(later))


WHAT_FOLLOWED: Mapping[str, Callable[[Any], Any]] = {
    "drafts that were refused": _rejected,
    "signed drafts whose report was amended later": _amended,
    "reports to be read again if this version is recalled (Q13)": _unsigned,
}
"""What became of drafts, in words, with the query that narrows a selection from ``DraftModel`` to them."""


QUESTIONS = (
    Question(
        name="Q13",
        slug="recall",
        title="Drafts exposed to a defective version",
        asks="Which drafts did a version have a part in, which were signed, who saw them, and where did they go?",
        source="21 CFR 806; EU MDR Art 87–89 (field safety corrective action); IEC 62304 §9",
        parameters=(
            Parameter("package", Kind.TEXT, "Model package", longest=64, hint="or the weights below"),
            Parameter("version", Kind.TEXT, "Version", longest=64),
            Parameter("weights", Kind.TEXT, "SHA-256 of a weights file", longest=64),
            Parameter("since", Kind.DATE, "Drafted from"),
            Parameter("until", Kind.DATE, "To", ends=True),
            Parameter("which", Kind.CHOICE, "Which", default="all", choices=_WHICH),
        ),
        columns=(
            Column("drafted_at", "Drafted", Shown.INSTANT),
            Column("study_id", "Study", Shown.STUDY),
            Column("accession_number", "Accession number"),
            Column("draft_id", "Draft", Shown.CODE),
            Column("package", "Package"),
            Column("version", "Version"),
            Column("kind", "As"),
            Column("weights_sha256", "Weights", Shown.CODE),
            Column("became", "What became of it"),
            Column("report_state", "Report"),
            Column("signed_by", "Signed by"),
            Column("signed_at", "First signed", Shown.INSTANT),
            Column("viewers", "Who had it open"),
            Column("delivered_to", "Delivered to"),
            Column("owed_to", "On its way to"),
        ),
        run=run,
    ),
)
