"""An audit event as a DICOM audit message: XML by the schema of PS3.15 section A.5.1."""

from datetime import UTC
from xml.etree import ElementTree as ET

from reports.audit_message.codes import LOCAL_SCHEME, kind_of
from reports.audit_message.objects import add_objects
from reports.audit_message.participants import add_participants, coded
from reports.audit_message.values import AuditSource, RecordedEvent, said, token

_LIMITS = (65536, 8192, 2048, 512, 128)  # octets of one detail, tried until the message fits


def audit_message(event: RecordedEvent, source: AuditSource, *, most_octets: int = 0) -> bytes:
    """Return one event as one message with one outcome, UTF-8 with its XML declaration, without line breaks.

    Args:
        event: what is told.
        source: who tells it.
        most_octets: longest message, any length when 0; of a longer one the longest details, at last the body, are
            replaced by their SHA-256 and length.
    """
    made = _written(event, source, 0)
    for limit in _LIMITS:
        if not most_octets or len(made) <= most_octets:
            break
        made = _written(event, source, limit)
    return made


def _written(event: RecordedEvent, source: AuditSource, detail_octets: int) -> bytes:
    kind = kind_of(event.tag)
    message = ET.Element("AuditMessage")
    about = ET.SubElement(
        message,
        "EventIdentification",
        {
            "EventActionCode": kind.action,
            "EventDateTime": event.occurred_at.astimezone(UTC).isoformat(timespec="microseconds"),
            "EventOutcomeIndicator": event.indicator,
        },
    )
    coded(about, "EventID", kind.event)
    if kind.type_code:
        coded(about, "EventTypeCode", kind.type_code)
    coded(about, "EventTypeCode", event.tag, event.tag.replace(":", " ").replace("_", " "), LOCAL_SCHEME)
    reason = event.detail.get("reason") or event.detail.get("error")
    if not event.is_success and reason:
        ET.SubElement(about, "EventOutcomeDescription").text = token(said(reason))[:1000]
    add_participants(message, event, kind, source)
    where = {"AuditSourceID": token(source.name)}
    if source.site:
        where["AuditEnterpriseSiteID"] = token(source.site)
    told = ET.SubElement(message, "AuditSourceIdentification", where)
    ET.SubElement(told, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    add_objects(message, event, kind, source, detail_octets)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(message, encoding="unicode").encode("utf-8")
