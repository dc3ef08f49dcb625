"""Messages of a draft that were delivered and no longer stand: found, and taken back by a message that is owed."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import exists, select, tuple_
from sqlalchemy.orm import Session

from config.errors import LifecycleError
from config.results import MESSAGES, RETRACTIONS, ResultKind
from db.lifecycle.deliveries import UNDELIVERED, other_messages
from db.lifecycle.moves import locked
from db.lifecycle.rejecting import Undone, fallen_drafts, take_back, undone_by
from db.lifecycle.standing import Fallen, fallen
from db.lifecycle.values import NewObject
from db.models import Delivery, Reading, ResultObject, Study
from db.report_models import Report
from db.types import DeliveryState
from db.uow import UnitOfWork

_TAKEN_BACK = frozenset({Fallen.REFUSED, Fallen.SUPERSEDED})  # a signed report replaces what it was signed from
_AT_ONCE = 500  # deliveries looked at in one go


@dataclass(frozen=True)
class Kept:
    """One message in the result store; ``path`` is relative to it."""

    id: UUID
    path: str
    sha256: str


@dataclass(frozen=True)
class Retractable:
    """One message of a draft that a destination holds and that no longer stands.

    Attributes:
        undone: which, where, and why it no longer stands.
        kind: DRAFT_ORU or DRAFT_FHIR.
        message: its file.
        followers: messages that took its place there, or will, oldest first: newer drafts that arrived, and every
            signed report. One that failed may be sent again by a person, so it counts.
    """

    undone: Undone
    kind: ResultKind
    message: Kept
    followers: tuple[Kept, ...]


def retractable(session: Session, destinations: Collection[str]) -> list[Retractable]:
    """Return what some of these destinations hold, that no longer stands, and that nothing takes back yet.

    Where a later message of the Study is still on its way, that one is waited for.
    """
    query = (
        select(Delivery, ResultObject, Study.study_instance_uid)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .join(Study, Study.id == ResultObject.study_id)
        .where(
            ResultObject.draft_id.in_(select(fallen_drafts().c.draft_id)),
            ResultObject.kind.in_(RETRACTIONS),
            Delivery.state == DeliveryState.DELIVERED,
            Delivery.note_id.is_(None),
            Delivery.destination.in_(destinations),
            ~exists(other_messages(*UNDELIVERED, later=True)),
        )
        .order_by(Delivery.delivered_at, Delivery.id)
        .limit(_AT_ONCE)
    )
    found = []
    for delivery, made, study_uid in session.execute(query):
        why = fallen(session, made)
        if why in _TAKEN_BACK:
            undone = undone_by(session, delivery, made, study_uid, why)
            followers = tuple(_kept(later) for later, _ in _followers(session, delivery.destination, made))
            found.append(Retractable(undone, ResultKind(made.kind), _kept(made), followers))
    return found


def retract(uow: UnitOfWork, one: Retractable, message: NewObject | None) -> None:
    """Owe ``message``, which takes one message back; with None, keep that its followers replaced all it said.

    Raises:
        LifecycleError: it was taken back meanwhile, or another message of the Study was made since it was looked at,
            which this one would undo.
    """
    # whoever makes a message of the Study holds one of these locks until it is committed
    study_id = one.undone.study_id
    locked(uow, Study, study_id)
    for reading_id in uow.session.scalars(select(Reading.id).where(Reading.study_id == study_id).order_by(Reading.id)):
        locked(uow, Reading, reading_id)
    locked(uow, Report, uow.session.scalars(select(Report.id).where(Report.study_id == study_id)).one())
    delivery = locked(uow, Delivery, one.undone.delivery_id)
    made = uow.session.get_one(ResultObject, delivery.result_object_id)
    now = _followers(uow.session, delivery.destination, made)
    if {kept.id for kept, _ in now} != {kept.id for kept in one.followers} or any(
        state in UNDELIVERED for _, state in now
    ):
        raise LifecycleError("another message of this study was made meanwhile")
    if message is not None:
        take_back(uow, message, [one.undone])
    elif delivery.note_id is None and one.followers:
        delivery.note_id = one.followers[-1].id
        uow.session.flush()
    else:
        raise LifecycleError("this message was taken back meanwhile")


def _followers(session: Session, destination: str, made: ResultObject) -> list[tuple[ResultObject, DeliveryState]]:
    rows = session.execute(
        select(ResultObject, Delivery.state)
        .join(Delivery, Delivery.result_object_id == ResultObject.id)
        .where(
            ResultObject.study_id == made.study_id,
            Delivery.destination == destination,
            ResultObject.kind.in_(MESSAGES - {*RETRACTIONS.values()}),
            tuple_(ResultObject.created_at, ResultObject.id) > tuple_(made.created_at, made.id),
            Delivery.state != DeliveryState.WITHDRAWN,
        )
        .order_by(ResultObject.created_at, ResultObject.id)
    )
    # a newer draft that failed is no replacement: nobody needs to send it again
    return [(one, state) for one, state in rows if state is not DeliveryState.FAILED or one.kind not in RETRACTIONS]


def _kept(made: ResultObject) -> Kept:
    return Kept(made.id, made.path, made.sha256)
