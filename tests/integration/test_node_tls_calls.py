"""We call peers with TLS: whom we trust, and what an administrator is told when we do not."""

import ssl

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from config.errors import PeerUnavailableError
from config.settings import Destination, Peer, TlsSettings
from dicom_node import scu, tls
from tests.node_support import node_settings
from tests.tls_support import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def pacs():
    """Start a PACS with a TLS context, or without; return its port."""
    started = []

    def start(context=None):
        ae = AE("PACS")
        ae.add_supported_context(Verification)
        started.append(ae)
        return ae.start_server(("127.0.0.1", 0), block=False, ssl_context=context).server_address[1]

    yield start
    for ae in started:
        ae.shutdown()


def context_of(authority, issued):
    context, _ = tls.load(TlsSettings(**authority.settings(issued)))
    return context


def ours(authority, **changes):
    return TlsSettings(**authority.settings(authority.issue("FIRSTREAD"), **changes))


def told(port, settings, host="localhost"):
    with pytest.raises(PeerUnavailableError) as caught:
        scu.echo(scu.Address(host, port, "PACS", "FIRSTREAD", settings))
    return str(caught.value)


def test_a_destination_with_tls_is_called_by_its_name_with_our_certificate(tmp_path, authority, pacs):
    shown = []
    context = context_of(authority, authority.issue("pacs"))
    port = pacs(context)
    settings = node_settings(tmp_path, dicom={"tls": authority.settings(authority.issue("FIRSTREAD"))})
    there = {"ae_title": "PACS", "host": "localhost", "port": port}
    context.set_servername_callback(lambda _sock, name, _context: shown.append(name))
    scu.echo(scu.address_of(Destination(name="pacs", tls=True, **there), settings))
    scu.echo(scu.address_of(Peer(tls=True, **there), settings))
    assert shown == ["localhost", "localhost"]
    with pytest.raises(PeerUnavailableError):
        scu.echo(scu.address_of(Destination(name="pacs", **there), settings))  # without TLS


@pytest.mark.parametrize("host", [None, "10.0.0.0/24"])
def test_a_peer_that_only_calls_us_cannot_be_called(tmp_path, host):
    with pytest.raises(PeerUnavailableError, match="it is not known where CT1 listens"):
        scu.address_of(Peer(ae_title="CT1", host=host, port=104), node_settings(tmp_path))


def test_what_is_wrong_with_a_peers_certificate_is_said(authority, pacs, tmp_path):
    stranger = Authority(tmp_path / "stranger", "Other CA")
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs = stranger.issue("pacs")
    foreign.load_cert_chain(theirs.certificate, theirs.key)
    late = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    expired = authority.issue("late", days=-1)
    late.load_cert_chain(expired.certificate, expired.key)
    elsewhere = pacs(context_of(authority, authority.issue("elsewhere", host="elsewhere.org")))
    mine = ours(authority)
    assert told(pacs(foreign), mine) == (
        "TLS: its certificate is from an authority that is not among dicom.tls.authorities"
    )
    assert told(pacs(late), mine) == "TLS: its certificate has expired"
    assert told(elsewhere, mine) == "TLS: its certificate is for another host name"
    assert told(elsewhere, mine, host="127.0.0.1") == "TLS: its certificate is for another address"
    scu.echo(scu.Address("localhost", elsewhere, "PACS", "FIRSTREAD", ours(authority, check_host=False)))


def test_what_a_peer_has_against_our_certificate_is_said(authority, pacs, tmp_path):
    port = pacs(context_of(authority, authority.issue("pacs")))
    expired, stranger = authority.issue("mine", days=-1), Authority(tmp_path / "stranger", "Other CA").issue("mine")

    def with_certificate(issued):
        return TlsSettings(certificate=issued.certificate, key=issued.key, authorities=authority.file)

    assert told(port, with_certificate(expired)) == "TLS: it says our certificate has expired"
    assert told(port, with_certificate(stranger)) == "TLS: it does not know the authority of our certificate"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_peer_with_old_tls_only_is_not_called(authority, pacs):
    context = context_of(authority, authority.issue("pacs"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert told(pacs(context), ours(authority)) == "TLS: it speaks no TLS version that we allow (1.2 or 1.3)"


def test_who_speaks_no_tls_or_is_not_there_is_said(authority, pacs):
    assert told(pacs(), ours(authority)) == "TLS: the other side does not speak TLS"
    assert told(1, ours(authority)) == "no connection: Connection refused"
    assert told(104, ours(authority), host="no.such.host.invalid") == (
        "the host name no.such.host.invalid cannot be resolved"
    )


def test_our_own_files_that_are_gone_are_said(authority, tmp_path):
    mine = ours(authority)
    gone = mine.model_copy(update={"key": tmp_path / "gone.key"})
    assert told(1, gone).startswith("TLS cannot be used: ")
    assert told(1, TlsSettings()) == "TLS cannot be used: dicom.tls needs certificate, key and authorities together"
