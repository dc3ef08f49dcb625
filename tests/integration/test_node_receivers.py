"""Several processes receive on one port: nothing acknowledged is lost when one dies, and none outlives the node."""

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from db.models import Instance, PeerAssociation, Quarantined
from instances.part10 import split_file
from tests.dcmtk import tool
from tests.integration.test_node_durability import free_port, send_until_it_ends, start_process
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
    write_file,
)


def eventually(claim, *, seconds=20.0):
    """Wait until ``claim`` holds; return what it says last."""
    deadline = time.monotonic() + seconds
    while not (said := claim()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return said


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    """A node with two receiver processes."""
    with running_node(node_settings(tmp_path, dicom={"receivers": 2}), sqlite_sessions) as node:
        yield node


@contextmanager
def established(port):
    assoc = associate(port)
    assert assoc.is_established
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def send(assoc):
    ds = ct_slice()
    return store_bytes(assoc, encoded(ds), sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)[0]


def open_connections(pid):
    return [c for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]


def test_associations_are_shared_out_and_what_they_bring_at_one_moment_is_one_commit(node, sqlite_sessions):
    commits, statuses, engine = [], [], sqlite_sessions.kw["bind"]
    with ExitStack() as stack:
        inside = [stack.enter_context(established(node.port)) for _ in range(4)]
        shares = [len(open_connections(pid)) for pid in node.reception.pids]
        assert (sum(shares), min(shares) > 0) == (4, True)
        other = stack.enter_context(engine.connect())
        other.exec_driver_sql("ROLLBACK")
        other.exec_driver_sql("BEGIN IMMEDIATE")  # somebody else writes: whatever comes first has to wait
        sa.event.listen(engine, "commit", commits.append)
        senders = [threading.Thread(target=lambda a=assoc: statuses.append(send(a))) for assoc in inside]
        for sender in senders:
            sender.start()
        time.sleep(1.0)
        assert (statuses, commits) == ([], [])
        other.exec_driver_sql("ROLLBACK")
        for sender in senders:
            sender.join()
        assert statuses == [0x0000] * 4
        assert len(commits) < 4
    came_on = {row.association_id for row in rows(sqlite_sessions, Instance)}
    assert len(came_on) == 4
    assert came_on == {row.id for row in rows(sqlite_sessions, PeerAssociation)}


def test_what_is_refused_is_refused_and_kept_alike(node, sqlite_sessions):
    first = ct_slice()
    assert store(node.port, first)[0] == 0x0000
    assert store(node.port, first)[0] == 0x0000
    changed = ct_slice(
        **{name: getattr(first, name) for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")},
        InstanceNumber=9,
    )
    assert store(node.port, changed) == (0xC003, "Other content is stored under this SOP Instance UID")
    assert store(node.port, ct_slice(), data=b"garbage!!")[0] == 0xC002
    quarantined = rows(sqlite_sessions, Quarantined)
    assert [row.error for row in quarantined] == ["ConflictingInstanceError", "UnreadableDatasetError"]
    content = (node.inbox.quarantined.root / quarantined[0].path).read_bytes()
    assert content[split_file(content)[1] :] == encoded(changed)
    assert len(rows(sqlite_sessions, Instance)) == 1
    assert audit_tags(sqlite_sessions).count("instance:duplicate") == 1


def test_an_identity_of_any_length_reaches_the_door_and_hurts_nobody(node, sqlite_sessions):
    pids = node.reception.pids
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field = b"u" * 30_000
    identity.secondary_field = b"\xff" * 30_000
    ae = AE("MODALITY")
    ae.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
    assoc = ae.associate("127.0.0.1", node.port, ae_title="FIRSTREAD", ext_neg=[identity])
    assert assoc.is_established or assoc.is_rejected
    if assoc.is_established:
        assoc.release()
    assert store(node.port, ct_slice())[0] == 0x0000
    assert node.reception.pids == pids


def test_stop_ends_every_process_and_closes_the_port(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path, dicom={"receivers": 2}), sqlite_sessions) as node:
        pids = node.reception.pids
        assert store(node.port, ct_slice())[0] == 0x0000
        assert len(alive(pids)) == 2
    assert alive(pids) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", node.port)) != 0
    assert audit_tags(sqlite_sessions)[-1] == "process:stopped"
    assert [row.ended_how for row in rows(sqlite_sessions, PeerAssociation)] == ["released"]


def test_a_stop_of_the_whole_group_by_a_service_manager_is_left_to_the_node(node):
    for pid in node.reception.pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert len(alive(node.reception.pids)) == 2
    assert store(node.port, ct_slice())[0] == 0x0000


def test_associations_are_counted_over_all_processes(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"receivers": 2, "max_associations": 3})
    with running_node(settings, sqlite_sessions) as node:
        inside = [associate(node.port) for _ in range(3)]
        assert all(assoc.is_established for assoc in inside)
        assert associate(node.port).is_rejected
        inside.pop().release()
        assert eventually(lambda: len([r for r in rows(sqlite_sessions, PeerAssociation) if r.ended_how]) == 1)
        inside.append(associate(node.port))
        assert inside[-1].is_established
        for assoc in inside:
            assoc.release()


def test_a_receiver_that_dies_is_replaced_and_what_it_left_is_cleared(node, sqlite_sessions):
    pids = set(node.reception.pids)
    with established(node.port) as assoc:
        assert send(assoc) == 0x0000
        (mine,) = [pid for pid in pids if open_connections(pid)]
        left = node.inbox.instances.incoming / f"{socket.gethostname()}~{mine}~x.part"
        others = node.inbox.instances.incoming / f"{socket.gethostname()}~{os.getpid()}~x.part"
        left.write_bytes(b"half of something")
        others.write_bytes(b"being written")
        os.kill(mine, signal.SIGKILL)
        assert eventually(lambda: len(set(alive(node.reception.pids)) - {mine}) == 2)
    assert eventually(lambda: not left.exists())
    assert others.exists()
    (ended,) = rows(sqlite_sessions, PeerAssociation)
    assert (ended.ended_how, ended.ended_at is not None) == ("lost", True)
    assert [store(node.port, ct_slice())[0] for _ in range(4)] == [0x0000] * 4
    assert len(rows(sqlite_sessions, Instance)) == 5


@pytest.mark.requirement("REQ-RECV-1")
def test_every_instance_acknowledged_before_a_receiver_is_killed_is_kept(node, sqlite_sessions):
    acknowledged, started, study_uid = {}, threading.Event(), generate_uid()
    senders = [
        threading.Thread(target=send_until_it_ends, args=(node.port, study_uid, acknowledged, started))
        for _ in range(4)
    ]
    for sender in senders:
        sender.start()
    assert started.wait(30)
    time.sleep(0.5)
    for pid in node.reception.pids:
        os.kill(pid, signal.SIGKILL)
    for sender in senders:
        sender.join(30)
    kept = {row.sop_instance_uid: row for row in rows(sqlite_sessions, Instance)}
    assert acknowledged
    for uid, ds in acknowledged.items():
        assert (node.inbox.instances.root / kept[uid].path).read_bytes().endswith(encoded(ds))
    assert eventually(lambda: {r.ended_how for r in rows(sqlite_sessions, PeerAssociation)} == {"lost"})
    assert eventually(lambda: list(node.inbox.instances.incoming.iterdir()) == [])


def test_no_process_outlives_a_node_that_is_killed(tmp_path, sqlite_sessions):
    process = start_process(tmp_path, port := free_port(), sqlite_sessions)
    acknowledged, started = {}, threading.Event()
    sender = threading.Thread(target=send_until_it_ends, args=(port, generate_uid(), acknowledged, started))
    sender.start()
    assert started.wait(30)
    below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(below) == 2
    process.kill()
    process.wait()
    assert eventually(lambda: not alive(below), seconds=5)
    sender.join(30)
    assert set(acknowledged) <= {row.sop_instance_uid for row in rows(sqlite_sessions, Instance)}
    with socket.socket() as again:  # the port is free at once
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_flood_of_connections_that_ask_for_nothing_takes_few_threads(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"max_associations": 4})
    with running_node(settings, sqlite_sessions) as node:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(60)]
        time.sleep(0.5)
        assert threading.active_count() - before <= 4 + 8
        for connection in silent:
            connection.close()
        assert store(node.port, ct_slice())[0] == 0x0000


@pytest.mark.parametrize("receivers", [0, 2])
def test_without_the_fast_path_pynetdicom_receives_the_same(tmp_path, sqlite_sessions, receivers):
    settings = node_settings(tmp_path, dicom={"receivers": receivers, "fast_receive": False})
    with running_node(settings, sqlite_sessions) as node:
        ds = ct_slice()
        assert store(node.port, ds)[0] == 0x0000
        (instance,) = rows(sqlite_sessions, Instance)
        assert (node.inbox.instances.root / instance.path).read_bytes().endswith(encoded(ds))
        assert eventually(lambda: [row.ended_how for row in rows(sqlite_sessions, PeerAssociation)] == ["released"])


@pytest.mark.dcmtk
def test_memory_does_not_grow_with_the_object(node, sqlite_sessions, tmp_path):
    storescu = tool("storescu")

    def send_square(side):
        ds = ct_slice(
            SOPClassUID=DigitalXRayImageStorageForPresentation, Rows=side, Columns=side, PixelData=bytes(2 * side**2)
        )
        file = write_file(tmp_path / f"{side}.dcm", ds)
        subprocess.run([storescu, "-aec", "FIRSTREAD", "127.0.0.1", str(node.port), file], check=True)

    def peaks():
        return [highest_rss(pid) for pid in node.reception.pids]

    for _ in range(2):
        send_square(64)
    before = peaks()
    for _ in range(2):
        send_square(10_000)  # 200 MB
    assert len(rows(sqlite_sessions, Instance)) == 4
    assert max(after - at_first for after, at_first in zip(peaks(), before, strict=True)) < 20e6


def highest_rss(pid):
    """The most a process ever had in memory, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
