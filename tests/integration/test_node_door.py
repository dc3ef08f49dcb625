"""The door: addresses and names, caps when everybody calls at once, space, health, and odd AE titles."""

import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.sop_class import Verification
from sqlalchemy import text

from config.settings import TlsSettings
from db.engine import make_engine, make_sessions
from db.models import AuditEvent, PeerAssociation
from dicom_node import scu
from dicom_node.context import Asking, NodeContext
from dicom_node.door import Door
from dicom_node.listener import Listener, open_ears
from dicom_node.names import Names
from instances.inbox import make_inbox
from tests.dcmtk import tool
from tests.node_support import node_settings, rows, running_node
from tests.peers_support import add, call, rejection, until_established
from tests.tls_support import Authority

# --- addresses and names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "caller", "accepted"),
    [
        ("127.0.0.2", "127.0.0.2", True),
        ("127.0.0.2", "127.0.0.3", False),
        ("127.0.4.0/30", "127.0.4.3", True),
        ("127.0.4.0/30", "127.0.4.4", False),
        ("::ffff:127.0.0.2", "127.0.0.2", True),
        ("localhost", "127.0.0.9", True),
        ("no.such.name.invalid", "127.0.0.1", False),
    ],
)
def test_a_peer_is_bound_to_its_address_network_or_name(tmp_path, sqlite_sessions, host, caller, accepted):
    add(sqlite_sessions, ae_title="CT1", host=host)
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        assoc = call(node.port, host=caller)
        assert assoc.is_established is accepted
        if accepted:
            assoc.release()
        else:
            assert rejection(assoc) == (1, 1, 3)


def test_a_slow_name_server_holds_nobody_up(monkeypatch):
    real = socket.getaddrinfo
    answer = threading.Event()

    def slow(host, *rest, **options):
        answer.wait(20)
        return real("127.0.0.7" if host == "ct1.hospital" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    names = Names(patience_s=0.2)
    began = time.monotonic()
    assert names.addresses("ct1.hospital") == frozenset()
    assert time.monotonic() - began < 2
    answer.set()
    deadline = time.monotonic() + 5
    while names.addresses("ct1.hospital") != {"127.0.0.7"}:
        assert time.monotonic() < deadline


def test_the_last_answer_of_a_name_server_stays_in_force(monkeypatch):
    names = Names(fresh_s=0.0)
    assert "127.0.0.1" in names.addresses("localhost")

    def away(*_, **__):
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    for _ in range(3):
        assert "127.0.0.1" in names.addresses("localhost")


# --- caps -------------------------------------------------------------------------------------------------


def all_at_once(port, callers):
    barrier = threading.Barrier(len(callers))

    def attempt(caller):
        barrier.wait()
        return call(port, caller[0], host=caller[1])

    with ThreadPoolExecutor(len(callers)) as pool:
        return list(pool.map(attempt, callers))


def test_caps_hold_when_everybody_calls_at_one_moment(tmp_path, sqlite_sessions):
    caps = {"max_associations": 7, "max_associations_per_peer": 3}
    with running_node(node_settings(tmp_path, dicom=caps), sqlite_sessions) as node:
        of_one = all_at_once(node.port, [("CT1", "127.0.0.1")] * 8)
        open_now = [assoc for assoc in of_one if assoc.is_established]
        assert len(open_now) == 3
        assert {rejection(assoc) for assoc in of_one if not assoc.is_established} == {(2, 3, 2)}
        # the same title from another address, and others, have caps of their own, until all are too many
        more = all_at_once(node.port, [("CT1", "127.0.0.2")] * 4 + [("MR1", "127.0.0.1")] * 4)
        open_now += [assoc for assoc in more if assoc.is_established]
        assert len(open_now) == 7
        assert {rejection(assoc) for assoc in more if not assoc.is_established} == {(2, 3, 2)}
        for assoc in open_now:
            assoc.release()
        until_established(lambda: call(node.port)).release()
    reasons = [row.rejected for row in rows(sqlite_sessions, PeerAssociation) if row.rejected]
    assert set(reasons) == {"too many associations of this peer", "too many associations"}
    assert len(reasons) == 5 + 4


def test_a_peer_has_the_cap_it_was_added_with(tmp_path, sqlite_sessions):
    add(sqlite_sessions, ae_title="CT1", max_associations=1)
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        first = call(node.port)
        assert first.is_established
        assert rejection(call(node.port)) == (2, 3, 2)
        first.abort()
        until_established(lambda: call(node.port)).release()


# --- space and health -------------------------------------------------------------------------------------


@pytest.mark.dcmtk
def test_a_nearly_full_store_turns_senders_away_for_the_moment_but_answers_echo(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, retention={"refuse_free_bytes": 1 << 60})
    with running_node(settings, sqlite_sessions) as node:
        assert rejection(call(node.port)) == (2, 3, 1)
        assert rejection(call(node.port, contexts=(Verification, CTImageStorage))) == (2, 3, 1)
        command = [tool("echoscu"), "-aec", "FIRSTREAD", "127.0.0.1", str(node.port)]
        assert subprocess.run(command, timeout=30, check=False).returncode == 0
    (event, _) = [e for e in rows(sqlite_sessions, AuditEvent) if e.tag == "association:rejected"]
    assert event.detail["reason"] == "the instance store is nearly full"


def echo_status(port):
    assoc = call(port, contexts=(Verification,))
    assert assoc.is_established
    status = assoc.send_c_echo().Status
    assoc.release()
    return status


def test_echo_says_when_the_disk_or_the_database_cannot_be_used(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        assert echo_status(node.port) == 0x0000
        incoming = node.inbox.instances.incoming
        incoming.rename(incoming.with_name("moved"))
        assert echo_status(node.port) == 0x0110
        incoming.with_name("moved").rename(incoming)
        assert echo_status(node.port) == 0x0000
        assert list(incoming.iterdir()) == []  # what it wrote to try is gone
        with sqlite_sessions() as session:
            session.execute(text("ALTER TABLE peer RENAME TO away"))
            session.commit()
        assert echo_status(node.port) == 0x0110
        with sqlite_sessions() as session:
            session.execute(text("ALTER TABLE away RENAME TO peer"))
            session.commit()
        assert echo_status(node.port) == 0x0000


def test_nobody_is_let_in_before_the_database_has_said_who_may(tmp_path):
    settings = node_settings(tmp_path)
    door = Door(settings, make_sessions(make_engine(settings.database)))  # never migrated
    rejected = door.enter(Asking("CT1", "FIRSTREAD", "127.0.0.1")).rejection
    assert (rejected.result, rejected.source, rejected.diagnostic) == (2, 3, 1)


def test_associations_a_killed_node_left_open_are_lost(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path)
    with running_node(settings, sqlite_sessions) as node:
        call(node.port).release()
        until_ended(sqlite_sessions)
    dead = Door(settings, sqlite_sessions)  # of a process that was killed in the middle
    left_open = dead.enter(Asking("CT1", "FIRSTREAD", "127.0.0.1")).association_id
    dead.enter(Asking("CT1", "ELSEWHERE", "127.0.0.1"))
    with running_node(settings, sqlite_sessions):
        ends = {row.id: row.ended_how for row in rows(sqlite_sessions, PeerAssociation) if not row.rejected}
    assert sorted(ends.values()) == ["lost", "released"]
    assert ends[left_open] == "lost"
    (event,) = [e for e in rows(sqlite_sessions, AuditEvent) if e.object_id == str(left_open) and "finished" in e.tag]
    assert (event.outcome, event.detail["how"]) == ("failure", "lost")


def until_ended(sessions):
    deadline = time.monotonic() + 5
    while not all(row.ended_at for row in rows(sessions, PeerAssociation)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


class BrokenDoor:
    """A doorkeeper with a defect."""

    def enter(self, asking):
        raise KeyError(asking.calling_ae)

    def leave(self, association_id, **how):
        raise AssertionError("nobody came in")


@pytest.mark.parametrize("fast_receive", [True, False])
def test_a_defect_of_ours_lets_nobody_in(tmp_path, sqlite_sessions, fast_receive):
    settings = node_settings(tmp_path, dicom={"fast_receive": fast_receive})
    inbox = make_inbox(sqlite_sessions, settings)
    inbox.prepare()
    ears = open_ears(settings)
    listener = Listener(ears, NodeContext(inbox, BrokenDoor(), sqlite_sessions, settings))
    listener.start()
    try:
        assert rejection(call(ears[0].port)) == (2, 3, 1)
    finally:
        listener.stop(1.0)


# --- odd AE titles ----------------------------------------------------------------------------------------

ODD = {
    "blank": b" " * 16,
    "zeros": b"\0" * 16,
    "zero inside": b"CT\x001" + b" " * 12,
    "control": b"CT\n1\x1b[31m".ljust(16),
    "backslash": b"A\\B" + b" " * 13,
    "latin-1": "RÖNTGEN".encode("latin-1").ljust(16),
    "utf-8": "RÖNTGEN".encode().ljust(16),
    "all bits": b"\xff" * 16,
    "quotes": b"'; DROP TABLE--'"[:16],
}


def association_request(calling, called=b"FIRSTREAD       "):
    """An A-ASSOCIATE-RQ for Verification with any 16 bytes as AE titles (PS3.8 section 9.3.2)."""

    def item(kind, content):
        return bytes((kind, 0)) + len(content).to_bytes(2, "big") + content

    context = item(0x20, b"\x01\0\0\0" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2"))
    user = item(0x50, item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3.4"))
    body = b"\0\x01\0\0" + called + calling + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return b"\x01\0" + len(body).to_bytes(4, "big") + body


def ask_raw(port, request):
    """Send a request; return the type of the PDU that answers, and its bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(request)
        answer = b""
        while len(answer) < 10:
            piece = sock.recv(1024)
            if not piece:
                break
            answer += piece
    return answer


def test_odd_ae_titles_are_refused_recorded_and_harmless(tmp_path, sessions):
    settings = node_settings(tmp_path, dicom={"peers": [{"ae_title": "CT1"}]})
    judged = [title for title in ODD.values() if title.isascii() and title.strip()]
    with running_node(settings, sessions) as node:
        for title in ODD.values():
            as_calling = ask_raw(node.port, association_request(title))
            as_called = ask_raw(node.port, association_request(b"CT1".ljust(16), title))
            if title in judged:
                assert (as_calling[:1], as_calling[7:10]) == (b"\x03", b"\x01\x01\x03")  # A-ASSOCIATE-RJ
                assert (as_called[:1], as_called[7:10]) == (b"\x03", b"\x01\x01\x07")
            else:  # A-ABORT: that is no AE title at all (PS3.8 section 9.3.2)
                assert (as_calling[:1], as_called[:1]) == (b"\x07", b"\x07")
        call(node.port).release()
    found = rows(sessions, PeerAssociation)
    assert len([row for row in found if row.rejected]) == 2 * len(judged)
    assert len([row for row in found if not row.rejected]) == 1
    for row in found:
        assert len(row.calling_ae) <= 16
        assert row.calling_ae.isprintable()
        assert row.called_ae.isprintable()
    assert {row.calling_ae for row in found} >= {"", "CT?1", "CT?1?[31m", "A\\B", "'; DROP TABLE--'"}


def test_a_title_padded_with_zeros_is_the_title(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"peers": [{"ae_title": "CT1"}]})
    with running_node(settings, sqlite_sessions) as node:
        request = association_request(b"CT1".ljust(16, b"\0"), b"FIRSTREAD".ljust(16, b"\0"))
        assert ask_raw(node.port, request)[:1] == b"\x02"


# --- all receivers together -------------------------------------------------------------------------------


def test_receiver_processes_share_the_caps_and_the_peers(tmp_path, sqlite_url):
    authority = Authority(tmp_path / "ca")
    caps = {"receivers": 2, "max_associations_per_peer": 3, "tls": authority.settings(authority.issue("node"))}
    settings = node_settings(tmp_path, dicom=caps, database_url=sqlite_url)
    mine = authority.issue("CT1")
    tls = TlsSettings(certificate=mine.certificate, key=mine.key, authorities=authority.file)
    with running_node(settings, make_sessions(make_engine(sqlite_url))) as node:
        add(node.sessions, ae_title="CT1", host="127.0.0.1", certificate_subject=mine.subject)
        add(node.sessions, ae_title="MR1", host="127.0.0.1")
        callers = all_at_once(node.port, [("MR1", "127.0.0.1")] * 10)
        open_now = [assoc for assoc in callers if assoc.is_established]
        assert len(open_now) == 3
        assert {rejection(assoc) for assoc in callers if not assoc.is_established} == {(2, 3, 2)}
        scu.echo(scu.Address("localhost", node.tls_port, "FIRSTREAD", "CT1", tls))
        assert rejection(call(node.port, "CT1")) == (1, 1, 3)
        assert call(node.tls_port, "MR1").is_established is False  # not TLS
        for assoc in open_now:
            assoc.release()
    found = rows(node.sessions, PeerAssociation)
    assert [row.tls_subject for row in found if row.calling_ae == "CT1" and not row.rejected] == [mine.subject]
    assert {row.rejected for row in found if "TLS" in row.rejected} == {
        "this calling AE title is bound to a certificate: TLS only",
        "TLS: the other side does not speak TLS",
    }
