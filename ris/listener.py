"""The MLLP listener of the node: connections bounded in number, size and patience; one thread each."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import BrokenBodyError, ConfigurationError
from config.settings import Settings
from ris.frames import FrameReader, framed
from ris.inbound import NOT_UNDERSTOOD, Header
from ris.receiving import acknowledgement, answer

log = structlog.get_logger()
MAX_CONNECTIONS = 32
_LOOK_S = 0.5  # how soon a connection sees that the listener stops
ContextOf = Callable[[], ssl.SSLContext]


@dataclass
class RunningListener:
    """A listener that takes messages; ``port`` is the one in force."""

    port: int
    _ear: socket.socket
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: set[threading.Thread] = field(default_factory=set)
    _accepting: threading.Thread | None = None

    def stop(self) -> None:
        """Take no more messages; what has begun to be answered is answered."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._ear.shutdown(socket.SHUT_RDWR)
        self._ear.close()
        if self._accepting is not None:
            self._accepting.join()  # after which no thread is added
        for thread in list(self._threads):
            thread.join()


def start_listener(
    settings: Settings, sessions: sessionmaker[Session], *, context_of: ContextOf | None = None
) -> RunningListener | None:
    """Open ``hl7.port`` and return; None when the settings name none.

    Args:
        settings: with ``hl7.host``, and 0 as ``hl7.port`` for a free one.
        sessions: the database.
        context_of: gives the TLS context for the next connection; needed when ``hl7.tls`` is on.

    Raises:
        ConfigurationError: the port cannot be opened, or there is no certificate for it.
    """
    if settings.hl7.port is None:
        return None
    if settings.hl7.tls and context_of is None:
        raise ConfigurationError("hl7.tls needs the certificate of dicom.tls")
    try:
        ear = socket.create_server((settings.hl7.host, settings.hl7.port), backlog=64)
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {settings.hl7.host}:{settings.hl7.port}: {exc.strerror}") from exc
    running = RunningListener(ear.getsockname()[1], ear)
    desk = _Desk(settings, sessions, context_of if settings.hl7.tls else None, running)
    running._accepting = threading.Thread(target=desk.accept, name="mllp", daemon=True)
    running._accepting.start()
    log.info("mllp.started", host=settings.hl7.host, port=running.port)
    return running


class _Desk:
    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        context_of: ContextOf | None,
        running: RunningListener,
    ) -> None:
        self._settings, self._sessions = settings, sessions
        self._context_of, self._running = context_of, running
        self._places = threading.Semaphore(MAX_CONNECTIONS)

    def accept(self) -> None:
        """Give each caller a thread, as long as there is a place."""
        while not self._running._stopped.is_set():
            try:
                plain, _ = self._running._ear.accept()
            except OSError:
                if not self._running._stopped.wait(_LOOK_S):  # no file descriptor is free, or the caller is gone
                    continue
                return
            if not self._places.acquire(blocking=False):
                log.warning("mllp.crowded", count=MAX_CONNECTIONS)
                plain.close()
                continue
            thread = threading.Thread(target=self._serve, args=(plain,), name="hl7-peer", daemon=True)
            self._running._threads.add(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with contextlib.closing(self._secured(plain)) as connection:
                self._converse(connection)
        except OSError as exc:  # includes TLS errors and a peer that is gone
            log.info("mllp.lost", error=type(exc).__name__)
        except Exception as exc:  # noqa: BLE001 the thread's edge: the others go on
            log.error("mllp.interrupted", error=type(exc).__name__)  # noqa: TRY400
        finally:
            plain.close()
            self._places.release()
            self._running._threads.discard(threading.current_thread())

    def _secured(self, plain: socket.socket) -> socket.socket:
        plain.settimeout(self._settings.hl7.timeout_s)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._context_of is None:
            return plain
        return self._context_of().wrap_socket(plain, server_side=True)

    def _converse(self, connection: socket.socket) -> None:
        """Answer message after message, until the peer is gone, silent for too long, or sends too much."""
        hl7 = self._settings.hl7
        reader = FrameReader(hl7.max_message_bytes)
        deadline = time.monotonic() + hl7.idle_s
        caller = str(connection.getpeername()[0])
        while (data := self._receive(connection, deadline)) is not None:
            was_inside = reader.inside
            try:
                messages = reader.feed(data)
            except BrokenBodyError:
                log.warning("mllp.too_long", bytes=hl7.max_message_bytes)
                self._send(connection, acknowledgement(Header(), hl7, "AR", NOT_UNDERSTOOD))
                return
            for content in messages:
                self._send(connection, answer(content, self._settings, self._sessions, address=caller))
            if messages or reader.inside != was_inside:
                # a message that has begun has to end soon, however slowly its bytes drip
                deadline = time.monotonic() + (hl7.timeout_s if reader.inside else hl7.idle_s)

    def _receive(self, connection: socket.socket, deadline: float) -> bytes | None:
        """Return what came; None when the peer is gone, the time is up or the listener stops."""
        while not self._running._stopped.is_set() and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(min(left, _LOOK_S))
            try:
                return connection.recv(65536) or None
            except TimeoutError:
                continue
        return None

    def _send(self, connection: socket.socket, content: bytes) -> None:
        connection.settimeout(self._settings.hl7.timeout_s)
        connection.sendall(framed(content))
