"""The reports in an earlier Study that is here: SR text, and that there is a PDF."""

import struct
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pydicom
import structlog
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.settings import Settings
from db.lifecycle.prior_values import PatientFacts
from db.queries import InstancePath, instance_paths
from db.queries.priors import signed_report
from dicom_node.prior_choice import contradiction
from reports.prior_report import PDF_CLASS, REPORT_CLASSES, read_pdf_report, read_prior_report

log = structlog.get_logger()
_MAX_BYTES = 8 * 1024**2  # of an SR; there is no narrative of that size
_MAX_DOCUMENTS = 40
# what pydicom raises over Data Sets that hold something else than they say
UNREADABLE = (
    InvalidDicomError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError,
    NotImplementedError, EOFError, OSError, struct.error,
)  # fmt: skip


def read_documents(
    session: Session, settings: Settings, study_id: UUID, patient: PatientFacts
) -> tuple[Sequence[dict[str, Any]], str]:
    """Return the reports in a Study, best first, and in what one of them contradicts ``patient``.

    The report that was signed here is one of them. Best is verified before unverified, then the newest; PDFs come
    last. What cannot be read, or is no report of a person, is left out.
    """
    found = own_report(session, study_id)
    known = {one["sop_instance_uid"] for one in found}
    for one in instance_paths(session, study_id):
        if one.sop_class_uid not in {*REPORT_CLASSES, PDF_CLASS} or one.sop_instance_uid in known:
            continue
        if len(found) >= _MAX_DOCUMENTS:
            break
        try:
            ds = _read(settings, one)
            if why := contradiction(patient, _patient(ds)):
                return [], why
            found.append(_document(ds, one))
        except RefusedInputError as exc:
            log.info("priors.document_skipped", error=exc)
        except UNREADABLE as exc:
            log.warning("priors.document_unreadable", error=type(exc).__name__)
    return sorted(found, key=_rank), ""


def own_report(session: Session, study_id: UUID) -> list[dict[str, Any]]:
    """Return the report that was signed here over an earlier Study, as a document like those of an archive."""
    signed = signed_report(session, study_id)
    if signed is None:
        return []
    sections = [[heading.capitalize(), text] for heading, text in signed.sections.items() if text.strip()]
    origin = {"sop_instance_uid": signed.sop_instance_uid, "sha256": signed.sha256}
    said = {
        "title": "Report signed here",
        "date": signed.signed_at.date().isoformat(),
        "author": signed.author,
        "is_verified": signed.is_final,
        "is_shortened": False,
    }
    return [{"kind": "sr", **origin, **said, "sections": sections}] if sections else []


def _read(settings: Settings, one: InstancePath) -> Dataset:
    is_pdf = one.sop_class_uid == PDF_CLASS
    if not is_pdf and one.size_bytes > _MAX_BYTES:
        raise RefusedInputError("the document is too large to be read")
    return pydicom.dcmread(settings.instances_dir / one.path, specific_tags=_PDF_TAGS if is_pdf else None)


_PDF_TAGS: list[Any] = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "ContentDate",
    "DocumentTitle",
    "ConceptNameCodeSequence",
]


def _patient(ds: Dataset) -> PatientFacts:
    keywords = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
    return PatientFacts(*(str(ds.get(keyword) or "").strip() for keyword in keywords))


def _document(ds: Dataset, one: InstancePath) -> dict[str, Any]:
    origin = {"sop_instance_uid": one.sop_instance_uid, "sha256": one.sha256}
    if one.sop_class_uid == PDF_CLASS:
        return {"kind": "pdf", **origin, **vars(read_pdf_report(ds))}
    report = read_prior_report(ds)
    return {"kind": "sr", **origin, **vars(report), "sections": [list(pair) for pair in report.sections]}


def _rank(document: dict[str, Any]) -> tuple[bool, bool, int, str]:
    newest = -int(document["date"].replace("-", "") or 0)
    return document["kind"] == "pdf", not document.get("is_verified", False), newest, document["sop_instance_uid"]
