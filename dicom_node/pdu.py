"""The bytes the receive path reads and writes itself: PDU and PDV headers, command sets (PS3.8 9.3, PS3.7 6.3, E)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from config.errors import AbortAssociationError

PDU_HEADER = struct.Struct(">BxL")
"""PDU type, one reserved byte, and the length of what follows."""
PDV_HEADER = struct.Struct(">LBB")
"""Item length (of what follows it), presentation context id, message control header (PS3.8 annex E.2)."""
IS_COMMAND, IS_LAST = 0x01, 0x02
NO_DATA_SET = 0x0101  # (0000,0800); any other value announces a Data Set
_ELEMENT = struct.Struct("<HHL")
_MAX_UID = 64


class PduType(IntEnum):
    """The first byte of a PDU."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortReason(IntEnum):
    """Why the service provider aborts (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


class Field(IntEnum):
    """Command Field (0000,0100) of what is not left to pynetdicom (PS3.7 table E.1-1)."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_CANCEL_RQ = 0x0FFF


class Element(IntEnum):
    """Element numbers in group 0000 (PS3.7 table E.1-1)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    RESPONDED_MESSAGE_ID = 0x0120
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    MOVE_ORIGINATOR_AE = 0x1030
    MOVE_MESSAGE_ID = 0x1031


@dataclass(frozen=True)
class Command:
    """A command set: the values of group 0000 by element number, as they came."""

    values: dict[int, bytes]

    def number(self, element: Element) -> int | None:
        """Return an element of VR US, or None when it is absent or not two bytes long."""
        value = self.values.get(element, b"")
        return int.from_bytes(value, "little") if len(value) == 2 else None

    def text(self, element: Element) -> str:
        """Return an element of VR UI or AE without its padding, or nothing when it is absent."""
        return self.values.get(element, b"").decode("latin-1").strip(" \0")

    @property
    def has_data_set(self) -> bool:
        """Whether a Data Set follows; a command that does not say so has none."""
        return self.number(Element.DATA_SET_TYPE) not in {None, NO_DATA_SET}


def parse_command(encoded: bytes | bytearray) -> Command:
    """Return a command set, which is always Implicit VR Little Endian (PS3.7 section 6.3.1).

    Command Group Length is not believed: some implementations get it wrong, and the fragments say where it ends.

    Raises:
        AbortAssociationError: an element reaches beyond the end, or is not of group 0000.
    """
    values, at, end = {}, 0, len(encoded)
    while at < end:
        if end - at < _ELEMENT.size:
            raise AbortAssociationError("a command set is cut short")
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group:
            raise AbortAssociationError("a command set holds an element that is not of group 0000")
        if length > end - at:
            raise AbortAssociationError("an element of a command set reaches beyond its end")
        values[element] = bytes(encoded[at : at + length])
        at += length
    return Command(values)


def store_response(request: Command, status: int, comment: str) -> bytes:
    """Return the command set of the C-STORE-RSP to ``request`` (PS3.7 section 9.3.1.2)."""
    answered = [
        (Element.AFFECTED_SOP_CLASS_UID, _uid(request, Element.AFFECTED_SOP_CLASS_UID)),
        (Element.COMMAND_FIELD, _us(Field.C_STORE_RSP)),
        (Element.RESPONDED_MESSAGE_ID, request.values[Element.MESSAGE_ID]),
        (Element.DATA_SET_TYPE, _us(NO_DATA_SET)),
        (Element.STATUS, _us(status)),
        (Element.ERROR_COMMENT, _even(comment.encode("ascii"), b" ")),
        (Element.AFFECTED_SOP_INSTANCE_UID, _uid(request, Element.AFFECTED_SOP_INSTANCE_UID)),
    ]
    body = b"".join(_ELEMENT.pack(0, number, len(value)) + value for number, value in answered if value)
    return _ELEMENT.pack(0, Element.GROUP_LENGTH, 4) + struct.pack("<L", len(body)) + body


def command_pdus(context_id: int, command: bytes, maximum: int) -> Iterator[bytes]:
    """Return P-DATA-TF PDUs that carry a command set, none longer than the peer's ``maximum`` (0: no limit)."""
    size = max(maximum - PDV_HEADER.size, 1) if maximum else len(command)
    for at in range(0, len(command), size):
        piece = command[at : at + size]
        control = IS_COMMAND | (IS_LAST if at + size >= len(command) else 0)
        item = PDV_HEADER.pack(len(piece) + 2, context_id, control) + piece
        yield PDU_HEADER.pack(PduType.P_DATA, len(item)) + item


def abort_pdu(source: int, reason: int) -> bytes:
    """Return an A-ABORT PDU (PS3.8 section 9.3.8)."""
    return PDU_HEADER.pack(PduType.ABORT, 4) + bytes((0, 0, source, reason))


def _us(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _uid(request: Command, element: Element) -> bytes:
    """Return a UID of the request to repeat; one that is too long to be one is left out."""
    value = request.values.get(element, b"")
    return _even(value, b"\0") if len(value) <= _MAX_UID else b""


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding if len(value) % 2 else value
