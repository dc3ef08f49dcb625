"""The doorkeeper: who may come in, counted and recorded."""

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, TransientError
from config.settings import Settings
from db.audit import AuditTag
from db.lifecycle.arrivals import tell_arrivals
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
        """Judge, count and record one request; a database that goes away rejects nobody it knew.

        Whoever cannot be recorded for any other reason is turned away for the moment: what they send would be
        received without a record of who sent it.
        """
        association_id = uuid4()
        verdict = self._judge(association_id, asking)
        rejection = verdict if isinstance(verdict, Rejection) else None
        is_identified = isinstance(verdict, Welcome) and verdict.is_identified
        entry = _Entry(association_id, asking, asking.user if is_identified else "", rejection)
        if not self._record(lambda: self._record_entry(entry), asking) and rejection is None:
            rejection = NOT_READY
            with self._lock:
                self._open.pop(association_id, None)
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

    def _record(self, write: Callable[[], None], asking: Asking) -> bool:
        """Return False when something cannot be recorded though there is a database: that must not be gone past."""
        try:
            write()
        except TransientError as exc:
            # the association is of no use without a database, but its C-STORE will say so with a status
            log.error("association.not_recorded", error=exc, calling_ae=printable(asking.calling_ae, 16))  # noqa: TRY400
        except (AppError, SQLAlchemyError) as exc:
            log.error("association.not_recorded", error=exc, calling_ae=printable(asking.calling_ae, 16))  # noqa: TRY400
            return False
        return True

    def _record_entry(self, entry: "_Entry") -> None:
        row, rejection = entry.row(), entry.rejection
        detail: dict[str, Any] = {"address": row.address, "called_ae": row.called_ae}
        detail |= {"tls_subject": row.tls_subject} if entry.asking.is_tls else {}
        detail |= {"user": row.user_identity} if row.user_identity else {}
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
        with unit_of_work(self._sessions, _actor(entry.asking)) as uow:
            uow.session.add(row)
            uow.audit(
                AuditTag.ASSOCIATION_REJECTED if rejection else AuditTag.ASSOCIATION_ACCEPTED,
                outcome="failure" if rejection else "success",
                object_type="association",
                object_id=str(entry.association_id),
                detail=detail,
            )

    def leave(
        self,
        association_id: UUID,
        *,
        how: str,
        instances: int = 0,
        size_bytes: int = 0,
        answered: Mapping[str, int] | None = None,
    ) -> None:
        """Record the end of an accepted association, and what came on it."""
        with self._lock:
            asking = self._open.pop(association_id, None)
        if asking is None:
            return
        counts = {"instances": instances, "bytes": size_bytes, **(answered or {})}
        self._record(lambda: self._record_end(_Entry(association_id, asking), how, counts), asking)

    def _record_end(self, entry: "_Entry", how: str, counts: Mapping[str, int]) -> None:
        with unit_of_work(self._sessions, _actor(entry.asking)) as uow:
            row = uow.session.get(PeerAssociation, entry.association_id)
            if row is None:  # the database was away when it began
                row = entry.row()
                uow.session.add(row)
            row.ended_at, row.ended_how = utcnow(), how
            row.instances, row.size_bytes = counts["instances"], counts["bytes"]
            tell_arrivals(uow, entry.association_id)
            uow.audit(
                AuditTag.ASSOCIATION_FINISHED,
                outcome="success" if how == "released" else "failure",
                object_type="association",
                object_id=str(entry.association_id),
                detail={"address": row.address, "called_ae": row.called_ae, "how": how, **counts},
            )


@dataclass(frozen=True)
class _Entry:
    """One association as it is recorded."""

    association_id: UUID
    asking: Asking
    user: str = ""
    rejection: Rejection | None = None

    def row(self) -> PeerAssociation:
        """Return its row, not yet added."""
        asking = self.asking
        return PeerAssociation(
            id=self.association_id,
            calling_ae=printable(asking.calling_ae, 16),
            called_ae=printable(asking.called_ae, 16),
            address=printable(asking.address, 64),
            tls_subject=printable(asking.tls_subject, 400),
            user_identity=printable(self.user, 64),
            rejected=self.rejection.reason[:200] if self.rejection else "",
        )


def turned_away(context: NodeContext, address: str, reason: str) -> None:
    """Record that a TLS handshake failed, where the address is a peer's; strangers get the log line only."""
    try:
        with context.sessions() as session:
            peers = known_peers(session, context.settings)
        names = Names(patience_s=0.5)
        titles = {peer.ae_title for peer in peers if peer.host and is_from(peer.host, address, names.addresses)}
        for title in sorted(titles):
            with unit_of_work(context.sessions, Actor(title, "peer", address=printable(address, 64))) as uow:
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
    name = printable(asking.calling_ae, 16) or "(no AE title)"
    return Actor(name, "peer", address=printable(asking.address, 64))
