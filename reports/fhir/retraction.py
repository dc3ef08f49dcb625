"""The transaction that takes an AI draft back from a FHIR server: ``entered-in-error``, without what it said.

It is made from the bundle that was sent, so that it finds the very resources that are there. Of these only identifiers
and the Patient, whom they stay filed under, are taken over.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from reports.fhir.datatypes import URI_SYSTEM, Json, concept, instant, kept, narrative, reference, uid_identifier
from reports.fhir.findings import withdrawn_resource
from reports.fhir.report import REPORT

_STATED = ("Observation", "DiagnosticReport")


def retract_bundle(sent: Json, *, uid: str, at: datetime, why: str, replaced: Collection[str] = ()) -> Json | None:
    """Return the transaction that takes back what a bundle of `reports.fhir.build_bundle` said; None for nothing.

    Args:
        sent: that bundle.
        uid: identity of the new message.
        at: when the draft stopped standing.
        why: in words without anything of the draft.
        replaced: conditional updates (`updates`) of later bundles: what they brought up to date is left alone.

    Raises:
        KeyError, StopIteration: ``sent`` is not such a bundle.
    """
    entries: list[Json] = sent["entry"]
    patient = next(one for one in entries if one["resource"]["resourceType"] == "Patient")
    gone = [one for one in entries if one["resource"]["resourceType"] in _STATED]
    gone = [one for one in gone if one["request"]["url"] not in replaced]
    if not gone:
        return None
    return {
        "resourceType": "Bundle",
        "identifier": uid_identifier(uid, URI_SYSTEM),
        "type": "transaction",
        "timestamp": instant(at),
        "entry": [patient, *(_withdrawn(one, patient["fullUrl"], why) for one in gone)],
    }


def updates(bundle: Mapping[str, Any]) -> set[str]:
    """Return the conditional updates of a bundle: each finds one resource, whose earlier content it replaces."""
    requests = [one["request"] for one in bundle["entry"]]
    return {str(one["url"]) for one in requests if one["method"] == "PUT"}


def _withdrawn(entry: Json, patient: str, why: str) -> Json:
    resource = entry["resource"]
    if resource["resourceType"] == "Observation":
        withdrawn = withdrawn_resource(resource["identifier"][0], patient)
    else:
        withdrawn = kept(
            resourceType="DiagnosticReport",
            text=narrative("The AI draft is withdrawn.", why),
            identifier=resource["identifier"],
            status="entered-in-error",
            code=concept(REPORT, text="Withdrawn AI draft"),
            subject=reference(patient),
        )
    return {"fullUrl": entry["fullUrl"], "resource": withdrawn, "request": entry["request"]}
