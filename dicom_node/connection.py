"""The bytes of one association: read through one reusable buffer, never waited for without a limit."""

import contextlib
import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from config.errors import AbortAssociationError, AssociationLostError
from config.settings import DicomSettings

BUFFER_BYTES = 1 << 18  # several PDUs in one system call
SLOW_GRACE_S = 10.0
"""For this long a peer may be slower than ``dicom.slow_bytes_per_s``."""
_GOODBYE_S = 2.0  # for the peer to take our last PDU and close
_LONGEST_WAIT_S = 3600.0
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError)
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


class Closing:
    """Asks every association of a process to end: those at rest at once, those that store after their answer."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.until = math.inf

    @property
    def is_asked(self) -> bool:
        """Whether the process wants to stop."""
        return self.until < math.inf

    def ask(self, grace_s: float) -> None:
        """Ask now; what is still coming in after ``grace_s`` seconds is cut off."""
        self.until = time.monotonic() + grace_s
        os.write(self._writer, b"!")

    def fileno(self) -> int:
        """A descriptor that is readable from :meth:`ask` on."""
        return self._reader

    def close(self) -> None:
        """Give the descriptors back, when no association is left."""
        os.close(self._reader)
        os.close(self._writer)


class _Limit(NamedTuple):
    """How many seconds are left for the next bytes, and what it means when they do not come."""

    seconds_left: Callable[[], float]
    error: Callable[[], Exception]


class Connection:
    """One socket, plain or TLS. Every wait ends: by bytes, by a timeout, or because the node stops.

    Which timeout holds depends on what is awaited: an A-ASSOCIATE-RQ (:meth:`expect_within`), nothing in
    particular (:meth:`await_message`), or the rest of something that began (afterwards).
    """

    def __init__(
        self,
        sock: socket.socket,
        dicom: DicomSettings,
        closing: Closing | None = None,
        *,
        slow_grace_s: float = SLOW_GRACE_S,
    ) -> None:
        self.socket = sock
        self._dicom = dicom
        self._slow_grace_s = slow_grace_s
        self._closing = closing
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0
        self._received = 0  # bytes of what is coming in, and how long we waited for them
        self._waited_s = 0.0
        self._is_broken = False
        self._resting = _Limit(self._idle, lambda: AbortAssociationError("the association was idle for too long"))
        self._busy = _Limit(self._pace, lambda: AbortAssociationError("the peer sends too slowly"))
        self._limit = self._busy
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # not over TCP
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        if closing:
            self._readable.register(closing, select.POLLIN)

    def expect_within(self, seconds: float) -> None:
        """Limit the time for all that is read until :meth:`await_message`; too late counts as lost."""
        deadline = time.monotonic() + seconds
        self._limit = _Limit(
            lambda: deadline - time.monotonic(), lambda: AssociationLostError("the peer said nothing in time")
        )

    def await_message(self) -> None:
        """Wait at rest until the peer begins something; from then on it has to go on.

        Raises:
            AbortAssociationError: it stayed idle for ``network_timeout_s``, or the node stops.
            AssociationLostError: it is gone.
        """
        if self._closing and self._closing.is_asked:
            raise AbortAssociationError("the node stops")
        self._received, self._waited_s = self._end - self._start, 0.0
        self._limit = self._resting
        if not self._received:
            self._fill()
        self._limit = self._busy

    def take(self, size: int) -> memoryview:
        """Return exactly ``size`` bytes, at most ``BUFFER_BYTES``; they are valid until the next read.

        Raises:
            AbortAssociationError: they come too slowly.
            AssociationLostError: they will not come.
        """
        while self._end - self._start < size:
            self._fill()
        self._start += size
        return self._view[self._start - size : self._start]

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Return ``size`` bytes as they come; each piece is valid until the next.

        Raises:
            AbortAssociationError, AssociationLostError: as :meth:`take`.
        """
        while size:
            if self._start == self._end:
                self._fill()
            piece = self._view[self._start : min(self._end, self._start + size)]
            self._start += len(piece)
            size -= len(piece)
            yield piece

    def _fill(self) -> None:
        """Read what is there, at least one byte."""
        if self._is_broken:
            raise AssociationLostError("the connection is broken")
        rest = self._end - self._start
        if self._start:  # a part of a header at most, or a PDU that is small
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        got = self._receive()
        if not got:
            raise AssociationLostError("the peer closed the connection")
        self._end += got
        self._received += got

    def _receive(self) -> int:
        while True:
            try:
                return self.socket.recv_into(self._view[self._end :])
            except _WOULD_BLOCK:
                self._acknowledge()
                self._wait_for_bytes()
            except OSError as exc:
                raise AssociationLostError("the connection broke") from exc

    def _acknowledge(self) -> None:
        """Acknowledge at once what came: a sender with Nagle's algorithm holds its last segment back until then.

        Linux forgets the option by itself, so it is set again before every wait (tcp(7)).
        """
        if _QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _wait_for_bytes(self) -> None:
        left = min(self._limit.seconds_left(), _LONGEST_WAIT_S)
        began = time.monotonic()
        if self._closing:
            left = min(left, self._closing.until - began)
        ready = self._readable.poll(max(left, 0) * 1000)
        self._waited_s += time.monotonic() - began
        if not ready:
            is_over = self._closing is not None and time.monotonic() >= self._closing.until
            raise AbortAssociationError("the node stops") if is_over else self._limit.error()
        if self._closing and any(number == self._closing.fileno() for number, _ in ready):
            if self._limit is self._resting:
                raise AbortAssociationError("the node stops")
            self._readable.unregister(self._closing)  # from now on its deadline holds

    def _idle(self) -> float:
        return self._dicom.network_timeout_s

    def _pace(self) -> float:
        """Return how long the next bytes of something that began may take: no silence, and no trickle."""
        if not self._dicom.slow_bytes_per_s:
            return self._dicom.network_timeout_s
        allowed = self._slow_grace_s + self._received / self._dicom.slow_bytes_per_s
        return min(self._dicom.network_timeout_s, allowed - self._waited_s)

    def send(self, data: bytes) -> None:
        """Send ``data``; a peer that does not take it within ``network_timeout_s`` is given up.

        Raises:
            AssociationLostError: it is gone, or takes nothing.
        """
        rest = memoryview(data)
        deadline = time.monotonic() + self._dicom.network_timeout_s
        try:
            while rest:
                rest = self._send_some(rest, deadline)
        except OSError as exc:
            self._is_broken = True
            raise AssociationLostError("the peer takes no answer") from exc

    def _send_some(self, data: memoryview, deadline: float) -> memoryview:
        try:
            return data[self.socket.send(data) :]
        except (*_WOULD_BLOCK, ssl.SSLWantWriteError) as exc:
            wanted = select.POLLIN if isinstance(exc, ssl.SSLWantReadError) else select.POLLOUT
            writable = select.poll()
            writable.register(self.socket, wanted)
            if not writable.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise TimeoutError from exc
            return data

    def close(self) -> None:
        """Let the peer take our last PDU and close; then close.

        Closing while bytes of the peer are unread would reset the connection, and the peer might never see it.
        """
        with contextlib.suppress(OSError, AbortAssociationError, AssociationLostError):
            self._say_goodbye()
        self.socket.close()
        self._view = memoryview(b"")  # pynetdicom's objects refer to each other: the buffer need not wait for them

    def _say_goodbye(self) -> None:
        if self._is_broken:
            return
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.socket.unwrap()  # a TLS close_notify
        self.socket.shutdown(socket.SHUT_WR)
        self.expect_within(_GOODBYE_S)
        while self._limit.seconds_left() > 0:
            self._start = self._end = 0
            self._fill()
