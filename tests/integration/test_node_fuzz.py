"""Ten thousand associations of nonsense: nothing crashes, nothing is left behind, and the node still stores.

Most are driven through a socket pair straight into ``serve``, in this thread: no network, no chance. The recorded
ones begin as the bytes of real associations of pynetdicom and DCMTK.
"""

import logging
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager, suppress

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel, Verification
from structlog.testing import capture_logs

from db.models import Instance, Quarantined
from dicom_node.association import serve
from dicom_node.handlers import event_handlers
from tests.association_support import (
    ABORTED,
    ACCEPTED,
    DATA,
    REJECTED,
    RELEASE,
    RELEASED,
    WirePeer,
    association_request,
    command_set,
    data_pdu,
    leftovers,
    listening,
    node_ae,
    node_context,
    split_pdus,
    store_request,
    wire_peer,
)
from tests.node_support import ct_slice, encoded, migrated_sessions, node_settings, rows, write_file
from tests.postgres import memory_folder

pytestmark = pytest.mark.filterwarnings("ignore")
MUTATED, INVENTED, OVER_TCP = 8000, 2000, 300
LONGEST = 100_000  # a socket pair takes it without anybody reading


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A node's inbox and door, in memory where there is room: this test is not about the disk."""
    folder = tmp_path_factory.mktemp("fuzz") if memory_folder() is None else memory_folder() / f"fuzz-{os.getpid()}"
    settings = node_settings(folder, dicom={"network_timeout_s": 5.0, "max_associations": 4})
    # what the libraries say of nonsense would fill the screen
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("pynetdicom", "pydicom")}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield node_context(settings, migrated_sessions(settings))
    for logger, level in loggers.items():
        logger.setLevel(level)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def play(context):
    """Play bytes into an association of a node; returns the PDUs it answered."""
    ae, handlers = node_ae(context.settings), event_handlers(context)

    def play(stream):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(stream[:LONGEST])
            theirs.shutdown(socket.SHUT_WR)
            with capture_logs() as logs:
                serve(ours, ("127.0.0.1", 1), ae, handlers, context)
            assert not [entry for entry in logs if entry["event"].endswith(".failed")], stream[:LONGEST]
            return WirePeer(theirs).rest()

    return play


def check(answers):
    """Whatever was sent, our side of the conversation is one PS3.8 allows."""
    kinds = [kind for kind, _ in answers]
    if not kinds:
        return
    assert kinds[0] in {ACCEPTED, REJECTED, ABORTED}
    assert set(kinds[1:-1]) <= {DATA}
    assert kinds[0] == ACCEPTED or len(kinds) == 1
    assert kinds[-1] in {ACCEPTED, REJECTED, DATA, RELEASED, ABORTED}
    for kind, body in answers:
        assert kind != DATA or struct.unpack(">L", body[:4])[0] == len(body) - 4


# Recorded associations


def relay(server, port, taken):
    """Pass one connection on to ``port`` and keep what the client sends."""
    client, _ = server.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as node:

        def back():
            with suppress(OSError):
                while data := node.recv(65536):
                    client.sendall(data)
                client.shutdown(socket.SHUT_WR)

        answering = threading.Thread(target=back)
        answering.start()
        while data := client.recv(65536):
            taken.append(data)
            node.sendall(data)
        with suppress(OSError):
            node.shutdown(socket.SHUT_WR)
        answering.join()


@contextmanager
def recorder(port, taken):
    with socket.create_server(("127.0.0.1", 0)) as server:
        relaying = threading.Thread(target=relay, args=(server, port, taken))
        relaying.start()
        yield server.getsockname()[1]
        relaying.join()


def record_pynetdicom(port):
    taken = []
    ae = AE("MODALITY")
    for sop_class in (CTImageStorage, Verification, ModalityPerformedProcedureStep, StorageCommitmentPushModel):
        ae.add_requested_context(sop_class)
    referenced = Dataset()
    referenced.TransactionUID = "1.2.3.4.5"
    with recorder(port, taken) as through:
        assoc = ae.associate("127.0.0.1", through, ae_title="FIRSTREAD")
        assoc.send_c_echo()
        assoc.send_n_create(ct_slice(), ModalityPerformedProcedureStep, "1.2.3.4")
        assoc.send_n_action(referenced, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        assoc.release()
    return b"".join(taken)


def record_storescu(port, folder):
    if shutil.which("storescu") is None:
        return b""
    taken = []
    for number in range(3):
        write_file(folder / f"{number}.dcm", ct_slice(InstanceNumber=number))
    with recorder(port, taken) as through:
        subprocess.run(
            ["storescu", "-R", "+sd", "-aec", "FIRSTREAD", "127.0.0.1", str(through), str(folder)],
            check=True,
            timeout=60,
        )
    return b"".join(taken)


@pytest.fixture(scope="module")
def recordings(context, tmp_path_factory):
    ds = ct_slice()
    data, uid = encoded(ds), str(ds.SOPInstanceUID)
    by_hand = association_request() + b"".join(store_request(data, uid, pdu_bytes=size) for size in (64, 300, 16384))
    with listening(context) as port:
        real = [record_pynetdicom(port), record_storescu(port, tmp_path_factory.mktemp("sent"))]
    return [recording for recording in [*real, by_hand + RELEASE] if recording]


# Mutations


def flip(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def drop(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def repeat(rng, data):
    at, size = rng.randrange(len(data)), rng.randint(1, 400)
    return data[: at + size] + data[at:]


def insert(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 12)) + data[at:]


def measure(rng, data):
    """Put a length where perhaps one was."""
    at = rng.randrange(len(data))
    length = rng.choice((0, 1, 2, 5, 6, 255, 4096, 65536, 131073, 0x7FFFFFFF, 0xFFFFFFFF))
    return data[:at] + length.to_bytes(4, rng.choice(("big", "little"))) + data[at + 4 :]


ON_BYTES = (flip, flip, flip, cut, drop, repeat, insert, measure, measure)


def on_pdus(rng, pdus, others):
    """Drop, repeat, swap, splice, or change one PDU or its header."""
    at, how = rng.randrange(len(pdus)), rng.randrange(6)
    one, rest = pdus[at], [*pdus[:at], *pdus[at + 1 :]]
    if how == 0:
        return rest or pdus
    if how == 1:
        return [*pdus[:at], one, *pdus[at:]]
    if how == 2:
        return [*rest, one]
    if how == 3:
        return [*pdus[:at], *rng.choice(others)[1:]]
    if how == 4:
        return [*pdus[:at], bytes((rng.randrange(9),)) + one[1:], *pdus[at + 1 :]]
    return [*pdus[:at], rng.choice(ON_BYTES)(rng, one) or one, *pdus[at + 1 :]]


def mutated(rng, recordings):
    """A recorded association, changed here and there; in most the request stays as it was."""
    others = [split_pdus(recording) for recording in recordings]
    first, *pdus = rng.choice(others)
    for _ in range(rng.randint(0, 3)):
        pdus = on_pdus(rng, pdus, others)
    rest = b"".join(pdus)
    for _ in range(rng.randint(0, 2)):
        rest = rng.choice(ON_BYTES)(rng, rest) or rest
    if rng.random() < 0.2:
        first = rng.choice(ON_BYTES)(rng, first)
    return first + rest


# Inventions

COMMANDS = st.fixed_dictionaries(
    {},
    optional={
        "_0002": st.sampled_from((CTImageStorage, Verification, "1.2.3", "", "no UID", "9" * 70)),
        "_0003": st.sampled_from((str(ModalityPerformedProcedureStep), "1.2.3")),
        "_0100": st.sampled_from(
            (0x0001, 0x0001, 0x0001, 0x0020, 0x0030, 0x0100, 0x0120, 0x0130, 0x0140, 0x0FFF, 0x8001)
        ),
        "_0110": st.integers(0, 0xFFFF),
        "_0120": st.integers(0, 0xFFFF),
        "_0700": st.integers(0, 3),
        "_0800": st.sampled_from((0x0000, 0x0001, 0x0101)),
        "_0900": st.integers(0, 0xFFFF),
        "_1000": st.sampled_from(("1.2.3", "1.2.840.10008.1.20.1.1", "../../x", "")),
        "_1001": st.sampled_from(("1.2.3", "1.2.840.10008.1.20.1.1")),
        "_1008": st.integers(0, 9),
        "_1030": st.text("ABC \\", max_size=20),
    },
).map(lambda values: command_set(**values))
PDVS = st.tuples(
    st.sampled_from((1, 1, 1, 1, 3, 5, 0, 2, 255)),
    st.sampled_from((0, 1, 2, 2, 3, 3, 3, 255)),
    st.one_of(COMMANDS, COMMANDS, st.binary(max_size=300)),
)
PDUS = st.one_of(
    st.lists(PDVS, max_size=4).map(lambda pdvs: data_pdu(*pdvs)),
    st.lists(PDVS, min_size=1, max_size=4).map(lambda pdvs: data_pdu(*pdvs)),
    st.tuples(st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.binary(max_size=60)).map(
        lambda parts: struct.pack(">BxL", *parts[:2]) + parts[2]
    ),
    st.just(RELEASE),
)
STREAMS = st.one_of(
    st.binary(max_size=200),
    st.tuples(
        st.sampled_from((0, 1, 7, 8, 16, 128, 16384, 0xFFFFFFFF)).map(
            lambda maximum: association_request(maximum=maximum)
        ),
        st.lists(PDUS, max_size=8).map(b"".join),
    ).map(b"".join),
)


# The tests


def held(context):
    """What a process holds: descriptors, connections, threads, children."""
    context.sessions.kw["bind"].dispose()  # the pool's connections come and go
    me = psutil.Process()
    return me.num_fds(), len(me.net_connections("all")), threading.active_count(), len(me.children())


@contextmanager
def nothing_left_behind(context):
    before = held(context)
    yield
    assert held(context) == before
    assert leftovers(context) == []
    # a place of the four that was not given back would be missed here
    with listening(context) as port:
        for _ in range(4):
            ds = ct_slice()
            with wire_peer(port) as peer:
                peer.associate().send(store_request(encoded(ds), str(ds.SOPInstanceUID)))
                assert peer.status() == 0x0000
    assert held(context) == before


def test_mutated_associations(context, play, recordings):
    rng = random.Random(20)
    seen = dict.fromkeys((ACCEPTED, REJECTED, DATA, RELEASED, ABORTED), 0)
    for recording in recordings:
        assert [kind for kind, _ in play(recording)][-1] == RELEASED
    with nothing_left_behind(context):
        for _ in range(MUTATED):
            answers = play(mutated(rng, recordings))
            check(answers)
            for kind, _ in answers:
                seen[kind] += 1
    # the mutations reached every part
    assert all(count > MUTATED / 100 for kind, count in seen.items() if kind != REJECTED), seen
    assert seen[REJECTED]
    assert rows(context.sessions, Instance)
    assert rows(context.sessions, Quarantined)


def test_invented_associations(context, play):
    @settings(
        max_examples=INVENTED, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(STREAMS)
    def run(stream):
        check(play(stream))

    with nothing_left_behind(context):
        run()


def test_mutated_associations_over_tcp_that_break_off(context, recordings):
    rng = random.Random(21)
    with nothing_left_behind(context), listening(context) as port:
        for _ in range(OVER_TCP):
            with wire_peer(port) as peer, suppress(ConnectionError):
                stream = mutated(rng, recordings)
                for at in range(0, len(stream), size := rng.choice((1000, 5000, 100_000))):
                    peer.send(stream[at : at + size])
                if rng.random() < 0.5:
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
