"""Audit events as AuditEvent resources, with the event identifiers of DICOM (PS3.15 section A.5.3)."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from db.audit import AuditTag
from db.models import AuditEvent
from reports.fhir.datatypes import LOCAL, TERMINOLOGY, clean, instant, kept, local_system

Json = dict[str, Any]
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_NAMES: Mapping[str, str] = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110102": "Begin Transferring DICOM Instances",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110108": "Network Entry",
    "110109": "Order Record",
    "110110": "Patient Record",
    "110111": "Procedure Record",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
}
# by the tag's subject; the exceptions by the tag
_SUBJECTS: Mapping[str, str] = {
    "association": "110108",
    "peer": "110113",
    "certificate": "110113",
    "study": "110111",
    "instance": "110104",
    "message": "110109",
    "order": "110109",
    "patient": "110110",
    "prior": "110104",
    "commitment": "110104",
    "reading": "110111",
    "report": "110110",
    "finding": "110110",
    "critical": "110110",
    "notice": "110110",
    "delivery": "110104",
    "destination": "110100",
    "user": "110113",
    "token": "110113",
    "access": "110113",
    "model": "110113",
    "licence": "110113",
    "workitem": "110111",
    "worklist": "110109",
    "images": "110103",
    "dicomweb": "110104",
    "fhir": "110110",
    "assessment": "110106",
    "audit": "110101",
    "draft": "110111",
    "process": "110100",
    "wording": "110110",
    "question": "110111",
    "answer": "110110",
    "redraft": "110111",
    "dispatch": "110104",
    "passkey": "110113",
    "queue": "110100",
    "selftest": "110100",
    "quality": "110106",
    "annotation": "110110",
}
_T = AuditTag
_EXCEPTIONS: Mapping[str, str] = {
    _T.STUDY_RECEIVED: "110104",
    _T.STUDY_REVISED: "110104",
    _T.STUDY_PIXELS_DELETED: "110105",
    _T.STUDY_TRACED: "110112",
    _T.PRIOR_SEARCHED: "110112",
    _T.DELIVERY_STARTED: "110102",
    _T.REPORT_EXPORTED: "110106",
    _T.USER_LOGIN: "110114",
    _T.USER_LOGIN_FAILED: "110114",
    _T.USER_LOGOUT: "110114",
    _T.USER_LOCKED_OUT: "110114",
    _T.USER_REAUTHENTICATED: "110114",
    _T.USER_REAUTHENTICATION_FAILED: "110114",
    _T.DICOMWEB_QUERIED: "110112",
    _T.MODEL_LOADED: "110100",
}
# what of the acts creates, reads, changes or deletes; all others are executed
_ACTIONS: Mapping[str, str] = {
    **dict.fromkeys(("received", "created", "added", "drafted", "stored", "imported", "fetched"), "C"),
    **dict.fromkeys(("viewed", "read", "exported", "retrieved", "traced"), "R"),
    **dict.fromkeys(
        ("edited", "updated", "merged", "decided", "revised", "corrected", "addended", "signed_final",
         "signed_preliminary", "role_changed", "password_changed"),
        "U",
    ),
    **dict.fromkeys(("removed", "revoked", "pixels_deleted"), "D"),
}  # fmt: skip


def event_type(tag: str) -> str:
    """Return the DICOM event identifier of a tag."""
    return _EXCEPTIONS.get(tag) or _SUBJECTS[tag.partition(":")[0]]


def audit_resource(event: AuditEvent, organization: str) -> Json:
    """Return one row of the audit log."""
    subject, _, act = event.tag.partition(":")
    code = event_type(event.tag) if subject in _SUBJECTS else "110100"  # a tag of a later release
    address = clean(str(event.detail.get("address", "")))
    return kept(
        resourceType="AuditEvent",
        id=str(event.seq),
        meta={"lastUpdated": instant(event.occurred_at)},
        type={"system": _DCM, "code": code, "display": _NAMES[code]},
        subtype=[{"system": local_system("audit-tag"), "code": event.tag}],
        action=_ACTIONS.get(act, "E"),
        recorded=instant(event.occurred_at),
        outcome="0" if event.outcome == "success" else "4",
        agent=[
            kept(
                who={"identifier": {"system": f"{LOCAL}actor:{event.actor_kind}", "value": clean(event.actor) or "?"}},
                network={"address": address, "type": "2"} if address else None,
            )
            | {"requestor": True}
        ],
        source=kept(
            site=clean(organization),
            observer={"display": f"Firstread {version('firstread')}"},
            type=[_code("security-source-type", "4", "Application Server")],
        ),
        entity=list(_entities(event)),
    )


def _entities(event: AuditEvent) -> list[Json]:
    said = [(name, value) for name, value in sorted(event.detail.items()) if name != "address"]
    detail = [{"type": name, "valueString": text} for name, value in said if (text := clean(str(value)))]
    named = [
        ({"reference": f"ImagingStudy/{event.study_id}"}, event.study_id),
        ({"reference": f"DiagnosticReport/{event.report_id}"}, event.report_id),
        ({"identifier": {"system": local_system("reading"), "value": str(event.reading_id)}}, event.reading_id),
        (_object(event), event.object_type and event.object_id),
    ]
    found: list[Json] = [
        {"what": what, "type": _code("audit-entity-type", "2", "System Object")} for what, there in named if there
    ]
    if not detail:
        return found
    # what was said belongs to the thing the act was about; without one it stands alone
    return [found[0] | {"detail": detail}, *found[1:]] if found else [{"name": event.tag, "detail": detail}]


def _object(event: AuditEvent) -> Json:
    return {"identifier": {"system": local_system("object", event.object_type), "value": clean(event.object_id) or "?"}}


def _code(system: str, code: str, display: str) -> Json:
    return {"system": TERMINOLOGY + system, "code": code, "display": display}
