"""Q2: who had to do with a patient's studies, tried to, or was sent something of them.

The Studies are found by the indexes over Patient ID, Accession Number and Study Instance UID, their events by the index
(study_id, seq). A patient has some thousands of events at most, so what is left out costs little; the events of
everybody else are not touched. Lists that show many patients (worklist, search) are events without a Study: they say
how many rows were shown, not which.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.identity_models import BreakGlass
from db.models import AuditEvent, Study
from db.queries.audit.keyset import Keyset
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.queries.audit.tagged import body_of, words

_ORDER = Keyset(AuditEvent.seq)
_MOST_STUDIES = 2000
# what of the data left the house, or was carried away
_LEFT = (
    AuditTag.DELIVERY_STARTED, AuditTag.DELIVERY_DELIVERED, AuditTag.REPORT_EXPORTED, AuditTag.ASSESSMENT_EXPORTED,
    AuditTag.DICOMWEB_RETRIEVED, AuditTag.FHIR_READ, AuditTag.NOTICE_SENT, AuditTag.AUDIT_EXPORTED,
)  # fmt: skip
_WHICH = {
    "people": "what people and peers did",
    "left": "what left this system",
    "failed": "what was refused or failed",
    "all": "every event",
}
_ELSEWHERE = ("address", "break_glass", "endpoint", "reason")  # details with a column of their own


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the events about the studies, newest first."""
    studies = _studies(session, answers)
    if not studies:
        return Answered([], None, [("studies", 0)])
    conditions = [AuditEvent.study_id.in_(list(studies)), *_which(answers)]
    rows, after = _ORDER.page(session, select(AuditEvent).where(*conditions), page)
    events = [row[0] for row in rows]
    reasons = _reasons(session, events)
    facts: list[tuple[str, Cell]] = []
    if page.is_first:
        who = session.scalar(select(func.count(AuditEvent.actor.distinct())).where(*conditions))
        facts = [("studies", len(studies)), ("different actors", who)]
    cells = [_cells(one, studies, reasons) for one in events]
    return Answered(cells, after, facts, next(iter(studies)) if len(studies) == 1 else None)


def _studies(session: Session, answers: Answers) -> Mapping[UUID, str]:
    """Return the Studies that are meant, with their Accession Numbers.

    Raises:
        RefusedInputError: nothing says which, or more than 2000 are meant.
    """
    named = {
        "patient_id": Study.patient_id,
        "accession": Study.accession_number,
        "study_uid": Study.study_instance_uid,
    }
    conditions = [column == answers.text(name) for name, column in named.items() if answers.text(name)]
    if not conditions:
        raise RefusedInputError("patient_id: a Patient ID, an Accession Number or a Study Instance UID is needed")
    if issuer := answers.text("issuer"):
        conditions.append(Study.issuer_of_patient_id == issuer)
    query = select(Study.id, Study.accession_number).where(*conditions).order_by(Study.first_received_at)
    rows = session.execute(query.limit(_MOST_STUDIES + 1)).all()
    if len(rows) > _MOST_STUDIES:
        raise RefusedInputError(f"patient_id: it names more than {_MOST_STUDIES} studies")
    return {row.id: row.accession_number for row in rows}


def _which(answers: Answers) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    match answers.text("which"):
        case "people":
            found.append(AuditEvent.actor_kind != "process")
        case "left":
            found.append(AuditEvent.tag.in_(_LEFT))
        case "failed":
            found.append(AuditEvent.outcome != "success")
    if (since := answers.instant("since")) is not None:
        found.append(AuditEvent.occurred_at >= since)
    if (until := answers.instant("until")) is not None:
        found.append(AuditEvent.occurred_at < until)
    return found


def _reasons(session: Session, events: Sequence[AuditEvent]) -> Mapping[str, str]:
    """Return the reasons of the grants by which studies were opened."""
    named = (one.detail.get("break_glass") for one in events)
    ids: set[UUID] = set()
    for text in named:
        with suppress(ValueError):
            ids |= {UUID(str(text))} if text else set()
    if not ids:
        return {}
    rows = session.execute(select(BreakGlass.id, BreakGlass.reason).where(BreakGlass.id.in_(ids)))
    return {str(row.id): row.reason for row in rows}


def _cells(event: AuditEvent, studies: Mapping[UUID, str], reasons: Mapping[str, str]) -> Sequence[Cell]:
    body: Mapping[str, Any] = body_of(event)
    detail = event.detail
    granted = detail.get("break_glass")
    reason = reasons.get(str(granted), "") if granted else str(detail.get("reason", ""))
    return (
        event.seq,
        event.occurred_at,
        event.actor,
        event.actor_kind,
        str(body.get("role", "")),
        str(body.get("address") or detail.get("address", "")),
        event.tag,
        event.outcome,
        bool(granted) or event.tag == AuditTag.BREAK_GLASS_GRANTED,
        reason,
        event.study_id,
        studies[event.study_id] if event.study_id else "",
        f"{event.object_type} {event.object_id}".strip(),
        words(detail, without=_ELSEWHERE),
    )


QUESTIONS = (
    Question(
        name="Q2",
        slug="accesses-to-a-patient",
        title="Accesses to a patient or study",
        asks="Who saw, changed, sent or tried to reach anything of this patient or study, when, from where and why?",
        source="HIPAA 45 CFR 164.312(b), 164.528; IHE ATNA",
        parameters=(
            Parameter("patient_id", Kind.TEXT, "Patient ID", private=True, longest=64),
            Parameter("issuer", Kind.TEXT, "Issuer of Patient ID", private=True, longest=64),
            Parameter("accession", Kind.TEXT, "Accession number", private=True, longest=16),
            Parameter("study_uid", Kind.TEXT, "Study Instance UID", private=True, longest=64),
            Parameter("which", Kind.CHOICE, "Which", default="people", choices=_WHICH),
            Parameter("since", Kind.DATE, "From", hint="empty: from the beginning"),
            Parameter("until", Kind.DATE, "To", ends=True, hint="empty: until now"),
        ),
        columns=(
            Column("seq", "No.", Shown.NUMBER),
            Column("at", "When", Shown.INSTANT),
            Column("who", "Who"),
            Column("kind", "Kind"),
            Column("role", "Role"),
            Column("from", "From where", Shown.CODE),
            Column("what", "What", Shown.CODE),
            Column("outcome", "Outcome"),
            Column("break_glass", "Break-glass", Shown.YES_NO),
            Column("reason", "Reason"),
            Column("study", "Study", Shown.STUDY),
            Column("accession", "Accession"),
            Column("object", "Object", Shown.CODE),
            Column("detail", "Detail"),
        ),
        run=run,
    ),
)
