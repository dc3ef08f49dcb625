"""Storage commitment that peers ask of us: answered when it is stored, reported when the files were read again."""

import json
import time
from datetime import timedelta

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from db.commitment_models import CommitmentRequest, RequestState
from db.lifecycle import commitment_requests
from db.models import AuditEvent, Instance, Quarantined
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.commitment import report_due
from dicom_node.commitment_scp import MAX_ATTEMPTS
from dicom_node.scp import start_node
from tests.commitment_support import (
    Modality,
    action_information,
    send_action,
    send_raw_action,
)
from tests.node_support import ct_slice, migrated_sessions, node_settings, rows, running_node, store
from tests.orthanc import running_orthanc

NODE = Actor("node", "process")


@pytest.fixture
def modality():
    peer = Modality()
    yield peer
    peer.stop()


def settings_with(tmp_path, *peers):
    listed = [{"ae_title": p.ae_title, "host": "127.0.0.1", "port": p.port} for p in peers]
    return node_settings(tmp_path, dicom={"peers": listed, "receivers": 0})


@pytest.fixture
def node(tmp_path, modality, sqlite_sessions):
    """A node that knows where the modality listens, but does its duties only when told."""
    with running_node(settings_with(tmp_path, modality), sqlite_sessions) as node:
        node.settings = settings_with(tmp_path, modality)
        yield node


def stored(node, number):
    slices = [ct_slice() for _ in range(number)]
    assert [store(node.port, ds)[0] for ds in slices] == [0x0000] * number
    return [(CTImageStorage, str(ds.SOPInstanceUID)) for ds in slices]


def report_now(node, now=None):
    return report_due(node.sessions, node.settings, now or utcnow())


def request_row(node):
    (row,) = rows(node.sessions, CommitmentRequest)
    return row


def commitment_events(node):
    return [e for e in rows(node.sessions, AuditEvent) if e.tag.startswith("commitment:")]


def test_what_is_held_as_received_is_committed_on_an_association_we_open_under_the_called_name(node, modality):
    pairs = stored(node, 3)
    asked = action_information(pairs)
    assert modality.ask(node.port, asked) == 0x0000
    assert modality.reports == []  # the answer says only that the request is stored
    assert (request_row(node).state, request_row(node).calling_ae) == (RequestState.WAITING, "MODALITY")
    assert report_now(node) == 1
    (report,) = modality.reports
    assert (report.event_type, report.transaction, report.calling_ae) == (1, asked.TransactionUID, "FIRSTREAD")
    assert report.committed == pairs
    assert report.failed == {}
    assert request_row(node).state is RequestState.REPORTED
    requested, reported = commitment_events(node)
    assert (requested.actor, requested.actor_kind, requested.detail["instances"]) == ("MODALITY", "peer", 3)
    assert (reported.tag, reported.detail["committed"], reported.detail["failed"]) == ("commitment:reported", 3, 0)
    assert report_now(node) == 0


@pytest.mark.requirement("REQ-RECV-10")
def test_an_altered_byte_on_the_disk_is_never_committed_and_becomes_a_matter_for_a_person(node, modality):
    pairs = stored(node, 2)
    row = next(i for i in rows(node.sessions, Instance) if i.sop_instance_uid == pairs[1][1])
    path = node.settings.instances_dir / row.path
    content = bytearray(path.read_bytes())
    content[-7] ^= 0x01
    path.write_bytes(content)
    for _ in range(2):  # asked twice, it is doubted once
        assert modality.ask(node.port, action_information(pairs)) == 0x0000
        assert report_now(node) == 1
    for report in modality.reports:
        assert (report.event_type, report.committed, report.failed) == (2, pairs[:1], {pairs[1][1]: 0x0110})
    (doubted,) = rows(node.sessions, Quarantined)
    assert (doubted.error, doubted.reason) == ("AlteredInstanceError", "the kept file is not what was received")
    assert (doubted.study_id, doubted.sop_instance_uid) == (row.study_id, pairs[1][1])
    assert "instance:quarantined" in [e.tag for e in rows(node.sessions, AuditEvent) if e.outcome == "failure"]


@pytest.mark.requirement("REQ-RECV-10")
def test_every_instance_is_in_exactly_one_list_with_its_reason(node, modality):
    pairs = stored(node, 6)
    kept, gone, cut, other, deleted, absent_class = pairs
    folder = node.settings.instances_dir
    by_uid = {row.sop_instance_uid: row for row in rows(node.sessions, Instance)}
    (folder / by_uid[gone[1]].path).unlink()
    (folder / by_uid[cut[1]].path).write_bytes(b"no DICOM")
    (folder / by_uid[deleted[1]].path).unlink()
    with unit_of_work(node.sessions, NODE) as uow:
        uow.session.get(Instance, by_uid[deleted[1]].id).deleted_at = utcnow()
    never = (CTImageStorage, generate_uid())
    asked = [kept, gone, cut, (MRImageStorage, other[1]), deleted, ("1.2.3.4", absent_class[1]), never]
    assert modality.ask(node.port, action_information(asked)) == 0x0000
    assert report_now(node) == 1
    (report,) = modality.reports
    assert report.event_type == 2
    assert report.committed == [kept]
    assert report.failed == {
        gone[1]: 0x0110,
        cut[1]: 0x0110,
        other[1]: 0x0119,
        deleted[1]: 0x0112,
        absent_class[1]: 0x0119,
        never[1]: 0x0112,
    }
    assert sorted(report.committed + report.failed_pairs) == sorted(asked)


def without(ds, keyword):
    delattr(ds, keyword)
    return ds


PAIR = (CTImageStorage, "1.2.3")
MALFORMED = {
    "no information": None,
    "no transaction": without(action_information([PAIR]), "TransactionUID"),
    "no sequence": without(action_information([PAIR]), "ReferencedSOPSequence"),
    "empty sequence": action_information([]),
    "one Instance under two classes": action_information([PAIR, (MRImageStorage, "1.2.3")]),
}


def test_a_request_that_says_nothing_is_refused_and_not_kept(node, modality):
    answers = {name: modality.ask(node.port, information) for name, information in MALFORMED.items()}
    assert answers == dict.fromkeys(MALFORMED, 0x0115)
    assert rows(node.sessions, CommitmentRequest) == []


GARBAGE = (
    b"\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff",
    b"\x00" * 40,
    b"\x08\x00\x95\x11UI\x06\x001.2.ab",
    b"\x08\x00\x95\x11UI\x06\x001..2.3" + b"\x08\x00\x99\x11SQ\x00\x00\x00\x00\x00\x00",
)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_that_are_no_request_are_refused_and_the_association_lives(node, modality):
    assoc = modality.associate(node.port)
    assert [send_raw_action(assoc, data) for data in GARBAGE] == [0x0115] * len(GARBAGE)
    assert send_action(assoc, action_information([PAIR])) == (0x0000, "")
    assoc.release()
    assert len(rows(node.sessions, CommitmentRequest)) == 1


def test_another_action_and_another_instance_have_statuses_of_their_own(node, modality):
    assert modality.ask(node.port, action_information([PAIR]), action_type=2) == 0x0123
    assert modality.ask(node.port, action_information([PAIR]), instance="1.2.3.4") == 0x0112
    assoc = modality.associate(node.port)
    status, comment = send_action(assoc, action_information([]))
    assoc.release()
    assert (status, comment) == (0x0115, "Referenced SOP Sequence is missing or empty")
    assert rows(node.sessions, CommitmentRequest) == []


def test_the_same_request_again_is_reported_again(node, modality):
    pairs = stored(node, 2)
    asked = action_information(pairs)
    again = action_information(reversed(pairs), asked.TransactionUID)
    assert modality.ask(node.port, asked) == 0x0000
    assert modality.ask(node.port, again) == 0x0000  # its first answer was lost
    assert report_now(node) == 1
    assert modality.ask(node.port, asked) == 0x0000  # the report was lost
    assert report_now(node) == 1
    assert [(r.event_type, r.committed) for r in modality.reports] == [(1, pairs), (1, pairs)]
    assert [e.detail.get("repeated") for e in commitment_events(node) if e.tag == "commitment:requested"] == [
        False, True, True,
    ]  # fmt: skip


def test_a_transaction_uid_used_for_other_instances_fails_as_a_whole(node, modality):
    first, second = stored(node, 2)
    asked = action_information([first])
    assert modality.ask(node.port, asked) == 0x0000
    assert report_now(node) == 1
    assert modality.ask(node.port, action_information([second], asked.TransactionUID)) == 0x0000
    assert report_now(node) == 1
    assert [(r.event_type, r.committed, r.failed) for r in modality.reports] == [
        (1, [first], {}),
        (2, [], {second[1]: 0x0131}),
    ]


def test_two_peers_may_choose_the_same_transaction_uid(tmp_path, modality, sqlite_sessions):
    other = Modality("OTHER")
    settings = settings_with(tmp_path, modality, other)
    try:
        with running_node(settings, sqlite_sessions) as node:
            node.settings = settings
            pairs = stored(node, 2)
            asked = action_information(pairs[:1])
            assert modality.ask(node.port, asked) == 0x0000
            assert other.ask(node.port, action_information(pairs[1:], asked.TransactionUID)) == 0x0000
            assert report_now(node) == 2
        assert [r.committed for r in (*modality.reports, *other.reports)] == [pairs[:1], pairs[1:]]
    finally:
        other.stop()


def test_a_peer_that_is_away_is_told_later_and_in_the_end_given_up_in_sight(node, modality):
    asked = action_information(stored(node, 1))
    assert modality.ask(node.port, asked) == 0x0000
    modality.status = 0x0110  # it takes no report now
    now = utcnow()
    for delay_s in (30, 60, 120):
        assert report_now(node, now) == 0
        row = request_row(node)
        assert row.last_error == "our report was answered 0x0110"
        assert delay_s * 0.7 < (row.next_attempt_at - utcnow()).total_seconds() < delay_s * 1.3
        assert report_now(node, now) == 0
        assert request_row(node).attempts == row.attempts
        now = row.next_attempt_at + timedelta(seconds=1)
    with unit_of_work(node.sessions, NODE) as uow:
        uow.session.get(CommitmentRequest, row.id).attempts = MAX_ATTEMPTS - 1
    assert report_now(node, now) == 0
    assert request_row(node).state is RequestState.FAILED
    last = commitment_events(node)[-1]
    assert (last.tag, last.outcome, last.detail["attempts"]) == ("commitment:report_failed", "failure", MAX_ATTEMPTS)
    modality.status = 0x0000
    assert report_now(node, now + timedelta(days=1)) == 0
    assert modality.ask(node.port, asked) == 0x0000  # it asks once more, and everything begins anew
    assert report_now(node) == 1


def test_an_old_peer_that_says_nothing_of_roles_is_told_all_the_same(tmp_path, sqlite_sessions):
    peer = Modality(gives_role=False)
    settings = settings_with(tmp_path, peer)
    try:
        with running_node(settings, sqlite_sessions) as node:
            node.settings = settings
            assert peer.ask(node.port, action_information([PAIR])) == 0x0000
            assert report_now(node) == 1
            assert peer.reports[0].failed == {"1.2.3": 0x0112}
    finally:
        peer.stop()


def wait_for(done, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return done()


@pytest.mark.parametrize("fast", [True, False])
def test_without_a_port_the_report_goes_over_the_association_of_the_request(tmp_path, modality, sqlite_sessions, fast):
    settings = node_settings(tmp_path, dicom={"receivers": 0, "fast_receive": fast})
    with running_node(settings, sqlite_sessions) as node:
        node.settings = settings
        pairs = stored(node, 2)
        assoc = modality.associate(node.port)
        assert send_action(assoc, action_information(pairs))[0] == 0x0000
        assert wait_for(lambda: modality.reports)
        assert send_action(assoc, action_information(pairs[:1]))[0] == 0x0000  # the association goes on
        assert wait_for(lambda: len(modality.reports) == 2)
        assoc.release()
        assert [(r.event_type, r.committed) for r in modality.reports] == [(1, pairs), (1, pairs[:1])]
        assert wait_for(lambda: {r.state for r in rows(node.sessions, CommitmentRequest)} == {RequestState.REPORTED})
        assert report_now(node, utcnow() + timedelta(hours=1)) == 0


def test_without_a_port_and_without_association_the_administrator_reads_what_to_add(
    tmp_path, modality, sqlite_sessions
):
    settings = node_settings(tmp_path, dicom={"receivers": 0})
    sessions = sqlite_sessions
    with running_node(settings, sessions) as node:
        node.settings = settings
        asked = action_information(stored(node, 1))
        with unit_of_work(sessions, Actor("MODALITY", "peer")) as uow:
            commitment_requests.request_commitment(
                uow,
                commitment_requests.CommitmentAsked(asked.TransactionUID, [PAIR], "MODALITY", "FIRSTREAD", "127.0.0.1"),
                not_before=utcnow(),
            )
        assert report_now(node) == 0
        assert request_row(node).last_error.endswith("firstread node peers add MODALITY --port PORT")
        known = settings_with(tmp_path, modality)
        assert report_due(sessions, known, utcnow() + timedelta(minutes=5)) == 1
        assert modality.reports[0].failed == {"1.2.3": 0x0112}


def test_a_peer_of_a_network_is_called_where_its_request_came_from(tmp_path, modality, sqlite_sessions):
    peers = [{"ae_title": "MODALITY", "host": "127.0.0.0/8", "port": modality.port}]
    settings = node_settings(tmp_path, dicom={"peers": peers, "receivers": 0})
    with running_node(settings, sqlite_sessions) as node:
        node.settings = settings
        assert modality.ask(node.port, action_information(stored(node, 1))) == 0x0000
        assert report_now(node) == 1


def test_of_two_devices_with_one_ae_title_the_one_that_asked_is_told(tmp_path, modality, sqlite_sessions):
    hosts = (("192.0.2.9", 104), ("127.0.0.1", modality.port))
    peers = [{"ae_title": "MODALITY", "host": host, "port": port} for host, port in hosts]
    settings = node_settings(tmp_path, dicom={"peers": peers, "receivers": 0})
    with running_node(settings, sqlite_sessions) as node:
        node.settings = settings
        assert modality.ask(node.port, action_information([PAIR])) == 0x0000
        assert report_now(node) == 1
    assert len(modality.reports) == 1


def test_thousands_in_one_request_are_answered_at_once_and_reported_completely(node, modality):
    held = stored(node, 2)
    pairs = [*held, *((CTImageStorage, f"1.2.826.0.1.{number}") for number in range(2500))]
    began = time.monotonic()
    assert modality.ask(node.port, action_information(pairs)) == 0x0000
    assert time.monotonic() - began < 10
    assert report_now(node) == 1
    (report,) = modality.reports
    assert report.committed == held
    assert set(report.failed.values()) == {0x0112}
    assert [pair[1] for pair in pairs[2:]] == list(report.failed)


def test_a_node_with_receivers_keeps_asks_and_reports_by_itself(tmp_path, modality):
    peers = [{"ae_title": "MODALITY", "host": "127.0.0.1", "port": modality.port}]
    settings = node_settings(tmp_path, dicom={"peers": peers, "receivers": 1})
    node = start_node(settings, migrated_sessions(settings))
    try:
        pairs = stored(node, 2)
        assert modality.ask(node.port, action_information(pairs)) == 0x0000
        assert wait_for(lambda: modality.reports, 20)
    finally:
        node.stop()
    assert [(r.event_type, r.committed) for r in modality.reports] == [(1, pairs)]


def test_orthanc_asks_and_believes_us(tmp_path, sqlite_sessions):
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        peers = [
            {"ae_title": "PACS", "host": "127.0.0.1", "port": orthanc.dicom_port},
            {"ae_title": "MODALITY", "host": "127.0.0.1"},
        ]
        settings = node_settings(tmp_path / "node", dicom={"peers": peers, "receivers": 0})
        with running_node(settings, sqlite_sessions) as node:
            node.settings = settings
            orthanc.register("us", "FIRSTREAD", node.port)
            pairs = stored(node, 2)
            lost = (CTImageStorage, generate_uid())
            answers = []
            for asked in (pairs, [*pairs, lost]):
                items = [{"SOPClassUID": c, "SOPInstanceUID": i} for c, i in asked]
                made = orthanc.rest(
                    "POST", "/modalities/us/storage-commitment", json.dumps({"DicomInstances": items}).encode()
                )
                assert report_now(node) == 1
                answers.append(orthanc.rest("GET", made["Path"]))
        assert [answer["Status"] for answer in answers] == ["Success", "Failure"]
        assert {i["SOPInstanceUID"] for i in answers[0]["Success"]} == {i for _, i in pairs}
        assert [(f["SOPInstanceUID"], f["FailureReason"]) for f in answers[1]["Failures"]] == [(lost[1], 0x0112)]
        assert answers[0]["RemoteAET"] == "FIRSTREAD"
