"""The pause between a signature and its dispatch: begun, stopped, released, replaced. Nothing leads back from FINAL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import or_, select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from config.results import ResultKind
from db.audit import AuditTag
from db.lifecycle.checking import LEAST_REASON, MOST_REASON
from db.lifecycle.moves import locked, move_delivery, move_hold
from db.lifecycle.review import FINALISERS, drafter
from db.models import Delivery, ResultObject
from db.report_models import Report, Signature, UserAccount
from db.signing_models import HoldState, SignatureHold
from db.types import DeliveryState, ReportState, utcnow
from db.uow import UnitOfWork

_K = ResultKind
# what a later signature says anew; everything else it does not make again goes along with it
_TEXTS = frozenset({_K.SIGNED_SR, _K.PRELIMINARY_SR, _K.REPORT_TEXT_SR, _K.REPORT_PDF, _K.REPORT_ORU, _K.REPORT_FHIR})
_UNSENT = (DeliveryState.PENDING, DeliveryState.HELD)


def begin_hold(uow: UnitOfWork, report: Report, signature: Signature, hold_s: float) -> SignatureHold | None:
    """Begin the pause of a signature, and let it replace what an earlier one of this report still holds back.

    Returns:
        The hold that deliveries are to wait with; None for a pause of 0 s.

    Raises:
        LifecycleError: an addendum, while the dispatch of what it adds to is stopped.
    """
    open_holds = _open_holds(uow, report.id)
    if signature.state is ReportState.ADDENDED and any(one.state is HoldState.STOPPED for one in open_holds):
        raise LifecycleError("sending this report is stopped: send it as it is or correct it first")
    hold = None
    if hold_s > 0:
        until = signature.signed_at + timedelta(seconds=hold_s)
        hold = SignatureHold(signature_id=signature.id, report_id=report.id, until=until)
        uow.session.add(hold)
        uow.session.flush()
    if signature.state is not ReportState.ADDENDED:
        for one in open_holds:
            _replace(uow, report, one, hold)
    return hold


def stop(uow: UnitOfWork, hold_id: UUID, reason: str) -> None:
    """Keep what was signed from being sent, for a reason; the report stays as it was signed.

    Raises:
        NotAuthorisedError: the Actor neither signed it nor is a radiologist.
        LifecycleError: the pause is over, or something is on its way already.
        RefusedInputError: no reason of 5 to 300 characters.
    """
    why = " ".join(reason.split())
    if not LEAST_REASON <= len(why) <= MOST_REASON:
        raise RefusedInputError(f"say in {LEAST_REASON} to {MOST_REASON} characters why it is not sent")
    hold, report, reader = _held(uow, hold_id)
    owed = _owed(uow, hold)
    # asked of the deliveries too: a sender whose clock is ahead may have begun
    if utcnow() >= hold.until or any(one.state is not DeliveryState.PENDING or one.attempts for one, _ in owed):
        raise LifecycleError("too late to stop: it is being sent. An addendum or a correction follows it")
    move_hold(uow, hold, HoldState.STOPPED, study_id=report.study_id, detail={"reason": why})
    for delivery, _ in owed:
        move_delivery(uow, delivery, DeliveryState.HELD, study_id=report.study_id)
    hold.acted_by, hold.acted_at, hold.reason = reader.id, utcnow(), why
    uow.session.flush()


def release_hold(uow: UnitOfWork, hold_id: UUID) -> None:
    """Send what was signed now: without waiting for the rest of the pause, or after it was stopped.

    Raises:
        NotAuthorisedError: the Actor neither signed it nor is a radiologist.
        LifecycleError: it was sent or replaced already.
    """
    hold, report, reader = _held(uow, hold_id)
    now = utcnow()
    if hold.state is HoldState.WAITING and now >= hold.until:
        raise LifecycleError("it is being sent already")
    move_hold(uow, hold, HoldState.RELEASED, study_id=report.study_id)
    for delivery, _ in _owed(uow, hold):
        if delivery.state in _UNSENT:
            _let_go(uow, delivery, report.study_id, now)
    hold.acted_by, hold.acted_at = reader.id, now
    uow.session.flush()


def _held(uow: UnitOfWork, hold_id: UUID) -> tuple[SignatureHold, Report, UserAccount]:
    reader = drafter(uow)
    known = uow.session.get(SignatureHold, hold_id)
    if known is None:
        raise LifecycleError("there is no such dispatch")
    report = locked(uow, Report, known.report_id)  # before its deliveries, as everywhere
    hold = locked(uow, SignatureHold, hold_id)
    signature = uow.session.get_one(Signature, hold.signature_id)
    if reader.id != signature.user_id and reader.role not in FINALISERS:
        raise NotAuthorisedError("only the signer or a radiologist stops or sends this")
    return hold, report, reader


def _open_holds(uow: UnitOfWork, report_id: UUID) -> Sequence[SignatureHold]:
    waits = (SignatureHold.state == HoldState.WAITING) & (SignatureHold.until > utcnow())
    query = (
        select(SignatureHold)
        .where(SignatureHold.report_id == report_id, or_(SignatureHold.state == HoldState.STOPPED, waits))
        .order_by(SignatureHold.created_at, SignatureHold.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return uow.session.scalars(query).all()


def _owed(uow: UnitOfWork, hold: SignatureHold) -> Sequence[tuple[Delivery, ResultObject]]:
    query = (
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(Delivery.hold_id == hold.id)
        .order_by(Delivery.id)
        .with_for_update(of=Delivery, key_share=True)
        .execution_options(populate_existing=True)
    )
    return [(delivery, made) for delivery, made in uow.session.execute(query)]


def _replace(uow: UnitOfWork, report: Report, old: SignatureHold, new: SignatureHold | None) -> None:
    """Withdraw the texts that were not sent; what is not made again (findings, evidence) waits with the new ones."""
    move_hold(uow, old, HoldState.REPLACED, study_id=report.study_id)
    for delivery, made in _owed(uow, old):
        if delivery.state not in _UNSENT or delivery.attempts:
            continue
        if made.kind in _TEXTS:
            move_delivery(uow, delivery, DeliveryState.WITHDRAWN, study_id=report.study_id)
        else:
            _let_go(uow, delivery, report.study_id, new.until if new else utcnow())
            delivery.hold_id = new.id if new else None
    uow.session.flush()


def _let_go(uow: UnitOfWork, delivery: Delivery, study_id: UUID, at: datetime) -> None:
    if delivery.state is DeliveryState.HELD:
        move_delivery(uow, delivery, DeliveryState.PENDING, study_id=study_id)
    else:  # a move of its own is in the event of the hold
        uow.audit(AuditTag.DELIVERY_RELEASED, study_id=study_id, object_type="delivery", object_id=str(delivery.id))
    delivery.next_attempt_at = at
