"""The DICOM node: an association server and the sender of results, in one process."""

import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import structlog
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, ConfigurationError
from config.settings import Settings
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.uow import Actor, unit_of_work
from dicom_node.context import NodeContext
from dicom_node.door import Door
from dicom_node.duties import start_duties
from dicom_node.handlers import event_handlers
from dicom_node.library import make_ae
from instances.inbox import Inbox, make_inbox
from instances.reconcile import Reconciled, reconcile

log = structlog.get_logger()
_NODE = Actor("node", "process")
_GRACE_S = 5.0  # for associations that are storing while the node is told to stop
_NO_LIMIT = 10_000  # the policy counts associations itself, so that a rejection is recorded with its reason


@dataclass
class RunningNode:
    """A node that listens; ``port`` is the one in force."""

    port: int
    inbox: Inbox
    sessions: sessionmaker[Session]
    reconciled: Reconciled
    _ae: AE
    _server: Any
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def stop(self) -> None:
        """Stop listening, let running transfers end for a few seconds, and record the stop."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._server.shutdown()
        deadline = time.monotonic() + _GRACE_S
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ae.shutdown()
        for thread in self._threads:
            thread.join()
        _audit(self.sessions, AuditTag.PROCESS_STOPPED, {})
        log.info("node.stopped", port=self.port)


def start_node(
    settings: Settings, sessions: sessionmaker[Session] | None = None, *, deliver: bool = True
) -> RunningNode:
    """Open the port and return; the database must have been migrated.

    Args:
        settings: the node listens on ``dicom.host`` and ``dicom.port``; 0 takes a free port.
        sessions: the database; that of the settings when None.
        deliver: also do what the node does beside answering, see :mod:`dicom_node.duties`.

    Raises:
        ConfigurationError: the port cannot be opened.
        TransientError: database or instance store cannot be used.
    """
    sessions = sessions or make_sessions(make_engine(settings.database))
    inbox = make_inbox(sessions, settings)
    inbox.prepare()
    reconciled = reconcile(inbox, called_ae=settings.dicom.ae_title)
    ae, server = _listen(NodeContext(inbox, Door(settings, sessions), sessions, settings))
    node = RunningNode(server.server_address[1], inbox, sessions, reconciled, ae, server)
    detail = {"port": node.port, "ae_title": settings.dicom.ae_title, **vars(reconciled)}
    _audit(sessions, AuditTag.PROCESS_STARTED, detail)
    if deliver:
        node._threads.extend(start_duties(sessions, settings, node._stopped))
    log.info("node.started", host=settings.dicom.host, port=node.port)
    return node


def run_node(settings: Settings) -> None:
    """Run the node until SIGTERM or SIGINT; logs must have been configured.

    Raises:
        ConfigurationError, TransientError: see :func:`start_node`.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    node = start_node(settings)
    told.wait()
    node.stop()


def _listen(context: NodeContext) -> tuple[AE, Any]:
    dicom = context.settings.dicom
    ae = make_ae(dicom.ae_title, max_pdu_bytes=dicom.max_pdu_bytes, network_timeout_s=dicom.network_timeout_s)
    ae.maximum_associations = _NO_LIMIT
    ae.add_supported_context(Verification)
    try:
        server = ae.start_server((dicom.host, dicom.port), block=False, evt_handlers=event_handlers(context))
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {dicom.host}:{dicom.port}: {exc.strerror}") from exc
    return ae, server


def _audit(sessions: sessionmaker[Session], tag: AuditTag, detail: dict[str, Any]) -> None:
    try:
        with unit_of_work(sessions, _NODE) as uow:
            uow.audit(tag, object_type="process", object_id="node", detail=detail)
    except AppError as exc:
        log.error("node.not_recorded", error=exc)  # noqa: TRY400
