"""One association we accepted, from its first byte to its last, in one thread.

pynetdicom negotiates and serves every DIMSE message but C-STORE-RQ, whose Data Set goes from the network buffer
straight into its file (ADR 12).
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation

from config.errors import AbortAssociationError, AssociationLostError
from dicom_node.connection import Closing, Connection
from dicom_node.context import NodeContext, tally
from dicom_node.fast_store import IncomingInstance
from dicom_node.pdu import (
    IS_COMMAND,
    IS_LAST,
    PDV_HEADER,
    AbortReason,
    Command,
    Element,
    Field,
    PduType,
    command_pdus,
    parse_command,
    store_response,
)
from dicom_node.upper_layer import UpperLayer, provider_abort
from instances import storing
from instances.arrival import Announced

log = structlog.get_logger()
_PADDING = " \0"  # of AE titles; some use zero bytes, against PS3.5 section 6.2
_MAX_COMMAND_BYTES = 1 << 16
_MAX_MESSAGE_BYTES = 1 << 25  # of a message other than C-STORE, which is held in memory


def serve(
    connection: socket.socket,
    address: tuple[Any, ...],
    ae: AE,
    handlers: list[tuple[Any, ...]],
    context: NodeContext,
    *,
    closing: Closing | None = None,
) -> None:
    """Run one association to its end in the calling thread; the socket is closed on return.

    Args:
        connection: as accepted; an ``ssl.SSLSocket`` has done its handshake.
        address: of the peer, as ``accept`` returned it.
        ae: the node: titles, timeouts, maximum PDU size, contexts supported before the handlers say more.
        handlers: of :func:`dicom_node.handlers.event_handlers`.
        context: where Instances are kept, and who may come in.
        closing: asks the association to end, when the node stops.
    """
    with connection:
        try:
            wire = Connection(connection, context.settings.dicom, closing)
            try:
                NodeAssociation(wire, address, ae, handlers, context).run_reactor()
            finally:
                wire.close()
        except Exception as exc:
            # the edge of the association's thread: the node goes on
            log.exception("association.failed", error=exc, host=str(address[0]))


@dataclass
class _Message:
    """A DIMSE message that is coming in."""

    context_id: int
    encoded_command: bytearray = field(default_factory=bytearray)
    command: Command | None = None  # as soon as it is complete
    instance: IncomingInstance | None = None  # its Data Set when it is a C-STORE-RQ
    data_set: bytearray = field(default_factory=bytearray)  # its Data Set otherwise


class NodeAssociation(Association):  # type: ignore[misc]
    """pynetdicom's association without its threads: what the peer sends is read here, and answered here."""

    def __init__(
        self,
        connection: Connection,
        address: tuple[Any, ...],
        ae: AE,
        handlers: list[tuple[Any, ...]],
        context: NodeContext,
    ) -> None:
        super().__init__(ae, "acceptor")
        self.dul = UpperLayer(connection, ae.acse_timeout)
        self._connection = connection
        self._context = context
        self._message: _Message | None = None
        self.afterwards: list[Callable[[Association], None]] = []  # to be done once the present request is answered
        self.acceptor.maximum_length = self._maximum = ae.maximum_pdu_size
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = ae.supported_contexts
        self.acceptor.address_info = _address_info(connection.socket.getsockname())
        self.requestor.address_info = _address_info(address)
        for handler in handlers:
            self.bind(*handler)

    def run_reactor(self) -> None:
        """Negotiate, serve what is asked until the peer releases or aborts, and tell the handlers how it ended."""
        evt.trigger(self, evt.EVT_CONN_OPEN, {"address": self.requestor.address_info.as_tuple})
        try:
            self._negotiate()
            while self.is_established:
                self._serve_pdu()
        except AssociationLostError as exc:
            self._lost(exc)
        except AbortAssociationError as exc:
            log.warning("association.aborted", error=str(exc), host=self.requestor.address, calling_ae=self._caller)
            self._abort(exc)
        except Exception:
            self._abort(provider_abort("a fault of ours", AbortReason.NOT_SPECIFIED))
            raise
        finally:
            try:
                self._drop_message()
            finally:
                self._leave("lost")  # when nobody heard of the end yet
                evt.trigger(self, evt.EVT_CONN_CLOSE, {"address": self.requestor.address_info.as_tuple})

    def _negotiate(self) -> None:
        self.requestor.primitive = self.dul.await_request()
        evt.trigger(self, evt.EVT_REQUESTED, {})
        if not self.is_aborted and not self.is_rejected:
            self._accept_or_reject()
        if self.is_established and 0 < self.requestor.maximum_length <= PDV_HEADER.size:
            raise provider_abort("a maximum length that holds nothing", AbortReason.INVALID_PARAMETER)

    def _accept_or_reject(self) -> None:
        try:
            self.acse.negotiate_association()
        except Exception as exc:
            # an item that could be decoded, but makes no sense: pynetdicom raises whatever it leads to
            raise provider_abort("a request that cannot be negotiated", AbortReason.INVALID_PARAMETER) from exc

    @property
    def _caller(self) -> str:
        asked = self.requestor.primitive
        return str(asked.calling_ae_title).strip(_PADDING) if asked else ""

    # How it ends

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: ARG002, FBT as pynetdicom calls it
        """Abort by the service user; pynetdicom and the handlers call this as ``abort``."""
        if not self.is_aborted and not self.is_released:
            self._abort(AbortAssociationError("aborted by a service"))

    def _abort(self, error: AbortAssociationError) -> None:
        self.dul.abort(error)
        self._aborted()

    def _aborted(self) -> None:
        self.is_aborted = True
        self.is_established = False
        evt.trigger(self, evt.EVT_ABORTED, {})

    def _lost(self, error: AssociationLostError) -> None:
        log.info("association.lost", error=str(error), host=self.requestor.address, calling_ae=self._caller)
        self._leave("lost")
        if self.is_established:
            self._aborted()

    def _leave(self, how: str) -> None:
        """Tell the doorkeeper, who counts only the first end of an association."""
        entered = tally(self)
        if entered is not None and not (self.is_released or self.is_aborted):
            self._context.door.leave(
                entered.association_id,
                how=how,
                instances=entered.instances,
                size_bytes=entered.size_bytes,
                answered=entered.answered,
            )

    # What the peer sends

    def _serve_pdu(self) -> None:
        if self._message is None:
            self._connection.await_message()
        kind, length = self.dul.next_pdu()
        if kind == PduType.P_DATA:
            self._serve_data(length)
        elif kind == PduType.RELEASE_RQ:
            self._connection.take(min(length, 4))
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            evt.trigger(self, evt.EVT_RELEASED, {})
        elif kind == PduType.ABORT:
            self._aborted()
        else:
            raise provider_abort("a PDU that is not expected now", AbortReason.UNEXPECTED_PDU)

    def _serve_data(self, length: int) -> None:
        """Read the PDVs of one P-DATA-TF (PS3.8 section 9.3.5); ``length`` is that of the PDV items together."""
        if length > self._maximum:
            raise provider_abort("a P-DATA-TF longer than we announced", AbortReason.INVALID_PARAMETER)
        if not length:
            raise provider_abort("a P-DATA-TF without a PDV", AbortReason.INVALID_PARAMETER)
        while length and self.is_established:
            if length < PDV_HEADER.size:
                raise provider_abort("a PDV that is cut short", AbortReason.INVALID_PARAMETER)
            size, context_id, control = PDV_HEADER.unpack(self._connection.take(PDV_HEADER.size))
            length -= 4 + size
            if size < 2 or length < 0:
                raise provider_abort("a PDV longer than its PDU", AbortReason.INVALID_PARAMETER)
            if context_id not in self._accepted_cx:
                raise provider_abort("a presentation context that was not accepted", AbortReason.INVALID_PARAMETER)
            self._serve_fragment(context_id, control, size - 2)

    def _serve_fragment(self, context_id: int, control: int, size: int) -> None:
        """Take one fragment of a message: command first, then Data Set, all on one context (PS3.8 annex E)."""
        if self._message is None:
            self._message = _Message(context_id)
        message = self._message
        if message.context_id != context_id:
            raise AbortAssociationError("fragments of two messages are mixed")
        if bool(control & IS_COMMAND) is (message.command is not None):
            raise AbortAssociationError("a Data Set before its command, or a second command")
        if message.command is None:
            self._take_command(message, size)
            is_whole = bool(control & IS_LAST) and not self._begin(message)
        else:
            self._take_data_set(message, size)
            is_whole = bool(control & IS_LAST)
        if is_whole:
            self._answer(message)
            self._drop_message()

    def _take_command(self, message: _Message, size: int) -> None:
        if len(message.encoded_command) + size > _MAX_COMMAND_BYTES:
            raise AbortAssociationError("a command set that is too long")
        for piece in self._connection.pieces(size):
            message.encoded_command += piece

    def _take_data_set(self, message: _Message, size: int) -> None:
        if message.instance is not None:
            for piece in self._connection.pieces(size):
                message.instance.write(piece)
            return
        if len(message.data_set) + size > _MAX_MESSAGE_BYTES:
            raise AbortAssociationError("a Data Set that is too long for its service")
        for piece in self._connection.pieces(size):
            message.data_set += piece

    def _begin(self, message: _Message) -> bool:
        """Look at a complete command; return whether a Data Set follows it."""
        message.command = command = parse_command(message.encoded_command)
        if command.number(Element.COMMAND_FIELD) == Field.C_STORE_RQ:
            if command.number(Element.MESSAGE_ID) is None:
                raise AbortAssociationError("a C-STORE-RQ that cannot be answered: it has no Message ID")
            message.instance = IncomingInstance(self._context, self._announced(message, command))
        return command.has_data_set

    def _announced(self, message: _Message, command: Command) -> Announced:
        entered = tally(self)
        return Announced(
            transfer_syntax_uid=str(self._accepted_cx[message.context_id].transfer_syntax[0]),
            sop_class_uid=command.text(Element.AFFECTED_SOP_CLASS_UID),
            sop_instance_uid=command.text(Element.AFFECTED_SOP_INSTANCE_UID),
            calling_ae=self._caller,
            called_ae=str(self.requestor.primitive.called_ae_title).strip(_PADDING),
            association_id=entered.association_id if entered else None,
            move_originator_ae=command.text(Element.MOVE_ORIGINATOR_AE),
            move_message_id=command.number(Element.MOVE_MESSAGE_ID) or 0,
        )

    # What is answered

    def _answer(self, message: _Message) -> None:
        assert message.command is not None
        if message.instance is not None:
            self._answer_store(message, message.command, message.instance)
        elif message.command.number(Element.COMMAND_FIELD) != Field.C_CANCEL_RQ:  # there is nothing to cancel
            self._answer_by_pynetdicom(message)

    def _answer_store(self, message: _Message, command: Command, instance: IncomingInstance) -> None:
        abstract_syntax = str(self._accepted_cx[message.context_id].abstract_syntax)
        (status, comment), size = instance.finish(abstract_syntax)
        entered = tally(self)
        if status == storing.SUCCESS and entered is not None:
            entered.instances += 1
            entered.size_bytes += size
        elif entered is not None:
            entered.refused += 1
        response = store_response(command, status, comment)
        self._connection.send(b"".join(command_pdus(message.context_id, response, self.requestor.maximum_length)))

    def _answer_by_pynetdicom(self, message: _Message) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list = [
            [message.context_id, bytes((IS_COMMAND | IS_LAST,)) + message.encoded_command],
            [message.context_id, bytes((IS_LAST,)) + message.data_set],
        ]
        decoded = DIMSEMessage()
        try:
            decoded.decode_msg(primitive, self)
            request = decoded.message_to_primitive()
        except Exception as exc:
            # pydicom's parsers raise whatever a malformed value leads them to
            raise AbortAssociationError("a message that cannot be decoded") from exc
        evt.trigger(self, evt.EVT_DIMSE_RECV, {"message": decoded})
        self._serve_request(request, message.context_id)
        while self.afterwards:
            self.afterwards.pop(0)(self)

    def _drop_message(self) -> None:
        if self._message is not None and self._message.instance is not None:
            self._message.instance.close()
        self._message = None


def _address_info(address: Any) -> AddressInformation:
    """Return an address as pynetdicom keeps it; a local socket pair has none."""
    return AddressInformation.from_tuple(address if isinstance(address, tuple) else ("127.0.0.1", 0))
