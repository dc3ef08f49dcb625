"""What our web servers ask of gunicorn: our logs, TLS from 1.2 on, and patience with nobody who stops in the middle."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

_LINGER_S = 2.0
_LOOK_S = 1.0


class ForwardedLogs(Logger):  # type: ignore[misc, unused-ignore]
    """Gunicorn's own messages, sent through our allow-list instead of its handlers."""

    def setup(self, cfg: Any) -> None:
        """Take gunicorn's handlers away."""
        super().setup(cfg)
        for one in (self.error_log, self.access_log):
            one.handlers = []
            one.propagate = True


class PoliteWorker(ThreadWorker):  # type: ignore[misc, unused-ignore]
    """Threads that a client cannot hold: one that does not finish its handshake or header is cut off.

    Gunicorn itself waits for ever in both. It also waits for the end of a connection in the thread that accepts;
    this one does so in the thread that served it.
    """

    places: AbstractContextManager[Any] = nullcontext()
    request_s = 20.0  # to finish a TLS handshake and send the header of a request

    def init_process(self) -> None:
        """Watch the connections, and serve until told to stop."""
        self._begun: dict[Any, float] = {}
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Serve one request of a connection."""
        self._begun[conn] = time.monotonic()
        try:
            kept = super().handle(conn)
        finally:
            self._begun.pop(conn, None)
        if kept is False:
            linger(conn.sock)
        return kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose header is complete; its body has limits of its own."""
        self._begun.pop(conn, None)
        with self.places:
            return super().handle_request(req, conn)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            late = time.monotonic() - self.request_s
            for conn, begun in list(self._begun.items()):
                if begun < late:
                    with contextlib.suppress(OSError):
                        # not SSLSocket's own: it would take the TLS state from under the waiting thread
                        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)


def worker_with_places(places: int) -> type[PoliteWorker]:
    """Return a worker that answers ``places`` requests at once, whatever its number of threads.

    Threads beyond them receive handshakes and headers, so that slow clients keep none from being answered.
    """
    return type("Worker", (PoliteWorker,), {"places": threading.BoundedSemaphore(places)})


def linger(sock: socket.socket) -> None:
    """Let a client read its answer to the end (RFC 9112 section 9.6); one that does not hang up is not waited for."""
    end = time.monotonic() + _LINGER_S
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(_LINGER_S)
        while time.monotonic() < end and sock.recv(1 << 16):
            pass
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def limit_silence(server: Any, seconds: int) -> None:
    """Let every connection of a gunicorn server end that is silent for ``seconds`` in the middle of anything."""
    for listener in server.LISTENERS:
        # sockets inherit it when they are accepted; gunicorn itself waits for ever
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def modern_tls(_config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return gunicorn's TLS context without what BCP 195 forbids."""
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
