"""Audit events as AuditEvent resources: what a search asks for, and the resources of a page."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from audit.recorded import audit_source, recorded
from config.errors import RefusedInputError
from config.settings import Settings
from dashboard.fhir.searching import check_known, patient_issuers, single, span, token
from db.audit import AuditTag
from db.models import AuditEvent, Study
from db.queries import report_detail
from db.queries.audit_telling import EventFilter, studies_of_patient
from reports.audit_message import audit_resource, kind_of

Json = dict[str, Any]
AUDIT_PARAMETERS = (
    "entity", "date", "patient", "patient.identifier", "agent.identifier", "altid", "type", "subtype", "action",
    "outcome", "_count", "_after",
)  # fmt: skip
_LOCKED = "user:locked_out"  # whose outcome is 12
_OUTCOMES = ("0", "4", "8", "12")


def event_type(tag: str) -> str:
    """Return the DICOM event identifier of a tag."""
    return kind_of(tag).event


def audit_resources(db: Session, events: Sequence[AuditEvent], settings: Settings) -> list[Json]:
    """Return rows of the audit log as resources, in their order."""
    source = audit_source(settings)
    return [audit_resource(one, source) for one in recorded(db, events)]


def wanted_events(args: "MultiDict[str, str]", db: Session, settings: Settings) -> EventFilter:
    """Return which events are asked for (FHIR R4 section 6.4.6).

    Raises:
        RefusedInputError: a parameter that is unknown, empty, given twice or not understood.
    """
    check_known(args, AUDIT_PARAMETERS)
    spans = [span(text) for text in args.getlist("date")]
    since, until = [one.since for one in spans if one.since], [one.until for one in spans if one.until]
    agent, account, outcome = single(args, "agent.identifier"), single(args, "altid"), single(args, "outcome")
    return EventFilter(
        study_ids=_studies(args, db, settings),
        tags=_tags(args, outcome),
        actor=None if agent is None else token(agent)[1],
        user_id=None if account is None else _uuid(account, "altid is the id of an account"),
        is_success=None if outcome is None else token(outcome)[1] == "0",
        since=max(since, default=None),
        until=min(until, default=None),
    )


def _studies(args: "MultiDict[str, str]", db: Session, settings: Settings) -> list[UUID] | None:
    asked: list[list[UUID]] = []
    entity, patient, named = single(args, "entity"), single(args, "patient"), single(args, "patient.identifier")
    if entity is not None:
        asked.append([_study_of(db, entity)])
    if patient is not None:
        asked.append(_of_patient(db, patient))
    if named is not None:
        asked.append(studies_of_patient(db, *patient_issuers(db, settings, named)))
    if not asked:
        return None
    return [one for one in asked[0] if all(one in others for others in asked[1:])]


def _study_of(db: Session, entity: str) -> UUID:
    kind, _, key = entity.rpartition("/")
    words = "entity is ImagingStudy/id or DiagnosticReport/id"
    if kind not in {"ImagingStudy", "DiagnosticReport"}:
        raise RefusedInputError(words)
    named = _uuid(key, words)
    if kind == "ImagingStudy":
        return named
    detail = report_detail(db, named)
    return detail.study.id if detail else named


def _of_patient(db: Session, reference: str) -> list[UUID]:
    """Return the Studies of a Patient resource, whose id is that of their first Study."""
    kind, _, key = reference.rpartition("/")
    if kind != "Patient":
        raise RefusedInputError("patient is Patient/id")
    study = db.get(Study, _uuid(key, "patient is Patient/id"))
    if study is None:
        return []
    if not study.patient_id:
        return [study.id]
    return studies_of_patient(db, study.patient_id, [study.issuer_of_patient_id])


def _tags(args: "MultiDict[str, str]", outcome: str | None) -> list[str] | None:
    asked: dict[str, Callable[[str, str], bool]] = {
        "type": lambda tag, value: kind_of(tag).event == value,
        "subtype": lambda tag, value: value in {tag, kind_of(tag).type_code},
        "action": lambda tag, value: kind_of(tag).action == value,
    }
    tags = [str(tag) for tag in AuditTag]
    values = {name: token(text)[1] for name in asked if (text := single(args, name)) is not None}
    for name, value in values.items():
        tags = [tag for tag in tags if asked[name](tag, value)]
    indicator = None if outcome is None else token(outcome)[1]
    if indicator is not None and indicator not in _OUTCOMES:
        raise RefusedInputError(f"outcome is one of {', '.join(_OUTCOMES)}")
    if indicator in {None, "0"}:
        return tags if values else None
    if indicator == "4":
        return [tag for tag in tags if tag != _LOCKED]
    return [tag for tag in tags if tag == _LOCKED and indicator == "12"]


def _uuid(text: str, words: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise RefusedInputError(words) from None
