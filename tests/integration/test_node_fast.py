"""Our own receive path: the same results as pynetdicom's, over every kind of sender, until every kind of end."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import pairwise
from statistics import median

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom import dcmread
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from config.errors import OutOfSpaceError
from db.models import AuditEvent, Instance, PeerAssociation, Quarantined
from dicom_node.connection import Closing
from dicom_node.context import NodeContext
from instances.arrival import Arrival
from instances.inbox import Inbox
from tests.association_support import (
    ABORT,
    ABORTED,
    DATA,
    RELEASE,
    RELEASED,
    WirePeer,
    leftovers,
    listening,
    node_context,
    split_pdus,
    status_in,
    store_request,
    wire_peer,
)
from tests.node_support import (
    associate,
    audit_tags,
    ct_slice,
    encoded,
    node_settings,
    rows,
    running_node,
    store_bytes,
    write_file,
)

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
CT = str(CTImageStorage)
PROVIDER_ABORT = {reason: [(ABORTED, bytes((0, 0, 2, reason)))] for reason in (1, 2, 6)}
USER_ABORT = [(ABORTED, bytes(4))]


@pytest.fixture
def context(tmp_path, sqlite_sessions) -> NodeContext:
    return node_context(node_settings(tmp_path), sqlite_sessions)


@pytest.fixture
def peer(context):
    with listening(context) as port, wire_peer(port) as peer:
        yield peer.associate()


# The same results on both paths


def what_remains(node):
    """Everything an association leaves behind that does not depend on when it was."""
    stores = (node.inbox.instances.root, node.inbox.quarantined.root)
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for root in stores
        for path in root.rglob("*")
        if path.is_file() and path.name != ".reconciled"
    }
    instances = sorted(
        (i.sop_instance_uid, i.path, i.sha256, i.size_bytes, i.transfer_syntax_uid)
        for i in rows(node.sessions, Instance)
    )
    refused = sorted(
        (q.reason, q.error, q.status, q.path, q.sop_instance_uid, q.calling_ae)
        for q in rows(node.sessions, Quarantined)
    )
    ended = [
        (a.calling_ae, a.called_ae, a.ended_how, a.instances, a.size_bytes)
        for a in rows(node.sessions, PeerAssociation)
    ]
    events = [
        (e.tag, e.actor, e.actor_kind, e.outcome, e.object_type, sorted(e.detail))
        for e in rows(node.sessions, AuditEvent)
        if not e.tag.startswith("process:")
    ]
    return files, instances, refused, ended, events


def play(port, inputs):
    answers = []
    for end in ("release", "abort"):
        assoc = associate(port)
        assert assoc.is_established
        answers += [store_bytes(assoc, data, sop_class=cls, sop_instance=uid) for data, cls, uid in inputs[end]]
        getattr(assoc, end)()
    return answers


def wait_for_ends(node, count):
    deadline = time.monotonic() + 20
    while sum(bool(a.ended_at) for a in rows(node.sessions, PeerAssociation)) < count and time.monotonic() < deadline:
        time.sleep(0.02)


def test_both_paths_leave_the_same_files_rows_answers_and_events(tmp_path):
    good, large = ct_slice(), ct_slice(Rows=512, Columns=512, PixelData=bytes(range(256)) * 2048)
    other = ct_slice(SOPInstanceUID=good.SOPInstanceUID, PatientName="Other^Content")
    no_study = ct_slice(StudyInstanceUID=None)
    uid = str(good.SOPInstanceUID)
    inputs = {
        "release": [
            (encoded(good), CT, uid),
            (encoded(large), CT, str(large.SOPInstanceUID)),
            (encoded(good), CT, uid),  # again
            (encoded(other), CT, uid),  # other bytes under the same UID
            (encoded(good)[:-7], CT, uid),  # cut short
            (b"no Data Set at all", CT, "1.2.3"),
            (encoded(no_study), CT, str(no_study.SOPInstanceUID)),
            (encoded(good), CT, "1.2.3.4"),  # the command announces another Instance
            (encoded(ct_slice()), str(MRImageStorage), "1.2.3.5"),  # and another SOP Class than its context
        ],
        "abort": [(encoded(ct_slice()), CT, "1.2.3.6"), (encoded(large), CT, str(large.SOPInstanceUID))],
    }
    seen = {}
    for fast in (True, False):
        settings = node_settings(tmp_path / str(fast), dicom={"receivers": 0, "fast_receive": fast})
        with running_node(settings) as node:
            assoc = associate(node.port)
            assert any("AcceptorThread" in thread.name for thread in threading.enumerate()) is not fast
            assoc.release()
            answers = play(node.port, inputs)
            wait_for_ends(node, 3)
            seen[fast] = (answers, *what_remains(node))
    for ours, theirs in zip(seen[True], seen[False], strict=True):
        assert ours == theirs
    assert [status for status, _ in seen[True][0]] == [
        0x0000, 0x0000, 0x0000, 0xC003, 0xC002, 0xC002, 0xC001, 0xA900, 0x0122, 0xA900, 0x0000,
    ]  # fmt: skip
    assert [end[2:4] for end in seen[True][4]] == [("released", 0), ("released", 3), ("aborted", 1)]


def test_fragments_of_any_size_make_the_same_file(context):
    ds = ct_slice(Rows=128, Columns=128, PixelData=bytes(range(256)) * 128)
    data = encoded(ds)
    with listening(context) as port:
        for size in (16, 57, 4096, 131072):
            ds.SOPInstanceUID = generate_uid()
            data = encoded(ds)
            with wire_peer(port) as peer:
                peer.associate().send(store_request(data, str(ds.SOPInstanceUID), pdu_bytes=size))
                assert peer.status() == 0x0000
            (kept,) = context.inbox.instances.root.rglob(f"{ds.SOPInstanceUID}.dcm")
            assert kept.read_bytes().endswith(data)
    assert not leftovers(context)


def test_bytes_that_come_one_by_one_make_the_same_answer(peer):
    ds = ct_slice()
    for byte in store_request(encoded(ds), str(ds.SOPInstanceUID))[:700]:
        peer.send(bytes((byte,)))
    peer.send(store_request(encoded(ds), str(ds.SOPInstanceUID))[700:])
    assert peer.status() == 0x0000


def test_many_requests_in_one_segment_are_answered_in_order(peer):
    slices = [ct_slice() for _ in range(5)]
    ids = [65534, 65535, 0, 1, 2]  # Message ID wraps
    peer.send(
        b"".join(
            store_request(encoded(ds), str(ds.SOPInstanceUID), message_id=n) for n, ds in zip(ids, slices, strict=True)
        )
        + RELEASE
    )
    answers = peer.rest()
    assert [kind for kind, _ in answers] == [DATA] * 5 + [RELEASED]
    assert [status_in(body) for _, body in answers[:5]] == [0] * 5
    assert [n.to_bytes(2, "little") in body for n, (_, body) in zip(ids, answers, strict=False)] == [True] * 5
    responded = bytes.fromhex("0000200102000000")
    assert [int.from_bytes(b[b.index(responded) + 8 :][:2], "little") for _, b in answers[:5]] == ids


# DCMTK


def dcmtk(program, *arguments):
    """Run one of DCMTK's tools with its own defaults: no TCP_NODELAY, so with Nagle's algorithm."""
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed (apt-get install dcmtk)")
        pytest.skip(f"{program} is not installed (apt-get install dcmtk)")
    defaults = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    command = [program, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=defaults)


class Clock:
    """A keeper that keeps nothing, but the time at which each Instance began."""

    def __init__(self, store):
        self.store, self.began = store, []

    def open(self, announced):
        self.began.append(time.monotonic())
        return Arrival(announced, self.store)

    def keep(self, arrival):
        pass

    def refuse(self, announced, arrival, error, status):
        raise AssertionError(error)


@pytest.mark.dcmtk
def test_an_unmodified_sender_is_not_held_up_by_delayed_acknowledgement(context, tmp_path):
    for number in range(25):
        write_file(tmp_path / "ct" / f"{number}.dcm", ct_slice(Rows=512, Columns=512, PixelData=bytes(2 * 512 * 512)))
    clock = Clock(context.inbox.instances)
    with listening(NodeContext(clock, context.door, context.sessions, context.settings)) as port:
        sent = dcmtk("storescu", "+sd", "-aec", "FIRSTREAD", "127.0.0.1", port, tmp_path / "ct")
    assert sent.returncode == 0
    gaps = [after - before for before, after in pairwise(clock.began)]
    assert len(gaps) == 24
    assert median(gaps) < 0.030  # with delayed acknowledgement each takes 0.040 at least


@pytest.mark.dcmtk
@pytest.mark.parametrize("pdu_bytes", [4096, 16384, 131072])
def test_what_dcmtk_sends_is_kept_byte_for_byte(context, real_data, pdu_bytes):
    files = sorted((real_data / "ct_abdomen").glob("*.dcm"))[:6]
    with listening(context) as port:
        sent = dcmtk("storescu", "-xv", "--max-send-pdu", pdu_bytes, "-aec", "FIRSTREAD", "127.0.0.1", port, *files)
    assert sent.returncode == 0, sent.stderr
    kept = [path.read_bytes() for path in context.inbox.instances.root.rglob("*.dcm")]
    assert sorted(dcmread(BytesIO(data)).PixelData for data in kept) == sorted(dcmread(f).PixelData for f in files)
    assert len(kept) == 6


# Ends


class FullInbox(Inbox):
    """An inbox whose disk is full after some bytes."""

    def open(self, announced):
        arrival = super().open(announced)
        write, arrival.written = arrival.write, 0

        def until_full(piece):
            arrival.written += len(piece)
            if arrival.written > 200_000:
                raise OutOfSpaceError("full")
            write(piece)

        arrival.write = until_full
        return arrival


def test_a_disk_that_fills_midway_is_answered_after_the_rest_was_read(context):
    inbox = context.inbox
    full = FullInbox(context.sessions, instances=inbox.instances, quarantine=inbox.quarantined, quiet_s=lambda *_: 10.0)
    large, small = ct_slice(Rows=512, Columns=512, PixelData=bytes(2 * 512 * 512)), ct_slice()
    with (
        listening(NodeContext(full, context.door, context.sessions, context.settings)) as port,
        wire_peer(port) as peer,
    ):
        peer.associate().send(store_request(encoded(large), str(large.SOPInstanceUID)))
        assert peer.status() == 0xA700
        assert not leftovers(context)
        peer.send(store_request(encoded(small), str(small.SOPInstanceUID)))
        assert peer.status() == 0x0000


@pytest.mark.parametrize("how", ["closed", "reset", "aborted", "released"])
def test_an_object_that_never_ends_leaves_nothing(context, how):
    ds = ct_slice(Rows=512, Columns=512, PixelData=bytes(2 * 512 * 512))
    with listening(context) as port, wire_peer(port) as peer:
        pdus = split_pdus(store_request(encoded(ds), str(ds.SOPInstanceUID)))
        cut = pdus[20][:100] if how in {"closed", "reset"} else b""
        peer.associate().send(b"".join(pdus[:20]) + cut)
        while not leftovers(context):
            time.sleep(0.01)
        if how == "reset":
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
        elif how in {"aborted", "released"}:
            peer.send(ABORT if how == "aborted" else RELEASE)
    assert not leftovers(context)
    assert rows(context.sessions, Instance) == []
    (ended,) = rows(context.sessions, PeerAssociation)
    assert ended.ended_how == {"closed": "lost", "reset": "lost"}.get(how, how)
    assert audit_tags(context.sessions).count("association:finished") == 1


def test_a_node_that_stops_ends_idle_associations_at_once_and_lets_a_store_finish(context):
    closing = Closing()
    ds = ct_slice()
    request = store_request(encoded(ds), str(ds.SOPInstanceUID))
    with listening(context, closing) as port, wire_peer(port) as idle, wire_peer(port) as storing:
        idle.associate()
        storing.associate().send(request[:500])
        while not leftovers(context):
            time.sleep(0.01)
        began = time.monotonic()
        closing.ask(20)
        assert idle.rest() == USER_ABORT
        assert time.monotonic() - began < 10
        storing.send(request[500:])
        assert storing.status() == 0x0000
        assert storing.rest() == USER_ABORT
    assert len(rows(context.sessions, Instance)) == 1
    closing.close()


def test_a_store_that_outlasts_the_grace_is_cut_off(context):
    closing = Closing()
    with listening(context, closing) as port, wire_peer(port) as peer:
        peer.associate().send(store_request(bytes(5000), "1.2.3")[:500])
        while not leftovers(context):
            time.sleep(0.01)
        closing.ask(0.2)
        assert peer.rest() == USER_ABORT
    assert not leftovers(context)
    closing.close()


# TLS


def certificate(folder):
    """A key, and a certificate that signs itself, for 127.0.0.1; PEM in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "node.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls_carries_the_same(context, tmp_path):
    pem = certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(pem))
    client.check_hostname = False
    ds = ct_slice(Rows=512, Columns=512, PixelData=bytes(range(256)) * 2048)
    with listening(context, tls=server) as port, wire_peer(port) as plain:
        peer = WirePeer(client.wrap_socket(plain.socket)).associate()
        peer.send(store_request(encoded(ds), str(ds.SOPInstanceUID)))
        assert peer.status() == 0x0000
        peer.send(RELEASE)
        assert [kind for kind, _ in peer.rest()] == [RELEASED]
        peer.socket.close()
    (kept,) = context.inbox.instances.root.rglob("*.dcm")
    assert kept.read_bytes().endswith(encoded(ds))
