"""Peers that people add: known without a restart, found, looked at, and told what to do when refused."""

import json
import shlex
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import EnhancedSRStorage, Verification
from typer.testing import CliRunner

from config.errors import LifecycleError, PeerUnavailableError, RefusedInputError
from config.logs import configure_logs
from config.settings import Destination
from db import peers as peer_rows
from db.models import AuditEvent
from db.peer_models import AddedPeer
from db.uow import unit_of_work
from dicom_node import scu
from dicom_node.probe import examine, wanted_of
from firstread import peers as verbs
from firstread.cli import app
from tests.node_support import audit_tags, node_settings, rows, running_node
from tests.peers_support import ADMIN, add, call, rejection, until_established
from tests.tls_support import Authority


def firstread(folder, *words):
    """Run a verb of the command line in this process; exit code and what it printed."""
    try:
        run = CliRunner().invoke(app, list(words), env={"FIRSTREAD_DATA_DIR": str(folder)})
    finally:
        configure_logs(level="WARNING", json=False, process="tests")
    return run.exit_code, run.stdout


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
        _, listed = firstread(folder, "node", "peers", "list", "--refused")
        assert f"    {command}\n" in listed
        assert firstread(folder, *shlex.split(command)[1:]) == (0, "CT ROOM 1 may call from 127.0.0.1\n")
        assoc = until_established(lambda: call(node.port, "CT ROOM 1"))
        assert [row["calling_ae"] for row in verbs.refused(settings)] == ["PACS"]
        verbs.remove(settings, "CT ROOM 1", None)
        time.sleep(2.1)
        assert rejection(call(node.port, "CT ROOM 1")) == (1, 1, 3)
        assert assoc.is_established  # who is in stays in
        assoc.release()


def test_the_first_peer_ends_the_open_house_of_this_machine(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path)
    with running_node(settings, sqlite_sessions) as node:
        call(node.port, "ANYBODY").release()
        add(sqlite_sessions, ae_title="CT1", host="127.0.0.2")
        time.sleep(2.1)
        assert rejection(call(node.port, "ANYBODY")) == (1, 1, 3)
        call(node.port, "CT1", host="127.0.0.2").release()


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
        ({"ae_title": "CT1", "tls": True}, "dicom.tls.certificate must be set"),
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
    assert added == (
        0,
        "PACS may call from 127.0.0.1\n"
        "this is the first peer: from now on only peers may call, also from this machine\n",
    )
    again = "error: PACS from 127.0.0.1 was added already; remove it first to change it\n"
    assert firstread(tmp_path, "node", "peers", "add", "PACS", "--host", "127.0.0.1") == (2, again)
    code, tested = firstread(tmp_path, "node", "peers", "test", "PACS")
    assert code == 0
    steps = ["ok   name", "ok   TCP", "ok   association", "ok   C-ECHO"]
    assert [line.split(":")[0] for line in tested.splitlines()][:4] == steps
    assert firstread(tmp_path, "node", "echo", "PACS") == (0, "PACS answers\n")
    assert firstread(tmp_path, "node", "peers", "echo", "PACS") == (0, "PACS answers\n")
    code, listed = firstread(tmp_path, "node", "peers", "list", "--json")
    assert (code, [row["ae_title"] for row in json.loads(listed)]) == (0, ["PACS"])
    code, remarked = firstread(tmp_path, "node", "peers", "add", "MR1", "--certificate-subject", "CN=MR1")
    assert (code, remarked.splitlines()) == (
        0,
        [
            "MR1 may call from any address",
            "the node has no TLS yet (dicom.tls): until it has, this peer cannot call",
        ],
    )
    assert firstread(tmp_path, "node", "peers", "remove", "PACS") == (0, "PACS was removed\n")
    assert firstread(tmp_path, "node", "peers", "remove", "PACS") == (2, "error: no peer PACS was added\n")
    assert firstread(tmp_path, "node", "peers", "test", "PACS")[0] == 2
