"""What an act was about: the ParticipantObjectIdentifications of an audit message (PS3.15 section A.5.2, A.5.3)."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from reports.audit_message.codes import LOCAL_SCHEME, RFC3881, EventKind
from reports.audit_message.participants import coded
from reports.audit_message.values import ERASED, AuditSource, RecordedEvent, RecordedStudy, said, sendable, token

_PERSON, _SYSTEM = "1", "2"
_ROLES = {  # ParticipantObjectTypeCodeRole of our kinds of objects; any other is a master file or resource
    "user": "11", "passkey": "13", "token": "13", "key": "13", "licence": "5", "peer": "16", "destination": "16",
    "workitem": "20", "order": "20", "accession": "20", "draft": "3", "result_object": "3", "finding": "3",
    "answer": "3", "annotation": "3", "process": "26", "self_test": "26", "model": "26", "association": "25",
    "message": "25", "break_glass": "13", "patient": "1", "critical_alert": "3", "critical_notice": "3",
}  # fmt: skip
_QUERIES = ("query", "parameters", "keys", "identifier")


@dataclass(frozen=True)
class _Object:
    """The attributes of one object; ``code`` its ParticipantObjectIDTypeCode and the words for it."""

    id: str
    name: str
    type: str
    role: str
    code: tuple[str, str, str]


def add_objects(
    message: ET.Element, event: RecordedEvent, kind: EventKind, source: AuditSource, most_octets: int
) -> None:
    """Append patient, Study, Reading, Report, the log itself, what else is named, then the event with its details.

    Args:
        message: the message so far.
        event: what is told.
        kind: what it is to DICOM.
        source: who tells.
        most_octets: a detail longer than this is replaced by its SHA-256 and length.
    """
    if event.study is not None:
        _patient(message, event.study, kind)
        _study(message, event.study, kind)
    for one in _named(event, kind, source):
        _add(message, one, kind.cycle)
    if kind.event == "110112":
        _query(message, event)
    _event(message, event, most_octets)


def _patient(message: ET.Element, study: RecordedStudy, kind: EventKind) -> None:
    known = token(study.patient_id, ERASED if not study.patient_name else "unknown")
    about = _Object(known, token(study.patient_name, known), _PERSON, "1", ("2", "Patient Number", RFC3881))
    made = _add(message, about, kind.cycle)
    if study.issuer_of_patient_id:
        _detail(made, "IssuerOfPatientID", study.issuer_of_patient_id)


def _study(message: ET.Element, study: RecordedStudy, kind: EventKind) -> None:
    uid = token(study.study_instance_uid)
    about = _Object(uid, uid, _SYSTEM, "3", ("110180", "Study Instance UID", "DCM"))
    described = ET.SubElement(_add(message, about, kind.cycle), "ParticipantObjectDescription")
    if study.accession_number:
        ET.SubElement(described, "Accession", {"Number": token(study.accession_number)})
    for sop_class, count in sorted(study.sop_classes.items()):
        ET.SubElement(described, "SOPClass", {"UID": token(sop_class), "NumberOfInstances": str(count)})


def _named(event: RecordedEvent, kind: EventKind, source: AuditSource) -> Iterator[_Object]:
    if event.reading_id:
        yield _Object(event.reading_id, "Reading", _SYSTEM, "20", ("reading", "Reading", LOCAL_SCHEME))
    if event.report_id:
        yield _Object(event.report_id, "Report", _SYSTEM, "3", ("report", "Report", LOCAL_SCHEME))
    if kind.event == "110101":  # A.5.3.2
        log = f"urn:x-firstread:audit:{token(source.name)}"
        yield _Object(log, "Security Audit Log", _SYSTEM, "13", ("12", "URI", RFC3881))
    if event.object_type:
        what = token(event.object_type)
        person = what in {"user", "patient"}
        id_ = token(event.object_id, token(said(event.detail.get("object_id", "")), "?"))
        code = ("110182", "Node ID", "DCM") if what in {"peer", "destination"} else (what, what, LOCAL_SCHEME)
        yield _Object(id_, id_, _PERSON if person else _SYSTEM, _ROLES.get(what, "5"), code)


def _query(message: ET.Element, event: RecordedEvent) -> None:
    """What was asked, base64 (A.5.3.10); a query of ours or by DICOMweb has no dataset, so no transfer syntax."""
    asked = {name: event.detail[name] for name in _QUERIES if name in event.detail} or dict(event.detail)
    sop_class = token(str(event.detail.get("sop_class_uid") or "1.2.840.10008.5.1.4.1.2.2.1"))  # Study Root – FIND
    made = ET.SubElement(
        message,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": sop_class,
            "ParticipantObjectTypeCode": _SYSTEM,
            "ParticipantObjectTypeCodeRole": "3",
        },
    )
    coded(made, "ParticipantObjectIDTypeCode", "110181")
    ET.SubElement(made, "ParticipantObjectQuery").text = _base64(said(asked))


def _event(message: ET.Element, event: RecordedEvent, most_octets: int) -> None:
    """The event itself: by its id a second copy of the message is known, by its body the chain can be checked."""
    about = _Object(event.id, event.tag, _SYSTEM, "13", ("event", "Audit event", LOCAL_SCHEME))
    made = _add(message, about, "")
    _detail(made, "seq", str(event.seq))
    for name, value in sorted(event.detail.items()):
        _detail(made, name, said(value), most_octets)
    if event.is_emergency:
        _detail(made, "PurposeOfUse", "BTG")
    if event.body:
        _detail(made, "body", event.body, most_octets)


def _add(message: ET.Element, about: _Object, cycle: str) -> ET.Element:
    fields = {
        "ParticipantObjectID": token(about.id),
        "ParticipantObjectTypeCode": about.type,
        "ParticipantObjectTypeCodeRole": about.role,
    }
    if cycle:
        fields["ParticipantObjectDataLifeCycle"] = cycle
    made = ET.SubElement(message, "ParticipantObjectIdentification", fields)
    code, meaning, scheme = about.code
    coded(made, "ParticipantObjectIDTypeCode", code, meaning, scheme)
    ET.SubElement(made, "ParticipantObjectName").text = token(about.name)
    return made


def _detail(made: ET.Element, name: str, value: str, most_octets: int = 0) -> None:
    """Append a Detail before any Description; one that is too long by its digest, which the log can be asked with."""
    octets = value.encode("utf-8", "replace")
    if most_octets and len(octets) > most_octets:
        name = f"{name} (omitted)"
        value = f"sha256={hashlib.sha256(octets).hexdigest()} octets={len(octets)}"
    fields = {"type": token(sendable(name)), "value": _base64(value)}
    ET.SubElement(made, "ParticipantObjectDetail", fields)


def _base64(text: str) -> str:
    return b64encode(text.encode("utf-8", "replace")).decode("ascii")
