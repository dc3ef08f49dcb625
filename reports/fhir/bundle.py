"""The transaction that brings one version of a report to a FHIR server, once however often it is sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reports.document import ReportDocument
from reports.fhir.datatypes import (
    URI_SYSTEM,
    Json,
    clean,
    condition,
    full_url,
    instant,
    tag_condition,
    uid_identifier,
)
from reports.fhir.devices import model_resource, models_of, product, product_resource
from reports.fhir.findings import Links, finding_identifier, finding_resource, standing, withdrawn_resource
from reports.fhir.parties import (
    order_identifiers,
    order_resource,
    organization_identifier,
    organization_resource,
    patient_identifier,
    patient_resource,
    practitioner_resource,
    staff_identifier,
    study_resource,
)
from reports.fhir.report import (
    VERSION_TAG,
    interpreters,
    provenance_resource,
    report_identifier,
    report_resource,
)
from reports.values import Signer


@dataclass(frozen=True)
class Entry:
    """One resource of the bundle.

    Attributes:
        url: its ``urn:uuid``, which the other resources refer to.
        resource: without an id; the server gives one.
        found_by: search that finds it when it is there already.
        is_ours: kept up to date by us (conditional update); of everything else the receiver's own stands
            (conditional create).
    """

    url: str
    resource: Json
    found_by: str
    is_ours: bool

    @property
    def kind(self) -> str:
        """The resource type."""
        return str(self.resource["resourceType"])

    def json(self) -> Json:
        """Return it as Bundle.entry."""
        if self.is_ours:
            request = {"method": "PUT", "url": f"{self.kind}?{self.found_by}"}
        else:
            request = {"method": "POST", "url": self.kind, "ifNoneExist": self.found_by}
        return {"fullUrl": self.url, "resource": self.resource, "request": request}


def build_bundle(
    document: ReportDocument, *, uid: str, authority: str = "", pdf: bytes | None = None, retract: bool = False
) -> dict[str, Any]:
    """Return one version of a report as an R4 transaction Bundle.

    The same arguments give the same bundle. Sent twice it leaves one of each resource, and a later version updates
    the same DiagnosticReport: ours are found by identifier and replaced, others' are made only when missing.

    Args:
        document: the report as it stands.
        uid: identity of this message, a UID.
        authority: assigning authority of Patient IDs without an issuer (``hl7.authority``).
        pdf: the report as PDF, to go along.
        retract: for receivers that got the draft: what it said and the reader did not accept is entered in error
            there. Others never hear of it.
    """
    entries = bundle_entries(document, authority=authority, pdf=pdf)
    withdrawn = withdrawn_entries(document, entries[0].url) if retract else []
    return {
        "resourceType": "Bundle",
        "identifier": uid_identifier(uid, URI_SYSTEM),
        "type": "transaction",
        "timestamp": instant(document.written_at),
        "entry": [one.json() for one in (*entries, *withdrawn)],
    }


def bundle_entries(document: ReportDocument, *, authority: str = "", pdf: bytes | None = None) -> list[Entry]:
    """Return the resources of one version, what is referred to before what refers to it; each once."""
    found = list(_entries(document, authority, pdf))
    return list({one.url: one for one in found}.values())


def withdrawn_entries(document: ReportDocument, patient: str) -> list[Entry]:
    """Return the findings of a draft that do not stand, entered in error and without a word of what they said."""
    stands = standing(document)
    gone = [one for one in document.findings if one not in stands]
    return [
        _ours("Observation", identity, withdrawn_resource(identity, patient))
        for identity in (finding_identifier(document, one) for one in gone)
    ]


def _entries(document: ReportDocument, authority: str, pdf: bytes | None) -> Iterator[Entry]:
    person = patient_identifier(document, authority)
    patient = _others("Patient", person, patient_resource(document.patient, person))
    yield patient
    organization = _organization(document)
    if organization:
        yield organization
    readers = {one.staff_id: _reader(one) for one in interpreters(document)}
    yield from readers.values()
    order = _order(document, patient.url)
    if order:
        yield order
    studied = study_resource(document, patient.url, order.url if order else None)
    study = _others("ImagingStudy", studied["identifier"][0], studied)
    yield study
    devices = {one.device_uid: _device(model_resource(one)) for one in models_of(document)}
    yield from devices.values()
    equipment = _device(product_resource(product(document)))
    yield equipment
    links = Links(
        patient=patient.url,
        study=study.url,
        organization=organization.url if organization else "",
        order=order.url if order else None,
        devices={uid: one.url for uid, one in devices.items()},
        readers={staff: one.url for staff, one in readers.items()},
        verifier=_verifier(document, readers),
    )
    yield from _of_the_report(document, links, equipment.url, pdf)


def _of_the_report(document: ReportDocument, links: Links, equipment: str, pdf: bytes | None) -> Iterator[Entry]:
    found = []
    for one in standing(document):
        resource = finding_resource(document, one, links)
        found.append(_ours("Observation", finding_identifier(document, one), resource))
    yield from found
    whole = report_resource(document, links, [one.url for one in found], pdf)
    report = _ours("DiagnosticReport", report_identifier(document), whole)
    yield report
    yield Entry(
        full_url("Provenance", document.uid),
        provenance_resource(document, links, report.url, equipment),
        tag_condition(VERSION_TAG, document.uid),
        is_ours=False,  # of a version that is there already, nothing changes
    )


def _organization(document: ReportDocument) -> Entry | None:
    name = clean(document.organization)
    return _others("Organization", organization_identifier(name), organization_resource(name)) if name else None


def _reader(signer: Signer) -> Entry:
    return _others("Practitioner", staff_identifier(signer), practitioner_resource(signer))


def _order(document: ReportDocument, patient: str) -> Entry | None:
    numbers = order_identifiers(document)
    return _others("ServiceRequest", numbers[0], order_resource(document, numbers, patient)) if numbers else None


def _device(resource: Json) -> Entry:
    return _ours("Device", resource["identifier"][0], resource)


def _verifier(document: ReportDocument, readers: dict[str, Entry]) -> str | None:
    if not document.is_verified or not document.signatures:
        return None
    return readers[document.signatures[-1].signer.staff_id].url


def _ours(kind: str, identity: Json, resource: Json) -> Entry:
    return Entry(_url(kind, identity), resource, condition(identity), is_ours=True)


def _others(kind: str, identity: Json, resource: Json) -> Entry:
    return Entry(_url(kind, identity), resource, condition(identity), is_ours=False)


def _url(kind: str, identity: Json) -> str:
    return full_url(kind, identity.get("system", ""), identity["value"])
