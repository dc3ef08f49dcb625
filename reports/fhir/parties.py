"""Patient, Practitioner, Organization, ServiceRequest and ImagingStudy: what others own and we only name."""

from reports.document import Code, OrderFacts, PatientFacts, ReportDocument
from reports.fhir.datatypes import (
    Json,
    authority_system,
    clean,
    coding,
    concept,
    fhir_date,
    fhir_moment,
    human_names,
    identifier,
    kept,
    local_system,
    narrative,
    reference,
    uid_identifier,
)
from reports.values import Signer

_GENDERS = {"M": "male", "F": "female", "O": "other"}
_PRIORITIES = {"STAT": "stat", "URGENT": "urgent", "ROUTINE": "routine"}


def patient_identifier(document: ReportDocument, authority: str) -> Json:
    """Return whom the report is about; somebody without a Patient ID is nobody but the person of this Study."""
    patient = document.patient
    if not clean(patient.patient_id):
        return identifier(local_system("study-patient"), document.study.study_instance_uid, use="temp")
    system = authority_system(patient.issuer_of_patient_id, authority or document.organization)
    return identifier(system, patient.patient_id, kind="MR")


def patient_resource(patient: PatientFacts, identity: Json) -> Json:
    """Return the Patient; what is not known is left out."""
    names = human_names(patient.name)
    return kept(
        resourceType="Patient",
        text=narrative(*(name["text"] for name in names), patient.patient_id),
        identifier=[identity],
        name=names,
        gender=_GENDERS.get(patient.sex.strip().upper()),
        birthDate=fhir_date(patient.birth_date),
    )


def staff_identifier(signer: Signer) -> Json:
    """Return the staff number of a reader, within the organization."""
    return identifier(local_system("staff", clean(signer.organization)), signer.staff_id, kind="EI")


def practitioner_resource(signer: Signer) -> Json:
    """Return the Practitioner who signed."""
    family, given = clean(signer.family), clean(signer.given)
    name = kept(text=clean(signer.printed_name), family=family, given=[given] if given else None)
    return kept(
        resourceType="Practitioner",
        text=narrative(signer.printed_name),
        identifier=[staff_identifier(signer)],
        name=[name] if name else None,
    )


def organization_identifier(name: str) -> Json:
    """Return the readers' organization as an Identifier."""
    return identifier(local_system("organization"), name)


def organization_resource(name: str) -> Json:
    """Return the Organization of the readers."""
    return kept(
        resourceType="Organization",
        text=narrative(name),
        identifier=[organization_identifier(name)],
        name=clean(name),
    )


def accession_identifier(document: ReportDocument) -> Json | None:
    """Return the Accession Number, if there is one."""
    return _numbered(document, "accession", document.order.accession_number, "ACSN")


def order_identifiers(document: ReportDocument) -> list[Json]:
    """Return the numbers of the order, the one that finds it first; none for a study without an order.

    The Accession Number goes first: images have it before the order is known, so it never makes a second order.
    """
    order = document.order
    placer = _numbered(document, "placer-order", order.placer_order_number, "PLAC")
    filler = _numbered(document, "filler-order", order.filler_order_number, "FILL")
    return [one for one in (accession_identifier(document), placer, filler) if one]


def _numbered(document: ReportDocument, space: str, value: str, kind: str) -> Json | None:
    # two hospitals number alike: their orders must not be taken for one
    system = local_system(space, clean(document.organization))
    return identifier(system, value, kind=kind) if clean(value) else None


def order_resource(document: ReportDocument, numbers: list[Json], patient: str) -> Json:
    """Return the ServiceRequest; its status is the RIS's to know, so it is ``unknown``."""
    order, study = document.order, document.study
    asked = order.procedure.meaning if order.procedure else study.description
    return kept(
        resourceType="ServiceRequest",
        text=narrative(asked, order.indication),
        identifier=numbers,
        status="unknown",
        intent="order",
        priority=_PRIORITIES[order.priority],
        code=concept(order.procedure, text=asked),
        subject=reference(patient),
        requester=_orderer(order),
        reasonCode=[concept(text=order.indication)] if clean(order.indication) else None,
    )


def _orderer(order: OrderFacts) -> Json | None:
    names = human_names(order.ordering_provider)
    number = clean(order.ordering_provider_id)
    known = identifier(local_system("ordering-provider"), number) if number else None
    named = kept(type="Practitioner", identifier=known, display=names[0]["text"] if names else None)
    return named if len(named) > 1 else None


def study_resource(document: ReportDocument, patient: str, order: str | None) -> Json:
    """Return the ImagingStudy with its Series and their counts; Instances are the archive's to list."""
    study = document.study
    accession = accession_identifier(document)
    referrer = human_names(study.referring_physician)
    return kept(
        resourceType="ImagingStudy",
        text=narrative(study.description, ", ".join(study.modalities), fhir_date(study.date)),
        identifier=[uid_identifier(study.study_instance_uid), *([accession] if accession else [])],
        status="available",
        modality=[_modality(one) for one in study.modalities],
        subject=reference(patient),
        started=fhir_moment(study.date, study.time, study.timezone),
        basedOn=[reference(order)] if order else None,
        referrer={"type": "Practitioner", "display": referrer[0]["text"]} if referrer else None,
        numberOfSeries=len(study.series),
        numberOfInstances=sum(len(one.instances) for one in study.series),
        description=clean(study.description),
        series=[
            kept(
                uid=one.series_instance_uid,
                number=one.number if one.number is not None and one.number >= 0 else None,
                modality=_modality(one.modality or "OT"),
                description=clean(one.description),
                numberOfInstances=len(one.instances),
                bodySite={"display": clean(one.body_part)} if clean(one.body_part) else None,
            )
            for one in study.series
        ],
    )


def _modality(value: str) -> Json:
    return coding(Code(value, "DCM", ""))
