"""Our own receive path: the same results as pynetdicom's, from every kind of sender."""

import os
import shutil
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
from pydicom.uid import UID, CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import build_role
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.sop_class import StorageCommitmentPushModel

from db.models import AuditEvent, Instance, PeerAssociation, Quarantined
from dicom_node.context import NodeContext
from instances.arrival import Arrival
from tests.association_support import (
    ACCEPTED,
    DATA,
    REJECTED,
    RELEASE,
    RELEASED,
    WirePeer,
    association_request,
    leftovers,
    listening,
    node_context,
    status_in,
    store_request,
    wire_peer,
)
from tests.node_support import (
    associate,
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


def user_information():
    """One item of every kind that can be negotiated (PS3.7 D.3.3)."""
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = UID(CT), bytes((2, 0, 0, 0, 0, 0))
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = UID("1.2.3.4"), UID("1.2.840.10008.4.2")
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"somebody"
    identity.positive_response_requested = True
    return [window, build_role(StorageCommitmentPushModel, scu_role=True, scp_role=True), extended, common, identity]


def test_both_paths_negotiate_the_same_to_the_byte(tmp_path):
    requests = [
        association_request(),
        association_request(items=user_information()),
        association_request(called_ae="SOMEBODY"),
        association_request(calling_ae="A CALLER"),
    ]
    answers = {}
    for fast in (True, False):
        dicom = {"receivers": 0, "fast_receive": fast, "peers": [{"ae_title": "MODALITY"}]}
        with running_node(node_settings(tmp_path / str(fast), dicom=dicom)) as node:
            answers[fast] = []
            for request in requests:
                with wire_peer(node.port) as peer:
                    peer.send(request)
                    answers[fast].append(peer.pdu())
    assert answers[True] == answers[False]
    assert [kind for kind, _ in answers[True]] == [ACCEPTED, ACCEPTED, REJECTED, REJECTED]
    assert bytes.fromhex("5300 0004 0008 0008") not in answers[True][1][1]  # a window of one, whatever was proposed


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
        write_file(tmp_path / "ct" / f"{number}.dcm", ct_slice(Rows=68, Columns=68, PixelData=bytes(2 * 68 * 68)))
    clock = Clock(context.inbox.instances)
    with listening(NodeContext(clock, context.door, context.sessions, context.settings)) as port:
        sent = dcmtk("storescu", "+sd", "-aec", "FIRSTREAD", "127.0.0.1", port, tmp_path / "ct")
    assert sent.returncode == 0
    gaps = [after - before for before, after in pairwise(clock.began)]
    assert len(gaps) == 24
    assert median(gaps) < 0.030  # with delayed acknowledgement each takes 0.040 at least


@pytest.mark.requirement("REQ-RECV-2")
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
