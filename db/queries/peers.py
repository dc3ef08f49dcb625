"""When each peer called last, and what the node saw when somebody asked it to look."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from db.lifecycle.node_tasks import PEER, SOURCE
from db.models import PeerAssociation
from db.running_models import NodeTask

LATELY = timedelta(days=30)


@dataclass(frozen=True)
class CallsLately:
    """What one calling AE title did in thirty days."""

    associations: int
    rejected: int
    instances: int
    last_at: datetime


def associations_lately(session: Session, now: datetime) -> Mapping[str, CallsLately]:
    """Return what each calling AE title did, by title; peers that did not call are not there."""
    rejected = func.sum(case((PeerAssociation.rejected != "", 1), else_=0))
    query = (
        select(
            PeerAssociation.calling_ae,
            func.count(),
            rejected,
            func.sum(PeerAssociation.instances),
            func.max(PeerAssociation.opened_at),
        )
        .where(PeerAssociation.opened_at > now - LATELY)
        .group_by(PeerAssociation.calling_ae)
    )
    return {
        title: CallsLately(count, int(refused or 0), int(instances or 0), last)
        for title, count, refused, instances, last in session.execute(query)
    }


def looks(session: Session) -> Mapping[tuple[str, str], NodeTask]:
    """Return the newest look at each peer and archive: one that is waited for, or the last one done."""
    query = select(NodeTask).where(NodeTask.kind.in_((PEER, SOURCE))).order_by(NodeTask.asked_at)
    return {(row.kind, row.target): row for row in session.scalars(query)}
