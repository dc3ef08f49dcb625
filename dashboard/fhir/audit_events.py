"""Audit events as AuditEvent resources: what the search asks for, and the resources of a page."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from audit.recorded import audit_source, recorded
from config.settings import Settings
from db.models import AuditEvent
from reports.audit_message import audit_resource, kind_of

Json = dict[str, Any]


def event_type(tag: str) -> str:
    """Return the DICOM event identifier of a tag."""
    return kind_of(tag).event


def audit_resources(db: Session, events: Sequence[AuditEvent], settings: Settings) -> list[Json]:
    """Return rows of the audit log as resources, in their order."""
    source = audit_source(settings)
    return [audit_resource(one, source) for one in recorded(db, events)]
