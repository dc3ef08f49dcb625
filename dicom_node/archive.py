"""A small second DICOM node that stores what is delivered to it: the destination of the demonstration.

It keeps files only, without a database, and takes whatever a peer on this machine sends.
"""

import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification

from config.errors import AppError
from config.settings import DicomSettings
from dicom_node.context import Rejection
from dicom_node.handlers import asking, handle_echo, handle_unnamed_classes, reject
from dicom_node.library import make_ae
from dicom_node.policy import judge_caller
from dicom_node.scu import send_at_once
from dicom_node.transfer_syntaxes import supported_contexts
from instances.header import read_header
from instances.part10 import FileMeta, file_head
from instances.store import FileStore
from instances.storing import STATUS

log = structlog.get_logger()


@dataclass
class RunningArchive:
    """An archive that listens; ``port`` is the one in force."""

    port: int
    folder: Path
    _ae: AE

    def files(self) -> list[Path]:
        """Return the files stored so far, oldest first."""
        return sorted(self.folder.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)

    def stop(self) -> None:
        """Stop listening and end associations."""
        self._ae.shutdown()


def start_archive(folder: Path, ae_title: str, port: int = 0) -> RunningArchive:
    """Open the port on loopback and return; files are named ``<SOP Instance UID>.dcm``.

    Raises:
        TransientError: the folder cannot be made.
        OSError: the port cannot be opened.
    """
    store = FileStore(folder)
    store.prepare()
    settings = DicomSettings(ae_title=ae_title, port=port)
    ae = make_ae(ae_title, max_pdu_bytes=settings.max_pdu_bytes, network_timeout_s=settings.network_timeout_s)
    ae.add_supported_context(Verification)
    handlers: list[tuple[Any, ...]] = [
        (evt.EVT_CONN_OPEN, send_at_once),
        (evt.EVT_REQUESTED, _on_request, [settings]),
        (evt.EVT_SOP_COMMON, handle_unnamed_classes),
        (evt.EVT_C_ECHO, handle_echo),
        (evt.EVT_C_STORE, _on_store, [store]),
    ]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    log.info("archive.started", port=server.server_address[1])
    return RunningArchive(server.server_address[1], folder, ae)


def run_archive(folder: Path, ae_title: str, port: int) -> None:
    """Run the archive until SIGTERM or SIGINT.

    Raises:
        TransientError, OSError: see :func:`start_archive`.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    archive = start_archive(folder, ae_title, port)
    told.wait()
    archive.stop()


def _on_request(event: Event, settings: DicomSettings) -> None:
    verdict = judge_caller(settings, asking(event, stores=True))
    if isinstance(verdict, Rejection):
        reject(event.assoc, verdict)
        return
    asked = event.assoc.requestor.primitive
    proposed = [cx.abstract_syntax for cx in asked.presentation_context_definition_list]
    event.assoc.acceptor.supported_contexts = supported_contexts(proposed)


def _on_store(event: Event, store: FileStore) -> int | Dataset:
    dataset = event.request.DataSet.getvalue() if event.request.DataSet else b""
    syntax = str(event.context.transfer_syntax)
    try:
        header = read_header(dataset, syntax)
        calling_ae = str(event.assoc.requestor.primitive.calling_ae_title).strip()
        head = file_head(FileMeta(header.sop_class_uid, header.sop_instance_uid, syntax, calling_ae))
        with store.written(head, dataset) as temporary:
            store.publish(temporary, f"{header.sop_instance_uid}.dcm")
    except AppError as exc:
        answer = Dataset()
        answer.Status, answer.ErrorComment = next(told for kind, told in STATUS.items() if isinstance(exc, kind))
        return answer
    return 0x0000
