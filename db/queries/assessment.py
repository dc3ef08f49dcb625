"""What readers made of the findings of a Study's drafts, with the acts that say so."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.results import ResultKind
from db.audit import AuditTag
from db.models import AuditEvent, ResultObject
from db.report_models import Draft, Evidence, Finding, Report, Signature, UserAccount
from db.types import Decision, ReportState


@dataclass(frozen=True)
class Assessed:
    """One Finding of one Draft and everything a reader said about it.

    Attributes:
        evidence: the Expert run it rests on.
        reader: who decided last; None while nobody has.
        signature: the first one made over this draft after the decision, a final one before a preliminary one.
        objects: DICOM objects of the draft that show it.
        decisions: every decision in order, also those taken back.
    """

    finding: Finding
    draft: Draft
    evidence: Evidence | None
    reader: UserAccount | None
    signature: Signature | None
    objects: list[ResultObject]
    decisions: list[AuditEvent]


def assessed_findings(session: Session, study_id: UUID) -> list[Assessed]:
    """Return every Finding of every Draft of a Study, drafts oldest first, findings in their order."""
    people = {one.id: one for one in session.scalars(select(UserAccount))}
    query = (
        select(Finding, Draft, Evidence)
        .join(Draft, Draft.id == Finding.draft_id)
        .outerjoin(Evidence, Evidence.id == Finding.evidence_id)
        .where(Draft.study_id == study_id)
        .order_by(Draft.created_at, Draft.id, Finding.position)
    )
    signatures = _signatures(session, study_id)
    objects = list(session.scalars(select(ResultObject).where(ResultObject.study_id == study_id)))
    events = _decisions(session, study_id)
    return [
        Assessed(
            finding=finding,
            draft=draft,
            evidence=evidence,
            reader=people[finding.decided_by] if finding.decided_by else None,
            signature=_signature_over(finding, signatures),
            objects=[one for one in objects if one.draft_id == draft.id and shows(one, finding)],
            decisions=[one for one in events if one.object_id == str(finding.id)],
        )
        for finding, draft, evidence in session.execute(query)
    ]


def shows(made: ResultObject, finding: Finding) -> bool:
    """Return whether an object of a draft shows a Finding, by the Tracking UIDs that were kept with it.

    A findings SR that was kept before Tracking UIDs were shows all coded findings of its draft.
    """
    if made.kind == ResultKind.FINDINGS_SR and not made.tracking_uids:
        return bool(finding.code_value)
    return bool(finding.tracking_uid) and finding.tracking_uid in made.tracking_uids


def _signatures(session: Session, study_id: UUID) -> list[Signature]:
    query = select(Signature).join(Report, Report.id == Signature.report_id).where(Report.study_id == study_id)
    found = session.scalars(query.order_by(Signature.signed_at))
    return sorted(found, key=lambda one: one.state is ReportState.PRELIMINARY)


def _signature_over(finding: Finding, signatures: list[Signature]) -> Signature | None:
    if finding.decision is Decision.PENDING or finding.decided_at is None:
        return None
    since = finding.decided_at
    return next((one for one in signatures if one.draft_id == finding.draft_id and one.signed_at >= since), None)


def _decisions(session: Session, study_id: UUID) -> list[AuditEvent]:
    query = select(AuditEvent).where(AuditEvent.study_id == study_id, AuditEvent.tag == AuditTag.FINDING_DECIDED)
    return list(session.scalars(query.order_by(AuditEvent.seq)))
