"""What is done with one message that came in: kept, applied, recorded in one transaction, and only then answered."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.durable import write_durably
from config.errors import AppError, LifecycleError, RefusedInputError
from config.exchange_settings import Hl7Settings
from config.settings import Settings
from db.lifecycle.messages import NewMessage, keep_message, taken_before
from db.lifecycle.orders import take_order
from db.lifecycle.patients import merge_patient, update_patient
from db.uow import Actor, UnitOfWork, unit_of_work
from reports.hl7_encoding import message, segment, timestamp
from ris.inbound import (
    INTERNAL_ERROR,
    NOT_UNDERSTOOD,
    UNSUPPORTED_EVENT,
    UNSUPPORTED_TYPE,
    Header,
    RefusedMessageError,
    Segment,
    read_header,
    read_message,
)
from ris.orders import read_orders
from ris.patients import read_merges, read_update

log = structlog.get_logger()
Apply = Callable[[UnitOfWork, UUID], None]
_ATTEMPTS = 5
_KEEPING = threading.Lock()
_KINDS = ("ORM^O01", "OMI^O23", "ADT^A08", "ADT^A40")
_MEANINGS = {
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "207": "Application internal error",
}


def answer(content: bytes, settings: Settings, sessions: sessionmaker[Session], *, address: str = "") -> bytes:
    """Take one message and return its acknowledgement, without frames.

    AA: kept and applied, both committed; also for the same message sent again, which is not applied twice. AR: it is
    not understood, or nothing we take; kept all the same. AE: a passing reason; the sender should send it again.
    Texts of an acknowledgement never quote the message. ``address`` is the sender's, for the record.
    """
    header = read_header(content)
    try:
        code, error = _take(content, header, settings, sessions, Actor(_sender(header), "peer", address=address[:64]))
    except AppError as exc:
        log.warning("message.postponed", error=type(exc).__name__)
        code, error = "AE", INTERNAL_ERROR
    except Exception as exc:  # noqa: BLE001 the edge towards the sender: a defect of ours is no reason to lose it
        log.error("message.interrupted", error=type(exc).__name__)  # noqa: TRY400
        code, error = "AE", INTERNAL_ERROR
    return acknowledgement(header, settings.hl7, code, error)


def _sender(header: Header) -> str:
    return f"HL7 {header.application}".strip()


def _take(
    content: bytes, header: Header, settings: Settings, sessions: sessionmaker[Session], sender: Actor
) -> tuple[str, str]:
    """Return acknowledgement and error code; what is returned is committed."""
    digest = hashlib.sha256(content).hexdigest()
    path = Path("hl7") / digest[:2] / f"{digest}.hl7"
    new = NewMessage(header.sender, header.control_id, header.kind, digest, str(path))
    _keep(settings.data_dir.resolve() / path, content)
    try:
        _apply(new, _read(content, header, settings.hl7), sessions, sender)
    except RefusedInputError as exc:
        code = exc.code if isinstance(exc, RefusedMessageError) else NOT_UNDERSTOOD
        log.info("message.refused", status=code)
        with unit_of_work(sessions, sender) as uow:
            keep_message(uow, new, "AR", f"{code}: {exc}")
        return "AR", code
    return "AA", ""


def _keep(file: Path, content: bytes) -> None:
    """Write a message's bytes once, whoever else writes the same at this moment."""
    with _KEEPING:
        if not file.exists():
            write_durably(file, content)


def _apply(new: NewMessage, apply: Apply, sessions: sessionmaker[Session], sender: Actor) -> None:
    """Keep and apply a message in one transaction; once more when somebody changed the same rows first."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with unit_of_work(sessions, sender) as uow:
                if not taken_before(uow, new):
                    apply(uow, keep_message(uow, new, "AA"))
        except LifecycleError:
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def _read(content: bytes, header: Header, settings: Hl7Settings) -> Apply:
    """Return what a message asks to be done.

    Raises:
        RefusedMessageError: it is not understood, or nothing we take.
    """
    segments = read_message(content, header, processing=settings.processing)
    if header.kind in {"ORM^O01", "OMI^O23"}:
        return _orders(segments, header.sender)
    if header.kind == "ADT^A08":
        said = read_update(segments)
        return lambda uow, key: _count(update_patient(uow, said, message_id=key))
    if header.kind == "ADT^A40":
        return _merges(segments)
    is_known = any(kind.startswith(f"{header.message_type}^") for kind in _KINDS)
    raise RefusedMessageError(
        UNSUPPORTED_EVENT if is_known else UNSUPPORTED_TYPE, f"only {', '.join(_KINDS)} are taken"
    )


def _orders(segments: Sequence[Segment], sender: str) -> Apply:
    orders = read_orders(segments, sender)

    def apply(uow: UnitOfWork, _: UUID) -> None:
        for order, action in orders:
            take_order(uow, order, action)

    return apply


def _merges(segments: Sequence[Segment]) -> Apply:
    merges = read_merges(segments)

    def apply(uow: UnitOfWork, key: UUID) -> None:
        _count(sum(merge_patient(uow, gone, stays, message_id=key) for gone, stays in merges))

    return apply


def _count(studies: int) -> None:
    log.info("message.applied", count=studies)


def acknowledgement(header: Header, settings: Hl7Settings, code: str, error: str = "") -> bytes:
    """Return the ACK of one message: ``code`` AA, AE or AR, ``error`` of table 0357."""
    now = datetime.now(UTC)
    segments = [
        segment(
            "MSH",
            settings.application,
            settings.facility,
            header.application,
            header.facility,
            timestamp(now),
            "",
            ("ACK", header.event, "ACK") if header.event else ("ACK",),
            f"A{now:%y%m%d%H%M%S%f}",
            settings.processing,
            "2.5.1",
            *[""] * 5,
            "UNICODE UTF-8",
        ),
        segment("MSA", code, header.control_id),
    ]
    if error:
        segments.append(segment("ERR", "", "", (error, _MEANINGS[error], "HL70357"), "E"))
    return message(segments)
