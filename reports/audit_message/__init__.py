"""Audit events for others: DICOM audit messages (PS3.15 section A.5) and FHIR AuditEvents, from one table of codes."""

from reports.audit_message.codes import KINDS, EventKind, is_placed, kind_of
from reports.audit_message.message import audit_message
from reports.audit_message.resource import audit_resource
from reports.audit_message.values import AuditSource, RecordedEvent, RecordedStudy

__all__ = [
    "KINDS",
    "AuditSource",
    "EventKind",
    "RecordedEvent",
    "RecordedStudy",
    "audit_message",
    "audit_resource",
    "is_placed",
    "kind_of",
]
