"""The newest signature of a report and what became of it: checks, pause, deliveries, and whether it still holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from db.lifecycle.review import text_sha256
from db.models import Delivery, ResultObject
from db.report_models import Report, ReportRevision, Signature, UserAccount
from db.signing_models import ImageView, SafetyCheck, SignatureHold


@dataclass(frozen=True)
class Dispatch:
    """One signature, its pause and who acted on it, and what is owed because of it."""

    signature: Signature
    hold: SignatureHold | None
    acted_by: str
    deliveries: Sequence[Delivery]


@dataclass(frozen=True)
class Viewing:
    """How long one reader looked at the images."""

    printed_name: str
    seconds: float


def latest_dispatch(session: Session, study_id: UUID) -> Dispatch | None:
    """Return what became of the newest signature of a Study's report; None before the first."""
    query = (
        select(Signature)
        .join(Report, Report.id == Signature.report_id)
        .where(Report.study_id == study_id)
        .order_by(Signature.signed_at.desc(), Signature.id)
        .limit(1)
    )
    signature = session.scalar(query)
    if signature is None:
        return None
    hold = session.scalar(select(SignatureHold).where(SignatureHold.signature_id == signature.id))
    acted = session.get(UserAccount, hold.acted_by) if hold and hold.acted_by else None
    mine = [ResultObject.signature_id == signature.id, *([Delivery.hold_id == hold.id] if hold else [])]
    owed = (
        select(Delivery)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(or_(*mine))
        .order_by(Delivery.destination, Delivery.id)
    )
    return Dispatch(signature, hold, acted.printed_name if acted else "", session.scalars(owed).all())


def check_of(session: Session, signature_id: UUID) -> SafetyCheck | None:
    """Return what was checked before a signature; None for one of an earlier release."""
    return session.scalar(select(SafetyCheck).where(SafetyCheck.signature_id == signature_id))


def signed_text_is_kept(session: Session, signature: Signature) -> bool:
    """Return whether the very text that was signed is still kept: some revision has its hash, computed anew."""
    query = select(ReportRevision.sections).where(ReportRevision.report_id == signature.report_id)
    return any(text_sha256(sections) == signature.text_sha256 for sections in session.scalars(query))


def signed_objects(session: Session, signature_id: UUID) -> Sequence[ResultObject]:
    """Return what a signature made."""
    return session.scalars(select(ResultObject).where(ResultObject.signature_id == signature_id)).all()


def viewings(session: Session, study_id: UUID) -> list[Viewing]:
    """Return how long each reader looked at a Study's images, longest first."""
    query = (
        select(UserAccount.printed_name, ImageView.seconds)
        .join(UserAccount, UserAccount.id == ImageView.user_id)
        .where(ImageView.study_id == study_id)
        .order_by(ImageView.seconds.desc(), UserAccount.login)
    )
    return [Viewing(name, seconds) for name, seconds in session.execute(query)]
