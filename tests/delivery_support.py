"""What the delivery tests share: results that are owed, and a DICOMweb server that answers what it is told to."""

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage
from sqlalchemy.orm import Session, sessionmaker

from config.routing import RoutingVerdict
from config.settings import Settings
from db import lifecycle
from db.lifecycle import InstanceHeader, NewDraft, NewObject, deliveries
from db.models import Delivery, Reading
from db.report_models import Report
from db.types import DeliveryState
from db.uow import Actor, unit_of_work
from tests.node_support import ct_slice, node_settings, rows, write_file

Sessions = sessionmaker[Session]
WORKER = Actor("worker", "process")
FREE = 9  # the discard port: nothing listens there
TWO = (("DRAFT_SR", Comprehensive3DSRStorage), ("SEG", SegmentationStorage))


def settings_for(folder: Path, *ports: int, **changes: Any) -> Settings:
    """Settings with one C-STORE destination for each port: PACS0, PACS1, …"""
    destinations = [
        {"name": f"PACS{n}", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port} for n, port in enumerate(ports)
    ]
    return node_settings(folder, destinations=destinations, **changes)


def received_study(sessions: Sessions) -> tuple[UUID, Dataset]:
    """A Study of one image that is still RECEIVING, and that image."""
    image = ct_slice()
    return receive(sessions, image), image


def receive(sessions: Sessions, image: Dataset) -> UUID:
    """Index one image without a file; return the Study's id. Into a Study that was complete it is a late image."""
    header = InstanceHeader(
        str(image.StudyInstanceUID), str(image.SeriesInstanceUID), str(image.SOPInstanceUID), str(image.SOPClassUID),
        ExplicitVRLittleEndian,
    )  # fmt: skip
    with unit_of_work(sessions, WORKER) as uow:
        return lifecycle.receive_instance(
            uow, header, path="x", sha256="0" * 64, size_bytes=1, calling_ae="CT", called_ae="FIRSTREAD", quiet_s=1
        ).study_id


def late_image(sessions: Sessions, study_instance_uid: str) -> None:
    """An image that comes after the draft was made: nothing of that draft stands any more."""
    receive(sessions, ct_slice(StudyInstanceUID=study_instance_uid))


def result_file(settings: Settings, kind: str, sop_class: str, study: Dataset) -> tuple[Path, Dataset, NewObject]:
    """One finished object in the result store."""
    ds = ct_slice(SOPClassUID=sop_class, StudyInstanceUID=study.StudyInstanceUID)
    path = write_file(settings.results_dir / f"{uuid4()}.dcm", ds)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, ds, NewObject(kind, str(ds.SOPInstanceUID), sop_class, sha256, path.name)


def drafted(sessions: Sessions, study_id: UUID, objects: Sequence[NewObject]) -> None:
    """Take a received Study to a draft that owes ``objects``."""
    (reading,) = [r for r in rows(sessions, Reading) if r.study_id == study_id]
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.complete(uow, reading.id, RoutingVerdict("draft", profile="ct", rule="r"))
        claim = lifecycle.claim(uow, reading.id, owner="w", lease_s=60)
        assert claim is not None
        draft = NewDraft({}, claim.image_set_sha256, "1", objects=objects)
        lifecycle.drafted(uow, claim, draft)


def owe_objects(
    settings: Settings,
    sessions: Sessions,
    destinations: Sequence[str],
    *,
    objects: Sequence[tuple[str, str]] = TWO,
) -> list[tuple[Path, Dataset]]:
    """A drafted Study whose objects are owed; return the files in the order they were made."""
    study_id, image = received_study(sessions)
    files = [result_file(settings, kind, sop_class, image) for kind, sop_class in objects]
    made = [NewObject(**{**vars(one), "destinations": tuple(destinations)}) for _, _, one in files]
    drafted(sessions, study_id, made)
    return [(path, ds) for path, ds, _ in files]


def owe_message(
    settings: Settings, sessions: Sessions, study_id: UUID, kind: str, destination: str, content: bytes
) -> UUID:
    """Owe one message of a drafted Study; return the Delivery's id."""
    path = settings.results_dir / f"{uuid4()}.msg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    made = NewObject(kind, f"2.25.{uuid4().int}", "", sha256, path.name, (destination,))
    draft_id = next(one.draft_id for one in rows(sessions, Report) if one.study_id == study_id)
    with unit_of_work(sessions, WORKER) as uow:
        kept = deliveries.owe(uow, made, study_id, draft_id=draft_id if kind.startswith("DRAFT") else None)
    (delivery,) = [one for one in rows(sessions, Delivery) if one.result_object_id == kept]
    return delivery.id


def states(sessions: Sessions) -> set[DeliveryState]:
    """The states of all Deliveries."""
    return {delivery.state for delivery in rows(sessions, Delivery)}


@dataclass
class Request:
    """One HTTP request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes  # empty when the server throws it away
    size: int

    @property
    def part(self) -> bytes:
        """The one part of a multipart/related body, taken apart without our own code (RFC 2387)."""
        boundary = re.search(r'boundary="?([^";]+)', self.headers["content-type"])
        assert boundary is not None
        mark = f"--{boundary[1]}".encode()
        before, part, after = self.body.split(mark)
        assert (before, after) == (b"", b"--\r\n")
        head, _, content = part.partition(b"\r\n\r\n")
        assert head == b"\r\nContent-Type: application/dicom"
        assert content.endswith(b"\r\n")
        return content[:-2]


Reply = tuple[int, dict[str, str], bytes]


@dataclass
class WebServer:
    """A server on loopback and what it was asked."""

    url: str
    requests: list[Request] = field(default_factory=list)


@contextmanager
def answering(
    reply: Callable[[Request], Reply], *, tls: ssl.SSLContext | None = None, keeps_bodies: bool = True
) -> Iterator[WebServer]:
    """Serve HTTP on a free port with ``reply`` for every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            left = size = int(self.headers.get("Content-Length") or 0)
            body = b""
            while left and (piece := self.rfile.read(min(left, 65536))):
                left -= len(piece)
                body += piece if keeps_bodies else b""
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Request(self.command, self.path, headers, body, size - left)
            server.requests.append(asked)
            status, more, content = reply(asked)
            self.send_response(status)
            for name, value in {**more, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_OPTIONS = _answer  # noqa: N815 the library's names

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
    httpd.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that refuses our certificate
    server = WebServer(f"{'https' if tls else 'http'}://127.0.0.1:{httpd.server_address[1]}/dicom-web")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
