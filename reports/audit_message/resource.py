"""An audit event as a FHIR R4 AuditEvent, with the codes of the DICOM audit message (FHIR R4 section 6.4)."""

from typing import Any

from reports.audit_message.codes import MEANINGS, kind_of
from reports.audit_message.values import AuditSource, RecordedEvent, access_point, said
from reports.fhir.datatypes import LOCAL, TERMINOLOGY, authority_system, clean, instant, kept, local_system

Json = dict[str, Any]
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_REASONS = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_BREAK_GLASS = {"coding": [{"system": _REASONS, "code": "BTG", "display": "break the glass"}]}
_ROLES = {
    "1": "Patient", "3": "Report", "11": "Security User Entity", "13": "Security Resource", "20": "Job",
    "24": "Query",
}  # fmt: skip
_STAGES = {
    "1": "Origination / Creation", "2": "Import / Copy", "3": "Amendment", "4": "Verification", "6": "Access / Use",
    "8": "Aggregation / summarization / derivation", "10": "Export", "11": "Disclosure", "13": "Archiving",
    "14": "Logical deletion", "15": "Permanent erasure / destruction",
}  # fmt: skip


def audit_resource(event: RecordedEvent, source: AuditSource) -> Json:
    """Return one event of the audit log; ``id`` is its number there."""
    kind = kind_of(event.tag)
    types = [{"system": local_system("audit-tag"), "code": event.tag}]
    if kind.type_code:
        types.append({"system": _DCM, "code": kind.type_code, "display": MEANINGS[kind.type_code]})
    reason = event.detail.get("reason") or event.detail.get("error")
    return kept(
        resourceType="AuditEvent",
        id=str(event.seq),
        meta={"lastUpdated": instant(event.occurred_at)},
        type={"system": _DCM, "code": kind.event, "display": MEANINGS[kind.event]},
        subtype=types,
        action=kind.action,
        recorded=instant(event.occurred_at),
        outcome=event.indicator,
        outcomeDesc=clean(said(reason)) if reason and not event.is_success else None,
        purposeOfEvent=[_BREAK_GLASS] if event.is_emergency else None,
        agent=[_agent(event, source), _ourselves(source)],
        source=kept(
            site=clean(source.site),
            observer={"display": f"Firstread {source.release}".strip()},
            type=[_code("security-source-type", "4", "Application Server")],
        ),
        entity=_entities(event, source, kind.cycle),
    )


def _agent(event: RecordedEvent, source: AuditSource) -> Json:
    said_role = clean(event.role)
    role = [{"coding": [{"system": local_system("role"), "code": said_role}], "text": said_role}] if said_role else None
    code, point = access_point(event.address)
    return kept(
        type=_participation("humanuser", "human user") if event.actor_kind == "person" else None,
        role=role,
        who={"identifier": {"system": f"{LOCAL}actor:{event.actor_kind}", "value": clean(event.actor) or "?"}},
        altId=clean(event.user_id),
        name=f"{clean(event.actor)}@{clean(source.name)}" if event.actor_kind == "person" else clean(event.actor),
        network={"address": point, "type": code} if point else None,
        purposeOfUse=[_BREAK_GLASS] if event.is_emergency else None,
    ) | {"requestor": True}


def _ourselves(source: AuditSource) -> Json:
    who = {"identifier": {"system": local_system("audit-source"), "value": clean(source.name)}}
    kind = {"coding": [{"system": _DCM, "code": "110150", "display": MEANINGS["110150"]}]}
    return {"type": kind, "who": who, "requestor": False}


def _entities(event: RecordedEvent, source: AuditSource, cycle: str) -> list[Json]:
    lifecycle = _code("dicom-audit-lifecycle", cycle, _STAGES[cycle]) if cycle in _STAGES else None
    detail = [
        {"type": name, "valueString": text}
        for name, value in sorted(event.detail.items())
        if name != "address" and (text := clean(said(value)))
    ]
    found = [one | kept(lifecycle=lifecycle) for one in _named(event, source)]
    if not detail:
        return found
    # what was said belongs to the thing the act was about; without one it stands alone
    return [found[0] | {"detail": detail}, *found[1:]] if found else [{"name": event.tag, "detail": detail}]


def _named(event: RecordedEvent, source: AuditSource) -> list[Json]:
    """Return what the act was about: first the Study, as those who ask for one look there."""
    found = []
    if event.study_id:
        found.append(_entity({"reference": f"ImagingStudy/{event.study_id}"}, "3"))
    if event.report_id:
        found.append(_entity({"reference": f"DiagnosticReport/{event.report_id}"}, "3"))
    if event.reading_id:
        what = {"identifier": {"system": local_system("reading"), "value": event.reading_id}}
        found.append(_entity(what, "20"))
    if event.object_type and event.object_id:
        system = local_system("object", event.object_type)
        what = {"identifier": {"system": system, "value": clean(event.object_id) or "?"}}
        found.append(_entity(what, "11" if event.object_type == "user" else ""))
    if event.study is not None and event.study.patient_id:
        system = authority_system(event.study.issuer_of_patient_id, source.authority)
        what = {"identifier": kept(system=system, value=clean(event.study.patient_id) or "?")}
        found.append(_entity(what, "1", person=True))
    return found


def _entity(what: Json, role: str, *, person: bool = False) -> Json:
    kind = ("1", "Person") if person else ("2", "System Object")
    return kept(
        what=what,
        type=_code("audit-entity-type", *kind),
        role=_code("object-role", role, _ROLES[role]) if role else None,
    )


def _participation(code: str, display: str) -> Json:
    return {"coding": [{"system": f"{TERMINOLOGY}extra-security-role-type", "code": code, "display": display}]}


def _code(system: str, code: str, display: str) -> Json:
    return {"system": TERMINOLOGY + system, "code": code, "display": display}
