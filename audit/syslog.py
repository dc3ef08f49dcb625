"""Syslog over TLS: one message in RFC 5424's form, framed and carried as RFC 5425 says (PS3.15 section A.6).

Syslog knows no receipts. A connection that the peer closed is looked for before every write; what a peer took before
it died may still be lost, so whoever sends keeps a window to send again (``audit.forwarding``).
"""

import fcntl
import re
import select
import socket
import ssl
import termios
from array import array
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType

from config.errors import ConfigurationError, PeerUnavailableError
from config.syslog_settings import SyslogSettings
from config.tls import CIPHERS

PRI = 85  # facility 10 (security and authorization), severity 5 (notice): PS3.15 A.6
AUDIT_MESSAGE = "DICOM+RFC3881"
HEAD_MESSAGE = "FIRSTREAD-HEAD"
_APP_NAME = "firstread"
_BOM = b"\xef\xbb\xbf"
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


def syslog_message(text: bytes, *, at: datetime, message_id: str = AUDIT_MESSAGE, host: str = "") -> bytes:
    """Return one message of RFC 5424: the header, no structured data, and UTF-8 text behind its mark.

    Args:
        text: UTF-8.
        at: instant of the event, with zone.
        message_id: MSGID.
        host: name of this machine, asked of the system when empty.
    """
    name = _NOT_PRINTABLE.sub("", host or socket.gethostname())[:255] or "-"
    moment = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"<{PRI}>1 {moment} {name} {_APP_NAME} - {message_id} - ".encode("ascii") + _BOM + text


def framed(messages: Iterable[bytes]) -> bytes:
    """Return messages one behind the other, each led by its number of octets (RFC 5425 section 4.3)."""
    return b"".join(b"%d %b" % (len(one), one) for one in messages)


def tls_context(settings: SyslogSettings) -> ssl.SSLContext:
    """Return the terms of a connection: TLS 1.2 or later, the peer's certificate and name are checked, always.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.authorities)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ValueError) as exc:
        raise ConfigurationError("a certificate, key or authority of audit.syslog cannot be used") from exc
    return context


class Link:
    """One connection to a receiver; any error ends it.

    Use as a context manager, or call :meth:`close`.
    """

    def __init__(self, settings: SyslogSettings) -> None:
        """Connect.

        Raises:
            PeerUnavailableError: nobody answers, or the certificate is not the one that is trusted.
            ConfigurationError: a file cannot be used.
        """
        context = tls_context(settings)
        name = settings.server_name or settings.host
        try:
            plain = socket.create_connection((settings.host, settings.port), settings.timeout_s)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                self._socket = context.wrap_socket(plain, server_hostname=name)
            except BaseException:
                plain.close()
                raise
        except ssl.SSLCertVerificationError as exc:
            raise PeerUnavailableError("the audit repository shows a certificate that is not trusted") from exc
        except (OSError, ssl.SSLError) as exc:
            raise PeerUnavailableError(f"the audit repository cannot be reached ({type(exc).__name__})") from exc
        self._timeout_s = settings.timeout_s
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def send(self, messages: Iterable[bytes]) -> None:
        """Write messages.

        Raises:
            PeerUnavailableError: the peer is gone; nobody knows how much of this, and of what was written shortly
                before, it kept.
        """
        self.check()
        try:
            self._socket.sendall(framed(messages))
        except (OSError, ssl.SSLError) as exc:
            raise PeerUnavailableError(f"the audit repository took no more ({type(exc).__name__})") from exc

    def check(self) -> None:
        """Look whether the peer has closed: a receiver never says anything else.

        Raises:
            PeerUnavailableError: it has.
        """
        try:
            while self._socket.pending() or self._readable.poll(0):
                self._socket.settimeout(0)
                if not self._socket.recv(4096):
                    raise PeerUnavailableError("the audit repository closed the connection")
        except (ssl.SSLWantReadError, BlockingIOError):
            pass  # session tickets and the like
        except (OSError, ssl.SSLError, ValueError) as exc:
            raise PeerUnavailableError(f"the connection to the audit repository broke ({type(exc).__name__})") from exc
        finally:
            with suppress(OSError):
                self._socket.settimeout(self._timeout_s)

    def unacknowledged(self) -> int:
        """Return how many octets the peer's machine has not acknowledged yet (Linux; else 0)."""
        octets = array("i", [0])
        with suppress(OSError):
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, octets)
        return octets[0]

    def close(self) -> None:
        """Say goodbye (close_notify, RFC 5425 section 4.4) and close."""
        with suppress(OSError, ssl.SSLError, ValueError):
            self._socket.settimeout(min(self._timeout_s, 2.0))
            self._socket.unwrap()
        self._socket.close()


def send_head(settings: SyslogSettings, note: str, at: datetime) -> None:
    """Send a signed tree head as a message of its own (MSGID ``FIRSTREAD-HEAD``), on a connection of its own.

    Raises:
        PeerUnavailableError: it could not be sent.
        ConfigurationError: no receiver is configured, or a file cannot be used.
    """
    if not settings.host:
        raise ConfigurationError("audit.syslog.host is not set")
    with Link(settings) as link:
        link.send([syslog_message(note.encode("utf-8"), at=at, message_id=HEAD_MESSAGE)])
