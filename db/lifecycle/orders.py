"""Orders as the RIS announces them, and which Study answers which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4

from sqlalchemy import select

from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.lifecycle.priority import raise_priority
from db.models import ImagingOrder, Reading, Study
from db.types import Priority, ReadingState, utcnow
from db.uow import UnitOfWork

_NUMBERS = ("sender", "placer_order_number", "accession_number")


@dataclass(frozen=True)
class NewOrder:
    """What a message says of one order; names as in ``ImagingOrder``. Empty: the message does not say."""

    sender: str
    placer_order_number: str = ""
    filler_order_number: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    procedure_code: str = ""
    procedure_scheme: str = ""
    procedure_text: str = ""
    indication: str = ""
    priority: Priority | None = None
    ordering_provider: str = ""
    ordering_provider_id: str = ""
    visit_number: str = ""
    patient_class: str = ""
    patient_location: str = ""


def take_order(uow: UnitOfWork, new: NewOrder, action: Literal["new", "change", "cancel"]) -> UUID:
    """Keep an order as it is said to be now, and attach the Study it asked for; return its id.

    What a message leaves empty keeps its value. A change or a cancellation of an order that nobody announced is
    kept like an announcement. A priority raises that of the Reading, and never lowers it.
    """
    order = _known(uow, new)
    is_new = order is None
    if order is None:
        order = ImagingOrder(id=uuid4(), **{name: getattr(new, name) for name in _NUMBERS})
        uow.session.add(order)
    changed = _take_over(order, new)
    was_cancelled = bool(order.cancelled)
    order.cancelled = action == "cancel"
    order.updated_at = utcnow()
    uow.session.flush()
    _record(uow, order, is_new=is_new, was_cancelled=was_cancelled, changed=changed)
    for study_id in _studies_of(uow, order):
        attach(uow, locked(uow, Study, study_id))
    return order.id


def _known(uow: UnitOfWork, new: NewOrder) -> ImagingOrder | None:
    """Return the order with these numbers; one without an Accession Number is meant by its placer's number alone."""
    query = select(ImagingOrder).where(
        ImagingOrder.sender == new.sender, ImagingOrder.placer_order_number == new.placer_order_number
    )
    found = list(uow.session.scalars(query.with_for_update(key_share=True)))
    exact = [one for one in found if one.accession_number == new.accession_number]
    if exact or not new.placer_order_number:
        return exact[0] if exact else None
    loose = [one for one in found if not new.accession_number or not one.accession_number]
    return loose[0] if len(loose) == 1 else None


def _take_over(order: ImagingOrder, new: NewOrder) -> list[str]:
    """Write what the message says onto the row; return the names of what changed, in order."""
    changed = []
    for name, value in vars(new).items():
        if name != "sender" and value and getattr(order, name) != value:
            setattr(order, name, value)
            changed.append(name)
    return changed


def _record(uow: UnitOfWork, order: ImagingOrder, *, is_new: bool, was_cancelled: bool, changed: list[str]) -> None:
    study_id = uow.session.scalar(select(Study.id).where(Study.order_id == order.id).limit(1))
    numbers = {
        "placer": order.placer_order_number,
        "filler": order.filler_order_number,
        "accession": order.accession_number,
    }
    if is_new:
        uow.audit(AuditTag.ORDER_RECEIVED, object_type="order", object_id=str(order.id), detail=numbers)
    elif changed or order.cancelled != was_cancelled:
        detail = {**numbers, "changed": [*changed, *(["cancelled"] if order.cancelled != was_cancelled else [])]}
        _about(uow, AuditTag.ORDER_UPDATED, order, study_id, detail)
    if order.cancelled and not was_cancelled:
        _about(uow, AuditTag.ORDER_CANCELLED, order, study_id, numbers)


def _about(
    uow: UnitOfWork, tag: AuditTag, order: ImagingOrder, study_id: UUID | None, detail: Mapping[str, object]
) -> None:
    uow.audit(tag, study_id=study_id, object_type="order", object_id=str(order.id), detail=dict(detail))


def _studies_of(uow: UnitOfWork, order: ImagingOrder) -> list[UUID]:
    """Return the Studies an order may be of: its own already, by Study Instance UID, else by Accession Number."""
    condition = Study.order_id == order.id
    if order.study_instance_uid:
        condition |= Study.study_instance_uid == order.study_instance_uid
    if order.accession_number:
        condition |= Study.accession_number == order.accession_number
    return list(uow.session.scalars(select(Study.id).where(condition).order_by(Study.id)))


def attach(uow: UnitOfWork, study: Study) -> ImagingOrder | None:
    """Point a Study at the order that asked for it, if one did; return that order.

    An order is a Study's by its Study Instance UID, else by its Accession Number; its patient must be the Study's. An
    order of another patient is not attached, and the event says so. A Study keeps the order it has, unless that one
    was cancelled and another is not. Earlier Studies fetched for comparison have no order here.

    Args:
        uow: the unit of work.
        study: locked.
    """
    if study.is_prior:
        return None
    held = uow.session.get(ImagingOrder, study.order_id) if study.order_id else None
    if held is None or held.cancelled:
        chosen = _choose(uow, study)
        if chosen is not None and chosen is not held and (held is None or not chosen.cancelled):
            study.order_id = chosen.id
            by = "Study UID" if chosen.study_instance_uid == study.study_instance_uid else "Accession Number"
            _about(uow, AuditTag.ORDER_ATTACHED, chosen, study.id, {"by": by, "accession": chosen.accession_number})
            held = chosen
    if held is not None:
        raise_by_order(uow, study, held)
    return held


def _choose(uow: UnitOfWork, study: Study) -> ImagingOrder | None:
    """Return the order of a Study: the newest of those that name it and its patient, before cancelled ones."""
    named = [ImagingOrder.study_instance_uid == study.study_instance_uid]
    if study.accession_number:
        named.append(ImagingOrder.accession_number == study.accession_number)
    for condition in named:
        query = select(ImagingOrder).where(condition).order_by(ImagingOrder.cancelled, ImagingOrder.updated_at.desc())
        candidates = list(uow.session.scalars(query))
        for order in candidates:
            if same_patient(study, order.patient_id, order.issuer_of_patient_id):
                return order
        for order in candidates:
            detail = {"accession": order.accession_number, "reason": "it is another patient's"}
            uow.audit(
                AuditTag.ORDER_ATTACHED,
                outcome="failure",
                study_id=study.id,
                object_type="order",
                object_id=str(order.id),
                detail=detail,
            )
    return None


def same_patient(study: Study, patient_id: str, issuer: str) -> bool:
    """Return whether an identifier is that of a Study's patient; an issuer nobody stated fits any."""
    if not patient_id or study.identity_conflict or study.patient_id != patient_id:
        return False
    return not issuer or not study.issuer_of_patient_id or study.issuer_of_patient_id == issuer


def raise_by_order(uow: UnitOfWork, study: Study, order: ImagingOrder) -> None:
    """Raise the priority of the Study's present Reading to that of its order, once routing has given it one."""
    standing = select(Reading.id).where(Reading.study_id == study.id, Reading.superseded.is_(False))
    for reading_id in uow.session.scalars(standing).all():
        reading = locked(uow, Reading, reading_id)
        if reading.state is not ReadingState.RECEIVING and not order.cancelled:
            raise_priority(uow, reading, order.priority)
