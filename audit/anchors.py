"""Where heads go outside this system, so that whoever rules over the database cannot change the log unseen.

Three kinds of place: a file for each head in a folder (WORM, object lock, another host's), a message of syslog, and a
time stamp (RFC 3161). Each head goes to each place that is configured; what fails is tried again at every round.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import structlog
from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from sqlalchemy import exists, select
from sqlalchemy.orm import Session, sessionmaker

from audit.checks.segment import Problem
from audit.heads import Head
from audit.reading import Reader
from audit.sealing import SEALER
from audit.syslog import send_head
from config.errors import AppError, BrokenSealError, ConfigurationError, PeerUnavailableError
from config.settings import AuditSettings
from db.audit import AuditTag
from db.audit_anchor_models import AuditAnchor
from db.audit_models import AuditHead
from db.types import utcnow
from db.uow import unit_of_work

log = structlog.get_logger()

FILE, SYSLOG, TIMESTAMP = "file", "syslog", "timestamp"
_PER_ROUND = 100
_TIMEOUT_S = 20.0
_QUERY = "application/timestamp-query"  # RFC 3161 section 3.4
_REPLY = "application/timestamp-reply"


@dataclass(frozen=True)
class Anchored:
    """Where a head was put, and what came back."""

    target: str
    token: bytes | None = None


Place = Callable[[AuditHead], Anchored]
StampCheck = Callable[[Reader, Sequence[Head]], list[Problem]]


class Anchors:
    """Puts heads where they belong, oldest first."""

    def __init__(self, sessions: sessionmaker[Session], settings: AuditSettings) -> None:
        """Use the places that ``settings`` names."""
        self._sessions = sessions
        self._places = places(settings)

    def round(self) -> int:
        """Try every head that a place lacks; return how many were put there.

        Raises:
            TransientError: the database is busy or cannot be reached.
        """
        return sum(self._fill(kind, place) for kind, place in self._places.items())

    def _fill(self, kind: str, place: Place) -> int:
        done = 0
        for head in self._lacking(kind):
            try:
                put = place(head)
            except AppError as exc:
                self._failed(kind, head.size, exc)
                if isinstance(exc, BrokenSealError):
                    continue  # it is about this head
                break  # the next one would fail too
            with unit_of_work(self._sessions, SEALER) as uow:
                uow.session.add(_row(kind, head.size, "success", put.target, put.token))
            done += 1
        return done

    def _lacking(self, kind: str) -> Sequence[AuditHead]:
        there = exists().where(
            AuditAnchor.kind == kind, AuditAnchor.size == AuditHead.size, AuditAnchor.outcome == "success"
        )
        with self._sessions() as session:
            return session.scalars(select(AuditHead).where(~there).order_by(AuditHead.size).limit(_PER_ROUND)).all()

    def _failed(self, kind: str, size: int, exc: AppError) -> None:
        """Say so; once in each outage also in the log itself."""
        log.warning("audit.anchor_failed", kind=kind, error=type(exc).__name__)
        with unit_of_work(self._sessions, SEALER) as uow:
            latest = (
                select(AuditAnchor.outcome).where(AuditAnchor.kind == kind).order_by(AuditAnchor.id.desc()).limit(1)
            )
            if uow.session.scalar(latest) == "failure":
                return
            uow.session.add(_row(kind, size, "failure", type(exc).__name__))
            detail = {"kind": kind, "size": size, "class": type(exc).__name__}
            uow.audit(
                AuditTag.AUDIT_ANCHOR_FAILED, outcome="failure", object_type="anchor", object_id=kind, detail=detail
            )


def _row(kind: str, size: int, outcome: str, target: str, token: bytes | None = None) -> AuditAnchor:
    return AuditAnchor(kind=kind, size=size, outcome=outcome, target=target[:256], token=token, anchored_at=utcnow())


def places(settings: AuditSettings) -> Mapping[str, Place]:
    """Return the places that are configured, by their kind."""
    found: dict[str, Place] = {}
    folder = settings.anchor_dir
    if folder is not None:
        found[FILE] = lambda head: Anchored(write_head(folder, head.size, head.note).name)
    if settings.syslog.host:
        found[SYSLOG] = lambda head: _syslog(settings, head)
    if settings.timestamp_url:
        found[TIMESTAMP] = lambda head: _stamp(settings, head)
    return found


def _syslog(settings: AuditSettings, head: AuditHead) -> Anchored:
    send_head(settings.syslog, head.note, head.signed_at)
    return Anchored(f"{settings.syslog.host}:{settings.syslog.port}")


# --- files -------------------------------------------------------------------------------------------------


def write_head(folder: Path, size: int, note: str) -> Path:
    """Write a head into a file of its own, never to be changed; the same head again changes nothing.

    Raises:
        ConfigurationError: the folder cannot be written.
        BrokenSealError: another head of this size stands there: the log is not the one it was.
    """
    path = folder / f"head-{size:020d}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    except FileExistsError:
        return _same(path, note)
    except OSError as exc:
        raise ConfigurationError(f"the folder of anchored heads, {folder}, cannot be written") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(note.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)
    except OSError as exc:
        raise ConfigurationError(f"the folder of anchored heads, {folder}, cannot be written") from exc
    return path


def _same(path: Path, note: str) -> Path:
    try:
        held = path.read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the anchored head {path} cannot be read") from exc
    if held != note:
        raise BrokenSealError(f"another head stands in {path.name}: this log is not the one that was anchored")
    return path


# --- time stamps -------------------------------------------------------------------------------------------


def _stamp(settings: AuditSettings, head: AuditHead) -> Anchored:
    """Have a head stamped; the answer is checked before it is kept."""
    request = (
        TimestampRequestBuilder()
        .data(head.note.encode("utf-8"))
        .hash_algorithm(HashAlgorithm.SHA256)
        .cert_request(cert_request=True)
        .build()
    )
    try:
        answer = httpx2.post(
            settings.timestamp_url,
            content=request.as_bytes(),
            headers={"Content-Type": _QUERY, "Accept": _REPLY},
            timeout=_TIMEOUT_S,
        )
        answer.raise_for_status()
        stamp = decode_timestamp_response(answer.content)
    except (httpx2.HTTPError, ValueError) as exc:
        raise PeerUnavailableError(f"the time-stamping authority gave no stamp ({type(exc).__name__})") from exc
    if stamp.tst_info.nonce != request.nonce:
        raise BrokenSealError("the time stamp answers another request")
    if settings.timestamp_certificate is not None:
        check_stamp(stamp, head.note, read_certificates(settings.timestamp_certificate))
    return Anchored(settings.timestamp_url, answer.content)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, the root last.

    Raises:
        ConfigurationError: it cannot be read, or holds none.
    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the certificates in {path} cannot be read") from exc


def check_stamp(stamp: TimeStampResponse, note: str, certificates: Sequence[x509.Certificate]) -> datetime:
    """Return when a stamp says that the note was there.

    Raises:
        BrokenSealError: it is not of this note, or not from an authority under the last of ``certificates``.
    """
    builder = VerifierBuilder().add_root_certificate(certificates[-1])
    for certificate in certificates[:-1]:
        builder = builder.add_intermediate_certificate(certificate)
    try:
        builder.build().verify_message(stamp, note.encode("utf-8"))
    except (VerificationError, ValueError) as exc:
        raise BrokenSealError(f"the time stamp does not hold: {exc}") from exc
    return stamp.tst_info.gen_time


def stamp_problems(certificates: Sequence[x509.Certificate], tolerance: timedelta) -> StampCheck:
    """Return the check of all time stamps that are kept, by the certificates that are trusted."""

    def check(reader: Reader, heads: Sequence[Head]) -> list[Problem]:
        known = {head.size: head for head in heads}
        rows = reader.ask(
            "SELECT size, token FROM audit_anchor WHERE kind = ? AND outcome = ? ORDER BY size", [TIMESTAMP, "success"]
        )
        found = [(int(size), _told(known.get(int(size)), token, certificates, tolerance)) for size, token in rows]
        return [Problem("timestamp", size - 1, -1, what) for size, what in found if what]

    return check


def _told(head: Head | None, token: Any, certificates: Sequence[x509.Certificate], tolerance: timedelta) -> str:
    """Return what is wrong with a time stamp; empty when nothing is."""
    if head is None:
        return "the head that was stamped is not in the log"
    try:
        at = check_stamp(decode_timestamp_response(bytes(token or b"")), head.note, certificates)
    except (BrokenSealError, ValueError) as exc:
        return str(exc)
    if at < head.at - tolerance:
        return f"it was stamped at {at.isoformat()}, before the time it says: {head.at.isoformat()}"
    return ""
