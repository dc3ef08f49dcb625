"""What a peer may send and what not: an answer, or an A-ABORT with its reason, and no association without an end."""

import socket
import threading
import time

import pytest
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep, Verification

from config.errors import AbortAssociationError, AssociationLostError, OutOfSpaceError
from config.settings import DicomSettings
from db.models import Instance, PeerAssociation
from dicom_node.connection import Closing, Connection
from dicom_node.context import NodeContext
from instances.inbox import Inbox
from tests.association_support import (
    ABORT,
    ABORTED,
    DATA,
    REJECTED,
    RELEASE,
    RELEASED,
    association_request,
    command_set,
    data_pdu,
    leftovers,
    listening,
    node_context,
    split_pdus,
    status_in,
    store_request,
    wire_peer,
)
from tests.node_support import (
    audit_tags,
    ct_slice,
    encoded,
    node_settings,
    rows,
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


# What PS3.8 and PS3.7 forbid

COMMAND = command_set(_0002=CT, _0100=0x0001, _0110=7, _0700=0, _0800=0, _1000="1.2.3")


@pytest.mark.requirement("REQ-RECV-8")
@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (bytes.fromhex("ff00 00000004 00000000"), PROVIDER_ABORT[1]),  # no such PDU
        (bytes.fromhex("0000 00000004 00000000"), PROVIDER_ABORT[1]),
        (association_request(), PROVIDER_ABORT[2]),  # a second request
        (bytes.fromhex("0600 00000004 00000000"), PROVIDER_ABORT[2]),  # A-RELEASE-RP nobody asked for
        (bytes.fromhex("0300 00000004 00010101"), PROVIDER_ABORT[2]),
        (bytes.fromhex("0400 7fffffff"), PROVIDER_ABORT[6]),  # longer than we announced
        (bytes.fromhex("0400 00020001"), PROVIDER_ABORT[6]),  # by one byte
        (bytes.fromhex("0400 00000000"), PROVIDER_ABORT[6]),  # no PDV
        (bytes.fromhex("0400 00000005 0000000101"), PROVIDER_ABORT[6]),  # a PDV that is no PDV
        (bytes.fromhex("0400 00000006 00000000 0103"), PROVIDER_ABORT[6]),
        (bytes.fromhex("0400 00000008 00000400 0103 0000"), PROVIDER_ABORT[6]),  # reaches beyond its PDU
        (data_pdu((9, 3, COMMAND)), PROVIDER_ABORT[6]),  # a context that was not proposed
        (data_pdu((2, 3, COMMAND)), PROVIDER_ABORT[6]),  # an even context
        (data_pdu((1, 2, b"data")), USER_ABORT),  # a Data Set before its command
        (data_pdu((1, 3, COMMAND), (1, 3, COMMAND)), USER_ABORT),  # a command before the Data Set
        (data_pdu((1, 3, COMMAND), (5, 2, b"data")), USER_ABORT),  # the Data Set on another context
        (data_pdu((1, 1, COMMAND[:20]), (5, 3, COMMAND[20:])), USER_ABORT),
        (data_pdu((1, 3, COMMAND[:-1])), USER_ABORT),  # a command that is none
        (data_pdu((1, 3, command_set(_0002=CT, _0100=0x0001, _0800=0))), USER_ABORT),  # no Message ID
        (data_pdu((3, 3, command_set(_0100=0x4444, _0110=1, _0800=0x0101))), USER_ABORT),  # no such command
        (data_pdu((3, 3, command_set(_0110=1, _0800=0x0101))), USER_ABORT),
        (data_pdu((1, 1, bytes(60000))) * 2, USER_ABORT),  # a command without end
    ],
)
def test_what_the_standard_forbids_is_answered_with_an_abort(peer, context, sent, answer):
    peer.send(sent)
    assert peer.rest() == answer
    assert not leftovers(context)


def test_before_an_association_nothing_else_is_taken(context):
    with listening(context) as port:
        for sent, answer in [
            (data_pdu((1, 3, COMMAND)), USER_ABORT),  # PS3.8 table 9-10: AA-1 in state 2
            (RELEASE, USER_ABORT),
            (b"GET / HTTP/1.1\r\n\r\n", PROVIDER_ABORT[1]),
            (b"\x16\x03\x01\x02\x00\x01\x00", PROVIDER_ABORT[1]),  # TLS on the plain port
            (ABORT, []),
            (bytes.fromhex("0100 7fffffff"), PROVIDER_ABORT[6]),
            (bytes.fromhex("0100 00000010") + bytes(16), USER_ABORT),
            (b"", []),
        ]:
            with wire_peer(port) as peer:
                peer.send(sent)
                peer.socket.shutdown(socket.SHUT_WR)
                assert peer.rest() == answer, sent
    assert rows(context.sessions, PeerAssociation) == []


def test_another_protocol_version_is_rejected(context):
    with listening(context) as port, wire_peer(port) as peer:
        request = association_request()
        peer.send(request[:6] + b"\x00\x02" + request[8:])
        assert peer.rest() == [(REJECTED, bytes((0, 1, 2, 2)))]


def test_a_maximum_length_that_holds_nothing_is_aborted(context):
    with listening(context) as port, wire_peer(port) as peer:
        assert peer.associate(maximum=5).rest() == PROVIDER_ABORT[6]


def test_answers_fit_the_peers_maximum_length(context):
    with listening(context) as port, wire_peer(port) as peer:
        peer.associate(maximum=24).send(store_request(b"no Data Set", "1.2.3") + RELEASE)
        answers = peer.rest()
    assert {kind for kind, _ in answers[:-1]} == {DATA}
    assert max(len(body) for _, body in answers[:-1]) <= 24
    command = b"".join(body[6:] for _, body in answers[:-1])
    assert status_in(command) == 0xC002


# What is odd, but has an answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (data_pdu((1, 3, COMMAND.replace(b"\0\x08\2\0\0\0\0\0", b"\0\x08\2\0\0\0\1\1"))), 0xC002),  # no Data Set
        (data_pdu((1, 3, COMMAND), (1, 2, b"")), 0xC002),  # an empty one
        (data_pdu((1, 1, b""), (1, 3, COMMAND), (1, 0, b""), (1, 2, b"x")), 0xC002),  # empty fragments
        (data_pdu((1, 3, command_set(_0100=1, _0110=7, _0800=0)), (1, 2, b"x")), 0x0122),  # no UIDs
        (data_pdu((3, 3, COMMAND), (3, 2, b"x")), 0x0122),  # on the context of Verification
        (data_pdu((1, 0xF3, COMMAND), (1, 0xFE, b"x")), 0xC002),  # bits nobody has to look at (PS3.8 E.2)
    ],
)
def test_a_c_store_that_is_wrong_is_answered_and_the_association_goes_on(peer, context, sent, status):
    ds = ct_slice()
    peer.send(sent + store_request(encoded(ds), str(ds.SOPInstanceUID)))
    assert [peer.status(), peer.status()] == [status, 0x0000]
    assert not leftovers(context)


def test_a_cancel_and_a_stray_response_are_passed_over(peer):
    cancel = data_pdu((1, 3, command_set(_0100=0x0FFF, _0120=7, _0800=0x0101)))
    stray = data_pdu((3, 3, command_set(_0002=Verification, _0100=0x8030, _0120=1, _0800=0x0101, _0900=0)))
    echo = data_pdu((3, 3, command_set(_0002=Verification, _0100=0x0030, _0110=5, _0800=0x0101)))
    peer.send(cancel + stray + echo + RELEASE)
    answers = peer.rest()
    assert [kind for kind, _ in answers] == [DATA, RELEASED]
    assert status_in(answers[0][1]) == 0x0000


def test_other_services_are_served_by_pynetdicom(context):
    ae = AE("MODALITY")
    ae.dimse_timeout = 20
    ae.add_requested_context(Verification)
    ae.add_requested_context(ModalityPerformedProcedureStep)
    with listening(context) as port:
        assoc = ae.associate("127.0.0.1", port, ae_title="FIRSTREAD")
        assert assoc.send_c_echo().Status == 0x0000
        status, _ = assoc.send_n_create(ct_slice(), ModalityPerformedProcedureStep, generate_uid())
        assert isinstance(status.Status, int)
        assoc.release()
        again = ae.associate("127.0.0.1", port, ae_title="FIRSTREAD")  # the listener is still there
        assert again.send_c_echo().Status == 0x0000
        again.release()


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


# Time


def test_an_idle_association_and_one_that_is_never_asked_for_are_ended(tmp_path, sqlite_sessions):
    context = node_context(node_settings(tmp_path, dicom={"network_timeout_s": 0.3}), sqlite_sessions)
    with listening(context) as port, wire_peer(port) as idle, wire_peer(port) as half:
        idle.associate()
        half.associate().send(data_pdu((1, 3, COMMAND))[:30])  # silence in the midst of a PDU
        assert idle.rest() == USER_ABORT
        assert half.rest() == USER_ABORT
    assert {a.ended_how for a in rows(sqlite_sessions, PeerAssociation)} == {"aborted"}


def pair(**changes):
    ours, theirs = socket.socketpair()
    settings = DicomSettings(**{"network_timeout_s": 5.0, **changes})
    return Connection(ours, settings, slow_grace_s=0.3), theirs


def test_a_request_that_does_not_come_in_time_is_not_waited_for():
    connection, peer = pair()
    with peer:
        connection.expect_within(0.2)
        peer.send(b"\1\0")
        with pytest.raises(AssociationLostError, match="in time"):
            connection.take(6)
        peer.close()
        connection.close()


def trickle(peer, stop):
    while not stop.wait(0.02):
        peer.send(b"....")  # 200 bytes/s


@pytest.mark.parametrize(("slow", "ends"), [(1024, True), (20, False), (0, False)])
def test_a_peer_that_only_trickles_is_too_slow(slow, ends):
    connection, peer = pair(slow_bytes_per_s=slow)
    stop = threading.Event()
    trickling = threading.Thread(target=trickle, args=(peer, stop))
    with peer:
        trickling.start()
        try:
            connection.await_message()
            if ends:
                with pytest.raises(AbortAssociationError, match="too slowly"):
                    connection.take(1000)
            else:
                assert len(connection.take(150)) == 150
        finally:
            stop.set()
            trickling.join()
            peer.close()
            connection.close()


def test_our_own_pauses_do_not_make_a_peer_slow():
    connection, peer = pair(slow_bytes_per_s=100_000)
    with peer:
        peer.send(bytes(10))
        connection.await_message()
        connection.take(10)
        time.sleep(0.5)  # our disk, not the peer
        peer.send(bytes(10))
        assert len(connection.take(10)) == 10
        peer.close()
        connection.close()


def test_a_peer_that_takes_no_answer_is_given_up():
    connection, peer = pair(network_timeout_s=0.3)
    with peer:
        with pytest.raises(AssociationLostError, match="takes no answer"):
            connection.send(bytes(1 << 24))
        with pytest.raises(AssociationLostError):
            connection.take(1)
        connection.close()


def test_a_peer_that_does_not_close_is_not_waited_for_long():
    connection, peer = pair()
    with peer:
        began = time.monotonic()
        connection.close()
        assert 1 < time.monotonic() - began < 10
