"""What was acknowledged survives: kill -9, a full disk, a database that is gone, orphans of a crash."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from pydicom.uid import generate_uid

from db.engine import make_engine, make_sessions, migrate
from db.models import Instance, Quarantined, Study
from instances.part10 import FileMeta, file_head, split_file
from tests.node_support import (
    associate,
    audit_tags,
    ct_slice,
    encoded,
    node_settings,
    rows,
    running_node,
    store,
    store_bytes,
)
from tests.postgres import PostgresServer, find_binaries

_RUN = "from firstread.terminal import start; from dicom_node.scp import run_node; run_node(start('node'))"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_process(folder, port, sessions):
    """A node in a process of its own, which is ready when its port answers."""
    variables = {
        "FIRSTREAD_DATA_DIR": str(folder),
        "FIRSTREAD_DATABASE_URL": sessions.kw["bind"].url.render_as_string(hide_password=False),
        "FIRSTREAD_DICOM__PORT": str(port),
        "FIRSTREAD_DICOM__MIN_FREE_BYTES": "0",
    }
    process = subprocess.Popen([sys.executable, "-c", _RUN], env={**os.environ, **variables})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError("the node did not open its port")


def send_until_it_ends(port, study_uid, acknowledged, started):
    """Send slices of one Study until the association dies; note each one that was acknowledged."""
    series_uid = generate_uid()
    assoc = associate(port)
    assoc.dimse_timeout = 5
    while assoc.is_established:
        ds = ct_slice(StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid, PixelData=os.urandom(300_000))
        data = encoded(ds)
        try:
            status, _ = store_bytes(assoc, data, sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)
        except (RuntimeError, OSError):
            return
        if status == 0x0000:
            acknowledged[str(ds.SOPInstanceUID)] = ds
            started.set()


@pytest.mark.requirement("REQ-RECV-1")
@pytest.mark.parametrize("delay_s", [0.05, 0.4])
def test_every_instance_acknowledged_before_kill_9_is_kept(tmp_path, sqlite_sessions, delay_s):
    port = free_port()
    process = start_process(tmp_path, port, sqlite_sessions)
    acknowledged, study_uid, started = {}, generate_uid(), threading.Event()
    senders = [
        threading.Thread(target=send_until_it_ends, args=(port, study_uid, acknowledged, started)) for _ in range(2)
    ]
    for sender in senders:
        sender.start()
    assert started.wait(30)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for sender in senders:
        sender.join()
    assert acknowledged

    def kept():
        return {row.sop_instance_uid: row for row in rows(sqlite_sessions, Instance)}

    settings = node_settings(tmp_path)
    for uid, ds in acknowledged.items():
        content = (settings.instances_dir / kept()[uid].path).read_bytes()
        assert content.endswith(encoded(ds))
        assert kept()[uid].sha256 == hashlib.sha256(encoded(ds)).hexdigest()
    with running_node(settings, sqlite_sessions) as node:
        assert list(node.inbox.instances.incoming.iterdir()) == []
        on_disk = {p.stem for p in settings.instances_dir.glob("*/*/*.dcm")}
        assert on_disk == set(kept())  # nothing lies there unknown
        for ds in list(acknowledged.values())[:3]:  # a careful sender sends again
            assert store(node.port, ds)[0] == 0x0000
    assert len(rows(sqlite_sessions, Study)) == 1


def test_sigterm_stops_the_node_and_is_recorded(tmp_path, sqlite_sessions):
    process = start_process(tmp_path, port := free_port(), sqlite_sessions)
    assert store(port, ct_slice())[0] == 0x0000
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    tags = audit_tags(sqlite_sessions)
    assert tags[0] == "process:started"
    assert tags[-1] == "process:stopped"
    assert {"association:accepted", "association:finished"} <= set(tags)


def orphan(settings, ds, *, name=None):
    """A file as it lies there when a process dies between rename and commit."""
    path = settings.instances_dir / ds.StudyInstanceUID / ds.SeriesInstanceUID / f"{name or ds.SOPInstanceUID}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = file_head(FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, "1.2.840.10008.1.2.1", "CT1"))
    path.write_bytes(head + encoded(ds))
    return path


@pytest.mark.requirement("REQ-RECV-6")
def test_an_orphan_of_a_crash_is_indexed_at_start(tmp_path, sqlite_sessions):
    settings, ds = node_settings(tmp_path), ct_slice()
    path = orphan(settings, ds)
    with running_node(settings, sqlite_sessions) as node:
        assert (node.reconciled.orphans_indexed, node.reconciled.orphans_quarantined) == (1, 0)
        (instance,) = rows(sqlite_sessions, Instance)
        assert instance.sop_instance_uid == ds.SOPInstanceUID
        assert (settings.instances_dir / instance.path) == path
        assert rows(sqlite_sessions, Study)[0].calling_ae == "CT1"
        assert store(node.port, ds)[0] == 0x0000
        assert len(rows(sqlite_sessions, Instance)) == 1
    with running_node(settings, sqlite_sessions) as node:
        assert node.reconciled.orphans_indexed == 0


def test_an_orphan_that_is_no_instance_of_its_name_is_quarantined(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path)
    renamed = orphan(settings, ct_slice(), name="1.2.3.4")
    garbage = orphan(settings, ct_slice())
    garbage.write_bytes(b"\0" * 4000)  # a file system that lost the data after a power cut
    with running_node(settings, sqlite_sessions) as node:
        assert (node.reconciled.orphans_indexed, node.reconciled.orphans_quarantined) == (0, 2)
        assert not renamed.exists()
        assert not garbage.exists()
        quarantined = rows(sqlite_sessions, Quarantined)
        assert len(quarantined) == 2
        assert all((node.inbox.quarantined.root / row.path).exists() for row in quarantined)


def test_a_resend_replaces_an_orphan_with_other_bytes_and_keeps_those_aside(tmp_path, sqlite_sessions):
    settings, ds = node_settings(tmp_path), ct_slice()
    with running_node(settings, sqlite_sessions) as node:
        path = orphan(settings, ds)
        path.write_bytes(path.read_bytes()[:-50])
        torn = path.read_bytes()
        assert store(node.port, ds)[0] == 0x0000
        assert path.read_bytes().endswith(encoded(ds))
        assert torn in {p.read_bytes() for p in node.inbox.quarantined.root.glob("*.dcm")}


def test_temporary_files_of_dead_processes_only_are_removed(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path)
    incoming = settings.instances_dir / ".incoming"
    incoming.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    for name in (f"{host}~{dead.pid}~a.part", f"{host}~{os.getppid()}~b.part", "elsewhere~1~c.part"):
        (incoming / name).write_bytes(b"x")
    with running_node(settings, sqlite_sessions) as node:
        assert node.reconciled.leftovers_removed == 1
        assert {p.name for p in incoming.iterdir()} == {f"{host}~{os.getppid()}~b.part", "elsewhere~1~c.part"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB below the data folder."""
    folder = tmp_path / "instances"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.requirement("REQ-RECV-5")
def test_a_full_disk_is_out_of_resources_and_nothing_half_written_stays(small_disk, tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        answers, sent = [], []
        for _ in range(5):
            sent.append(ct_slice(PixelData=os.urandom(600_000)))
            answers.append(store(node.port, sent[-1])[0])
        assert answers == [0x0000, 0x0000, 0x0000, 0xA700, 0xA700]
        assert list(node.inbox.instances.incoming.iterdir()) == []
        assert len(rows(sqlite_sessions, Instance)) == len(list(small_disk.glob("*/*/*.dcm"))) == 3
        assert rows(sqlite_sessions, Quarantined) == []
        (first, *_) = small_disk.glob("*/*/*.dcm")
        first.unlink()  # somebody makes room
        assert store(node.port, sent[-1])[0] == 0x0000


def test_below_the_threshold_nothing_is_taken(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"min_free_bytes": 2**62})
    with running_node(settings, sqlite_sessions) as node:
        assert store(node.port, ct_slice()) == (0xA700, "Not enough space left")
        assert store(node.port, ct_slice(), data=b"garbage!!") == (0xA700, "Not enough space left")
    assert rows(sqlite_sessions, Instance) == rows(sqlite_sessions, Quarantined) == []
    assert list(settings.instances_dir.glob("*/*")) == []


@pytest.mark.requirement("REQ-RECV-5")
def test_without_a_database_nothing_is_acknowledged(tmp_path, sqlite_sessions):
    blocked = tmp_path / "a-folder-in-its-place.db"
    blocked.mkdir()
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        good, node.inbox.sessions = node.inbox.sessions, make_sessions(make_engine(f"sqlite:///{blocked}"))
        ds = ct_slice()
        assert store(node.port, ds)[0] == 0xA700
        assert store(node.port, ct_slice(), data=b"garbage!!")[0] == 0xA700  # not even the refusal is recorded
        assert list(node.inbox.instances.incoming.iterdir()) == []
        node.inbox.sessions = good
        assert rows(sqlite_sessions, Instance) == []
        assert store(node.port, ds)[0] == 0x0000


@pytest.mark.postgres
def test_a_stopped_database_server_is_out_of_resources_until_it_is_back(tmp_path):
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL server binaries are not installed (apt-get install postgresql)")
    first, second = ct_slice(), ct_slice()
    server = PostgresServer(binaries).__enter__()
    with ExitStack() as stack:
        stop_server = stack.push(server.__exit__)
        server.create("node")
        migrate(server.url("node"))
        sessions = make_sessions(make_engine(server.url("node")))
        with running_node(node_settings(tmp_path), sessions) as node:
            assert store(node.port, first)[0] == 0x0000
            assert [row.sop_instance_uid for row in rows(sessions, Instance)] == [first.SOPInstanceUID]
            stop_server(None, None, None)
            stack.pop_all()
            assert store(node.port, second)[0] == 0xA700
            assert store(node.port, first)[0] == 0xA700
            content = next(node.inbox.instances.root.glob(f"*/*/{first.SOPInstanceUID}.dcm")).read_bytes()
            assert content[split_file(content)[1] :] == encoded(first)
