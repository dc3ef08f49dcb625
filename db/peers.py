"""Peers that people add and remove, and callers that were refused."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from config.settings import Peer
from db.audit import AuditTag
from db.lifecycle.arrivals import tell_arrivals
from db.models import PeerAssociation
from db.peer_models import AddedPeer
from db.types import utcnow
from db.uow import Actor, UnitOfWork


@dataclass(frozen=True)
class RefusedCaller:
    """Somebody who was refused, ``times`` since the instant asked for; the last time for ``reason``."""

    calling_ae: str
    called_ae: str
    address: str
    tls_subject: str
    reason: str
    times: int
    last_at: datetime


def add_peer(uow: UnitOfWork, peer: Peer) -> AddedPeer:
    """Let a calling AE in; the values of ``peer`` have been checked by its type.

    Raises:
        LifecycleError: one with the same AE title, host and certificate subject is in force.
        RefusedInputError: the certificate subject is longer than we can keep.
    """
    host = peer.host or ""
    if len(peer.certificate_subject) > 400:
        raise RefusedInputError("a certificate subject may have 400 characters")
    same = [
        row
        for row in added_peers(uow.session, peer.ae_title)
        if (row.host, row.certificate_subject) == (host, peer.certificate_subject)
    ]
    if same:
        raise LifecycleError(
            f"{peer.ae_title} from {host or 'any address'} was added already; remove it first to change it"
        )
    row = AddedPeer(
        ae_title=peer.ae_title,
        host=host,
        port=peer.port,
        certificate_subject=peer.certificate_subject,
        called_ae=list(peer.called_ae),
        max_associations=peer.max_associations,
        tls=peer.tls,
        added_by=uow.actor.name[:64],
    )
    uow.session.add(row)
    uow.session.flush()
    _audit(uow, AuditTag.PEER_ADDED, row)
    return row


def remove_peers(uow: UnitOfWork, ae_title: str, host: str | None = None) -> list[AddedPeer]:
    """Take what was added under an AE title out of force, with ``host`` only that; the rows stay.

    Raises:
        RefusedInputError: there is none.
    """
    rows = [row for row in added_peers(uow.session, ae_title) if host is None or row.host == host]
    if not rows:
        raise RefusedInputError(f"no peer {ae_title}{f' from {host}' if host else ''} was added")
    for row in rows:
        row.removed_at, row.removed_by = utcnow(), uow.actor.name[:64]
        _audit(uow, AuditTag.PEER_REMOVED, row)
    return rows


def added_peers(session: Session, ae_title: str | None = None) -> list[AddedPeer]:
    """Return the added peers in force, oldest first; of one AE title when it is given."""
    wanted = select(AddedPeer).where(AddedPeer.removed_at.is_(None))
    if ae_title is not None:
        wanted = wanted.where(AddedPeer.ae_title == ae_title)
    return list(session.scalars(wanted.order_by(AddedPeer.added_at, AddedPeer.id)))


def refused_callers(session: Session, *, since: datetime, at_most: int = 5000) -> list[RefusedCaller]:
    """Return who was refused, grouped by who called whom from where with which certificate; the latest first.

    The latest ``at_most`` refusals are looked at.
    """
    refusals = session.scalars(
        select(PeerAssociation)
        .where(PeerAssociation.rejected != "", PeerAssociation.opened_at >= since)
        .order_by(PeerAssociation.opened_at.desc())
        .limit(at_most)
    )
    callers: dict[tuple[str, str, str, str], RefusedCaller] = {}
    for row in refusals:
        who = (row.calling_ae, row.called_ae, row.address, row.tls_subject)
        latest = callers.get(who) or RefusedCaller(*who, reason=row.rejected, times=0, last_at=row.opened_at)
        callers[who] = replace(latest, times=latest.times + 1)
    return list(callers.values())


def close_forgotten(uow: UnitOfWork) -> int:
    """Record that associations without an end were lost, with the node that had them; return how many.

    Called when a node starts. Those of another node that still runs get their true end when it comes.
    """
    rows = uow.session.scalars(
        select(PeerAssociation).where(PeerAssociation.ended_at.is_(None), PeerAssociation.rejected == "")
    ).all()
    for row in rows:
        row.ended_at, row.ended_how = utcnow(), "lost"
        tell_arrivals(
            UnitOfWork(uow.session, Actor(row.calling_ae or "(no AE title)", "peer", address=row.address)), row.id
        )
        uow.audit(
            AuditTag.ASSOCIATION_FINISHED,
            outcome="failure",
            object_type="association",
            object_id=str(row.id),
            detail={"address": row.address, "calling_ae": row.calling_ae, "how": "lost"},
        )
    return len(rows)


def check_tables(session: Session) -> None:
    """Ask the database something that needs this release's tables; it raises when it cannot answer."""
    session.scalar(select(AddedPeer.id).limit(1))


def _audit(uow: UnitOfWork, tag: AuditTag, row: AddedPeer) -> None:
    detail: dict[str, Any] = {
        "ae_title": row.ae_title,
        "host": row.host,
        "certificate_subject": row.certificate_subject,
    }
    if tag is AuditTag.PEER_ADDED:
        detail |= {
            "port": row.port,
            "called_ae": row.called_ae,
            "max_associations": row.max_associations,
            "tls": row.tls,
        }
    uow.audit(tag, object_type="peer", object_id=str(row.id), detail=detail)
