"""Parts that every structured report of ours shares: comments, evidence, authors, participants, verifiers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from reports.codes import code_table
from reports.text import one_line, person_name
from reports.values import Equipment, InstanceReference, Predecessor, Signer, SignOff

Participant = tuple[str, datetime | None, Dataset]
"""Participation Type, moment of participation, Identified Person or Device."""


_PURPOSES = {"draft": "draft_report", "addended": "addended_report", "replaced": "replaced_report"}


@dataclass(frozen=True)
class Evidence:
    """What a document rests on, all of one Study unless it is a prior.

    Attributes:
        source: any one image of the Study; Patient and Study modules are copied from it.
        references: every image given to an Expert or to the language model, ``source`` included, and other
            objects of the run (for a narrative: SEG and findings SR).
        segmentations: finished Segmentations whose segments the findings may reference.
    """

    source: Dataset
    references: Sequence[InstanceReference]
    segmentations: Sequence[Dataset] = ()

    def datasets(self, header: Dataset) -> list[Dataset]:
        """Return what highdicom takes as evidence; ``header`` is first and gives the Patient and Study modules."""
        return [header, *map(reference_dataset, self.references), *self.segmentations]


def comment(text: str) -> sr.TextContentItem:
    """Return a Comment (121106, DCM) that CONTAINS ``text``."""
    return sr.TextContentItem(
        name=code_table().concept("comment"), value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )


def reference_dataset(reference: InstanceReference) -> Dataset:
    """Return the four UIDs of a reference as the Dataset that highdicom takes as evidence."""
    ds = Dataset()
    ds.StudyInstanceUID = reference.study_instance_uid
    ds.SeriesInstanceUID = reference.series_instance_uid
    ds.SOPClassUID = reference.sop_class_uid
    ds.SOPInstanceUID = reference.sop_instance_uid
    return ds


def device_identity(equipment: Equipment) -> Dataset:
    """Return our product as Identified Person or Device (PS3.3 C.17.2.4)."""
    item = Dataset()
    item.ObserverType = "DEV"
    item.DeviceUID = equipment.device_uid
    item.Manufacturer = one_line(equipment.manufacturer, 64)
    item.ManufacturerModelName = one_line(equipment.model_name, 64)
    item.StationName = one_line(equipment.station_name, 16)
    item.InstitutionName = one_line(equipment.institution, 64)
    item.InstitutionCodeSequence = []
    return item


def person_identity(signer: Signer) -> Dataset:
    """Return a person as Identified Person or Device (PS3.3 C.17.2.4), with the site's staff number."""
    item = Dataset()
    item.ObserverType = "PSN"
    item.PersonName = person_name(signer.family, signer.given)
    item.PersonIdentificationCodeSequence = [staff_code(signer)]
    item.InstitutionName = one_line(signer.organization, 64)
    item.InstitutionCodeSequence = []
    return item


def staff_code(signer: Signer) -> sr.CodedConcept:
    """Return the signer's staff number as a code of the site's private scheme."""
    meaning = one_line(signer.printed_name, 64) or person_name(signer.family, signer.given)
    return sr.CodedConcept(one_line(signer.staff_id), code_table().staff_scheme, meaning)


def write_author(document: Dataset, equipment: Equipment) -> None:
    """Name our product as author and as source: nobody else stands behind a draft."""
    document.AuthorObserverSequence = [device_identity(equipment)]
    write_participants(document, [("SOURCE", None, device_identity(equipment))])


def write_participants(document: Dataset, participants: Sequence[Participant]) -> None:
    """Write the Participant Sequence (0040,A07A): type (SOURCE, ENT, ATTEST), moment, who."""
    items = []
    for kind, moment, identity in participants:
        item = Dataset()
        item.update(identity)
        item.ParticipationType = kind
        item.ParticipationDateTime = DT(moment.replace(microsecond=0)) if moment else None
        items.append(item)
    if items:
        document.ParticipantSequence = items


def person_observer(signer: Signer) -> sr.ObserverContext:
    """Return TID 1002 naming a person as the observer."""
    return sr.ObserverContext(
        observer_type=code_table().concept("person"),
        observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(
            name=person_name(signer.family, signer.given), organization_name=one_line(signer.organization)
        ),
    )


def write_sign_off(document: Dataset, sign_off: SignOff, equipment: Equipment | None) -> None:
    """Write authors, participants, the verifier's number and moment, and why each predecessor is named.

    ``equipment`` is None where no model had a part in the content.
    """
    authors = [person for person in (sign_off.attested_author, sign_off.report_author, sign_off.signer) if person]
    document.AuthorObserverSequence = [person_identity(person) for person in authors]
    participants: list[Participant] = [("SOURCE", None, device_identity(equipment))] if equipment else []
    if sign_off.preliminary:
        participants.append(("ENT", sign_off.signer.signed_at, person_identity(sign_off.signer)))
    if sign_off.attested_author is not None:
        participants.append(("ATTEST", sign_off.signer.signed_at, person_identity(sign_off.signer)))
    write_participants(document, participants)
    for verifier in document.get("VerifyingObserverSequence", []):
        verifier.VerificationDateTime = DT(sign_off.signer.signed_at.replace(microsecond=0))
        verifier.VerifyingObserverIdentificationCodeSequence = [staff_code(sign_off.signer)]
    _write_purposes(document, sign_off.predecessors)
    _declare_staff_scheme(document)


def write_predecessors(document: Dataset, predecessors: Sequence[Predecessor]) -> None:
    """Name other predecessors (0040,A360) than the document does, each with its purpose."""
    series_of: dict[tuple[str, str], list[Dataset]] = {}
    for one in predecessors:
        item = Dataset()
        item.ReferencedSOPClassUID = one.reference.sop_class_uid
        item.ReferencedSOPInstanceUID = one.reference.sop_instance_uid
        key = (one.reference.study_instance_uid, one.reference.series_instance_uid)
        series_of.setdefault(key, []).append(item)
    studies: dict[str, Dataset] = {}
    for (study_uid, series_uid), items in series_of.items():
        study = studies.setdefault(study_uid, Dataset())
        study.StudyInstanceUID = study_uid
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = items
        study.ReferencedSeriesSequence = [*study.get("ReferencedSeriesSequence", []), series]
    document.PredecessorDocumentsSequence = list(studies.values())
    _write_purposes(document, predecessors)


def _write_purposes(document: Dataset, predecessors: Sequence[Predecessor]) -> None:
    purposes = {predecessor.reference.sop_instance_uid: predecessor.purpose for predecessor in predecessors}
    for study in document.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            for item in series.ReferencedSOPSequence:
                purpose = purposes[str(item.ReferencedSOPInstanceUID)]
                item.PurposeOfReferenceCodeSequence = [code_table().concept(_PURPOSES[purpose])]


def _declare_staff_scheme(document: Dataset) -> None:
    item = Dataset()
    item.CodingSchemeDesignator = code_table().staff_scheme
    item.CodingSchemeName = code_table().staff_scheme_name
    item.CodingSchemeResponsibleOrganization = document.get("InstitutionName") or "Firstread site"
    document.CodingSchemeIdentificationSequence = [item]


def write_request(document: Dataset, header: Dataset) -> None:
    """Name the order that the document answers (Referenced Request Sequence), so that a RIS can match it."""
    if not header.AccessionNumber:
        return
    attributes = header.get("RequestAttributesSequence") or [Dataset()]
    item = Dataset()
    item.StudyInstanceUID = header.StudyInstanceUID
    item.AccessionNumber = header.AccessionNumber
    item.ReferencedStudySequence = []
    item.RequestedProcedureCodeSequence = []
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
        setattr(item, keyword, attributes[0].get(keyword) or "")
    item.PlacerOrderNumberImagingServiceRequest = header.get("PlacerOrderNumberImagingServiceRequest") or ""
    item.FillerOrderNumberImagingServiceRequest = header.get("FillerOrderNumberImagingServiceRequest") or ""
    document.ReferencedRequestSequence = [item]
