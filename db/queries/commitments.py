"""Questions about storage commitment: what is held of what a peer asks for, and what a person has to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.commitment_models import CommitmentRequest, RequestState
from db.models import Delivery, Instance, ResultObject
from db.queries.details import DeliveryRow
from db.types import CommitmentState

_AT_ONCE = 500  # values in one IN (…)


@dataclass(frozen=True)
class HeldInstance:
    """One Instance as it was received: where its file is, relative to the instance store, and its digest."""

    sop_class_uid: str
    path: str
    sha256: str
    size_bytes: int
    is_deleted: bool  # retention took the file


def held_instances(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, HeldInstance]:
    """Return what is held of these Instances, by SOP Instance UID; what is not held is not in it."""
    held = {}
    for first in range(0, len(sop_instance_uids), _AT_ONCE):
        query = select(Instance).where(Instance.sop_instance_uid.in_(sop_instance_uids[first : first + _AT_ONCE]))
        for row in session.scalars(query):
            held[row.sop_instance_uid] = HeldInstance(
                row.sop_class_uid, row.path, row.sha256, row.size_bytes, row.deleted_at is not None
            )
    return held


def commitment_alarms(session: Session, *, limit: int = 200) -> list[DeliveryRow]:
    """Return what a destination holds, perhaps, and would not commit to; newest first."""
    query = (
        select(Delivery, ResultObject)
        .join(ResultObject, ResultObject.id == Delivery.result_object_id)
        .where(Delivery.commitment == CommitmentState.ALARM)
        .order_by(Delivery.delivered_at.desc())
        .limit(limit)
    )
    return [DeliveryRow(delivery, made) for delivery, made in session.execute(query)]


def untold_commitments(session: Session, *, limit: int = 200) -> list[CommitmentRequest]:
    """Return the requests whose peer never took our answer; newest first."""
    query = (
        select(CommitmentRequest)
        .where(CommitmentRequest.state == RequestState.FAILED)
        .order_by(CommitmentRequest.requested_at.desc())
        .limit(limit)
    )
    return list(session.scalars(query))
