"""What readers made of each AI finding: the record that an IHE AIRA document would be made from (docs/ihe-air.md)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from config.results import ResultKind
from db.models import ResultObject, Study
from db.queries.assessment import Assessed, assessed_findings
from db.report_models import Evidence, Report, Signature
from db.types import Decision

SCHEMA = "firstread-assessment/1"
_WORDS: Mapping[Decision, str] = {
    Decision.PENDING: "not assessed",
    Decision.ACCEPTED: "accepted",
    Decision.EDITED: "modified",
    Decision.REJECTED: "rejected",
}


def assessment(session: Session, study_id: UUID) -> dict[str, Any]:
    """Return the assessment of every finding of every draft of a Study, as JSON values.

    docs/ihe-air.md explains each field. The caller records that it was exported (``assessment:exported``).

    Raises:
        RefusedInputError: there is no such Study.
    """
    study = session.get(Study, study_id)
    if study is None:
        raise RefusedInputError("there is no such study")
    report = session.scalars(select(Report).where(Report.study_id == study_id)).one()
    return {
        "schema": SCHEMA,
        "study": {
            "study_instance_uid": study.study_instance_uid,
            "accession_number": study.accession_number,
            "patient_id": study.patient_id,
            "issuer_of_patient_id": study.issuer_of_patient_id,
        },
        "report": {"id": str(report.id), "state": report.state.value},
        "assessments": [_one(row) for row in assessed_findings(session, study_id)],
    }


def _one(row: Assessed) -> dict[str, Any]:
    finding = row.finding
    return {
        "assessment": _WORDS[finding.decision],
        "reason": finding.decision_reason,
        "assessed_by": {"login": row.reader.login, "printed_name": row.reader.printed_name} if row.reader else None,
        "assessed_at": _moment(finding.decided_at),
        "signature": _signature(row.signature),
        "finding": {
            "tracking_uid": finding.tracking_uid,
            "label": finding.label,
            "code": {"value": finding.code_value, "scheme": finding.code_scheme, "meaning": finding.code_meaning}
            if finding.code_value
            else None,
            "presence": finding.presence.value,
            "laterality": finding.laterality,
            "score": finding.score,
            "measurements": list(finding.measurements),
            "sentence": finding.sentence,
        },
        "algorithm": _algorithm(row.evidence),
        "draft": {"id": str(row.draft.id), "created_at": _moment(row.draft.created_at)},
        "findings_sr": _findings_sr(row.objects),
        "objects": [{"kind": one.kind, "sop_instance_uid": one.sop_instance_uid} for one in _sorted(row.objects)],
        "history": [
            {
                "at": _moment(event.occurred_at),
                "by": event.actor,
                "from": _word(event.detail.get("from")),
                "to": _word(event.detail.get("to")),
                "reason": event.detail.get("reason", ""),
            }
            for event in row.decisions
        ],
    }


def _word(decision: object) -> str:
    return _WORDS[Decision(str(decision))]


def _moment(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _signature(signed: Signature | None) -> dict[str, Any] | None:
    if signed is None:
        return None
    return {
        "id": str(signed.id),
        "state": signed.state.value,
        "printed_name": signed.printed_name,
        "meaning": signed.meaning,
        "signed_at": _moment(signed.signed_at),
        "text_sha256": signed.text_sha256,
    }


def _algorithm(run: Evidence | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "name": run.expert,
        "argument": run.argument,
        "version": run.version,
        "weights_sha256": dict(run.weights_sha256),
    }


def _findings_sr(objects: Sequence[ResultObject]) -> dict[str, str] | None:
    """Return the findings SR with a group of this Tracking UID; None for a finding that has no code."""
    forms = [one for one in objects if one.kind == ResultKind.FINDINGS_SR]
    if not forms:
        return None
    # forms for who gets other Segmentations have the same groups and longer names (publishing.draft)
    one = min(forms, key=lambda one: len(one.path))
    return {"sop_class_uid": one.sop_class_uid, "sop_instance_uid": one.sop_instance_uid, "sha256": one.sha256}


def _sorted(objects: Sequence[ResultObject]) -> list[ResultObject]:
    return sorted(objects, key=lambda one: (one.kind, one.sop_instance_uid))
