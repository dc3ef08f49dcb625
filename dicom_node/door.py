"""The doorkeeper: who may come in, counted and recorded."""

import shutil
import threading
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db.audit import AuditTag
from db.models import PeerAssociation
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.context import Admission, Asking, NodeContext, Rejection
from dicom_node.names import Names
from dicom_node.peers import KnownPeers, known_peers
from dicom_node.policy import NO_SPACE, NOT_READY, Welcome, is_from, judge_caller, judge_crowd, profile_of

log = structlog.get_logger()


class Door:
    """Judges each association by the policy and keeps count of those that are open."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._known = KnownPeers(settings, sessions)
        self._names = Names()
        self._open: dict[UUID, Asking] = {}
        self._lock = threading.Lock()

    def enter(self, asking: Asking) -> Admission:
        """Judge, count and record one request; a database that goes away rejects nobody it knew."""
        association_id = uuid4()
        verdict = self._judge(association_id, asking)
        rejection = verdict if isinstance(verdict, Rejection) else None
        is_identified = isinstance(verdict, Welcome) and verdict.is_identified
        self._record_entry(association_id, asking, rejection, user=asking.user if is_identified else "")
        profile = profile_of(self._settings.dicom, asking.called_ae)
        classes = frozenset(profile.sop_classes) if profile else frozenset()
        return Admission(association_id, rejection, classes, is_identified)

    def _judge(self, association_id: UUID, asking: Asking) -> Rejection | Welcome:
        dicom = self._settings.dicom
        try:
            peers = self._known.present()
        except AppError:
            return NOT_READY
        verdict = judge_caller(dicom, asking, peers, addresses_of=self._names.addresses)
        if isinstance(verdict, Rejection):
            return verdict
        if asking.stores and not self._has_space():
            return NO_SPACE
        with self._lock:
            crowd = judge_crowd(dicom, asking, self._open.values(), at_once=verdict.at_once)
            if crowd is None:
                self._open[association_id] = replace(asking, passcode="")
        return crowd or verdict

    def _has_space(self) -> bool:
        """Return whether there is room for more; a store that cannot be asked answers for itself, with a status."""
        try:
            free = shutil.disk_usage(self._settings.instances_dir).free
        except OSError:
            return True
        return free >= self._settings.retention.refuse_free_bytes

    def _record_entry(self, association_id: UUID, asking: Asking, rejection: Rejection | None, *, user: str) -> None:
        row = PeerAssociation(
            id=association_id,
            calling_ae=printable(asking.calling_ae, 16),
            called_ae=printable(asking.called_ae, 16),
            address=printable(asking.address, 64),
            tls_subject=printable(asking.tls_subject, 400),
            user_identity=printable(user, 64),
            rejected=rejection.reason[:200] if rejection else "",
        )
        detail: dict[str, Any] = {"address": row.address, "called_ae": row.called_ae}
        detail |= {"tls_subject": row.tls_subject} if asking.is_tls else {}
        detail |= {"user": row.user_identity} if user else {}
        if rejection:
            hint = printable(rejection.hint, 600)
            detail |= {"reason": rejection.reason, "hint": hint}
            log.warning(
                "association.rejected",
                calling_ae=row.calling_ae,
                called_ae=row.called_ae,
                host=row.address,
                error=rejection.reason,
                hint=hint,
            )
        try:
            with unit_of_work(self._sessions, _actor(asking)) as uow:
                uow.session.add(row)
                uow.audit(
                    AuditTag.ASSOCIATION_REJECTED if rejection else AuditTag.ASSOCIATION_ACCEPTED,
                    outcome="failure" if rejection else "success",
                    object_type="association",
                    object_id=str(association_id),
                    detail=detail,
                )
        except (AppError, SQLAlchemyError) as exc:
            # the association is of no use without a database, but its C-STORE will say so with a status
            log.error("association.not_recorded", error=exc, calling_ae=printable(asking.calling_ae, 16))  # noqa: TRY400

    def leave(self, association_id: UUID, *, how: str, instances: int = 0, size_bytes: int = 0) -> None:
        """Record the end of an accepted association."""
        with self._lock:
            asking = self._open.pop(association_id, None)
        if asking is None:
            return
        detail = {
            "address": printable(asking.address, 64),
            "how": how,
            "instances": instances,
            "bytes": size_bytes,
        }
        try:
            with unit_of_work(self._sessions, _actor(asking)) as uow:
                row = uow.session.get(PeerAssociation, association_id)
                if row is not None:
                    row.ended_at, row.ended_how = utcnow(), how
                    row.instances, row.size_bytes = instances, size_bytes
                uow.audit(
                    AuditTag.ASSOCIATION_FINISHED,
                    outcome="success" if how == "released" else "failure",
                    object_type="association",
                    object_id=str(association_id),
                    detail=detail,
                )
        except (AppError, SQLAlchemyError) as exc:
            log.error("association.not_recorded", error=exc, calling_ae=printable(asking.calling_ae, 16))  # noqa: TRY400


def turned_away(context: NodeContext, address: str, reason: str) -> None:
    """Record that a TLS handshake failed, where the address is a peer's; strangers get the log line only."""
    try:
        with context.sessions() as session:
            peers = known_peers(session, context.settings)
        names = Names(patience_s=0.5)
        titles = {peer.ae_title for peer in peers if peer.host and is_from(peer.host, address, names.addresses)}
        for title in sorted(titles):
            with unit_of_work(context.sessions, Actor(title, "peer")) as uow:
                row = PeerAssociation(
                    id=uuid4(), calling_ae=title, address=printable(address, 64), rejected=reason[:200]
                )
                uow.session.add(row)
                uow.audit(
                    AuditTag.ASSOCIATION_REJECTED,
                    outcome="failure",
                    object_type="association",
                    object_id=str(row.id),
                    detail={"address": row.address, "reason": row.rejected},
                )
    except (AppError, SQLAlchemyError) as exc:
        log.error("association.not_recorded", error=exc, host=printable(address, 64))  # noqa: TRY400


def printable(text: str, at_most: int) -> str:
    """Return what a log line and a column may hold of a text that somebody else chose."""
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text[:at_most])


def _actor(asking: Asking) -> Actor:
    return Actor(printable(asking.calling_ae, 16) or "(no AE title)", "peer")
