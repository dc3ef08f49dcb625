"""What the tests of priors share: a patient's history at a PACS, a node of ours, and rows read back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, EncapsulatedPDFStorage, generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.models import AuditEvent, Instance, Reading, Study
from db.prior_models import Prior, PriorSearch
from db.types import utcnow
from dicom_node.priors import fetch_due
from dicom_node.scp import RunningNode, start_node
from tests.node_support import ct_slice, migrated_sessions, node_settings, store
from tests.orthanc import Orthanc

PATIENT = {
    "PatientID": "P-1",
    "IssuerOfPatientID": "HOSP",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19600203",
    "PatientSex": "F",
}
TODAY = {**PATIENT, "StudyDate": "20240510", "StudyDescription": "CT chest", "AccessionNumber": "A-9"}


def study(date: str, description: str = "CT chest", images: int = 2, **changes: Any) -> list[Dataset]:
    """Some images of one earlier Study of the patient."""
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    values = {**PATIENT, "StudyDate": date, "StudyDescription": description, **uids, **changes}
    return [ct_slice(InstanceNumber=number, **values) for number in range(1, images + 1)]


def report(of: Dataset, text: dict[str, str], **changes: Any) -> Dataset:
    """A report of the Study of ``of`` as Basic Text SR, one container and one text per section."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = BasicTextSRStorage, generate_uid()
    for keyword in (*PATIENT, "StudyInstanceUID", "StudyDate", "StudyDescription"):
        setattr(ds, keyword, of[keyword].value)
    ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = generate_uid(), "SR", 1
    ds.ContentDate, ds.ContentTime = of.StudyDate, "120000"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "VERIFIED"
    verifier = Dataset()
    verifier.VerifyingObserverName = "Reader^Rita"
    verifier.VerificationDateTime = f"{of.StudyDate}130000"
    verifier.VerifyingOrganization = "Hospital"
    ds.VerifyingObserverSequence = [verifier]
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [code("18748-4", "LN", "Diagnostic Imaging Report")]
    ds.ContentSequence = [section(heading, words) for heading, words in text.items()]
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def section(heading: str, words: str) -> Dataset:
    """A container with one text in it."""
    item, text = Dataset(), Dataset()
    item.RelationshipType, item.ValueType, item.ContinuityOfContent = "CONTAINS", "CONTAINER", "SEPARATE"
    item.ConceptNameCodeSequence = [code("1", "99T", heading)]
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", words
    text.ConceptNameCodeSequence = [code("2", "99T", heading)]
    item.ContentSequence = [text]
    return item


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One coded concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def pdf(of: Dataset, **changes: Any) -> Dataset:
    """A report of the Study of ``of`` as encapsulated PDF."""
    ds = report(of, {})
    ds.SOPClassUID, ds.Modality, ds.DocumentTitle = EncapsulatedPDFStorage, "DOC", "Radiology report"
    ds.MIMETypeOfEncapsulatedDocument, ds.EncapsulatedDocument = "application/pdf", b"%PDF-1.4\n"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def source(pacs: Orthanc, method: str = "c-get", **changes: Any) -> dict[str, Any]:
    """The PACS as one of ``priors.sources``."""
    values = {"name": "pacs", "method": method, "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.dicom_port}
    return {**values, "url": pacs.dicomweb_url, **changes}


@dataclass
class Site:
    """Our node with its database."""

    settings: Settings
    sessions: sessionmaker[Session]
    node: RunningNode

    def receive(self, *images: Dataset) -> None:
        """Others send us images."""
        for one in images:
            assert store(self.node.port, one)[0] == 0

    def fetch(self, *, after_s: float = 0.0) -> int:
        """One pass of the duty, some time from now."""
        return fetch_due(self.sessions, self.settings, utcnow() + timedelta(seconds=after_s))

    def rows(self, kind: type[Any], **columns: Any) -> list[Any]:
        """Rows of a table."""
        with self.sessions() as session:
            return list(session.scalars(select(kind).filter_by(**columns)))

    def priors(self) -> list[Prior]:
        """What was found, first first."""
        with self.sessions() as session:
            return list(session.scalars(select(Prior).order_by(Prior.study_id, Prior.position)))

    def search(self) -> PriorSearch:
        """The only search."""
        (found,) = self.rows(PriorSearch)
        return found

    def study(self, uid: str) -> Study:
        """One Study."""
        (found,) = self.rows(Study, study_instance_uid=uid)
        return found

    def held(self, uid: str) -> list[str]:
        """The SOP Instance UIDs held of a Study, sorted."""
        study = self.study(uid)
        return sorted(one.sop_instance_uid for one in self.rows(Instance, study_id=study.id))

    def readings(self, uid: str) -> list[Reading]:
        """The Readings of a Study."""
        return self.rows(Reading, study_id=self.study(uid).id)

    def events(self, tag: str) -> list[AuditEvent]:
        """Audit events of one kind."""
        return self.rows(AuditEvent, tag=tag)


@contextmanager
def running_site(
    folder: Path, sources: Sequence[dict[str, Any]], sessions: sessionmaker[Session] | None = None, **changes: Any
) -> Iterator[Site]:
    """Our node, which asks ``sources``; its duties run only when a test says so."""
    priors = {"sources": list(sources), **changes.pop("priors", {})}
    settings = node_settings(folder, priors=priors, **changes)
    sessions = sessions or migrated_sessions(settings)
    node = start_node(settings, sessions, deliver=False)
    try:
        yield Site(settings, sessions, node)
    finally:
        node.stop()
