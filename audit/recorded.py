"""Events of the audit log as values to tell others of, with the Study each is about."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from uuid import UUID

from sqlalchemy.orm import Session

from config.settings import Settings
from db.models import AuditEvent, Study
from db.queries.audit_telling import sop_classes_of, studies_of
from reports.audit_message import AuditSource, RecordedEvent, RecordedStudy


def audit_source(settings: Settings) -> AuditSource:
    """Return who tells: this installation."""
    authority = settings.hl7.authority or settings.organization
    return AuditSource(settings.audit.source_id, settings.organization, version("firstread"), authority)


def recorded(session: Session, events: Sequence[AuditEvent]) -> list[RecordedEvent]:
    """Return events as values, in the order given; two more questions to the database for all of them."""
    about = {event.study_id for event in events if event.study_id is not None}
    studies = studies_of(session, about)
    classes = sop_classes_of(session, about)
    return [_recorded(event, studies, classes) for event in events]


def _recorded(event: AuditEvent, studies: dict[UUID, Study], classes: dict[UUID, dict[str, int]]) -> RecordedEvent:
    body = json.loads(event.body)
    detail = event.detail
    study = studies.get(event.study_id) if event.study_id else None
    return RecordedEvent(
        seq=event.seq,
        id=str(body.get("id") or event.seq),
        occurred_at=event.occurred_at,
        tag=event.tag,
        outcome=event.outcome,
        actor=event.actor,
        actor_kind=event.actor_kind,
        user_id=str(event.user_id or ""),
        role=str(body.get("role") or ""),
        address=str(body.get("address") or detail.get("address") or ""),
        study_id=str(event.study_id or ""),
        reading_id=str(event.reading_id or ""),
        report_id=str(event.report_id or ""),
        object_type=event.object_type or "",
        object_id=event.object_id or str(detail.get("object_id") or ""),
        detail=detail,
        body=event.body,
        study=None if study is None else _study(study, classes.get(study.id, {})),
    )


def _study(study: Study, sop_classes: dict[str, int]) -> RecordedStudy:
    return RecordedStudy(
        study_instance_uid=study.study_instance_uid,
        accession_number=study.accession_number,
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        patient_name=study.patient_name,
        sop_classes=sop_classes,
    )
