"""A Draft and what people made of it: the two sides of its provenance record."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from db.audit import AuditTag
from db.models import AuditEvent, Delivery, ResultObject
from db.report_models import Draft, Finding, Report, ReportRevision, Signature, UserAccount


def draft(session: Session, draft_id: UUID) -> Draft | None:
    """Return a Draft, or None."""
    return session.get(Draft, draft_id)


def newest_draft(session: Session, study_id: UUID) -> Draft | None:
    """Return the Draft of a Study that was made last, or None."""
    query = select(Draft).where(Draft.study_id == study_id).order_by(Draft.created_at.desc(), Draft.id).limit(1)
    return session.scalars(query).first()


def human_side(session: Session, made: Draft) -> dict[str, Any]:
    """Return who opened a Draft, what they changed and decided, who signed, and what was sent of it."""
    people = {one.id: one.login for one in session.scalars(select(UserAccount))}
    report = session.scalars(select(Report).where(Report.study_id == made.study_id)).one()
    return {
        "report_state": report.state.value,
        "opened": _openings(session, made),
        "edits": _edits(session, report, made, people),
        "decisions": _decisions(session, made, people),
        "signatures": _signatures(session, made),
        "objects": _objects(session, made),
    }


def _openings(session: Session, made: Draft) -> list[dict[str, Any]]:
    query = select(AuditEvent).where(
        AuditEvent.study_id == made.study_id,
        AuditEvent.tag == AuditTag.REPORT_OPENED,
        AuditEvent.occurred_at >= made.created_at,
    )
    return [{"at": e.occurred_at, "by": e.actor} for e in session.scalars(query.order_by(AuditEvent.seq))]


def _edits(session: Session, report: Report, made: Draft, people: Mapping[UUID, str]) -> list[dict[str, Any]]:
    """Return each save by a person with the sections it changed, before and after."""
    query = select(ReportRevision).where(
        ReportRevision.report_id == report.id, ReportRevision.created_at >= made.created_at
    )
    before: Mapping[str, str] = made.sections
    edits = []
    for revision in session.scalars(query.order_by(ReportRevision.number)):
        changed = {
            key: {"before": before.get(key, ""), "after": revision.sections.get(key, "")}
            for key in sorted({*before, *revision.sections})
            if before.get(key, "") != revision.sections.get(key, "")
        }
        if revision.author_id is not None:
            edits.append({"at": revision.created_at, "by": people[revision.author_id], "changed": changed})
        before = revision.sections
    return edits


def _decisions(session: Session, made: Draft, people: Mapping[UUID, str]) -> list[dict[str, Any]]:
    query = select(Finding).where(Finding.draft_id == made.id).order_by(Finding.position)
    return [
        {
            "finding": one.label,
            "presence": one.presence.value,
            "decision": one.decision.value,
            "reason": one.decision_reason,
            "by": people[one.decided_by] if one.decided_by else None,
            "at": one.decided_at,
        }
        for one in session.scalars(query)
    ]


def _signatures(session: Session, made: Draft) -> list[dict[str, Any]]:
    query = select(Signature).where(Signature.draft_id == made.id).order_by(Signature.signed_at)
    kept = ("printed_name", "meaning", "authenticated_at", "signed_at", "text_sha256", "image_set_sha256")
    return [{name: getattr(one, name) for name in kept} | {"state": one.state.value} for one in session.scalars(query)]


def _objects(session: Session, made: Draft) -> list[dict[str, Any]]:
    """Return every object made from the Draft with where it went and what the destination answered."""
    signed = select(Signature.id).where(Signature.draft_id == made.id)
    query = select(ResultObject).where(or_(ResultObject.draft_id == made.id, ResultObject.signature_id.in_(signed)))
    return [
        {
            "kind": one.kind,
            "sop_instance_uid": one.sop_instance_uid,
            "sha256": one.sha256,
            "deliveries": [_delivery(d) for d in session.scalars(_of(one))],
        }
        for one in session.scalars(query.order_by(ResultObject.created_at))
    ]


def _of(made: ResultObject) -> Any:
    return select(Delivery).where(Delivery.result_object_id == made.id).order_by(Delivery.destination)


def _delivery(one: Delivery) -> dict[str, str | int | datetime | None]:
    return {
        "destination": one.destination,
        "state": one.state.value,
        "attempts": one.attempts,
        "delivered_at": one.delivered_at,
    }
