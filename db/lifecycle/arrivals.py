"""What came on one association, told once when it ends: an event for each Study, which seals its Instances' rows.

An event for each Instance would cost the receive path more than the Instance (ADR 12). The row of an Instance is
written in the transaction that lets Success be said; the event holds a digest over those rows, so that none of them
can be altered, added or taken away afterwards without its being seen. Whatever ends without an end (a killed node)
is told by the next one that starts (``db.peers.close_forgotten``).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import select

from db.audit import AuditTag
from db.models import Instance
from db.uow import UnitOfWork


def instances_digest(instances: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 over lines ``SOP Instance UID SHA-256``, sorted: what an event says of many Instances."""
    return hashlib.sha256("\n".join(sorted(f"{uid} {sha256}" for uid, sha256 in instances)).encode("ascii")).hexdigest()


def tell_arrivals(uow: UnitOfWork, association_id: UUID, *, by: str = "association") -> dict[UUID, int]:
    """Record which Instances came on an association, or in one request: one event for each Study (DICOM 110104).

    Args:
        uow: of the peer who sent them.
        association_id: as the Instances' rows have it.
        by: kind of thing it is the id of.

    Returns:
        The number of Instances of each Study.
    """
    query = select(Instance).where(Instance.association_id == association_id).order_by(Instance.study_id)
    counts: dict[UUID, int] = {}
    for study_id, group in groupby(uow.session.scalars(query), key=lambda one: one.study_id):
        came = list(group)
        counts[study_id] = len(came)
        uow.audit(
            AuditTag.INSTANCES_RECEIVED,
            study_id=study_id,
            object_type=by,
            object_id=str(association_id),
            detail=instances_told(came),
        )
    return counts


def instances_told(came: Iterable[Instance]) -> dict[str, Any]:
    """Return what an event says of some Instances: number, bytes, SOP Classes, digest over UIDs and hashes."""
    rows = list(came)
    return {
        "instances": len(rows),
        "bytes": sum(one.size_bytes for one in rows),
        "sop_classes": dict(Counter(one.sop_class_uid for one in rows)),
        "instances_sha256": instances_digest((one.sop_instance_uid, one.sha256) for one in rows),
    }
