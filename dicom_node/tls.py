"""DICOM over TLS as in BCP 195 (PS3.15 B.12): both sides show a certificate; TLS 1.2 or 1.3, nothing older."""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, ConfigurationError, PeerUnavailableError
from config.settings import Settings, TlsSettings
from config.tls import prepare_context
from db.audit import AuditTag
from db.uow import Actor, unit_of_work

log = structlog.get_logger()
_NODE = Actor("node", "process")
_SETTLED_S = 1.0  # certificate and key are two files: wait until whoever replaces them is through
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Certificate:
    """What a certificate says of its owner; ``subject`` and ``issuer`` as in RFC 4514."""

    subject: str
    issuer: str
    valid_until: datetime


def certificate_in(file: Path) -> Certificate:
    """Return the first certificate of a PEM file, its owner's.

    Raises:
        ConfigurationError: the file cannot be read, or holds none.
    """
    try:
        return _certificate(x509.load_pem_x509_certificate(file.read_bytes()))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{file} holds no certificate that can be read") from exc


def certificate_of(sock: object) -> Certificate | None:
    """Return the certificate the other side of a TLS connection showed; None without TLS or without one."""
    shown = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    return _certificate(x509.load_der_x509_certificate(shown)) if shown else None


def is_tls(sock: object) -> bool:
    """Return whether a connection is a TLS one."""
    return isinstance(sock, ssl.SSLSocket)


def subject_of(sock: object) -> str:
    """Return the subject of the peer's certificate (RFC 4514); empty without TLS, or when it cannot be read."""
    try:
        shown = certificate_of(sock)
    except ValueError:  # OpenSSL took it, so this is odd; without a subject it is nobody we know
        return ""
    return shown.subject if shown else ""


def same_subject(one: str, other: str) -> bool:
    """Return whether two RFC 4514 names are one name.

    The order of the relative names matters, that within a multi-valued one does not; values are compared exactly,
    also in case, and escapes are resolved first. An empty or malformed name is nobody's.
    """
    try:
        first, second = _names(one), _names(other)
    except ValueError:
        return False
    return bool(first) and first == second


def _names(text: str) -> list[frozenset[tuple[str, str]]]:
    name = x509.Name.from_rfc4514_string(text)
    return [frozenset((a.oid.dotted_string, str(a.value)) for a in relative) for relative in name.rdns]


def server_context(settings: Settings, sessions: sessionmaker[Session] | None = None) -> Callable[[], ssl.SSLContext]:
    """Return a function that gives the context for the next connection: the files' present content.

    When a file has changed it is loaded again; a certificate that cannot be used leaves the one before in force.
    Each is logged, and with ``sessions`` also audited.

    Raises:
        ConfigurationError: certificate, key or authorities cannot be used, or none are configured.
    """
    tls = settings.dicom.tls
    if not tls.certificate:
        raise ConfigurationError("dicom.tls.certificate is not set")
    return _Current(tls, sessions).context


class _Current:
    """The context in force, and the state of the files it was made from."""

    def __init__(self, tls: TlsSettings, sessions: sessionmaker[Session] | None) -> None:
        self._tls = tls
        self._sessions = sessions
        self._lock = threading.Lock()
        self._seen = _stamp(tls)
        try:
            self._context, certificate = load(tls)
        except ConfigurationError as exc:
            self._tell(str(exc), None)
            raise
        self._tell("", certificate)

    def context(self) -> ssl.SSLContext:
        with self._lock:
            now = _stamp(self._tls)
            if now != self._seen and not _is_being_written(now):
                self._seen = now
                try:
                    self._context, certificate = load(self._tls)
                except ConfigurationError as exc:
                    self._tell(str(exc), None)
                else:
                    self._tell("", certificate)
            return self._context

    def _tell(self, error: str, certificate: Certificate | None) -> None:
        detail: dict[str, Any] = {"file": str(self._tls.certificate)}
        if certificate is None:
            detail["reason"] = error
            log.error("certificate.not_loaded", error=error)
        else:
            detail |= {"subject": certificate.subject, "valid_until": certificate.valid_until.isoformat()}
            log.info("certificate.loaded", hint=f"{certificate.subject} until {certificate.valid_until:%Y-%m-%d}")
        if self._sessions is None:
            return
        try:
            with unit_of_work(self._sessions, _NODE) as uow:
                uow.audit(
                    AuditTag.CERTIFICATE_LOADED,
                    outcome="failure" if certificate is None else "success",
                    object_type="process",
                    object_id="node",
                    detail=detail,
                )
        except AppError as exc:
            log.error("certificate.not_recorded", error=exc)  # noqa: TRY400


def _stamp(tls: TlsSettings) -> Stamp:
    stamps = []
    for file in (tls.certificate, tls.key, tls.authorities):
        try:
            found = file.stat() if file else None
        except OSError:
            found = None
        stamps.append((found.st_mtime_ns, found.st_size, found.st_ino) if found else (0, 0, 0))
    return tuple(stamps)


def _is_being_written(stamp: Stamp) -> bool:
    return 0 <= time.time() - max(mtime for mtime, _, _ in stamp) / 1e9 < _SETTLED_S


def load(tls: TlsSettings) -> tuple[ssl.SSLContext, Certificate]:
    """Return the node's context from the files as they are now, and its certificate.

    Raises:
        ConfigurationError: certificate, key or authorities cannot be used, or the certificate has expired.
    """
    assert tls.certificate is not None
    certificate = certificate_in(tls.certificate)
    if certificate.valid_until < datetime.now(UTC):
        raise ConfigurationError(f"{tls.certificate} has expired on {certificate.valid_until:%Y-%m-%d}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    prepare_context(context, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0  # every association shows its certificate anew, also after a reload
    return context, certificate


class _TellingSocket(ssl.SSLSocket):
    """Keeps the reason a connection failed for; pynetdicom only says that it did."""

    def connect(self, addr: Any) -> None:
        try:
            super().connect(addr)
        except OSError as exc:
            self._keep(exc)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as exc:  # in TLS 1.3 a refusal of our certificate comes after the handshake
            self._keep(exc)
            raise

    def _keep(self, exc: OSError) -> None:
        if isinstance(self.context, ClientContext):
            self.context.failure = exc


class ClientContext(ssl.SSLContext):
    """For one connection we open; ``failure`` is why it failed."""

    failure: OSError | None = None


def client_context(tls: TlsSettings) -> ClientContext:
    """Return a context for one connection to a peer, from the files as they are now.

    Raises:
        PeerUnavailableError: our certificate, key or authorities cannot be used: nobody can be called until they can.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _TellingSocket
    context.check_hostname = tls.check_host
    try:
        prepare_context(context, tls)
    except ConfigurationError as exc:
        raise PeerUnavailableError(f"TLS cannot be used: {exc}") from exc
    return context


_VERIFY = {  # X509_V_ERR_*, x509_vfy.h
    7: "its certificate is not signed by the authority it names",
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed and not among dicom.tls.authorities",
    19: "its certificate is from an authority that is not among dicom.tls.authorities",
    20: "its certificate is from an authority that is not among dicom.tls.authorities",
    21: "its certificate is from an authority that is not among dicom.tls.authorities",
    26: "its certificate is not for this purpose",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
    66: "the key of its certificate is too short",
    67: "the key of its authority is too short",
    68: "its certificate is signed with an outdated method",
}
_ALERTS = {  # what the other side, or OpenSSL, calls it
    "CERTIFICATE_REQUIRED": "it wants a certificate from us",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "ALERT_CERTIFICATE_EXPIRED": "it says our certificate has expired",
    "ALERT_CERTIFICATE_REVOKED": "it says our certificate was revoked",
    "DECRYPT_ERROR": "it says our certificate is not signed by the authority it names",
    "CERTIFICATE": "it refuses our certificate",
    "PROTOCOL_VERSION": "it speaks no TLS version that we allow (1.2 or 1.3)",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS version that we allow (1.2 or 1.3)",
    "NO_SHARED_CIPHER": "it offers no cipher suite that we allow",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
    "HTTP_REQUEST": "the other side does not speak TLS",
    "HANDSHAKE_FAILURE": "it refuses the handshake: no common cipher suite, or it wants another certificate",
}


def in_words(failure: OSError) -> str:
    """Return why a TLS connection failed, for an administrator."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        told = _VERIFY.get(failure.verify_code) or f"its certificate is refused: {failure.verify_message}"
        return f"TLS: {told}"
    if isinstance(failure, ssl.SSLError):
        reason = (failure.reason or "").upper().replace(" ", "_")
        named = next((words for part, words in _ALERTS.items() if part in reason), "")
        return f"TLS: {named or f'the handshake failed ({reason or type(failure).__name__})'}"
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    if isinstance(failure, ConnectionResetError | BrokenPipeError):
        return "TLS: the other side closed the connection"
    return f"no connection: {failure.strerror or type(failure).__name__}"


def _certificate(found: x509.Certificate) -> Certificate:
    return Certificate(
        found.subject.rfc4514_string(),
        found.issuer.rfc4514_string(),
        found.not_valid_after_utc,
    )
