"""Peers that people add: known without a restart, bound to their address, counted, and told what to do when refused."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import EnhancedSRStorage, Verification
from sqlalchemy import text

from config.errors import LifecycleError, PeerUnavailableError, RefusedInputError
from config.settings import Destination, Peer
from db import peers as peer_rows
from db.models import AuditEvent, PeerAssociation
from db.peer_models import AddedPeer
from db.uow import Actor, unit_of_work
from dicom_node import scu
from dicom_node.context import Asking
from dicom_node.door import Door
from dicom_node.names import Names
from dicom_node.probe import examine, wanted_of
from firstread import peers as verbs
from tests.dcmtk import tool
from tests.node_support import audit_tags, node_settings, rows, running_node
from tests.tls_support import Authority

ADMIN = Actor("cli:admin", "person")


def add(sessions, **values):
    with unit_of_work(sessions, ADMIN) as uow:
        peer_rows.add_peer(uow, Peer(**values))


def call(port, calling="CT1", *, host="127.0.0.1", contexts=(CTImageStorage,), called="FIRSTREAD"):
    """Associate from an address of this machine."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 30
    for context in contexts:
        ae.add_requested_context(context)
    return ae.associate("127.0.0.1", port, ae_title=called, bind_address=(host, 0))


def rejection(assoc):
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def firstread(folder, *words):
    environment = os.environ | {"FIRSTREAD_DATA_DIR": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "firstread", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


# --- the table --------------------------------------------------------------------------------------------


def test_peers_are_added_once_removed_and_never_forgotten(sessions):
    add(sessions, ae_title="CT1", host="10.0.0.5", port=104, called_ae=("FIRSTREAD",), max_associations=3, tls=True)
    add(sessions, ae_title="CT1", host="10.0.0.6")
    with pytest.raises(LifecycleError, match=r"CT1 from 10\.0\.0\.5 was added already"):
        add(sessions, ae_title="CT1", host="10.0.0.5")
    with unit_of_work(sessions, ADMIN) as uow:
        assert len(peer_rows.remove_peers(uow, "CT1", "10.0.0.5")) == 1
    add(sessions, ae_title="CT1", host="10.0.0.5")  # and again
    with unit_of_work(sessions, ADMIN) as uow:
        assert len(peer_rows.remove_peers(uow, "CT1")) == 2
    with sessions() as session:
        assert peer_rows.added_peers(session) == []
    kept = rows(sessions, AddedPeer)
    assert len(kept) == 3
    assert {(row.removed_by, row.added_by) for row in kept} == {("cli:admin", "cli:admin")}
    assert audit_tags(sessions) == ["peer:added"] * 2 + ["peer:removed", "peer:added"] + ["peer:removed"] * 2
    first = rows(sessions, AuditEvent)[0]
    assert (first.actor, first.object_type) == ("cli:admin", "peer")
    assert first.detail == {
        "ae_title": "CT1",
        "host": "10.0.0.5",
        "port": 104,
        "certificate_subject": "",
        "called_ae": ["FIRSTREAD"],
        "max_associations": 3,
        "tls": True,
    }


def test_removing_somebody_who_was_not_added_is_refused(sqlite_sessions):
    with pytest.raises(RefusedInputError, match="no peer CT1 was added"), unit_of_work(sqlite_sessions, ADMIN) as uow:
        peer_rows.remove_peers(uow, "CT1")


def test_two_administrators_add_the_same_peer_at_once_and_one_is_told(sessions):
    barrier = threading.Barrier(4)

    def attempt(_):
        barrier.wait()
        try:
            add(sessions, ae_title="CT1", host="10.0.0.5")
        except LifecycleError:
            return "refused"
        return "added"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["added", "refused", "refused", "refused"]
    assert len(rows(sessions, AddedPeer)) == 1


# --- default deny -----------------------------------------------------------------------------------------


def test_the_command_a_rejection_names_lets_the_caller_in_without_a_restart(tmp_path, sqlite_url):
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copyfile(sqlite_url.removeprefix("sqlite:///"), folder / "firstread.db")
    settings = node_settings(folder)
    with running_node(settings) as node:
        add(node.sessions, ae_title="PACS")
        time.sleep(2.1)
        assert rejection(call(node.port, "CT ROOM 1")) == (1, 1, 3)
        assert rejection(call(node.port, "CT ROOM 1")) == (1, 1, 3)
        assert rejection(call(node.port, "PACS", called="ELSEWHERE")) == (1, 1, 7)
        (event, _, called) = [e for e in rows(node.sessions, AuditEvent) if e.tag == "association:rejected"]
        assert event.detail["hint"] == "firstread node peers add 'CT ROOM 1' --host 127.0.0.1"
        assert called.detail["hint"] == "the peer must call FIRSTREAD; or add its called AE title to dicom.profiles"
        refused = verbs.refused(settings)
        assert [(row["calling_ae"], row["times"], row["reason"]) for row in refused] == [
            ("PACS", 1, "called AE title is not ours"),
            ("CT ROOM 1", 2, "calling AE title is not configured"),
        ]
        command = refused[1]["what_to_do"]
        assert command == event.detail["hint"]
        listed = firstread(folder, "node", "peers", "list", "--refused")
        assert f"    {command}\n" in listed.stdout
        done = firstread(folder, *shlex.split(command)[1:])
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, "CT ROOM 1 may call from 127.0.0.1")
        assoc = until_established(lambda: call(node.port, "CT ROOM 1"))
        assert [row["calling_ae"] for row in verbs.refused(settings)] == ["PACS"]
        verbs.remove(settings, "CT ROOM 1", None)
        time.sleep(2.1)
        assert rejection(call(node.port, "CT ROOM 1")) == (1, 1, 3)
        assert assoc.is_established  # who is in stays in
        assoc.release()


def until_established(attempt, seconds=5.0):
    deadline = time.monotonic() + seconds
    while True:
        assoc = attempt()
        if assoc.is_established:
            return assoc
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_first_peer_ends_the_open_house_of_this_machine(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path)
    with running_node(settings, sqlite_sessions) as node:
        call(node.port, "ANYBODY").release()
        add(sqlite_sessions, ae_title="CT1", host="127.0.0.2")
        time.sleep(2.1)
        assert rejection(call(node.port, "ANYBODY")) == (1, 1, 3)
        call(node.port, "CT1", host="127.0.0.2").release()


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
    from db.engine import make_engine, make_sessions

    settings = node_settings(tmp_path)
    door = Door(settings, make_sessions(make_engine(settings.database)))  # never migrated
    rejected = door.enter(Asking("CT1", "FIRSTREAD", "127.0.0.1")).rejection
    assert (rejected.result, rejected.source, rejected.diagnostic) == (2, 3, 1)


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


# --- echo and test ----------------------------------------------------------------------------------------


@pytest.fixture
def pacs():
    """Some PACS: Verification and Enhanced SR."""
    ae = AE("PACS")
    ae.add_supported_context(Verification)
    ae.add_supported_context(EnhancedSRStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    yield server.server_address[1]
    ae.shutdown()


def test_a_peer_is_looked_at_step_by_step(pacs):
    address = scu.Address("localhost", pacs, "PACS", "FIRSTREAD")
    destination = Destination(name="pacs", ae_title="PACS", host="localhost", port=pacs, drafts=True)
    steps = {step.name: step for step in examine(address, wanted_of(destination))}
    assert list(steps)[:4] == ["name", "TCP", "association", "C-ECHO"]
    assert all(steps[name].is_good for name in ("name", "TCP", "association", "C-ECHO", "Enhanced SR Storage"))
    assert "127.0.0.1" in steps["name"].note
    assert "PYNETDICOM" in steps["association"].note
    assert steps["C-ECHO"].note == "status 0x0000"
    assert steps["C-ECHO"].milliseconds > 0
    segmentation, commitment = steps["Segmentation Storage"], steps["Storage Commitment Push Model"]
    assert (segmentation.is_good, segmentation.note) == (False, "SOP Class not supported")
    assert commitment.is_good  # it is not asked for
    assert "nothing of it is sent there" in commitment.note


@pytest.mark.parametrize(
    ("host", "port", "step", "note"),
    [
        ("no.such.host.invalid", 104, "name", "cannot be resolved"),
        ("127.0.0.1", 1, "TCP", "Connection refused"),
    ],
)
def test_the_first_step_that_fails_says_why(host, port, step, note):
    last = list(examine(scu.Address(host, port, "PACS", "FIRSTREAD")))[-1]
    assert (last.name, last.is_good) == (step, False)
    assert note in last.note


def test_a_rejection_is_told_in_words(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"peers": [{"ae_title": "OTHER"}]})
    with running_node(settings, sqlite_sessions) as node:
        last = list(examine(scu.Address("127.0.0.1", node.port, "FIRSTREAD", "ME")))[-1]
        assert last.note == "the association was rejected: calling AE title not recognised"
        last = list(examine(scu.Address("127.0.0.1", node.port, "NOBODY", "OTHER")))[-1]
        assert last.note == "the association was rejected: called AE title not recognised"


def test_the_tls_step_shows_whose_certificate_until_when(tmp_path, sqlite_sessions):
    authority = Authority(tmp_path / "ca")
    tls = authority.settings(authority.issue("node", days=10))
    settings = node_settings(tmp_path, dicom={"tls": tls})
    with running_node(settings, sqlite_sessions) as node:
        secured = scu.Address("localhost", node.tls_port, "FIRSTREAD", "ME", settings.dicom.tls)
        steps = {step.name: step for step in examine(secured)}
    assert steps["TLS"].is_good
    assert "TLSv1.3, certificate of CN=node,O=Hospital by CN=Hospital CA,O=Hospital, until " in steps["TLS"].note
    assert "(9 days: SOON)" in steps["TLS"].note
    assert steps["C-ECHO"].is_good


def test_the_verbs_find_destinations_by_name_and_peers_by_title(tmp_path, pacs):
    settings = node_settings(
        tmp_path,
        destinations=[{"name": "archive", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs}],
        dicom={"peers": [{"ae_title": "CT1", "host": "10.0.0.5"}]},
    )
    with running_node(settings):
        verbs.add(settings, ae_title="US1", host="127.0.0.1", port=pacs)
        assert verbs.echo(settings, "archive") == "PACS"
        assert verbs.echo(settings, "PACS") == "PACS"
        with pytest.raises(PeerUnavailableError, match="it is not known where CT1 listens"):
            verbs.echo(settings, "CT1")
        with pytest.raises(RefusedInputError, match="no destination and no peer 'XX'; there are: archive, CT1, US1"):
            verbs.echo(settings, "XX")
        assert next(row["from"] for row in verbs.listed(settings)) == "settings"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"ae_title": ""}, "is no AE title"),
        ({"ae_title": "SEVENTEEN_LETTERS"}, "is no AE title"),
        ({"ae_title": "A\\B"}, "is no AE title"),
        ({"ae_title": "ÄE"}, "is no AE title"),
        ({"ae_title": "CT1", "host": "10.1.2.3/24"}, "host: '10.1.2.3/24' is no host name, address or network"),
        ({"ae_title": "CT1", "host": "10.1.2.300"}, "is no host name, address or network"),
        ({"ae_title": "CT1", "port": 70000}, "port: "),
        ({"ae_title": "CT1", "max_associations": 0}, "max associations: "),
        ({"ae_title": "CT1", "certificate_subject": "CT1"}, "is no certificate subject"),
        ({"ae_title": "CT1", "certificate_subject": f"CN=x,O={'y' * 64}," + "OU=z," * 100 + "O=a"}, "400 characters"),
        ({"ae_title": "CT1", "called_ae": ("NOT_OURS",)}, "NOT_OURS is no AE title of ours; there are: FIRSTREAD"),
        ({"ae_title": "PACS"}, "PACS is in the settings"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, sqlite_url, values, told):
    settings = node_settings(tmp_path, dicom={"peers": [{"ae_title": "PACS"}]}, database_url=sqlite_url)
    with pytest.raises(RefusedInputError) as caught:
        verbs.add(settings, **values)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert verbs.listed(settings) == [row for row in verbs.listed(settings) if row["from"] == "settings"]


def test_a_peer_of_the_settings_is_removed_there(tmp_path, sqlite_url):
    settings = node_settings(tmp_path, dicom={"peers": [{"ae_title": "PACS"}]}, database_url=sqlite_url)
    with pytest.raises(RefusedInputError, match=r"PACS is in the settings \(dicom.peers\): remove it there"):
        verbs.remove(settings, "PACS", None)


def test_the_command_line_says_one_line_and_an_exit_code(tmp_path, sqlite_url, pacs):
    shutil.copyfile(sqlite_url.removeprefix("sqlite:///"), tmp_path / "firstread.db")
    added = firstread(tmp_path, "node", "peers", "add", "PACS", "--host", "127.0.0.1", "--port", str(pacs))
    assert (added.returncode, added.stdout.splitlines()) == (
        0,
        [
            "PACS may call from 127.0.0.1",
            "this is the first peer: from now on only peers may call, also from this machine",
        ],
    )
    again = firstread(tmp_path, "node", "peers", "add", "PACS", "--host", "127.0.0.1")
    assert (again.returncode, len(again.stdout.splitlines())) == (2, 1)
    tested = firstread(tmp_path, "node", "peers", "test", "PACS")
    assert tested.returncode == 0
    assert [line.split(":")[0] for line in tested.stdout.splitlines()][:4] == [
        "ok   name",
        "ok   TCP",
        "ok   association",
        "ok   C-ECHO",
    ]
    echoed = firstread(tmp_path, "node", "echo", "PACS")
    assert (echoed.returncode, echoed.stdout) == (0, "PACS answers\n")
