"""The PDF of a report as a DICOM object, for archives and viewers that show documents beside the images."""

from collections.abc import Sequence

from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from config.errors import RefusedInputError
from reports.codes import code_table
from reports.equipment import (
    building,
    contributing_equipment,
    draft_description,
    equipment_arguments,
    local_time,
    stamp,
    use_notice,
)
from reports.source import study_header
from reports.text import one_line
from reports.values import SERIES_NUMBERS, AlgorithmIdentity, DraftIdentity, Equipment, SignOff


def build_encapsulated_pdf(
    pdf: bytes,
    source: Dataset,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
    sign_off: SignOff | None,
) -> Dataset:
    """Return ``pdf`` as Encapsulated PDF (PS3.3 A.45.1), a document of the Study of ``source``.

    Verification Flag is VERIFIED for a report that a radiologist signed, else UNVERIFIED. Burned In Annotation is
    YES: the pages name the patient. The value is padded to an even length; Encapsulated Document Length is the true
    one.

    Args:
        pdf: as :func:`reports.pdf.build_pdf` makes it.
        source: any one image of the Study; Patient and Study modules are copied from it.
        identity: fixes UIDs and times; a signed report has another identity than its draft.
        equipment: our product.
        algorithms: every model that had a part in the report.
        sign_off: who signed, as what; None for a draft.

    Returns:
        An Encapsulated PDF Instance with file meta information, ready to write.

    Raises:
        RefusedInputError: no PDF, a draft without an algorithm, or no valid object.
    """
    if not pdf.startswith(b"%PDF-"):
        raise RefusedInputError(f"{len(pdf)} bytes that do not start like a PDF")
    if sign_off is None and not algorithms:
        raise RefusedInputError("a draft needs the algorithms that wrote it")
    header = study_header(source)
    title = _title(sign_off, algorithms)
    with building("encapsulated PDF"):
        document = SOPClass(
            study_instance_uid=header.StudyInstanceUID,
            series_instance_uid=identity.series_instance_uid("pdf"),
            series_number=SERIES_NUMBERS["pdf"],
            sop_instance_uid=identity.sop_instance_uid("pdf"),
            sop_class_uid=EncapsulatedPDFStorage,
            instance_number=1,
            modality="DOC",
            series_description=title,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            patient_id=header.PatientID,
            patient_name=header.PatientName,
            patient_birth_date=header.PatientBirthDate,
            patient_sex=header.PatientSex,
            accession_number=header.AccessionNumber,
            study_id=header.StudyID,
            study_date=header.StudyDate,
            study_time=header.StudyTime,
            referring_physician_name=header.ReferringPhysicianName,
            **equipment_arguments(equipment),
        )
        document.copy_patient_and_study_information(header)
        _write_document(document, pdf, title, is_verified=sign_off is not None and not sign_off.preliminary)
    if items := contributing_equipment(algorithms, local_time(identity.created_at, header)):
        document.ContributingEquipmentSequence = items
    stamp(document, header, identity=identity, equipment=equipment, algorithms=algorithms)
    return document


def _title(sign_off: SignOff | None, algorithms: Sequence[AlgorithmIdentity]) -> str:
    if sign_off is None:
        return draft_description(algorithms)
    state = "Preliminary report, not verified" if sign_off.preliminary else "Radiology report (signed)"
    notice = use_notice(algorithms)
    return one_line(state + (f", AI: {notice}" if notice else ""), 64)


def _write_document(document: Dataset, pdf: bytes, title: str, *, is_verified: bool) -> None:
    document.ConversionType = "WSD"
    document.BurnedInAnnotation = "YES"
    document.AcquisitionDateTime = None  # type 2: it was not acquired
    document.DocumentTitle = title
    document.ConceptNameCodeSequence = [code_table().concept("imaging_report")]
    document.VerificationFlag = "VERIFIED" if is_verified else "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    document.EncapsulatedDocumentLength = len(pdf)
