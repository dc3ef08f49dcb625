"""Signed reports as resources with ids: the bundle that is pushed elsewhere, with our own names instead of UUIDs.

Ids come from what the database knows: a report's own, its Study's, for a Patient the first Study's. Everything that has
no row gets the UUID that stands for it in bundles.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from config.settings import Settings
from dashboard.withholding import withheld_studies
from db.models import Study
from db.queries import ReportDetail, report_detail
from db.queries.fhir import Wanted, first_study_of, model_sets, reports_signed_by, signed_reports, signers
from publishing.documents import report_document
from publishing.facts import algorithms_of
from reports.fhir import Entry, bundle_entries
from reports.fhir.datatypes import full_url, instant, uid_identifier

Resource = dict[str, Any]
KINDS = (
    "DiagnosticReport",
    "ImagingStudy",
    "Observation",
    "Device",
    "Provenance",
    "Patient",
    "Practitioner",
    "Organization",
    "ServiceRequest",
)
_PIECE = 24  # hexadecimal digits of an Observation's own UUID, behind the report's


class Shelf:
    """The resources of signed reports; what nobody signed is not on it."""

    def __init__(self, db: Session, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    def read(self, kind: str, key: str) -> tuple[Resource, UUID] | None:
        """Return a resource and the id of the Study it was found by; None when there is none."""
        for report_id in self._reports_with(kind, key):
            found = signed_reports(self._db, Wanted(report_ids=[report_id]), limit=1)[0]
            for one in self.report(report_id) if found else ():
                if (one["resourceType"], one["id"]) == (kind, key):
                    return one, found[0].study_id
        return None

    def report(self, report_id: UUID) -> list[Resource]:
        """Return all resources of one signed report, the DiagnosticReport first."""
        detail = report_detail(self._db, report_id)
        if detail is None or not detail.signatures or withheld_studies(self._db, [detail.study.id]):
            return []
        document = report_document(self._db, detail, self._settings)
        entries = bundle_entries(document, authority=self._settings.hl7.authority)
        ids = {one.url: self._id(one, detail) for one in entries}
        names = {one.url: f"{one.kind}/{ids[one.url]}" for one in entries}
        changed = instant(document.written_at)
        made = [
            _named(one.resource, names)
            | {"id": ids[one.url], "meta": {**one.resource.get("meta", {}), "lastUpdated": changed}}
            for one in entries
        ]
        return sorted(made, key=lambda one: KINDS.index(one["resourceType"]))

    def _id(self, entry: Entry, detail: ReportDetail) -> str:
        own = entry.url.removeprefix("urn:uuid:")
        if entry.kind in {"DiagnosticReport", "Provenance"}:
            return str(detail.report.id)
        if entry.kind in {"ImagingStudy", "ServiceRequest"}:
            return str(detail.study.id)
        if entry.kind == "Patient":
            return str(first_study_of(self._db, detail.study))
        return f"{detail.report.id.hex}.{own.replace('-', '')[:_PIECE]}" if entry.kind == "Observation" else own

    def _reports_with(self, kind: str, key: str) -> Iterator[UUID]:
        """Yield reports that may hold a resource."""
        named = _uuid(key.partition(".")[0] if kind == "Observation" else key)
        if named is None:
            return
        if kind in {"DiagnosticReport", "Provenance", "Observation"}:
            yield named
        elif kind in {"ImagingStudy", "ServiceRequest"}:
            yield from self._newest(Wanted(study_ids=[named]))
        elif kind == "Patient":
            yield from self._of_patient(named)
        elif kind == "Practitioner":
            yield from self._of_signer(key)
        elif kind == "Device":
            yield from self._of_model(key)
        elif kind == "Organization":
            yield from self._newest(Wanted())

    def _newest(self, wanted: Wanted) -> list[UUID]:
        return [one.report_id for one in signed_reports(self._db, wanted, limit=1)[0]]

    def _of_patient(self, study_id: UUID) -> list[UUID]:
        study = self._db.get(Study, study_id)
        if study is None:
            return []
        if not study.patient_id:
            return self._newest(Wanted(study_ids=[study_id]))
        return self._newest(Wanted(patient_id=study.patient_id, issuers=[study.issuer_of_patient_id]))

    def _of_signer(self, key: str) -> list[UUID]:
        for account in signers(self._db):
            reports = reports_signed_by(self._db, account.id)
            newest = self._newest(Wanted(report_ids=reports))
            for report_id in newest:
                if any(one["id"] == key for one in self.report(report_id) if one["resourceType"] == "Practitioner"):
                    return newest
        return []

    def _of_model(self, key: str) -> list[UUID]:
        for models, report_id in model_sets(self._db):
            for one in algorithms_of(json.loads(models)):
                identity = uid_identifier(one.device_uid)
                if full_url("Device", identity["system"], identity["value"]) == f"urn:uuid:{key}":
                    return [report_id]
        return self._newest(Wanted())  # our product is in every report


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: names.get(inner, inner) if name == "reference" and isinstance(inner, str) else _named(inner, names)
            for name, inner in value.items()
        }
    return [_named(one, names) for one in value] if isinstance(value, list) else value
