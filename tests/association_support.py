"""Associations served by our own receive path: on a port of their own, or on a socket pair without any network."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pynetdicom import AE
from pynetdicom.sop_class import Verification
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


@contextmanager
def listening(context: NodeContext, closing: Closing | None = None) -> Iterator[int]:
    """Serve every connection to a free port in a thread of its own; gives the port."""
    ae, handlers = node_ae(context.settings), event_handlers(context)
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, address = server.accept()
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
