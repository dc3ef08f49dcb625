"""Who may associate, and what would let in whoever may not."""

import ipaddress
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.settings import DicomSettings, Peer
from dicom_node import policy
from dicom_node.context import Asking, Rejection
from dicom_node.policy import Welcome, judge_caller, judge_crowd
from dicom_node.tls import same_subject

DICOM = DicomSettings(profiles=[{"ae_title": "FIRSTREAD_ER"}], max_associations=4, max_associations_per_peer=2)
CT1 = Peer(ae_title="CT1", host="10.0.0.5")
PACS = Peer(ae_title="PACS", max_associations=7)
WARD = Peer(ae_title="CR ROOM 3", host="10.9.0.0/16", called_ae=("FIRSTREAD_ER",))
SECURE = Peer(ae_title="MR1", host="10.0.0.7", certificate_subject="CN=MR1,O=Hospital")
V6 = Peer(ae_title="US1", host="2001:db8::/64")
NAMED = Peer(ae_title="XA1", host="xa1.hospital.org")
PEERS = (CT1, PACS, WARD, SECURE, V6, NAMED)
SUBJECT = "CN=MR1,O=Hospital"


def ask(calling="CT1", address="10.0.0.5", called="FIRSTREAD", **more):
    return Asking(calling_ae=calling, called_ae=called, address=address, **more)


def names(host):
    return {"xa1.hospital.org": {"10.0.0.9", "2001:db8:1::9"}}.get(host, ())


@pytest.mark.parametrize(
    ("asking", "peers", "expected"),
    [
        # nobody is configured: this machine only, whatever it calls itself
        (ask("ANY", "127.0.0.1"), (), None),
        (ask("ANY", "127.8.9.10"), (), None),
        (ask("ANY", "::1"), (), None),
        (ask("ANY", "::ffff:127.0.0.1"), (), None),
        (ask("", "127.0.0.1"), (), None),
        (ask("ANY", "10.0.0.5"), (), policy.NOT_LOOPBACK),
        (ask("ANY", "no address"), (), policy.NOT_LOOPBACK),
        # called AE titles
        (ask("ANY", "127.0.0.1", "OTHER"), (), policy.CALLED_AE),
        (ask("ANY", "127.0.0.1", "firstread"), (), policy.CALLED_AE),
        (ask("ANY", "127.0.0.1", ""), (), policy.CALLED_AE),
        (ask("ANY", "127.0.0.1", "FIRSTREAD_ER"), (), None),
        # somebody is configured: nobody else, not even from here
        (ask(), PEERS, None),
        (ask(address="::ffff:10.0.0.5"), PEERS, None),
        (ask("ct1"), PEERS, policy.CALLING_AE),
        (ask("CT2"), PEERS, policy.CALLING_AE),
        (ask("", "127.0.0.1"), PEERS, policy.CALLING_AE),
        (ask(address="10.0.0.6"), PEERS, policy.ADDRESS),
        (ask(address="127.0.0.1"), PEERS, policy.ADDRESS),
        (ask("PACS", "192.168.7.7"), PEERS, None),
        # networks
        (ask("CR ROOM 3", "10.9.255.255", "FIRSTREAD_ER"), PEERS, None),
        (ask("CR ROOM 3", "10.10.0.0", "FIRSTREAD_ER"), PEERS, policy.ADDRESS),
        (ask("CR ROOM 3", "10.9.1.1"), PEERS, policy.NOT_FOR_THIS_PEER),
        (ask("US1", "2001:db8::7%eth0"), PEERS, None),
        (ask("US1", "2001:db8:0:1::7"), PEERS, policy.ADDRESS),
        (ask("US1", "10.0.0.5"), PEERS, policy.ADDRESS),
        # host names
        (ask("XA1", "10.0.0.9"), PEERS, None),
        (ask("XA1", "2001:db8:1::9"), PEERS, None),
        (ask("XA1", "10.0.0.5"), PEERS, policy.ADDRESS),
        # certificates
        (ask("MR1", "10.0.0.7", is_tls=True, tls_subject=SUBJECT), PEERS, None),
        (ask("MR1", "10.0.0.7"), PEERS, policy.NO_CERTIFICATE),
        (ask("MR1", "10.0.0.7", is_tls=True), PEERS, policy.CERTIFICATE),
        (ask("MR1", "10.0.0.7", is_tls=True, tls_subject="CN=CT1,O=Hospital"), PEERS, policy.CERTIFICATE),
        (ask("MR1", "10.0.0.6", is_tls=True, tls_subject=SUBJECT), PEERS, policy.ADDRESS),
        (ask(is_tls=True, tls_subject="CN=anything"), PEERS, None),
        # one AE title twice: one of them is enough, and the nearest fault is told
        (ask(address="10.0.0.6"), (CT1, Peer(ae_title="CT1", host="10.0.0.6")), None),
        (
            ask("MR1", "10.0.0.8", is_tls=True, tls_subject="CN=x"),
            (SECURE, Peer(ae_title="MR1", host="10.0.0.8", certificate_subject="CN=y")),
            policy.CERTIFICATE,
        ),
        # user identities nobody here can check
        (ask("ANY", "127.0.0.1", identity_type=3), (), policy.UNCHECKABLE),
        (ask(identity_type=4), PEERS, policy.UNCHECKABLE),
        (ask(identity_type=5), PEERS, policy.UNCHECKABLE),
        (ask(identity_type=77), PEERS, policy.UNCHECKABLE),
        (ask(identity_type=1, user="jdoe"), PEERS, None),
    ],
)
def test_who_may_call(asking, peers, expected):
    verdict = judge_caller(DICOM, asking, peers, addresses_of=names)
    if expected is None:
        assert isinstance(verdict, Welcome)
    else:
        assert isinstance(verdict, Rejection)
        wire = (verdict.result, verdict.source, verdict.diagnostic)
        assert (wire, verdict.reason) == ((expected.result, expected.source, expected.diagnostic), expected.reason)
        assert verdict.hint


@pytest.mark.parametrize(
    ("asking", "peers", "command"),
    [
        (ask("CT9", "10.1.2.3"), (), "firstread node peers add CT9 --host 10.1.2.3"),
        (ask("CT9", "::ffff:10.1.2.3"), PEERS, "firstread node peers add CT9 --host 10.1.2.3"),
        (ask("CT 9", "fe80::1%eth0"), PEERS, "firstread node peers add 'CT 9' --host fe80::1"),
        (ask("-CT9", "10.1.2.3"), PEERS, "firstread node peers add --host 10.1.2.3 -- -CT9"),
        (ask("$(id)", "10.1.2.3"), PEERS, "firstread node peers add '$(id)' --host 10.1.2.3"),
        (ask(address="10.0.0.6"), PEERS, "firstread node peers add CT1 --host 10.0.0.6"),
        (
            ask("CT9", "10.1.2.3", is_tls=True, tls_subject="CN=CT9,O=St. Mary's"),
            PEERS,
            """firstread node peers add CT9 --host 10.1.2.3 --certificate-subject 'CN=CT9,O=St. Mary'"'"'s'""",
        ),
        (
            ask("CR ROOM 3", "10.9.1.1"),
            PEERS,
            "firstread node peers add 'CR ROOM 3' --host 10.9.1.1 --called-ae FIRSTREAD",
        ),
    ],
)
def test_a_rejection_says_what_to_add(asking, peers, command):
    assert judge_caller(DICOM, asking, peers, addresses_of=names).hint == command


@pytest.mark.parametrize("title", ["", "A\\B", "CT\n1", "CT\x001", "SEVENTEEN_LETTERS", "ÄE"])
def test_an_impossible_ae_title_gets_no_command(title):
    hint = judge_caller(DICOM, ask(title, "10.1.2.3"), PEERS).hint
    assert "peers add" not in hint
    assert hint.startswith("the peer must be given a calling AE title")


@pytest.mark.parametrize(
    ("given", "passcode", "expected"),
    [
        ({}, "s3cret", policy.NO_IDENTITY),
        ({"identity_type": 1, "user": "ct-console"}, "s3cret", policy.IDENTITY),
        ({"identity_type": 1, "user": "ct-console", "passcode": "s3cret"}, "s3cret", policy.IDENTITY),
        ({"identity_type": 2, "user": "ct-console", "passcode": "wrong"}, "s3cret", policy.IDENTITY),
        ({"identity_type": 2, "user": "somebody", "passcode": "s3cret"}, "s3cret", policy.IDENTITY),
        ({"identity_type": 2, "user": "ct-console", "passcode": ""}, "", policy.IDENTITY),
        ({"identity_type": 2, "user": "ct-console", "passcode": "\udcff"}, "s3cret", policy.IDENTITY),
        ({"identity_type": 2, "user": "ct-console", "passcode": "s3cret"}, "s3cret", None),
        ({"identity_type": 1, "user": "ct-console"}, None, None),
        ({"identity_type": 2, "user": "ct-console", "passcode": "any"}, None, None),
        ({"identity_type": 1, "user": "Ct-console"}, None, policy.IDENTITY),
    ],
)
def test_user_identities_are_compared(tmp_path, given, passcode, expected):
    file = None
    if passcode is not None:
        file = tmp_path / "passcode"
        file.write_text(passcode + "\n")
    peer = Peer(ae_title="CT1", user="ct-console", passcode_file=file)
    verdict = judge_caller(DICOM, ask(**given), (peer,))
    if expected is None:
        assert verdict == Welcome(2, is_identified=True)
    else:
        assert (verdict.reason, verdict.result, verdict.source, verdict.diagnostic) == (expected.reason, 1, 2, 1)


def test_a_passcode_file_that_is_gone_lets_nobody_in(tmp_path):
    peer = Peer(ae_title="CT1", user="u", passcode_file=tmp_path / "gone")
    verdict = judge_caller(DICOM, ask(identity_type=2, user="u", passcode=""), (peer,))
    assert verdict.reason == policy.IDENTITY.reason


def test_caps_count_a_peer_by_title_and_address_and_everybody_together():
    one = ask()
    assert judge_crowd(DICOM, one, [one], at_once=2) is None
    assert (
        judge_crowd(DICOM, ask(address="::ffff:10.0.0.5"), [one, one], at_once=2).reason
        == "too many associations of this peer"
    )
    assert judge_crowd(DICOM, ask(address="10.0.0.6"), [one, one], at_once=2) is None
    assert judge_crowd(DICOM, ask("CT2"), [one, one], at_once=2) is None
    full = judge_crowd(DICOM, ask("CT2"), [one] * 4, at_once=9)
    assert (full.result, full.source, full.diagnostic, full.reason) == (2, 3, 2, "too many associations")


def test_a_peer_may_have_its_own_cap():
    assert judge_caller(DICOM, ask("PACS"), PEERS) == Welcome(7)
    assert judge_caller(DICOM, ask(), PEERS) == Welcome(2)
    assert judge_caller(DICOM, ask("ANY", "127.0.0.1"), ()) == Welcome(2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CN=CT1,O=Hospital", "CN=CT1,O=Hospital", True),
        ("CN=CT1, O=Hospital", "CN=CT1,O=Hospital", False),  # a space that is part of nothing we would write
        ("CN=CT1,O=Hospital", "O=Hospital,CN=CT1", False),
        ("CN=CT1,O=Hospital", "CN=ct1,O=Hospital", False),
        ("CN=CT1+OU=x,O=Hospital", "OU=x+CN=CT1,O=Hospital", True),
        ("CN=CT1+OU=x,O=Hospital", "CN=CT1,OU=x,O=Hospital", False),
        ("CN=CT1\\,O=Hospital", "CN=CT1,O=Hospital", False),
        ("CN=CT1\\,O=Hospital", "CN=CT1\\2cO=Hospital", True),
        ("CN=CT1,O=Hospital", "CN=CT1", False),
        ("CN=CT1\\00.evil", "CN=CT1", False),
        ("", "", False),
        ("nonsense", "nonsense", False),
    ],
)
def test_certificate_subjects_are_compared_as_names(one, other, same):
    assert same_subject(one, other) is same


@pytest.mark.parametrize("host", ["10.1.2.3/24", "10.1.2.300", "10.1.2", "a b", "-", "ct1..org", "10.0.0.0/33"])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(ValidationError, match="is no host name, address or network"):
        Peer(ae_title="CT1", host=host)


_titles = st.one_of(st.sampled_from(["CT1", "PACS", "FIRSTREAD", "-x", ""]), st.text(max_size=20))


@pytest.mark.requirement("REQ-ACCESS-9")
@given(
    asking=st.builds(
        Asking,
        calling_ae=_titles,
        called_ae=_titles,
        address=st.one_of(st.ip_addresses().map(str), st.text(max_size=12)),
        tls_subject=st.one_of(st.just(SUBJECT), st.text(max_size=30)),
        is_tls=st.booleans(),
        identity_type=st.integers(0, 255),
        user=st.text(max_size=5),
        passcode=st.text(max_size=5),
    ),
    peers=st.lists(st.sampled_from(PEERS), max_size=4),
)
def test_no_request_is_let_in_that_is_not_a_peers_and_every_other_gets_a_reason(asking, peers):
    verdict = judge_caller(DICOM, asking, peers, addresses_of=names)
    if isinstance(verdict, Welcome):
        assert asking.called_ae in {"FIRSTREAD", "FIRSTREAD_ER"}
        assert asking.identity_type <= 2
        if peers:
            assert asking.calling_ae in {peer.ae_title for peer in peers}
        else:
            assert ipaddress.ip_address(policy.bare_address(asking.address)).is_loopback
    else:
        assert verdict.reason
        assert verdict.hint


@given(title=st.text(min_size=1, max_size=16), subject=st.text(max_size=40))
def test_a_shell_reads_the_command_as_it_was_meant(title, subject):
    command = policy.command_for(ask(title, "10.1.2.3", is_tls=True, tls_subject=subject))
    if not command.startswith("firstread"):
        return
    words = shlex.split(command)
    assert words[:4] == ["firstread", "node", "peers", "add"]
    assert title in words
    assert words[words.index("--host") + 1] == "10.1.2.3"
    if subject:
        assert words[words.index("--certificate-subject") + 1] == subject
