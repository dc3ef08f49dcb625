"""Associations served by our own receive path, and a peer that writes every byte itself."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from dicom_node.association import serve
from dicom_node.connection import Closing
from dicom_node.context import NodeContext
from dicom_node.door import Door
from dicom_node.handlers import event_handlers
from dicom_node.library import make_ae
from instances.inbox import make_inbox


def node_context(settings: Settings, sessions: sessionmaker[Session]) -> NodeContext:
    """What the handlers of a node with these settings share."""
    inbox = make_inbox(sessions, settings)
    inbox.prepare()
    return NodeContext(inbox, Door(settings, sessions), sessions, settings)


def node_ae(settings: Settings) -> AE:
    """The application entity of a node."""
    dicom = settings.dicom
    ae = make_ae(dicom.ae_title, max_pdu_bytes=dicom.max_pdu_bytes, network_timeout_s=dicom.network_timeout_s)
    ae.add_supported_context(Verification)
    return ae


def leftovers(context: NodeContext) -> list[Path]:
    """The temporary files of objects that did not arrive; those of answered ones may go a moment after the answer."""
    incoming: Path = context.inbox.instances.incoming  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5.0
    while list(incoming.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(incoming.iterdir())


@contextmanager
def listening(
    context: NodeContext, closing: Closing | None = None, *, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Serve every connection to a free port in a thread of its own; gives the port."""
    ae, handlers = node_ae(context.settings), event_handlers(context)
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, address = server.accept()
                    connection = tls.wrap_socket(connection, server_side=True) if tls else connection
                    args = (connection, address, ae, handlers, context)
                    thread = threading.Thread(target=serve, args=args, kwargs={"closing": closing}, daemon=True)
                    thread.start()
                    threads.append(thread)

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join(20)
            assert not any(thread.is_alive() for thread in threads)


RELEASE = bytes.fromhex("05000000000400000000")
ABORT = bytes.fromhex("07000000000400000000")
ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 2, 3, 4, 6, 7  # types of PDU
CONTEXTS = {1: CTImageStorage, 3: Verification, 5: "1.2.840.10008.5.1.4.1.1.4", 7: StorageCommitmentPushModel}


def association_request(
    *, maximum: int = 16384, called_ae: str = "FIRSTREAD", calling_ae: str = "MODALITY", items: Sequence[Any] = ()
) -> bytes:
    """An A-ASSOCIATE-RQ for ``CONTEXTS`` in Explicit VR Little Endian, with further user information items."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = calling_ae, called_ae
    contexts = []
    for number, uid in CONTEXTS.items():
        context = build_context(uid, [ExplicitVRLittleEndian])
        context.context_id = number
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = maximum
    implementation.implementation_class_uid = UID("1.2.3")
    primitive.user_information = [length, implementation, *items]
    encoded: bytes = A_ASSOCIATE_RQ(primitive).encode()
    return encoded


def store_request(
    data: bytes,
    sop_instance: str,
    *,
    sop_class: str = CTImageStorage,
    pdu_bytes: int = 16384,
    context_id: int = 1,
    message_id: int = 7,
) -> bytes:
    """The PDUs of a C-STORE-RQ, as pynetdicom writes them."""
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = message_id, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = sop_class, sop_instance
    primitive.DataSet = BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return b"".join(P_DATA_TF(p).encode() for p in message.encode_msg(context_id, pdu_bytes))


def command_set(**values: Any) -> bytes:
    """A command set of ``_gggg`` element numbers: int is US, str is UI; without group length."""
    encoded = b""
    for name, value in values.items():
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode() + b"\0" * (len(value) % 2)
        encoded += struct.pack("<HHL", 0, int(name[1:], 16), len(raw)) + raw
    return encoded


def data_pdu(*pdvs: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF of (context id, message control header, bytes)."""
    items = b"".join(struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in pdvs)
    return struct.pack(">BxL", DATA, len(items)) + items


def split_pdus(stream: bytes) -> list[bytes]:
    """The PDUs of a byte stream, each with its header."""
    pdus = []
    while stream:
        size = 6 + int.from_bytes(stream[2:6], "big")
        pdus.append(stream[:size])
        stream = stream[size:]
    return pdus


class WirePeer:
    """A peer that sends any bytes, and reads PDUs until the connection ends."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(20)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, or fewer when the connection ends."""
        data = b""
        while len(data) < size and (more := self._some(size - len(data))):
            data += more
        return data

    def _some(self, size: int) -> bytes:
        with suppress(ConnectionError):
            return self.socket.recv(size)
        return b""

    def pdu(self) -> tuple[int, bytes] | None:
        """Return the next PDU's type and content, or None when the connection has ended."""
        header = self.read(6)
        if len(header) < 6:
            return None
        kind, length = struct.unpack(">BxL", header)
        return kind, self.read(length)

    def rest(self) -> list[tuple[int, bytes]]:
        """Return every PDU until the connection ends."""
        return list(iter(self.pdu, None))

    def associate(self, **how: Any) -> "WirePeer":
        """Ask for an association, which must be accepted."""
        self.send(association_request(**how))
        answer = self.pdu()
        assert answer is not None
        assert answer[0] == ACCEPTED
        return self

    def status(self) -> int:
        """Return the status (0000,0900) of the next answer."""
        answer = self.pdu()
        assert answer is not None
        kind, body = answer
        assert kind == DATA
        return status_in(body)


def status_in(body: bytes) -> int:
    """Return the status in the PDVs of one answer, found without our parser."""
    at = body.index(bytes.fromhex("0000000902000000")) + 8
    return int.from_bytes(body[at : at + 2], "little")


@contextmanager
def wire_peer(port: int) -> Iterator[WirePeer]:
    """A connection to a port, closed at the end."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        yield WirePeer(connection)
