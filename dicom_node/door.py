"""The doorkeeper: who may come in, counted and recorded."""

import threading
from uuid import UUID, uuid4

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db.audit import AuditTag
from db.models import PeerAssociation
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.context import Admission, Asking
from dicom_node.policy import judge_association

log = structlog.get_logger()


class Door:
    """Judges each association by the policy and keeps count of those that are open."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._open: dict[UUID, Asking] = {}
        self._lock = threading.Lock()

    def enter(self, asking: Asking) -> Admission:
        """Judge, count and record one request; a database that is away rejects nothing by itself."""
        association_id = uuid4()
        with self._lock:
            rejection = judge_association(
                self._settings.dicom,
                calling_ae=asking.calling_ae,
                called_ae=asking.called_ae,
                address=asking.address,
                active=len(self._open) + 1,
            )
            if rejection is None:
                self._open[association_id] = asking
        self._record_entry(association_id, asking, rejection.reason if rejection else "")
        return Admission(association_id, rejection)

    def _record_entry(self, association_id: UUID, asking: Asking, reason: str) -> None:
        detail = {"address": asking.address, "called_ae": asking.called_ae}
        if reason:
            log.warning("association.rejected", calling_ae=asking.calling_ae, host=asking.address, error=reason)
            detail["reason"] = reason
        try:
            with unit_of_work(self._sessions, Actor(asking.calling_ae, "peer")) as uow:
                uow.session.add(
                    PeerAssociation(
                        id=association_id,
                        calling_ae=asking.calling_ae[:16],
                        called_ae=asking.called_ae[:16],
                        address=asking.address[:64],
                        rejected=reason[:200],
                    )
                )
                uow.audit(
                    AuditTag.ASSOCIATION_REJECTED if reason else AuditTag.ASSOCIATION_ACCEPTED,
                    outcome="failure" if reason else "success",
                    object_type="association",
                    object_id=str(association_id),
                    detail=detail,
                )
        except AppError as exc:
            # the association is of no use without a database, but its C-STORE will say so with a status
            log.error("association.not_recorded", error=exc, calling_ae=asking.calling_ae)  # noqa: TRY400

    def leave(self, association_id: UUID, *, how: str, instances: int = 0, size_bytes: int = 0) -> None:
        """Record the end of an accepted association."""
        with self._lock:
            asking = self._open.pop(association_id, None)
        if asking is None:
            return
        detail = {"address": asking.address, "how": how, "instances": instances, "bytes": size_bytes}
        try:
            with unit_of_work(self._sessions, Actor(asking.calling_ae, "peer")) as uow:
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
        except AppError as exc:
            log.error("association.not_recorded", error=exc, calling_ae=asking.calling_ae)  # noqa: TRY400
