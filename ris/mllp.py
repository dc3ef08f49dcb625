"""Send one HL7 message over MLLP and wait for the acknowledgement that names it."""

import re
import socket
import time
from typing import NamedTuple

import hl7  # type: ignore[import-untyped]

from config.destination import Destination
from config.errors import BrokenBodyError, PeerUnavailableError
from config.settings import Settings
from ris.answers import Answer
from ris.frames import FrameReader, framed
from ris.tls import client_context

_MAX_ANSWER_BYTES = 64 * 1024
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,20}")


class Acknowledgement(NamedTuple):
    """MSA-1, MSA-2 and the error code (ERR-3, else ERR-1.4 or MSA-6): codes only, for texts may name the patient."""

    code: str
    control_id: str
    error: str


def send_message(destination: Destination, settings: Settings, content: bytes) -> Answer:
    """Send one message on a connection of its own; return what the receiver answered.

    AA and CA accept it; AR and CR are final; AE and CE are worth another attempt. What does not acknowledge *this*
    message (another control id, an earlier acknowledgement that comes late, no HL7 at all) is read and passed over.

    Args:
        destination: with protocol ``mllp``.
        settings: for the time it may take (``hl7.timeout_s``), and the certificate.
        content: the message without its frame.

    Raises:
        PeerUnavailableError: nobody answered: not reached, closed, too late. Whether the message arrived is unknown.
    """
    ours = control_id_of(content)
    deadline = time.monotonic() + settings.hl7.timeout_s
    try:
        with _connected(destination, settings) as connection:
            connection.sendall(framed(content))
            return _answer(_acknowledgement(connection, ours, deadline))
    except TimeoutError as exc:
        raise PeerUnavailableError(f"no acknowledgement within {settings.hl7.timeout_s:g} s") from exc
    except BrokenBodyError as exc:
        raise PeerUnavailableError("the acknowledgement has no end") from exc
    except (OSError, ValueError) as exc:  # ValueError: a host name that cannot be encoded
        raise PeerUnavailableError(f"the connection failed: {type(exc).__name__}") from exc


def _connected(destination: Destination, settings: Settings) -> socket.socket:
    context = client_context(settings.dicom.tls) if destination.tls else None
    plain = socket.create_connection((destination.host, destination.port), timeout=settings.hl7.timeout_s)
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=destination.host)
    except (OSError, ValueError):
        plain.close()
        raise


def _acknowledgement(connection: socket.socket, ours: str, deadline: float) -> Acknowledgement:
    reader = FrameReader(_MAX_ANSWER_BYTES)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        data = connection.recv(65536)
        if not data:
            raise PeerUnavailableError("the connection was closed before the acknowledgement")
        for frame in reader.feed(data):
            said = read_acknowledgement(frame)
            if said is not None and said.control_id == ours:
                return said


def read_acknowledgement(frame: bytes) -> Acknowledgement | None:
    """Return what an acknowledgement says; None when it is none."""
    try:
        # codes and control ids are ASCII; the other bytes are not read
        message = hl7.parse(frame.decode("ascii", "replace"))
        msa = message.segment("MSA")
    except (KeyError, ValueError, IndexError, AssertionError, hl7.HL7Exception):
        return None
    code, control_id = _field(msa, 1).upper(), _field(msa, 2)
    return Acknowledgement(code, control_id, _error_code(message, msa))


def _error_code(message: hl7.Message, msa: hl7.Segment) -> str:
    said = [_field(msa, 6)]
    for segment in message:
        if str(segment[0]) == "ERR":
            said = [_field(segment, 3), _field(segment, 1), *said]
    for one in said:
        parts = one.split("^")
        code = parts[3].split("&", maxsplit=1)[0] if len(parts) > 3 and not parts[0] else parts[0]
        if _CODE.fullmatch(code):
            return code
    return ""


def _field(segment: hl7.Segment, position: int) -> str:
    return str(segment[position]).strip() if len(segment) > position else ""


def _answer(said: Acknowledgement) -> Answer:
    why = f"acknowledged {said.code}" + (f", error {said.error}" if said.error else "")
    if said.code in {"AA", "CA"}:
        return Answer(accepted=True, said=f"{said.code} {said.control_id}")
    if said.code in {"AR", "CR"}:
        return Answer(accepted=False, error=why, is_final=True)
    if said.code in {"AE", "CE"}:
        return Answer(accepted=False, error=why)
    return Answer(accepted=False, error="acknowledged with an unknown code")


def control_id_of(content: bytes) -> str:
    """Return the Message Control ID (MSH-10) of a message of ours."""
    return content.split(b"\r", 1)[0].split(b"|")[9].decode()
