"""Ten thousand associations of nonsense: nothing crashes, nothing is left behind, and the node still stores.

Most are driven through a socket pair straight into ``serve``, in this thread: no network, no chance. The recorded
ones begin as the bytes of real associations of pynetdicom and DCMTK.
"""

import hashlib
import logging
import os
import random
import shutil
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from itertools import pairwise
from uuid import uuid4

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage
from structlog.testing import capture_logs

from db.models import Instance, Quarantined
from dicom_node.association import serve
from dicom_node.context import Admission, NodeContext
from dicom_node.handlers import event_handlers
from dicom_node.policy import CALLED_AE
from instances.arrival import Arrival
from tests.association_nonsense import STREAMS, known_slice, mutated, record_pynetdicom, record_storescu
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
    status_in,
    store_request,
    wire_peer,
)
from tests.node_support import ct_slice, encoded, migrated_sessions, node_settings, rows
from tests.postgres import memory_folder

pytestmark = pytest.mark.filterwarnings("ignore")
MUTATED, INVENTED, WHOLE, OVER_TCP = 8400, 1000, 400, 200
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


class Turnstile:
    """A doorkeeper who only counts; ``inside`` has to be empty at the end."""

    def __init__(self):
        self.inside = set()

    def enter(self, asking):
        admission = Admission(uuid4(), None if asking.called_ae == "FIRSTREAD" else CALLED_AE)
        if admission.rejection is None:
            self.inside.add(admission.association_id)
        return admission

    def leave(self, association_id, *, how, instances=0, size_bytes=0, answered=None):
        assert how in {"released", "aborted", "lost"}
        self.inside.discard(association_id)


class Shelf:
    """A keeper with real files and no database, so that thousands of cases take seconds."""

    def __init__(self, store):
        self.store, self.kept, self.refused, self.latest = store, 0, 0, None

    def open(self, announced):
        return Arrival(announced, self.store)

    def keep(self, arrival):
        assert arrival.header is not None
        self.kept += 1
        self.latest = arrival.sha256, arrival.size

    def refuse(self, announced, arrival, error, status):
        assert error is not None, "an error nobody thought of"
        self.refused += 1


def player(context):
    """Return what plays bytes into an association of a node, and returns the PDUs it answered."""
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


@pytest.fixture(scope="module")
def light(context):
    """The same node without its database."""
    return NodeContext(Shelf(context.inbox.instances), Turnstile(), context.sessions, context.settings)


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


@pytest.fixture(scope="module")
def recordings(context, tmp_path_factory):
    ds = known_slice(8)
    data, uid = encoded(ds), str(ds.SOPInstanceUID)
    by_hand = association_request() + b"".join(store_request(data, uid, pdu_bytes=size) for size in (64, 300, 16384))
    with listening(context) as port:
        real = [record_pynetdicom(port), record_storescu(port, tmp_path_factory.mktemp("sent"))]
    return [recording for recording in [*real, by_hand + RELEASE] if recording]


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
    assert_nothing_more(context, before)
    assert leftovers(context) == []
    # a place of the four that was not given back would be missed here
    with listening(context) as port:
        for _ in range(4):
            ds = ct_slice()
            with wire_peer(port) as peer:
                peer.associate().send(store_request(encoded(ds), str(ds.SOPInstanceUID)))
                assert peer.status() == 0x0000
    assert_nothing_more(context, before)


def assert_nothing_more(context, before):
    """As much is held as before, or less: what an earlier test was slow to give back may be gone by now."""
    deadline = time.monotonic() + 5.0
    while any(now > then for now, then in zip(held(context), before, strict=True)) and time.monotonic() < deadline:
        time.sleep(0.05)
    now = held(context)
    assert all(now_one <= then for now_one, then in zip(now, before, strict=True)), (now, before)


@pytest.mark.requirement("REQ-RECV-8")
def test_mutated_associations(context, light, recordings):
    rng, play = random.Random(20), player(light)
    seen = dict.fromkeys((ACCEPTED, REJECTED, DATA, RELEASED, ABORTED), 0)
    for recording in recordings:
        assert [kind for kind, _ in play(recording)][-1] == RELEASED
    with nothing_left_behind(context):
        for _ in range(MUTATED):
            answers = play(mutated(rng, recordings))
            check(answers)
            for kind, _ in answers:
                seen[kind] += 1
        assert not light.door.inside
    # the mutations reached every part
    assert all(count > MUTATED / 100 for kind, count in seen.items() if kind != REJECTED), seen
    assert seen[REJECTED]
    assert min(light.inbox.kept, light.inbox.refused) > MUTATED / 100


def test_invented_associations(context, light):
    play = player(light)

    @settings(
        max_examples=INVENTED, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(STREAMS)
    def run(stream):
        check(play(stream))

    with nothing_left_behind(context):
        run()
        assert not light.door.inside


def pieces(data, cuts, control):
    """The PDVs of one part of a message, cut anywhere, perhaps into nothing."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    return [(1, control, part) for part in parts[:-1]] + [(1, control | 2, parts[-1])]


def test_a_message_cut_anywhere_into_pdvs_and_pdus_is_the_same_message(light):
    play, ds = player(light), known_slice(9)
    data, cuts = encoded(ds), st.lists(st.integers(0, 2000), max_size=12)
    command = command_set(_0002=CTImageStorage, _0100=1, _0110=1, _0800=0, _1000=str(ds.SOPInstanceUID))

    @settings(max_examples=300, derandomize=True, deadline=None, database=None)
    @given(cuts, cuts, st.integers(1, 5))
    def run(command_cuts, data_cuts, together):
        pdvs = pieces(command, command_cuts, 1) + pieces(data, data_cuts, 0)
        pdus = [data_pdu(*pdvs[at : at + together]) for at in range(0, len(pdvs), together)]
        answers = play(association_request() + b"".join(pdus) + RELEASE)
        assert [kind for kind, _ in answers] == [ACCEPTED, DATA, RELEASED]
        assert status_in(answers[1][1]) == 0x0000
        assert light.inbox.latest == (hashlib.sha256(data).hexdigest(), len(data))

    run()


def test_mutated_associations_with_everything_behind_them(context, recordings):
    rng, play = random.Random(21), player(context)
    with nothing_left_behind(context):
        for _ in range(WHOLE):
            check(play(mutated(rng, recordings)))
    assert rows(context.sessions, Instance)
    assert rows(context.sessions, Quarantined)


def test_mutated_associations_over_tcp_that_break_off(context, recordings):
    rng = random.Random(22)
    with nothing_left_behind(context), listening(context) as port:
        for _ in range(OVER_TCP):
            with wire_peer(port) as peer, suppress(ConnectionError):
                stream, size = mutated(rng, recordings), rng.choice((1000, 5000, LONGEST))
                for at in range(0, len(stream), size):
                    peer.send(stream[at : at + size])
                if rng.random() < 0.5:
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
