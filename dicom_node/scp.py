"""The DICOM node: what listens, what keeps, and what is done beside answering, under one parent process."""

import signal
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db.engine import make_engine, make_sessions
from db.peers import close_forgotten
from db.starting import record_start, record_stop
from db.uow import Actor, unit_of_work
from dicom_node.context import NodeContext
from dicom_node.door import Door
from dicom_node.duties import start_duties
from dicom_node.listener import Ear, Listener, open_ears
from dicom_node.receivers import Receivers
from dicom_node.tls import server_context
from instances.inbox import Inbox, make_inbox
from instances.reconcile import Reconciled, reconcile
from ris.listener import RunningListener, start_listener

log = structlog.get_logger()
_NODE = Actor("node", "process")
_GRACE_S = 5.0  # for associations that are storing while the node is told to stop
_CERTIFICATE_S = 10.0  # between looks at the certificate's files


@dataclass
class RunningNode:
    """A node that listens; ``port`` is the one in force, ``tls_port`` 0 without TLS."""

    port: int
    tls_port: int
    inbox: Inbox
    sessions: sessionmaker[Session]
    reconciled: Reconciled
    reception: Listener | Receivers
    messages: RunningListener | None = None  # of the RIS; None without hl7.port
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def stop(self) -> None:
        """Stop listening, let running transfers end for a few seconds, and record the stop."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self.messages is not None:
            self.messages.stop()
        self.reception.stop(_GRACE_S)
        for thread in self._threads:
            thread.join()
        try:
            record_stop(self.sessions, "node")
        except (AppError, SQLAlchemyError) as exc:
            log.error("node.not_recorded", error=exc)  # noqa: TRY400 it ends all the same
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
        ConfigurationError: a port cannot be opened, or the TLS certificate not be used.
        TransientError: database or instance store cannot be used.
    """
    sessions = sessions or make_sessions(make_engine(settings.database))
    inbox = make_inbox(sessions, settings)
    inbox.prepare()
    reconciled = reconcile(inbox, called_ae=settings.dicom.ae_title)
    with unit_of_work(sessions, _NODE) as uow:
        close_forgotten(uow)
    ears = open_ears(settings)
    ports = [ear.port for ear in ears] + [0]
    said = {"port": ports[0], "tls_port": ports[1], "ae_title": settings.dicom.ae_title}
    try:
        certificate = server_context(settings, sessions) if settings.dicom.tls.certificate else None
        reception = _reception(ears, settings, sessions, inbox)
        record_start(sessions, settings, "node", {**said, **vars(reconciled)})
    except AppError:
        for ear in ears:
            ear.close()
        raise
    node = RunningNode(ports[0], ports[1], inbox, sessions, reconciled, reception)
    reception.start()
    try:
        node.messages = start_listener(settings, sessions, context_of=certificate)
    except AppError:
        node.stop()
        raise
    if certificate is not None:
        node._threads.append(_watch(certificate, node._stopped))
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


def _reception(
    ears: list[Ear], settings: Settings, sessions: sessionmaker[Session], inbox: Inbox
) -> Listener | Receivers:
    door = Door(settings, sessions)
    if settings.dicom.receivers:
        return Receivers(ears, settings, inbox, door)
    return Listener(ears, NodeContext(inbox, door, sessions, settings))


def _watch(certificate: Callable[[], ssl.SSLContext], stopped: threading.Event) -> threading.Thread:
    """Look at the certificate's files again and again, so that each change is recorded once for all receivers."""

    def watch() -> None:
        while not stopped.wait(_CERTIFICATE_S):
            certificate()

    thread = threading.Thread(target=watch, name="certificate", daemon=True)
    thread.start()
    return thread
