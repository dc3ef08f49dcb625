"""Observations: one per finding that stands, as the model asserted it or a reader verified it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from reports.codes import code_table
from reports.document import Code, ReportDocument, ReportedFinding
from reports.fhir.datatypes import (
    TERMINOLOGY,
    Json,
    clean,
    concept,
    fhir_moment,
    identifier,
    instant,
    kept,
    local_system,
    narrative,
    reference,
    term,
    uid_identifier,
)
from reports.values import MeasurementValue, Presence

AI_ASSERTED = {
    "system": f"{TERMINOLOGY}v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
CLINICIAN_ASSERTED = {"system": AI_ASSERTED["system"], "code": "CLINAST", "display": "clinician asserted"}
_LATERALITY = Code("272741003", "SCT", "Laterality")
_PRESENCE: Mapping[Presence, tuple[str, str]] = {
    "present": ("POS", "Positive"),
    "absent": ("NEG", "Negative"),
    "undetermined": ("IND", "Indeterminate"),
}


@dataclass(frozen=True)
class Links:
    """Where an Observation points: full URLs of the bundle's other resources."""

    patient: str
    study: str
    organization: str
    order: str | None
    devices: Mapping[str, str]
    readers: Mapping[str, str]
    verifier: str | None = None


def standing(document: ReportDocument) -> list[ReportedFinding]:
    """Return the findings that are said: in a draft all but the rejected, in a person's report what was accepted."""
    said = {"pending", "accepted", "edited"} if document.state == "draft" else {"accepted", "edited"}
    return [one for one in document.findings if one.decision in said]


def finding_identifier(document: ReportDocument, finding: ReportedFinding) -> Json:
    """Return what identifies a finding through the versions of its report: its Tracking UID where it has one."""
    if finding.tracking_uid:
        return uid_identifier(finding.tracking_uid)
    place = [one for one in document.findings if not one.tracking_uid].index(finding)
    return identifier(local_system("finding"), f"{document.report_uid}#{place}")


def finding_resource(document: ReportDocument, finding: ReportedFinding, links: Links) -> Json:
    """Return the Observation of one finding.

    ``code`` is the finding, its value whether it is present (CID 240); numbers, score and side are components. It is
    labelled as asserted by AI until a radiologist verified it, and as asserted by a clinician from then on.
    """
    verified, is_model = document.is_verified, finding.algorithm is not None
    labels = [CLINICIAN_ASSERTED] if verified else [AI_ASSERTED] if is_model else []
    device = links.devices.get(finding.algorithm.device_uid) if finding.algorithm else None
    said = _presence(finding.presence)
    interpretation = _PRESENCE[finding.presence]
    return kept(
        resourceType="Observation",
        meta={"security": labels} if labels else None,
        text=narrative(f"{finding.label}: {finding.presence}", finding.laterality, finding.sentence, document.notice),
        identifier=[finding_identifier(document, finding)],
        basedOn=[reference(links.order)] if links.order else None,
        partOf=[reference(links.study)],
        status="final" if verified else "preliminary",
        category=[term("observation-category", "imaging", "Imaging")],
        code=concept(finding.concept, text=finding.label or "finding"),
        subject=reference(links.patient),
        effectiveDateTime=fhir_moment(document.study.date, document.study.time, document.study.timezone),
        issued=instant(document.written_at),
        performer=[reference(links.verifier)] if links.verifier else None,
        valueCodeableConcept=concept(said, text=said.meaning),
        interpretation=[term("v3-ObservationInterpretation", *interpretation)],
        note=[{"text": text} for text in _notes(document, finding)],
        bodySite=_body_site(finding),
        device=reference(device) if device else None,
        derivedFrom=[reference(links.study), *_image(finding)],
        component=[*_side(finding), *_score(finding), *(_measured(one) for one in finding.measurements)],
    )


def withdrawn_resource(identity: Json, patient: str) -> Json:
    """Return the Observation of a finding that is taken back."""
    return {
        "resourceType": "Observation",
        "text": narrative("Withdrawn"),
        "identifier": [identity],
        "status": "entered-in-error",
        "code": {"text": "Withdrawn finding of an AI draft"},
        "subject": reference(patient),
    }


def _presence(presence: Presence) -> Code:
    return _code(presence)


def _code(key: str) -> Code:
    row = code_table().concepts[key]
    return Code(row.value, row.scheme, row.meaning)


def _notes(document: ReportDocument, finding: ReportedFinding) -> list[str]:
    edited = "Changed by the reader." if finding.decision == "edited" else ""
    reason = f"Reader: {finding.reason}" if clean(finding.reason) else ""
    return [clean(text) for text in (document.notice, finding.sentence, edited, reason) if clean(text)]


def _body_site(finding: ReportedFinding) -> Json | None:
    """Return the anatomic site, where the reviewed table gives one site for this concept."""
    if finding.concept is None:
        return None
    rows = [row for row in code_table().labels.values() if row.concept.value == finding.concept.value]
    sites = {(row.site.value, row.site.scheme, row.site.meaning) for row in rows if row.site is not None}
    if len(sites) != 1:
        return None
    site = Code(*sites.pop())
    side = finding.laterality.strip().lower()
    return concept(site, text=f"{side} {site.meaning}".strip().capitalize() if side else site.meaning)


def _side(finding: ReportedFinding) -> list[Json]:
    side = finding.laterality.strip().lower()
    if not side:
        return []
    coded = _code(side) if side in {"left", "right", "bilateral"} else None
    return [{"code": concept(_LATERALITY), "valueCodeableConcept": concept(coded, text=side)}]


def _score(finding: ReportedFinding) -> list[Json]:
    if finding.score is None:
        return []
    code = concept(_code("certainty"), text="Model score, not calibrated")
    return [{"code": code, **_quantity(finding.score * 100, "%", digits=4)}]


def _measured(measurement: MeasurementValue) -> Json:
    row = code_table().concepts.get(measurement.key)
    coded = Code(row.value, row.scheme, row.meaning) if row else None
    return {
        "code": concept(coded, text=measurement.key or "measurement"),
        **_quantity(measurement.value, measurement.unit_ucum),
    }


def _quantity(value: float, unit: str, digits: int | None = None) -> Json:
    """Return a value[x], or why there is none: JSON knows no NaN and no infinity."""
    if not math.isfinite(value):
        code = "not-a-number" if math.isnan(value) else f"{'positive' if value > 0 else 'negative'}-infinity"
        return {"dataAbsentReason": {"coding": [{"system": f"{TERMINOLOGY}data-absent-reason", "code": code}]}}
    number = value if digits is None else round(value, digits)
    coded = {"system": "http://unitsofmeasure.org", "code": unit} if unit else {}
    return {"valueQuantity": kept(unit=unit, **coded) | {"value": number}}


def _image(finding: ReportedFinding) -> list[Json]:
    """Return the image it rests on as a logical reference: R4 has no resource for one Instance of a Study."""
    if finding.source is None:
        return []
    return [
        {"type": "Media", "identifier": uid_identifier(finding.source.sop_instance_uid), "display": "Image it rests on"}
    ]
