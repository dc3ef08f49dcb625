"""Associations over TCP: policy, limits, C-ECHO, concurrency, and what is recorded of them."""

import socket
import threading

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from db.models import AuditEvent, Instance, Reading, Study
from tests.node_support import (
    associate,
    audit_tags,
    ct_slice,
    encoded,
    node_settings,
    rows,
    running_node,
    store_bytes,
)
from tests.peers_support import rejection, until_established


def test_echo_is_answered(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        ae = AE("ASKER")
        ae.add_requested_context(Verification)
        assoc = ae.associate("127.0.0.1", node.port, ae_title="FIRSTREAD")
        assert assoc.send_c_echo().Status == 0x0000
        assoc.release()


@pytest.mark.requirement("REQ-AUDIT-5")
def test_another_called_ae_title_is_rejected_and_recorded(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        assert rejection(associate(node.port, called_ae="SOMEBODY")) == (1, 1, 7)
    (event,) = [e for e in rows(sqlite_sessions, AuditEvent) if e.tag == "association:rejected"]
    assert (event.actor, event.actor_kind, event.outcome) == ("MODALITY", "peer", "failure")
    assert event.detail["called_ae"] == "SOMEBODY"
    assert event.detail["address"] == "127.0.0.1"


@pytest.mark.requirement("REQ-ACCESS-9")
@pytest.mark.parametrize(
    ("peers", "accepted"),
    [
        ([{"ae_title": "MODALITY"}], True),
        ([{"ae_title": "MODALITY", "host": "127.0.0.1"}], True),
        ([{"ae_title": "MODALITY", "host": "10.1.2.3"}], False),
        ([{"ae_title": "OTHER"}], False),
    ],
)
def test_only_configured_peers_from_their_address_may_call(tmp_path, sqlite_sessions, peers, accepted):
    with running_node(node_settings(tmp_path, dicom={"peers": peers}), sqlite_sessions) as node:
        assoc = associate(node.port)
        assert assoc.is_established is accepted
        if accepted:
            assoc.release()
        else:
            assert rejection(assoc) == (1, 1, 3)


def test_associations_above_the_limit_are_rejected_for_the_moment(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path, dicom={"max_associations": 2}), sqlite_sessions) as node:
        held = [associate(node.port), associate(node.port)]
        assert all(assoc.is_established for assoc in held)
        assert rejection(associate(node.port)) == (2, 3, 2)
        for assoc in held:
            assoc.release()
        until_established(lambda: associate(node.port)).release()


def test_announced_pdu_size_and_implementation_are_ours(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        assoc = associate(node.port)
        assert assoc.acceptor.maximum_length == 131072
        assert str(assoc.acceptor.implementation_version_name).startswith("FIRSTREAD")
        assoc.release()


def test_aborted_associations_are_recorded_as_such(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        associate(node.port).abort()
    finished = [e for e in rows(sqlite_sessions, AuditEvent) if e.tag == "association:finished"]
    assert [e.detail["how"] for e in finished] == ["aborted"]


@pytest.mark.requirement("REQ-RECV-8")
def test_noise_on_the_port_harms_nobody(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff" + bytes(60), b"\x04\x00\x00\x00\x00\x01x"):
            with socket.create_connection(("127.0.0.1", node.port)) as peer:
                peer.sendall(noise)
        assoc = associate(node.port)
        assert assoc.is_established
        assoc.release()


def test_four_associations_into_one_study_lose_nothing(tmp_path, sessions):
    first = ct_slice()
    slices = [
        ct_slice(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID, InstanceNumber=n)
        for n in range(16)
    ]
    answers = []

    def send(port, some):
        assoc = associate(port)
        for ds in some:
            status, _ = store_bytes(assoc, encoded(ds), sop_class=CTImageStorage, sop_instance=ds.SOPInstanceUID)
            answers.append(status)
        assoc.release()

    with running_node(node_settings(tmp_path), sessions) as node:
        # each slice twice, from two associations that overlap
        parts = [slices[:8], slices[8:], slices[:8][::-1], slices[8:][::-1]]
        threads = [threading.Thread(target=send, args=(node.port, part)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [0x0000] * 32
    assert {row.sop_instance_uid for row in rows(sessions, Instance)} == {ds.SOPInstanceUID for ds in slices}
    (study,) = rows(sessions, Study)
    assert study.instance_count == 16
    assert len(rows(sessions, Reading)) == 1
    assert audit_tags(sessions).count("instance:duplicate") == 16
