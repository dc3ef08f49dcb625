"""Accepts connections, each served in a thread of its own; in the node itself or in a receiver process."""

import contextlib
import functools
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from config.errors import ConfigurationError
from config.settings import Settings
from dicom_node import association
from dicom_node.connection import Closing
from dicom_node.context import NodeContext
from dicom_node.door import turned_away
from dicom_node.handlers import event_handlers
from dicom_node.library import make_ae
from dicom_node.tls import in_words, server_context

log = structlog.get_logger()
_BACKLOG = 128
_MARGIN = 8  # connections beyond max_associations: those are told with an A-ASSOCIATE-RJ that there are too many
_HANDSHAKE_S = 10.0
_YIELD_S, _MOST_YIELDED = 0.002, 10  # for each connection served: whoever serves fewer takes the next one
_PAUSE_S = 0.2  # when no descriptor or memory is left for one more connection
Address = tuple[Any, ...]


@dataclass(frozen=True)
class Ear:
    """A listening socket; several processes may accept on the same one."""

    socket: socket.socket
    is_tls: bool = False

    @property
    def port(self) -> int:
        """The port in force."""
        return int(self.socket.getsockname()[1])

    def close(self) -> None:
        """Stop listening, in every process that shares the socket."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def open_ears(settings: Settings) -> list[Ear]:
    """Listen on the plain port, and on the TLS port when there is a certificate.

    Raises:
        ConfigurationError: a port cannot be opened.
    """
    dicom = settings.dicom
    ears = [Ear(_bind(dicom.host, dicom.port))]
    if dicom.tls.certificate:
        try:
            ears.append(Ear(_bind(dicom.tls.host, dicom.tls.port), is_tls=True))
        except ConfigurationError:
            ears[0].close()
            raise
    return ears


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    listening.setblocking(False)  # several processes wait on it, and one of them gets the connection
    return listening


class Listener:
    """Serves the connections of some ears until it is stopped.

    No more than ``max_associations`` and a few threads: who comes then waits in the kernel's queue, so a flood of
    connections that ask for nothing costs no more than their timeout.
    """

    def __init__(self, ears: Sequence[Ear], context: NodeContext) -> None:
        """Accept nothing yet.

        Raises:
            ConfigurationError: the TLS certificate cannot be used.
        """
        dicom = context.settings.dicom
        self._ears = ears
        self._context = context
        self._slots = threading.Semaphore(dicom.max_associations + _MARGIN)
        self._closing = Closing()
        self._serving: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._tls = server_context(context.settings) if any(ear.is_tls for ear in ears) else None
        ae = make_ae(dicom.ae_title, max_pdu_bytes=dicom.max_pdu_bytes, network_timeout_s=dicom.network_timeout_s)
        ae.add_supported_context(Verification)
        handlers = event_handlers(context)
        self._serve: Callable[[socket.socket, Address], None]
        if dicom.fast_receive:
            self._serve = functools.partial(
                association.serve, ae=ae, handlers=handlers, context=context, closing=self._closing
            )
        else:
            self._serve = _LibraryServer(ae, ears[0].socket.getsockname(), handlers).serve
        self._accepting = [
            threading.Thread(target=self._accept, args=(ear,), name=f"accept-{ear.port}", daemon=True) for ear in ears
        ]

    def start(self) -> None:
        """Begin to accept."""
        for thread in self._accepting:
            thread.start()

    def stop(self, grace_s: float) -> None:
        """Accept no more, let what is being stored end for ``grace_s`` seconds, then return."""
        for ear in self._ears:
            ear.close()
        self._closing.ask(grace_s)
        deadline = time.monotonic() + grace_s + 1.0
        while self._serving and time.monotonic() < deadline:
            time.sleep(0.02)

    def _accept(self, ear: Ear) -> None:
        while not self._closing.is_asked:
            self._slots.acquire()
            try:
                connection, address = self._next(ear.socket)
            except BlockingIOError:
                self._slots.release()  # another process took it
                continue
            except (OSError, ValueError) as exc:  # ValueError: closed before the wait began
                self._slots.release()
                if _is_closed(ear.socket):
                    return
                log.error("connection.not_accepted", error=exc)  # noqa: TRY400
                time.sleep(_PAUSE_S)
                continue
            thread = threading.Thread(target=self._run, args=(connection, address, ear.is_tls), daemon=True)
            with self._lock:
                self._serving.add(thread)
            thread.start()

    def _next(self, listening: socket.socket) -> tuple[socket.socket, Address]:
        """Accept the next connection, after those processes that have less to do had their chance.

        Raises:
            BlockingIOError: another process took it.
            OSError: nothing can be accepted, or the socket is closed.
        """
        waiting = select.poll()
        waiting.register(listening, select.POLLIN)
        waiting.poll()
        time.sleep(_YIELD_S * min(len(self._serving), _MOST_YIELDED))
        connection, address = listening.accept()
        connection.setblocking(True)
        return connection, address

    def _run(self, connection: socket.socket, address: Address, is_tls: bool) -> None:
        try:
            with contextlib.closing(connection):
                secured = self._secured(connection, address) if is_tls else connection
                if secured is not None:
                    self._serve(secured, address)
        except Exception as exc:
            # the edge of a connection's thread: the others go on
            log.exception("connection.failed", error=exc, host=str(address[0]))
        finally:
            with self._lock:
                self._serving.discard(threading.current_thread())
            self._slots.release()

    def _secured(self, connection: socket.socket, address: Address) -> socket.socket | None:
        """Return the connection after its TLS handshake, or None when there is none to be had."""
        assert self._tls is not None
        try:
            return _handshake(self._tls(), connection, time.monotonic() + _HANDSHAKE_S)
        except OSError as exc:
            reason = in_words(exc)
            log.warning("connection.refused", host=str(address[0]), error=reason)
            turned_away(self._context, str(address[0]), reason)
            return None


def _handshake(context: ssl.SSLContext, connection: socket.socket, deadline: float) -> ssl.SSLSocket:
    """Do the server's side of a handshake; a peer that sends it byte by byte gets no longer than any other."""
    connection.setblocking(False)
    secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    waits = {ssl.SSLWantReadError: select.POLLIN, ssl.SSLWantWriteError: select.POLLOUT}
    try:
        while True:
            try:
                secured.do_handshake()
                break
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
                ready = select.poll()
                ready.register(secured, waits[type(exc)])
                if not ready.poll(max(deadline - time.monotonic(), 0) * 1000):
                    raise TimeoutError from exc
    except OSError:
        secured.close()
        raise
    secured.setblocking(True)
    return secured


def _is_closed(listening: socket.socket) -> bool:
    try:
        return not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return True


class _LibraryServer(ThreadedAssociationServer):  # type: ignore[misc]
    """pynetdicom's server without its socket and its loop: it runs associations on connections we accepted."""

    def __init__(self, ae: AE, address: Address, handlers: Sequence[tuple[Any, ...]]) -> None:
        # not TCPServer's __init__, which would bind a second socket
        self.ae = ae
        self.ae_title = ae.ae_title
        self.contexts = ae.supported_contexts
        self.server_address = address
        # the Door counts associations itself, so that a rejection is recorded with its reason
        ae.maximum_associations = 10_000
        self._handlers: dict[Any, Any] = {}
        self._bind_defaults()
        for handler in handlers:
            self.bind(*handler)

    def serve(self, connection: socket.socket, address: Address) -> None:
        """Run one association to its end."""
        _LibraryHandler(connection, address, self)


class _LibraryHandler(RequestHandler):  # type: ignore[misc]
    """Runs the association while its own thread would: the caller waits for the end."""

    def handle(self) -> None:
        """Start the association's reactor and wait until it ended."""
        assoc = self._create_association()
        evt.trigger(assoc, evt.EVT_CONN_OPEN, {"address": self.client_address})
        assoc.start()
        assoc.join()
