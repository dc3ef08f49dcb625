"""What this server can do, as a CapabilityStatement."""

from importlib.metadata import version
from typing import Any

from dashboard.fhir.outcomes import MEDIA_TYPE
from dashboard.fhir.shelf import KINDS

_SEARCHES = {
    "DiagnosticReport": (
        ("_id", "token", "logical id"),
        ("identifier", "token", "the report (urn:ietf:rfc:3986|urn:oid:UID) or its Accession Number"),
        ("accession", "token", "Accession Number"),
        ("patient.identifier", "token", "Patient ID, with or without its namespace"),
        ("subject.identifier", "token", "the same"),
        ("_lastUpdated", "date", "moment of the last signature"),
    ),
    "AuditEvent": (
        ("entity", "reference", "ImagingStudy/id or DiagnosticReport/id"),
        ("date", "date", "when it happened"),
        ("patient", "reference", "Patient/id"),
        ("patient.identifier", "token", "Patient ID, with or without its namespace"),
        ("agent.identifier", "token", "login, process or AE title that acted"),
        ("altid", "token", "id of the account that acted"),
        ("type", "token", "EventID of DICOM"),
        ("subtype", "token", "tag of the event"),
        ("action", "token", "C, R, U, D or E"),
        ("outcome", "token", "0, 4 or 12"),
    ),
}


def capability(base: str) -> dict[str, Any]:
    """Return the CapabilityStatement (FHIR R4 section 5.2)."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-22",
        "kind": "instance",
        "software": {"name": "Firstread", "version": version("firstread")},
        "implementation": {"description": "Signed radiology reports", "url": base},
        "fhirVersion": "4.0.1",
        "format": [MEDIA_TYPE, "json"],
        "rest": [
            {
                "mode": "server",
                "documentation": "Read only. Reports that nobody signed are not served. Unknown search parameters are "
                "refused. _count and _offset page; _include=* adds what a report refers to, "
                "_revinclude=Provenance:target who made it.",
                "security": {"description": "A bearer token with scope read, or a session; AuditEvent for auditors."},
                "resource": [*(_resource(kind) for kind in KINDS), _resource("AuditEvent")],
            }
        ],
    }


def _resource(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"type": kind, "interaction": [{"code": "read"}], "versioning": "no-version"}
    if kind in _SEARCHES:
        found["interaction"].append({"code": "search-type"})
        found["searchParam"] = [
            {"name": name, "type": way, "documentation": words} for name, way, words in _SEARCHES[kind]
        ]
    if kind == "DiagnosticReport":
        found |= {"searchInclude": ["*"], "searchRevInclude": ["Provenance:target"]}
    return found
