"""What was added to a signed report, and what became of its draft: for whoever shows or sends it."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from db.report_models import Amendment, DraftRejection, Report, Signature
from db.types import ReportState


@dataclass(frozen=True)
class SignedAmendment:
    """One addendum or correction with the signature under it."""

    amendment: Amendment
    signature: Signature


def amendments(session: Session, report_id: UUID) -> list[SignedAmendment]:
    """Return the addenda and corrections of a Report, oldest first."""
    query = (
        select(Amendment, Signature)
        .join(Signature, Signature.id == Amendment.signature_id)
        .where(Amendment.report_id == report_id)
        .order_by(Signature.signed_at, Amendment.number)
    )
    return [SignedAmendment(amendment, signature) for amendment, signature in session.execute(query)]


def is_refused(session: Session, draft_id: UUID | None) -> bool:
    """Return whether a reader rejected this Draft as a whole, at any time."""
    if draft_id is None:
        return False
    recorded = exists().where(DraftRejection.draft_id == draft_id)
    now = exists().where(Report.draft_id == draft_id, Report.state == ReportState.REJECTED)
    return bool(session.scalar(select(recorded | now)))
