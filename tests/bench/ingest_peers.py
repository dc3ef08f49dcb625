"""What `bench_ingest` measures: DICOM receivers that are started afresh, senders, and the objects that are sent."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from config.errors import UnreadableDatasetError
from db.engine import migrate
from instances.elements import find_elements
from instances.part10 import split_file
from tests.node_support import ct_slice, encoded, write_file

AE_TITLE = "FIRSTREAD"
NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}  # DCMTK's own switch, and Orthanc's, which is built on DCMTK
AS_SHIPPED = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
_NODE = "from firstread.terminal import start; from dicom_node.scp import run_node; run_node(start('node'))"
_SAMPLE_S = 0.05
_START_S = 60.0
_SOP_INSTANCE_UID = 0x00080018
Digests = dict[str, str]
"""SHA-256 of the Data Set by SOP Instance UID."""


@dataclass(frozen=True)
class Workload:
    """Objects of one kind: square 16-bit images."""

    name: str
    side: int
    sop_class: str = CTImageStorage

    def write(self, folder: Path, *, count: int, associations: int) -> tuple[list[Path], Digests]:
        """Write ``count`` objects with new UIDs, one Study and one folder for each association."""
        folders, digests = [], {}
        for association in range(associations):
            study, series = generate_uid(), generate_uid()
            folders.append(folder / f"sender-{association}")
            for number in range(count // associations):
                ds = ct_slice(
                    SOPClassUID=self.sop_class,
                    StudyInstanceUID=study,
                    SeriesInstanceUID=series,
                    InstanceNumber=number + 1,
                    Rows=self.side,
                    Columns=self.side,
                    PixelData=os.urandom(2 * self.side**2),
                )
                data = encoded(ds)
                digests[str(ds.SOPInstanceUID)] = hashlib.sha256(data).hexdigest()
                write_file(folders[-1] / f"{number:05}.dcm", ds)
        return folders, digests


CT = Workload("CT 0.52 MB", 512)
CXR = Workload("CXR 10 MB", 2260, DigitalXRayImageStorageForPresentation)
SMALL = Workload("small 10 kB", 68)
LARGE = Workload("100 MB", 7072, DigitalXRayImageStorageForPresentation)


@dataclass(frozen=True)
class Receiver:
    """Somebody who takes C-STORE."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self, folder: Path) -> Iterator["Running"]:
        """Run it with an empty store below ``folder``."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        folder.mkdir(parents=True)
        command, environment = self._command(folder, port)
        log = (folder.parent / f"{folder.name}.log").open("wb")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _await_echo(port, process)
            yield Running(self, folder, port, psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def _command(self, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        if self.name.startswith("storescp"):
            fork = ["--fork"] if "fork" in self.name else []
            return ["storescp", *fork, "+xa", "+B", "-pdu", "131072", "-od", str(folder), str(port)], NO_DELAY
        if self.name == "Orthanc":
            return ["Orthanc", str(_orthanc_configuration(folder, port))], NO_DELAY
        url = f"sqlite:///{folder / 'firstread.db'}"
        migrate(url)
        own = {
            "FIRSTREAD_DATA_DIR": str(folder),
            "FIRSTREAD_DATABASE_URL": url,
            "FIRSTREAD_DICOM__PORT": str(port),
            "FIRSTREAD_LOG_LEVEL": "WARNING",
        }
        return [sys.executable, "-c", _NODE], {**NO_DELAY, **own, **self.settings}


STORESCP = Receiver("storescp")
STORESCP_FORK = Receiver("storescp --fork")
ORTHANC = Receiver("Orthanc")
OURS = Receiver("Firstread")
OURS_LIBRARY = Receiver("Firstread, fast_receive off", {"FIRSTREAD_DICOM__FAST_RECEIVE": "false"})


def _orthanc_configuration(folder: Path, port: int) -> Path:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http = probe.getsockname()[1]
    file = folder.parent / f"{folder.name}.json"
    configuration = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "HttpPort": http,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "StoreMD5ForAttachments": False,
        "OverwriteInstances": True,
        "MaximumPduLength": 131072,
        "Plugins": [],
    }
    file.write_text(json.dumps(configuration))
    return file


def _await_echo(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    answered = 0
    while answered < 4:  # several: a receiver may be several processes that start one after the other
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("a receiver did not start")
        echo = ["echoscu", "-to", "2", "-aec", AE_TITLE, "127.0.0.1", str(port)]
        done = subprocess.run(echo, env=NO_DELAY, capture_output=True, check=False)
        answered += done.returncode == 0
        time.sleep(0.2)


@dataclass
class Running:
    """A receiver that runs."""

    receiver: Receiver
    folder: Path
    port: int
    process: psutil.Process

    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds of the whole tree so far, of children that ended as well."""
        total = 0.0
        for process in self.tree():
            with_ended = _quietly(process.cpu_times)
            if with_ended is not None:
                total += sum(with_ended[:4])
        return total

    def rss(self) -> int:
        """Resident bytes of the whole tree now; pages that processes share count once for each."""
        sizes = (_quietly(process.memory_info) for process in self.tree())
        return sum(size.rss for size in sizes if size is not None)

    def own_memory(self) -> int:
        """Proportional resident bytes of the whole tree now: pages that processes share count once."""
        sizes = (_quietly(process.memory_full_info) for process in self.tree())
        return sum(size.pss for size in sizes if size is not None)


T = TypeVar("T")


def _quietly(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except psutil.Error:  # it ended meanwhile
        return None


@dataclass(frozen=True)
class Measured:
    """One run: how fast, and what it cost the receiver."""

    seconds: float
    count: int
    size_bytes: int
    cpu_s: float
    peak_rss: int
    own_memory: int  # at the end; pages that processes share count once

    @property
    def rate(self) -> float:
        """Instances per second."""
        return self.count / self.seconds


def measure(
    receiver: Receiver, folders: Sequence[Path], digests: Digests, store: Path, *, sender: dict[str, str] = NO_DELAY
) -> Measured:
    """Start ``receiver``, send each folder on an association of its own, and compare what was stored, byte for byte.

    Raises:
        SystemExit: a sender failed, or what was stored differs from what was sent.
    """
    with receiver.running(store) as running:
        cpu_s, peak, done = running.cpu_s(), _Peak(running), threading.Event()
        watch = threading.Thread(target=peak.watch, args=(done,))
        watch.start()
        began = time.perf_counter()
        senders = [
            subprocess.Popen(
                ["storescu", "-R", "-pdu", "131072", "-aec", AE_TITLE, "+sd", "127.0.0.1", str(running.port), folder],
                env=sender,
                stdout=subprocess.DEVNULL,
            )
            for folder in folders
        ]
        codes = [process.wait() for process in senders]
        seconds = time.perf_counter() - began
        done.set()
        watch.join()
        cpu_s = running.cpu_s() - cpu_s
        own_memory = running.own_memory()
    if any(codes):
        raise SystemExit(f"a sender to {receiver.name} failed")
    _compare(receiver, store, digests)
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    return Measured(seconds, len(digests), size, cpu_s, peak.size, own_memory)


class _Peak:
    def __init__(self, running: Running) -> None:
        self._running = running
        self.size = 0

    def watch(self, done: threading.Event) -> None:
        while not done.wait(_SAMPLE_S):
            self.size = max(self.size, self._running.rss())


def _compare(receiver: Receiver, store: Path, digests: Digests) -> None:
    stored: Digests = {}
    for file in store.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        try:
            meta, offset = split_file(content)
        except UnreadableDatasetError:
            continue  # an index, a summary
        dataset = memoryview(content)[offset:]
        found = find_elements(dataset, meta.transfer_syntax_uid or ExplicitVRLittleEndian, {_SOP_INSTANCE_UID})
        uid = found[_SOP_INSTANCE_UID].rstrip(b"\0 ").decode()
        stored[uid] = hashlib.sha256(dataset).hexdigest()
    if stored != digests:
        wrong = sum(stored.get(uid) != digest for uid, digest in digests.items())
        raise SystemExit(f"{receiver.name} lost or changed {wrong} of {len(digests)} objects")


def disk_limit(folder: Path, *, size: int, count: int, threads: int = 4) -> float:
    """Return files of ``size`` bytes a second: temporary file, fsync, rename, fsync of the folder."""
    content = os.urandom(size)

    def write(number: int) -> None:
        mine = folder / f"disk-{number}"
        mine.mkdir(parents=True)
        for index in range(count // threads):
            temporary = folder / f"{number}-{index}.part"
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT)
            os.write(handle, content)
            os.fsync(handle)
            os.close(handle)
            temporary.rename(mine / f"{index}.dcm")
            handle = os.open(mine, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return count // threads * threads / (time.perf_counter() - began)
