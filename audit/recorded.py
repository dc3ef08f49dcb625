"""Events of the audit log as values to tell others of, with the Study each is about."""

import json
from collections.abc import Sequence
from importlib.metadata import version

from sqlalchemy.orm import Session

from config.settings import Settings
from db.models import AuditEvent, Study
from db.queries.audit_telling import erased_studies, sop_classes_of, studies_of
from reports.audit_message import AuditSource, RecordedEvent, RecordedStudy


def audit_source(settings: Settings) -> AuditSource:
    """Return who tells: this installation."""
    authority = settings.hl7.authority or settings.organization
    return AuditSource(settings.audit.source_id, settings.organization, version("firstread"), authority)


def recorded(session: Session, events: Sequence[AuditEvent]) -> list[RecordedEvent]:
    """Return events as values, in the order given; a few more questions to the database for all of them."""
    about = {event.study_id for event in events if event.study_id is not None}
    classes = sop_classes_of(session, about)
    forgotten = erased_studies(session, about)
    studies = {
        key: _study(study, classes.get(key, {}), forget=key in forgotten)
        for key, study in studies_of(session, about).items()
    }
    return [_recorded(event, studies.get(event.study_id) if event.study_id else None) for event in events]


def _recorded(event: AuditEvent, study: RecordedStudy | None) -> RecordedEvent:
    body = json.loads(event.body)
    detail = event.detail
    return RecordedEvent(
        seq=event.seq,
        id=str(body.get("id") or f"seq-{event.seq}"),
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
        study=study,
    )


def _study(study: Study, sop_classes: dict[str, int], *, forget: bool) -> RecordedStudy:
    """Return the Study; without its identity when the audit log was made to forget it, though images may be kept."""
    if forget:
        return RecordedStudy(study.study_instance_uid, sop_classes=sop_classes)
    return RecordedStudy(
        study_instance_uid=study.study_instance_uid,
        accession_number=study.accession_number,
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        patient_name=study.patient_name,
        sop_classes=sop_classes,
    )
