"""The patient in objects of ours, when the RIS corrected who it is after the images were made."""

from collections.abc import Iterable

from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from db.message_models import IdentityCorrection
from db.models import Study
from publishing.facts import patient_facts
from reports.document import PatientFacts

# these qualify the identifier that is replaced
_OF_THE_OLD = ("IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID")


def corrected_patient(session: Session, study: Study) -> PatientFacts | None:
    """Return the patient of a Study as the RIS corrected it; None when the images still say who it is."""
    return patient_facts(study) if session.get(IdentityCorrection, study.id) else None


def restate_patient(headers: Iterable[Dataset], patient: PatientFacts | None) -> None:
    """Write a corrected patient into headers from which objects of ours copy theirs; the files stay as received.

    Changes the headers in place; None leaves them as they are.
    """
    if patient is None:
        return
    for ds in headers:
        if str(ds.get("PatientBirthDate") or "") != patient.birth_date and "PatientAge" in ds:
            del ds.PatientAge  # it was that of the old date
        ds.PatientID = patient.patient_id
        ds.PatientName = patient.name
        ds.PatientBirthDate = patient.birth_date
        ds.PatientSex = patient.sex
        if patient.issuer_of_patient_id:
            ds.IssuerOfPatientID = patient.issuer_of_patient_id
        elif "IssuerOfPatientID" in ds:
            del ds.IssuerOfPatientID
        for keyword in _OF_THE_OLD:
            if keyword in ds:
                delattr(ds, keyword)
