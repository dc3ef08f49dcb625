"""A real PACS for tests: Orthanc on free ports with an index and a storage of its own, gone afterwards."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from instances.part10 import FileMeta, file_head
from tests.node_support import encoded

_PROGRAMS = ("/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc")
_PLUGINS = Path("/usr/share/orthanc/plugins")
_START_S = 30.0


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc and what tests ask of its REST API."""

    ae_title: str
    dicom_port: int
    http_url: str
    dicomweb_url: str  # "" without the plug-in
    process: subprocess.Popen[bytes]

    def rest(self, method: str, path: str, body: bytes | None = None) -> Any:
        """One REST request; JSON answers are decoded."""
        with urlopen(Request(self.http_url + path, data=body, method=method), timeout=30) as answer:
            content = answer.read()
            kind = answer.headers.get_content_type()
        return json.loads(content) if kind == "application/json" else content

    def register(self, name: str, ae_title: str, port: int, **changes: Any) -> None:
        """Make a DICOM peer on this machine known, as C-MOVE destination and as caller."""
        peer = {"AET": ae_title, "Host": "127.0.0.1", "Port": port, **changes}
        self.rest("PUT", f"/modalities/{name}", json.dumps(peer).encode())

    def upload(self, *objects: Dataset | Path) -> None:
        """Keep DICOM files or Datasets."""
        for one in objects:
            self.rest("POST", "/instances", one.read_bytes() if isinstance(one, Path) else _encoded(one))

    def instances(self) -> list[str]:
        """The SOP Instance UIDs held, sorted."""
        return sorted(one["MainDicomTags"]["SOPInstanceUID"] for one in self.rest("GET", "/instances?expand"))

    def file(self, sop_instance_uid: str) -> bytes:
        """The Part 10 file of one Instance, as kept."""
        (found,) = self.rest("POST", "/tools/lookup", sop_instance_uid.encode())
        content: bytes = self.rest("GET", f"/instances/{found['ID']}/file")
        return content

    def dataset(self, sop_instance_uid: str) -> Dataset:
        """One Instance, read."""
        return pydicom.dcmread(BytesIO(self.file(sop_instance_uid)))

    def delete(self, sop_instance_uid: str) -> None:
        """Lose one Instance."""
        (found,) = self.rest("POST", "/tools/lookup", sop_instance_uid.encode())
        self.rest("DELETE", f"/instances/{found['ID']}")


@contextmanager
def running_orthanc(folder: Path, **config: Any) -> Iterator[Orthanc]:
    """Run Orthanc below ``folder``; ``config`` goes over its configuration, as in its own JSON file.

    Any caller may store, query and retrieve. ``DicomModalities`` names C-MOVE destinations beforehand;
    :meth:`Orthanc.register` does so later. Plug-ins are loaded when ``Plugins`` lists them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = _configuration(folder) | config
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([find_orthanc(), str(path)], stdout=log, stderr=log, start_new_session=True)
    has_dicomweb = any("DicomWeb" in str(one) for one in settings["Plugins"])
    url = f"http://127.0.0.1:{settings['HttpPort']}"
    orthanc = Orthanc(
        settings["DicomAet"], settings["DicomPort"], url, f"{url}/dicom-web" if has_dicomweb else "", process
    )
    try:
        _await(orthanc, folder / "orthanc.log")
        yield orthanc
    finally:
        process.kill()  # nothing of it is kept, and an orderly end takes seconds
        process.wait()


def find_orthanc() -> str:
    """The program; the test is skipped without it, except in CI."""
    found = next((one for one in _PROGRAMS if Path(one).exists()), None) or shutil.which("Orthanc")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("Orthanc is not installed (apt-get install orthanc)")
        pytest.skip("Orthanc is not installed (apt-get install orthanc)")
    return found


def dicomweb_plugin() -> str:
    """Orthanc's DICOMweb plug-in; the test is skipped without it, except in CI."""
    path = _PLUGINS / "libOrthancDicomWeb.so"
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail("Orthanc's DICOMweb is not installed (apt-get install orthanc-dicomweb)")
        pytest.skip("Orthanc's DICOMweb is not installed (apt-get install orthanc-dicomweb)")
    return str(path)


def _configuration(folder: Path) -> dict[str, Any]:
    dicom_port, http_port = _free_ports()
    return {
        "Name": "PACS",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": "PACS",
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalitiesInDatabase": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "SslEnabled": False,
        "OverwriteInstances": True,
        "StableAge": 1,
        "SaveJobs": False,
        "ConcurrentJobs": 2,
        "DefaultEncoding": "Utf8",
    }


def _await(orthanc: Orthanc, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if orthanc.process.poll() is not None:
            break
        with suppress(HTTPError, URLError, ConnectionError, TimeoutError):
            orthanc.rest("GET", "/system")
            return
        time.sleep(0.05)
    pytest.fail(f"Orthanc did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _encoded(ds: Dataset) -> bytes:
    if hasattr(ds, "file_meta") and "TransferSyntaxUID" in ds.file_meta:
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
        return buffer.getvalue()
    meta = FileMeta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), ExplicitVRLittleEndian)
    return file_head(meta) + encoded(ds)
