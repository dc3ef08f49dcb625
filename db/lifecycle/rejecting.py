"""What was delivered and no longer stands: found, and taken back by a rejection note that is owed (IHE IOCM)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, String, Subquery, cast, exists, or_, select, union
from sqlalchemy.orm import Session

from config.errors import LifecycleError
from config.results import EVIDENCE, MESSAGES, ResultKind
from db.audit import AuditTag
from db.lifecycle.deliveries import owe
from db.lifecycle.moves import locked
from db.lifecycle.standing import Fallen, fallen
from db.lifecycle.values import NewObject
from db.models import Delivery, Reading, ResultObject, Study
from db.report_models import Draft, DraftRejection, Finding, Report, Signature
from db.types import Decision, DeliveryState, ReportState
from db.uow import UnitOfWork

_TAKEN_BACK = frozenset({Fallen.REFUSED, Fallen.SUPERSEDED, Fallen.FINDING})
_AT_ONCE = 500  # deliveries looked at in one go


@dataclass(frozen=True)
class Undone:
    """One object that a destination holds and that no longer stands.

    Attributes:
        delivery_id, destination: of the Delivery that brought it there.
        study_id, study_instance_uid, sop_instance_uid, path: of the object; the path is relative to the result store.
        why: why it no longer stands.
        reasons: in the reader's words: of the rejected draft, or of each rejected Finding that it shows.
        since: when it stopped standing, the same at every look.
    """

    delivery_id: UUID
    destination: str
    study_id: UUID
    study_instance_uid: str
    sop_instance_uid: str
    path: str
    why: Fallen
    reasons: tuple[str, ...]
    since: datetime


def undone(session: Session, destinations: Collection[str]) -> list[Undone]:
    """Return what some of these destinations hold, that no longer stands, and that no note takes back yet.

    What a signed report replaces is not among it: the report names it as its predecessor.
    """
    suspects = _suspect_drafts()
    signed_findings = ResultObject.__table__.alias("signed_findings")
    query = (
        select(Delivery, ResultObject, Study.study_instance_uid)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .join(Study, Study.id == ResultObject.study_id)
        .where(
            ResultObject.draft_id.in_(select(suspects.c.draft_id)),
            ResultObject.kind.not_in(MESSAGES),
            Delivery.state == DeliveryState.DELIVERED,
            Delivery.note_id.is_(None),
            Delivery.destination.in_(destinations),
            or_(
                ResultObject.kind != ResultKind.FINDINGS_SR,
                ~exists().where(
                    signed_findings.c.study_id == ResultObject.study_id,
                    signed_findings.c.kind == ResultKind.SIGNED_FINDINGS_SR,
                ),
            ),
            or_(ResultObject.draft_id.in_(select(fallen_drafts().c.draft_id)), _shows_rejected()),
        )
        .order_by(Delivery.delivered_at, Delivery.id)
        .limit(_AT_ONCE)
    )
    found = []
    for delivery, made, study_uid in session.execute(query):
        why = fallen(session, made)
        if why in _TAKEN_BACK:
            found.append(undone_by(session, delivery, made, study_uid, why))
    return found


def take_back(uow: UnitOfWork, note: NewObject, taken: Sequence[Undone]) -> None:
    """Owe a rejection note to the destinations of ``taken``, and keep that it takes these deliveries back.

    Raises:
        LifecycleError: one of them is no longer delivered, or was taken back meanwhile.
    """
    deliveries = [locked(uow, Delivery, key) for key in sorted(one.delivery_id for one in taken)]
    if any(one.state is not DeliveryState.DELIVERED or one.note_id is not None for one in deliveries):
        raise LifecycleError("what this note takes back has changed")
    study_id = taken[0].study_id
    note_id = owe(uow, note, study_id)
    for delivery in deliveries:
        delivery.note_id = note_id
    uow.audit(
        AuditTag.DELIVERY_REJECTION_NOTED,
        study_id=study_id,
        object_type="result_object",
        object_id=str(note_id),
        detail={
            "note": note.sop_instance_uid,
            "objects": sorted({one.sop_instance_uid for one in taken}),
            "destinations": sorted({one.destination for one in taken}),
            "why": taken[0].why.value,
        },
    )
    uow.session.flush()


def kept_note(session: Session, sop_instance_uid: str, destinations: Sequence[str]) -> NewObject | None:
    """Return a note that was made before, to be owed to more destinations; None when there is none."""
    kept = session.scalar(select(ResultObject).where(ResultObject.sop_instance_uid == sop_instance_uid))
    if kept is None:
        return None
    return NewObject(kept.kind, kept.sop_instance_uid, kept.sop_class_uid, kept.sha256, kept.path, tuple(destinations))


def fallen_drafts() -> Subquery:
    """Select the drafts that were rejected, or superseded by later images and not the ones a report was signed from."""
    signed = exists().where(Signature.report_id == Report.id)
    superseded = (
        select(Draft.id.label("draft_id"))
        .join(Reading, Reading.id == Draft.reading_id)
        .join(Report, Report.study_id == Draft.study_id)
        .where(Reading.superseded.is_(True), or_(Report.draft_id.is_(None), Report.draft_id != Draft.id, ~signed))
    )
    return union(select(DraftRejection.draft_id), superseded).subquery()


def _suspect_drafts() -> Subquery:
    """All drafts of which something may have to be taken back."""
    judged = (
        select(Finding.draft_id)
        .join(Report, Report.draft_id == Finding.draft_id)
        .join(Signature, Signature.report_id == Report.id)
        .where(Finding.decision == Decision.REJECTED, Signature.state == ReportState.FINAL)
    )
    return union(select(fallen_drafts().c.draft_id), judged).subquery()


def _shows_rejected() -> ColumnElement[bool]:
    """An object that shows a rejected Finding, by the text of its list of Tracking UIDs (digits and dots only)."""
    listed = cast(ResultObject.tracking_uids, String)
    return ResultObject.kind.in_([*EVIDENCE, ResultKind.FINDINGS_SR]) & exists().where(
        Finding.draft_id == ResultObject.draft_id,
        Finding.decision == Decision.REJECTED,
        Finding.tracking_uid != "",
        listed.like('%"' + Finding.tracking_uid + '"%'),
    )


def undone_by(session: Session, delivery: Delivery, made: ResultObject, study_uid: str, why: Fallen) -> Undone:
    """Return one delivered object that no longer stands, with why and since when."""
    reasons, since = _reasons_and_moments(session, made, why)
    return Undone(
        delivery_id=delivery.id,
        destination=delivery.destination,
        study_id=made.study_id,
        study_instance_uid=study_uid,
        sop_instance_uid=made.sop_instance_uid,
        path=made.path,
        why=why,
        reasons=reasons,
        since=max(since, default=made.created_at),
    )


def _reasons_and_moments(
    session: Session, made: ResultObject, why: Fallen
) -> tuple[tuple[str, ...], Sequence[datetime]]:
    if why is Fallen.REFUSED:
        query = select(DraftRejection).where(DraftRejection.draft_id == made.draft_id)
        rows = session.scalars(query).all()
        return tuple(one.reason for one in rows), [one.created_at for one in rows]
    if why is Fallen.FINDING:
        findings = session.scalars(
            select(Finding).where(Finding.draft_id == made.draft_id, Finding.decision == Decision.REJECTED)
        )
        shown = [one for one in findings if one.tracking_uid in made.tracking_uids]
        signed = select(Signature.signed_at).join(Report, Report.id == Signature.report_id)
        final = signed.where(Report.study_id == made.study_id, Signature.state == ReportState.FINAL)
        return tuple(one.decision_reason for one in shown), list(session.scalars(final))
    own = select(Reading.revision).join(Draft, Draft.reading_id == Reading.id).where(Draft.id == made.draft_id)
    later = select(Reading.created_at).where(
        Reading.study_id == made.study_id, Reading.revision > own.scalar_subquery()
    )
    return (), list(session.scalars(later.order_by(Reading.revision).limit(1)))
