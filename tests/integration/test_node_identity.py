"""What is negotiated beside presentation contexts: user identity, storage level, called AE titles, roles."""

import io

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_role
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation, UserIdentityNegotiation
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from config.logs import configure_logs
from db.models import AuditEvent, PeerAssociation
from tests.node_support import node_settings, rows, running_node

pytestmark = pytest.mark.filterwarnings("ignore:.*user_identity.*")
PASSCODE = "s3cret-pässcode"


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    file = tmp_path / "passcode"
    file.write_text(PASSCODE + "\n", encoding="utf-8")
    peers = [
        {"ae_title": "SECURE", "user": "ct-console", "passcode_file": str(file)},
        {"ae_title": "NAMED", "user": "ct-console"},
        {"ae_title": "FREE"},
    ]
    profiles = [{"ae_title": "FIRSTREAD_CT", "sop_classes": [CTImageStorage]}, {"ae_title": "FIRSTREAD_ALL"}]
    settings = node_settings(tmp_path / "node", dicom={"peers": peers, "profiles": profiles})
    with running_node(settings, sqlite_sessions) as node:
        yield node


def identity(kind, first=b"ct-console", second=b"", *, answer=True):
    item = UserIdentityNegotiation()
    item.user_identity_type = kind
    item.primary_field = first
    if second:
        item.secondary_field = second
    item.positive_response_requested = answer
    return item


def call(node, calling, *items, called="FIRSTREAD", contexts=(CTImageStorage,)):
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 20
    for context in contexts:
        ae.add_requested_context(context, ExplicitVRLittleEndian)
    return ae.associate("127.0.0.1", node.port, ae_title=called, ext_neg=list(items))


def rejection(assoc):
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


@pytest.mark.parametrize(
    ("calling", "items"),
    [
        ("SECURE", [identity(2, second=PASSCODE.encode())]),
        ("NAMED", [identity(1)]),
        ("NAMED", [identity(2, second=b"anything")]),
    ],
)
def test_the_right_user_is_let_in_answered_and_recorded(node, calling, items):
    assoc = call(node, calling, *items)
    assert assoc.is_established
    assert assoc.acceptor.user_identity is not None  # the positive response that was asked for
    assert assoc.acceptor.user_identity.server_response == b""
    assoc.release()
    (row,) = rows(node.sessions, PeerAssociation)
    assert row.user_identity == "ct-console"
    (event,) = [e for e in rows(node.sessions, AuditEvent) if e.tag == "association:accepted"]
    assert event.detail["user"] == "ct-console"


def test_nothing_is_answered_to_who_did_not_ask(node):
    assoc = call(node, "NAMED", identity(1, answer=False))
    assert assoc.is_established
    assert assoc.acceptor.user_identity is None
    assoc.release()


def test_an_identity_nobody_asked_for_is_neither_confirmed_nor_recorded(node):
    assoc = call(node, "FREE", identity(2, b"technologist", b"x"))
    assert assoc.is_established
    assert assoc.acceptor.user_identity is None
    assoc.release()
    assert [row.user_identity for row in rows(node.sessions, PeerAssociation)] == [""]


@pytest.mark.parametrize(
    ("calling", "items", "reason"),
    [
        ("SECURE", [], "a user identity is required"),
        ("NAMED", [], "a user identity is required"),
        ("SECURE", [identity(1)], "user identity is not the one required"),
        ("SECURE", [identity(2, second=b"wrong")], "user identity is not the one required"),
        ("SECURE", [identity(2, second=PASSCODE.encode() + b"\n")], "user identity is not the one required"),
        ("SECURE", [identity(2, b"other", PASSCODE.encode())], "user identity is not the one required"),
        ("SECURE", [identity(2, b"\xff\xfe\x00", b"\xff")], "user identity is not the one required"),
        ("NAMED", [identity(1, b"CT-CONSOLE")], "user identity is not the one required"),
        ("NAMED", [identity(3)], "this type of user identity cannot be checked"),
        ("FREE", [identity(4, b"<saml/>")], "this type of user identity cannot be checked"),
        ("FREE", [identity(5, b"e30.e30.")], "this type of user identity cannot be checked"),
    ],
)
def test_other_users_are_rejected_for_good_and_without_a_word_why(node, calling, items, reason):
    assert rejection(call(node, calling, *items)) == (1, 2, 1)
    (row,) = rows(node.sessions, PeerAssociation)
    assert (row.rejected, row.user_identity) == (reason, "")
    (event,) = [e for e in rows(node.sessions, AuditEvent) if e.tag == "association:rejected"]
    assert event.detail["reason"] == reason
    assert PASSCODE not in str(event.detail)


def test_no_passcode_reaches_the_log(node):
    stream = io.StringIO()
    configure_logs(level="DEBUG", json=True, process="node", stream=stream)
    try:
        call(node, "SECURE", identity(2, second=b"wrong-passcode"))
        call(node, "SECURE", identity(2, second=PASSCODE.encode())).release()
    finally:
        configure_logs(level="WARNING", json=False, process="tests")
    log = stream.getvalue()
    assert log.count("association.rejected") == 1
    assert 'passcode"' not in log
    assert "wrong-passcode" not in log
    assert PASSCODE not in log
    assert "s3cret" not in log


# --- storage level ----------------------------------------------------------------------------------------


def level(sop_class, information):
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = sop_class
    item.service_class_application_information = information
    return item


def test_storage_is_full_keeps_signatures_and_coerces_nothing(node):
    items = [level(uid, b"\x02\x00\x00\x00\x00\x00") for uid in (CTImageStorage, MRImageStorage, "1.2.3.4.5")]
    items.append(level(Verification, b"\x01"))
    assoc = call(node, "FREE", *items, contexts=(CTImageStorage, MRImageStorage, Verification))
    answered = assoc.acceptor.sop_class_extended
    assoc.release()
    # level 2; signature level 3, every bit is kept; no coercion (PS3.4 table B.3-2)
    full = b"\x02\x00\x03\x00\x00\x00"
    assert answered == {CTImageStorage: full, MRImageStorage: full, "1.2.3.4.5": full}


def test_storage_level_is_not_volunteered(node):
    assoc = call(node, "FREE")
    assert assoc.acceptor.sop_class_extended == {}
    assoc.release()


# --- called AE titles and roles ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("called", "taken"),
    [
        ("FIRSTREAD_CT", {CTImageStorage, Verification, StorageCommitmentPushModel}),
        ("FIRSTREAD_ALL", {CTImageStorage, MRImageStorage, Verification, StorageCommitmentPushModel}),
        ("FIRSTREAD", {CTImageStorage, MRImageStorage, Verification, StorageCommitmentPushModel}),
    ],
)
def test_each_called_ae_title_accepts_its_own_storage_classes(node, called, taken):
    proposed = (CTImageStorage, MRImageStorage, Verification, StorageCommitmentPushModel)
    assoc = call(node, "FREE", called=called, contexts=proposed)
    assert {cx.abstract_syntax for cx in assoc.accepted_contexts} == taken
    assert {cx.abstract_syntax: cx.result for cx in assoc.rejected_contexts} == dict.fromkeys(set(proposed) - taken, 3)
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_an_association_with_nothing_we_take_is_accepted_without_contexts(node):
    assoc = call(node, "FREE", called="FIRSTREAD_CT", contexts=(MRImageStorage,))
    assert not assoc.is_established
    assert [cx.result for cx in assoc.rejected_contexts] == [3]


def test_a_peer_may_be_the_provider_of_storage_commitment(node):
    """It reports on an association of its own, where it is SCP and we are SCU (PS3.4 J.3.3)."""
    ae = AE("FREE")
    ae.add_requested_context(StorageCommitmentPushModel, ExplicitVRLittleEndian)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    assoc = ae.associate(
        "127.0.0.1",
        node.port,
        ae_title="FIRSTREAD",
        ext_neg=[role],
    )
    (context,) = assoc.accepted_contexts
    assert (context.as_scu, context.as_scp) == (False, True)
    assoc.release()
