"""What the DICOMweb tests share: the real server in a process of its own, tokens, and requests made by hand."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.models import AuditEvent, Instance
from db.tokens import Scope, create_token
from db.uow import Actor, unit_of_work
from tests.dashboard_support import Site, make_site

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = Actor("tester", "person")
STOW_TYPE = 'multipart/related; type="application/dicom"; boundary={}'
BOUNDARY = "a-boundary"


@dataclass(frozen=True)
class Served:
    """A dashboard that listens."""

    site: Site
    port: int
    token: str
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The root of its DICOMweb service."""
        return f"{self.scheme}://127.0.0.1:{self.port}/dicomweb"

    def client(self) -> DICOMwebClient:
        """An independent implementation of the other side."""
        return DICOMwebClient(self.url, headers=self.headers)

    @property
    def headers(self) -> dict[str, str]:
        """What lets a request in."""
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, accept: str = "*/*", **more: Any) -> requests.Response:
        """Ask for an address below the service."""
        headers = {**self.headers, "Accept": accept, **more.pop("headers", {})}
        return requests.get(self.url + path, headers=headers, timeout=60, **more)

    def store(self, files: Iterable[bytes], path: str = "/studies", **headers: str) -> requests.Response:
        """Store whole files in one request."""
        sent = {**self.headers, "Content-Type": STOW_TYPE.format(BOUNDARY), **headers}
        return requests.post(self.url + path, data=body(files), headers=sent, timeout=60)

    def raw(self, head: str, content: bytes = b"", *, end: bool = False) -> bytes:
        """Send bytes as they are, and return the first bytes of the answer; ``end`` hangs up our side."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + content)
            if end:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)


def body(files: Iterable[bytes], boundary: str = BOUNDARY, part_type: str = "application/dicom") -> bytes:
    """A multipart body, written without our own writer."""
    out = b""
    for file in files:
        out += f"--{boundary}\r\nContent-Type: {part_type}\r\n\r\n".encode() + file + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def encoded(ds: Dataset) -> bytes:
    """A Data Set as a DICOM file."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dataset_bytes(file: bytes) -> bytes:
    """What stands behind the file meta information of a DICOM file, by its group length."""
    assert file[128:132] == b"DICM"
    assert file[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    return file[144 + int.from_bytes(file[140:144], "little") :]


def parts_of(answer: requests.Response) -> list[tuple[str, bytes]]:
    """The parts of a multipart answer, split without our own reader: Content-Type and content."""
    boundary = answer.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
    pieces = (b"\r\n" + answer.content).split(b"\r\n--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        found.append((fields["Content-Type"], content))
    return found


def make_token(sessions: sessionmaker[Session], name: str = "VIEWER", *scopes: Scope, days: int = 2) -> str:
    """A token; for everything unless told otherwise."""
    with unit_of_work(sessions, PEOPLE) as uow:
        return create_token(uow, name=name, scopes=scopes or tuple(Scope), days=days)


def events(sessions: sessionmaker[Session], tag: str) -> list[AuditEvent]:
    """The audit events of one tag."""
    with sessions() as db:
        return list(db.scalars(select(AuditEvent).where(AuditEvent.tag == tag).order_by(AuditEvent.seq)))


def instance(sessions: sessionmaker[Session], sop_instance_uid: str) -> Instance | None:
    """The row of an Instance."""
    with sessions() as db:
        return db.scalar(select(Instance).where(Instance.sop_instance_uid == sop_instance_uid))


@contextmanager
def serving(folder: Path, *, before: str = "", **environment: str) -> Iterator[Served]:
    """Run ``firstread web`` in a process of its own, on a free port; ``before`` is Python that it runs first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = make_site(folder, dicom={"min_free_bytes": 0})
    variables = {
        "FIRSTREAD_DATA_DIR": str(folder),
        "FIRSTREAD_WEB__PORT": str(port),
        "FIRSTREAD_DICOM__MIN_FREE_BYTES": "0",
        **environment,
    }
    order = [sys.executable, "-c", f"{before}\nfrom firstread.cli import app\napp(['web'])"]
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(order, cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log)
    scheme = "https" if "FIRSTREAD_WEB__TLS_KEY" in environment else "http"
    served = Served(site, port, make_token(site.sessions), scheme)
    try:
        _wait(served, process)
        yield served
    finally:
        process.send_signal(signal.SIGINT)  # at once: connections that are kept open are not waited for
        process.wait(timeout=30)


def _wait(served: Served, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            with socket.create_connection(("127.0.0.1", served.port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not listen")


def memory_bytes(process: int, field: str = "VmHWM") -> int:
    """The memory of a process as the kernel counts it; its peak unless told otherwise."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def settings_of(folder: Path, **changes: Any) -> Settings:
    """Settings of a site in ``folder``."""
    return Settings(data_dir=folder, **changes)
