"""The DICOM Upper Layer of an association we accepted, in the association's own thread (PS3.8 section 9).

It stands where pynetdicom's ``DULServiceProvider`` stands: ACSE, DIMSE and the service classes send their primitives
through it and do not notice that there is no second thread, no queue and no polling.
"""

from dataclasses import dataclass
from typing import Any

from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
)
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.timer import Timer

from config.errors import AbortAssociationError, AssociationLostError
from dicom_node.connection import BUFFER_BYTES, Connection
from dicom_node.pdu import PDU_HEADER, AbortReason, PduType, abort_pdu

_SERVICE_PROVIDER = 2  # as source of an A-ABORT
_VERSION_1 = 0x0001  # of the protocol; the other bits are not to be tested (PS3.8 table 9-11)
_UNSUPPORTED_VERSION = (1, 2, 2)  # A-ASSOCIATE-RJ: permanent, ACSE provider, protocol version (PS3.8 table 9-21)
_ASSUMED_MAXIMUM = 16384
_PRIMITIVES: dict[type, Any] = {P_DATA: P_DATA_TF, A_ABORT: A_ABORT_RQ, A_P_ABORT: A_ABORT_RQ}


@dataclass(frozen=True)
class Transport:
    """What handlers know as ``assoc.dul.socket``; its ``socket`` tells the peer's certificate."""

    socket: Any


class UpperLayer:
    """One association's PDUs, read and written where they are asked for."""

    def __init__(self, connection: Connection, acse_timeout_s: float) -> None:
        self.connection = connection
        self.socket = Transport(connection.socket)
        self.artim_timer = Timer(acse_timeout_s)
        self._idle_timer = Timer(None)  # the connection keeps the time

    def await_request(self) -> A_ASSOCIATE:
        """Return the A-ASSOCIATE-RQ an association begins with.

        Raises:
            AbortAssociationError: it is none, or malformed.
            AssociationLostError: none came within the ARTIM time, or it has been rejected for its protocol version.
        """
        self.connection.expect_within(self.artim_timer.timeout)
        kind, length = self.next_pdu()
        if kind == PduType.ABORT:
            raise AssociationLostError("the peer aborted")
        if kind != PduType.ASSOCIATE_RQ:
            raise AbortAssociationError("a PDU before the association is requested")
        request, primitive = _decode_request(self._whole(PduType.ASSOCIATE_RQ, length))
        if not request.protocol_version & _VERSION_1:
            primitive.result, primitive.result_source, primitive.diagnostic = _UNSUPPORTED_VERSION
            self.send_pdu(primitive)
            raise AssociationLostError("the protocol version is not supported")
        return primitive

    def next_pdu(self) -> tuple[int, int]:
        """Read a PDU header; return type and length of what follows.

        Raises:
            AbortAssociationError: there is no such type.
            AssociationLostError: no further PDU comes.
        """
        kind, length = PDU_HEADER.unpack(self.connection.take(PDU_HEADER.size))
        if not PduType.ASSOCIATE_RQ <= kind <= PduType.ABORT:
            raise provider_abort("an unrecognised PDU", AbortReason.UNRECOGNIZED_PDU)
        return kind, length

    def _whole(self, kind: int, length: int) -> bytes:
        """Return a PDU other than P-DATA-TF with its header, as pynetdicom decodes it."""
        if length > BUFFER_BYTES:
            raise provider_abort("an A-ASSOCIATE-RQ that is too long", AbortReason.INVALID_PARAMETER)
        return PDU_HEADER.pack(kind, length) + self.connection.take(length)

    def send_pdu(self, primitive: Any) -> None:
        """Send a primitive at once. When the peer is gone, nothing happens: the next read will say so."""
        try:
            self.connection.send(_pdu_of(primitive).encode())
        except AssociationLostError:
            return

    def abort(self, error: AbortAssociationError) -> None:
        """Send an A-ABORT."""
        try:
            self.connection.send(abort_pdu(error.source, error.reason))
        except AssociationLostError:
            return

    # What follows is only there because pynetdicom asks for it; nothing waits in a queue and no thread runs.

    def peek_next_pdu(self) -> None:
        """Return no primitive: those of the peer are handled as they come."""

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> None:
        """Return no primitive: those of the peer are handled as they come."""

    def is_alive(self) -> bool:
        """Return that there is no thread to wait for."""
        return False

    def kill_dul(self) -> None:
        """Do nothing: there is no thread to end."""


def provider_abort(message: str, reason: AbortReason) -> AbortAssociationError:
    """Return the error of a PDU nobody may send: an A-ABORT by the service provider (PS3.8 section 7.4)."""
    return AbortAssociationError(message, source=_SERVICE_PROVIDER, reason=reason)


def _decode_request(encoded: bytes) -> tuple[A_ASSOCIATE_RQ, A_ASSOCIATE]:
    request = A_ASSOCIATE_RQ()
    try:
        request.decode(encoded)
        primitive = request.to_primitive()
    except Exception as exc:
        # pynetdicom's decoders raise whatever a malformed item leads them to
        raise AbortAssociationError("an A-ASSOCIATE-RQ that cannot be decoded") from exc
    if primitive.maximum_length_received is None:  # it is mandatory (PS3.7 D.3.3.1), and still not always there
        primitive.maximum_length_received = _ASSUMED_MAXIMUM
    return request, primitive


def _pdu_of(primitive: Any) -> Any:
    if isinstance(primitive, A_ASSOCIATE):
        return (A_ASSOCIATE_RJ if primitive.result else A_ASSOCIATE_AC)(primitive)
    if isinstance(primitive, A_RELEASE):
        return A_RELEASE_RP() if primitive.result else A_RELEASE_RQ()
    return _PRIMITIVES[type(primitive)](primitive)
