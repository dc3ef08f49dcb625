"""DICOM over TLS: who is let in by which certificate, what the others are told, and certificates that change."""

import os
import socket
import ssl
import subprocess
import time

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from config.errors import ConfigurationError, PeerUnavailableError
from config.settings import TlsSettings
from db.models import AuditEvent, Instance, PeerAssociation
from dicom_node import scu, tls
from tests.dcmtk import tool
from tests.node_support import ct_slice, node_settings, rows, running_node, write_file
from tests.tls_support import Authority

SUBJECT = "CN=CT1,O=Hospital"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def certificates(authority, tmp_path_factory):
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "Other CA")
    impostor = Authority(tmp_path_factory.mktemp("impostor"), "Hospital CA")  # of the same name
    return {
        "node": authority.issue("node"),
        "CT1": authority.issue("CT1"),
        "MR1": authority.issue("MR1"),
        "expired": authority.issue("expired", subject=SUBJECT, days=-2),
        "short": authority.issue("short", subject=SUBJECT, rsa_bits=1024),
        "rsa": authority.issue("rsa", subject=SUBJECT, rsa_bits=2048),
        "stranger": stranger.issue("CT1"),
        "forged": impostor.issue("CT1"),
    }


PEERS = [
    {"ae_title": "CT1", "host": "127.0.0.1", "certificate_subject": SUBJECT},
    {"ae_title": "ANY", "host": "127.0.0.0/8"},
]


@pytest.fixture
def node(tmp_path, sqlite_sessions, authority, certificates):
    settings = node_settings(tmp_path, dicom={"tls": authority.settings(certificates["node"]), "peers": PEERS})
    with running_node(settings, sqlite_sessions) as node:
        yield node


def caller(node, authority, issued, calling="CT1", host="127.0.0.1"):
    settings = TlsSettings(certificate=issued.certificate, key=issued.key, authorities=authority.file)
    return scu.Address(host, node.tls_port, "FIRSTREAD", calling, settings)


def refusal(peer):
    with pytest.raises(PeerUnavailableError) as caught:
        scu.echo(peer)
    return str(caught.value)


def test_a_peer_with_its_certificate_stores(node, authority, certificates, tmp_path):
    ds = ct_slice()
    path = write_file(tmp_path / "ct.dcm", ds)
    item = scu.Outgoing(path, str(ds.SOPClassUID), "1.2.840.10008.1.2.1")
    (sent,) = scu.store(caller(node, authority, certificates["CT1"]), [item])
    assert sent.accepted
    (instance,) = rows(node.sessions, Instance)
    assert instance.sop_instance_uid == ds.SOPInstanceUID
    (association,) = rows(node.sessions, PeerAssociation)
    assert (association.tls_subject, association.calling_ae) == (SUBJECT, "CT1")
    accepted = [e for e in rows(node.sessions, AuditEvent) if e.tag == "association:accepted"]
    assert [e.detail["tls_subject"] for e in accepted] == [SUBJECT]


def test_pynetdicoms_own_path_knows_the_certificate_too(tmp_path, sqlite_sessions, authority, certificates):
    tls_settings = authority.settings(certificates["node"])
    settings = node_settings(tmp_path, dicom={"tls": tls_settings, "peers": PEERS, "fast_receive": False})
    with running_node(settings, sqlite_sessions) as node:
        scu.echo(caller(node, authority, certificates["CT1"]))
        assert "not recognised" in refusal(caller(node, authority, certificates["MR1"]))
    assert [row.tls_subject for row in rows(sqlite_sessions, PeerAssociation)] == [SUBJECT, "CN=MR1,O=Hospital"]


def test_rsa_certificates_do_too(node, authority, certificates):
    scu.echo(caller(node, authority, certificates["rsa"]))


def test_the_name_of_the_node_is_compared_by_the_caller(node, authority, certificates):
    scu.echo(caller(node, authority, certificates["CT1"], host="localhost"))


@pytest.mark.requirement("REQ-ACCESS-9")
def test_another_peers_certificate_is_not_enough_and_the_command_names_it(node, authority, certificates):
    assert "calling AE title not recognised" in refusal(caller(node, authority, certificates["MR1"]))
    (event,) = [e for e in rows(node.sessions, AuditEvent) if e.tag == "association:rejected"]
    assert event.detail["reason"] == "calling AE title with another certificate"
    assert event.detail["hint"] == (
        "firstread node peers add CT1 --host 127.0.0.1 --certificate-subject CN=MR1,O=Hospital"
    )


def test_a_peer_bound_to_a_certificate_may_not_call_without_tls(node):
    plain = scu.Address("127.0.0.1", node.port, "FIRSTREAD", "CT1")
    assert "calling AE title not recognised" in refusal(plain)
    scu.echo(scu.Address("127.0.0.1", node.port, "FIRSTREAD", "ANY"))


@pytest.mark.parametrize(
    ("which", "told_to_the_caller", "recorded"),
    [
        ("expired", "it says our certificate has expired", "its certificate has expired"),
        ("stranger", "it does not know the authority of our certificate", "dicom.tls.authorities"),
        ("forged", "not signed by the authority it names", "not signed by the authority it names"),
    ],
)
def test_certificates_that_prove_nothing_are_refused_and_recorded(
    node, authority, certificates, which, told_to_the_caller, recorded
):
    assert told_to_the_caller in refusal(caller(node, authority, certificates[which]))
    refused = wait_for_refusals(node, 2)  # both peers may call from this address
    assert {row.calling_ae for row in refused} == {"CT1", "ANY"}
    assert all(recorded in row.rejected for row in refused)
    assert {e.outcome for e in rows(node.sessions, AuditEvent) if e.tag == "association:rejected"} == {"failure"}
    scu.echo(caller(node, authority, certificates["CT1"]))  # and the node goes on


def wait_for_refusals(node, count):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [row for row in rows(node.sessions, PeerAssociation) if row.rejected]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("no refusal was recorded")


def attempt(node, context):
    """Handshake and one read; the error that ends it."""
    try:
        with (
            socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            return sock.recv(1) or "closed"
    except (ssl.SSLError, ConnectionError) as exc:
        return exc


def client(authority, issued=None):
    context = ssl.create_default_context(cafile=authority.file)
    if issued:
        context.load_cert_chain(issued.certificate, issued.key)
    return context


def test_a_certificate_with_a_short_key_is_refused(node, authority, certificates):
    short = client(authority)
    short.set_ciphers("DEFAULT:@SECLEVEL=0")  # a caller that does not mind
    short.load_cert_chain(certificates["short"].certificate, certificates["short"].key)
    assert isinstance(attempt(node, short), ssl.SSLError)
    assert "the key of its certificate is too short" in wait_for_refusals(node, 1)[0].rejected


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_a_certificate_nobody_is_let_in(node, authority, version):
    context = client(authority)
    context.minimum_version = context.maximum_version = version
    assert isinstance(attempt(node, context), ssl.SSLError)
    assert "it showed no certificate" in wait_for_refusals(node, 1)[0].rejected


@pytest.mark.requirement("REQ-ACCESS-10")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_1_1_and_weak_suites_are_refused(node, authority, certificates):
    old = client(authority, certificates["CT1"])
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    failure = attempt(node, old)
    assert isinstance(failure, ssl.SSLError)
    assert "PROTOCOL_VERSION" in failure.reason
    assert "it speaks no TLS version that we allow" in wait_for_refusals(node, 1)[0].rejected
    weak = client(authority, certificates["CT1"])
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")  # CBC: allowed by TLS 1.2, not by RFC 9325
    assert isinstance(attempt(node, weak), ssl.SSLError)
    assert any("no cipher suite" in row.rejected for row in wait_for_refusals(node, 4))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_give_forward_secrecy_and_no_session_to_resume(node, authority, certificates, version):
    context = client(authority, certificates["CT1"])
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        name, protocol, bits = sock.cipher()
        assert protocol == ("TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
        assert bits >= 128
        assert "GCM" in name or "CHACHA20" in name
        assert sock.compression() is None
        assert sock.session is None or not sock.session.has_ticket


def test_a_plain_caller_on_the_tls_port_gets_nothing(node):
    ae = AE("ANY")
    ae.acse_timeout = 10
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", node.tls_port, ae_title="FIRSTREAD")
    assert not assoc.is_established
    assert "does not speak TLS" in wait_for_refusals(node, 1)[0].rejected


def test_a_handshake_that_never_comes_blocks_nobody(node, authority, certificates):
    silent = [socket.create_connection(("127.0.0.1", node.tls_port)) for _ in range(5)]
    began = time.monotonic()
    scu.echo(caller(node, authority, certificates["CT1"]))
    assert time.monotonic() - began < 3
    for sock in silent:
        sock.close()


def renew(issued, made):
    """Put other files in the place of a certificate and its key, as a renewal does."""
    made.key.replace(issued.key)
    made.certificate.replace(issued.certificate)
    for file in (issued.key, issued.certificate):  # long enough ago to be finished
        os.utime(file, ns=(time.time_ns() - 3_000_000_000,) * 2)


def serial(node, context):
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        return sock.getpeercert()["serialNumber"]


def test_a_renewed_certificate_is_used_at_once_and_a_broken_one_is_not(tmp_path, sqlite_sessions, authority):
    mine = authority.issue("renewable")
    context = client(authority, authority.issue("looker"))
    settings = node_settings(tmp_path, dicom={"tls": authority.settings(mine)})
    current = tls.server_context(settings, sqlite_sessions)
    with running_node(settings, sqlite_sessions) as node:
        first = serial(node, context)
        renew(mine, authority.issue("renewed"))
        second = serial(node, context)
        assert second != first
        current()
        mine.certificate.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        os.utime(mine.certificate, ns=(time.time_ns() - 2_000_000_000,) * 2)
        assert serial(node, context) == second
        current()
        renew(mine, authority.issue("late", days=-1))
        assert serial(node, context) == second
        current()
        other = authority.issue("mismatch")
        renew(mine, authority.issue("last"))
        other.key.replace(mine.key)  # the key of another certificate
        os.utime(mine.key, ns=(time.time_ns() - 2_000_000_000,) * 2)
        assert serial(node, context) == second
        current()
    events = [e for e in rows(sqlite_sessions, AuditEvent) if e.tag == "certificate:loaded"]
    assert {e.detail["subject"] for e in events if e.outcome == "success"} >= {
        "CN=renewable,O=Hospital",
        "CN=renewed,O=Hospital",
    }
    reasons = dict.fromkeys(e.detail["reason"] for e in events if e.outcome == "failure")
    parts = ("holds no certificate", "has expired", "private key")
    assert [next(part for part in parts if part in reason) for reason in reasons] == list(parts)


def test_a_certificate_being_written_is_left_alone_until_it_is_whole(tmp_path, authority):
    mine = authority.issue("writing")
    current = tls.server_context(node_settings(tmp_path, dicom={"tls": authority.settings(mine)}))
    before = current()
    mine.certificate.write_text("half of it")  # just now
    assert current() is before
    assert current() is before


@pytest.mark.parametrize(
    "damage", ["absent", "not a certificate", "expired", "other key", "encrypted key", "no authorities"]
)
def test_a_node_does_not_start_with_a_certificate_it_cannot_use(tmp_path, authority, certificates, damage):
    files = authority.settings(certificates["node"])
    bad = tmp_path / "bad.pem"
    match damage:
        case "absent":
            files["certificate"] = bad
        case "not a certificate":
            bad.write_text("hello")
            files["certificate"] = bad
        case "expired":
            files |= {"certificate": certificates["expired"].certificate, "key": certificates["expired"].key}
        case "other key":
            files["key"] = certificates["CT1"].key
        case "encrypted key":
            subprocess.run(
                ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", files["key"], "-out", bad],
                check=True,
                capture_output=True,
            )
            files["key"] = bad
        case "no authorities":
            bad.write_text("nobody")
            files["authorities"] = bad
    with pytest.raises(ConfigurationError) as caught:
        tls.server_context(node_settings(tmp_path, dicom={"tls": files}))
    assert "\n" not in str(caught.value)


# --- peers of others --------------------------------------------------------------------------------------


def dcmtk(name, *arguments):
    return subprocess.run([tool(name), *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)


def options(authority, issued, calling):
    return ["+tls", issued.key, issued.certificate, "+cf", authority.file, "-aet", calling, "-aec", "FIRSTREAD"]


@pytest.mark.dcmtk
def test_echoscu_and_storescu_with_their_certificate(node, authority, certificates, tmp_path):
    path = write_file(tmp_path / "ct.dcm", ct_slice())
    secured = options(authority, certificates["CT1"], "CT1")
    assert dcmtk("echoscu", *secured, "localhost", node.tls_port).returncode == 0
    sent = dcmtk("storescu", *secured, "localhost", node.tls_port, path)
    assert sent.returncode == 0, sent.stderr
    assert len(rows(node.sessions, Instance)) == 1


@pytest.mark.dcmtk
@pytest.mark.parametrize("which", ["expired", "stranger", "forged", "MR1", "anonymous", "plain"])
def test_echoscu_is_refused_without_the_right_certificate(node, authority, certificates, which):
    if which == "plain":
        secured = ["-aet", "CT1", "-aec", "FIRSTREAD"]
    elif which == "anonymous":
        secured = ["+tla", "+cf", authority.file, "-aet", "CT1", "-aec", "FIRSTREAD"]
    else:
        secured = options(authority, certificates[which], "CT1")
    refused = dcmtk("echoscu", *secured, "-ta", "5", "localhost", node.tls_port)
    assert refused.returncode != 0
    assert wait_for_refusals(node, 1)
