"""Storage commitment we ask destinations for: believed from whom it was asked, resent where it was refused."""

import time
from datetime import timedelta

import pytest
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage, generate_uid
from sqlalchemy import update

from db.lifecycle import resubmit
from db.models import AuditEvent, Delivery, Reading, ResultObject
from db.types import CommitmentState, DeliveryState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node import commitment_scu
from dicom_node.archive import start_archive
from dicom_node.commitment import ask_due
from dicom_node.delivery import deliver_due
from tests.commitment_support import Pacs, event_information, report
from tests.integration.test_node_delivery import owe_objects
from tests.node_support import node_settings, rows, running_node
from tests.orthanc import running_orthanc

NODE = Actor("node", "process")
FREE = 9


def settings_for(tmp_path, port, *, ae_title="ARCHIVE", commitment=True, **changes):
    destination = {"name": "PACS0", "ae_title": ae_title, "host": "127.0.0.1", "port": port, "commitment": commitment}
    return node_settings(tmp_path, destinations=[destination], dicom={"receivers": 0}, **changes)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Where no report comes on the association of the request, the tests do not stay for one."""
    monkeypatch.setattr(commitment_scu, "SAME_ASSOCIATION_S", 0.0)


def delivered(tmp_path, sessions, port, **changes):
    """A SEG and an SR that a destination at ``port`` is said to hold, and the settings."""
    settings = settings_for(tmp_path, port, **changes)
    owe_objects(settings, sessions, ["PACS0"])
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    try:
        assert deliver_due(sessions, settings_for(tmp_path, archive.port), utcnow()) == 2
    finally:
        archive.stop()
    return settings


def soon():
    """When what was delivered just now may be asked for."""
    return utcnow() + timedelta(seconds=10)


def states(sessions):
    return {made.sop_class_uid: (d.state, d.commitment) for d, made in objects(sessions)}


def objects(sessions):
    made = {row.id: row for row in rows(sessions, ResultObject)}
    return [(delivery, made[delivery.result_object_id]) for delivery in rows(sessions, Delivery)]


def tags(sessions, prefix="delivery:commit"):
    return [e.tag for e in rows(sessions, AuditEvent) if e.tag.startswith(prefix)]


def both(state, commitment):
    return {SegmentationStorage: (state, commitment), Comprehensive3DSRStorage: (state, commitment)}


@pytest.fixture
def pacs():
    made = []

    def start(**changes):
        made.append(Pacs(**changes))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def test_delivered_objects_are_asked_for_in_one_request_and_committed_on_the_same_association(
    tmp_path, sqlite_sessions, pacs, monkeypatch
):
    monkeypatch.setattr(commitment_scu, "SAME_ASSOCIATION_S", 10.0)
    archive = pacs(answer=lambda transaction, pairs: (1, event_information(transaction, pairs)))
    settings = delivered(tmp_path, sqlite_sessions, archive.port)
    assert ask_due(sqlite_sessions, settings, utcnow()) == 0  # it was delivered a moment ago
    began = time.monotonic()
    assert ask_due(sqlite_sessions, settings, soon()) == 2
    assert time.monotonic() - began < 8  # no longer than the answer takes
    ((transaction, pairs),) = archive.asked
    assert {sop_class for sop_class, _ in pairs} == {SegmentationStorage, Comprehensive3DSRStorage}
    assert archive.calling_aes == ["FIRSTREAD"]
    assert archive.statuses == [0x0000]
    assert states(sqlite_sessions) == both(DeliveryState.DELIVERED, CommitmentState.COMMITTED)
    assert all(d.commitment_uid == transaction and d.committed_at for d in rows(sqlite_sessions, Delivery))
    assert tags(sqlite_sessions) == ["delivery:commitment_asked"] * 2 + ["delivery:committed"] * 2
    assert ask_due(sqlite_sessions, settings, utcnow() + timedelta(days=365)) == 0


def test_a_destination_without_commitment_is_not_asked(tmp_path, sqlite_sessions, pacs):
    archive = pacs()
    settings = delivered(tmp_path, sqlite_sessions, archive.port, commitment=False)
    assert ask_due(sqlite_sessions, settings, soon()) == 0
    assert archive.asked == []


@pytest.fixture
def asked(tmp_path, sqlite_sessions, pacs):
    """A running node whose two objects have been asked for, with transaction and references."""
    archive = pacs()
    settings = delivered(tmp_path, sqlite_sessions, archive.port)
    with running_node(settings, sqlite_sessions) as node:
        assert ask_due(sqlite_sessions, settings, soon()) == 2
        node.settings = settings
        node.archive = archive
        node.transaction, node.pairs = archive.asked[0]
        yield node


def test_a_report_on_a_later_association_is_taken_and_a_repeated_one_changes_nothing(asked):
    told = event_information(asked.transaction, asked.pairs)
    for _ in range(2):
        assert report(asked.port, 1, told, calling_ae="ARCHIVE") == 0x0000
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.COMMITTED)
    assert tags(asked.sessions, "delivery:committed") == ["delivery:committed"] * 2


@pytest.mark.requirement("REQ-DELIV-3")
def test_only_what_failed_is_sent_again_and_asked_for_under_a_new_transaction(asked, tmp_path):
    seg = next(pair for pair in asked.pairs if pair[0] == SegmentationStorage)
    other = next(pair for pair in asked.pairs if pair[0] != SegmentationStorage)
    told = event_information(asked.transaction, [other], {seg: 0x0112})
    assert report(asked.port, 2, told, calling_ae="ARCHIVE") == 0x0000
    assert states(asked.sessions) == {
        SegmentationStorage: (DeliveryState.PENDING, CommitmentState.REFUSED),
        Comprehensive3DSRStorage: (DeliveryState.DELIVERED, CommitmentState.COMMITTED),
    }
    moved = [e for e in rows(asked.sessions, AuditEvent) if e.tag == "delivery:not_committed"]
    assert [(e.detail["from"], e.detail["to"], e.detail["transaction"]) for e in moved] == [
        ("DELIVERED", "PENDING", asked.transaction)
    ]
    assert moved[0].detail["reason"] == "0x0112 no such object instance"
    assert report(asked.port, 2, told, calling_ae="ARCHIVE") == 0x0000  # told twice, sent once
    archive = start_archive(tmp_path / "second", "ARCHIVE")
    try:
        assert deliver_due(asked.sessions, settings_for(tmp_path, archive.port), utcnow()) == 1
        assert [path.stem for path in archive.files()] == [seg[1]]
    finally:
        archive.stop()
    assert ask_due(asked.sessions, asked.settings, soon()) == 1
    transaction, pairs = asked.archive.asked[1]
    assert pairs == [seg]
    assert transaction != asked.transaction
    assert report(asked.port, 1, event_information(transaction, pairs), calling_ae="ARCHIVE") == 0x0000
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.COMMITTED)


def test_a_report_of_a_stranger_or_of_nothing_we_asked_is_refused_and_recorded(asked):
    told = event_information(asked.transaction, asked.pairs)
    unknown = event_information(generate_uid(), asked.pairs)
    assert report(asked.port, 1, told, calling_ae="STRANGER") == 0x0115
    assert report(asked.port, 1, unknown, calling_ae="ARCHIVE") == 0x0115
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.ASKED)
    refused = [e for e in rows(asked.sessions, AuditEvent) if e.tag == "access:refused"]
    assert [(e.actor, e.actor_kind, e.object_id, e.outcome) for e in refused] == [
        ("STRANGER", "peer", asked.transaction, "failure"),
        ("ARCHIVE", "peer", unknown.TransactionUID, "failure"),
    ]


def test_reports_that_make_no_sense_are_refused(asked):
    told = event_information(asked.transaction, asked.pairs)
    assert report(asked.port, 3, told, calling_ae="ARCHIVE") == 0x0113
    assert report(asked.port, 1, told, calling_ae="ARCHIVE", instance="1.2.3") == 0x0112
    del told.TransactionUID
    assert report(asked.port, 1, told, calling_ae="ARCHIVE") == 0x0115
    empty = event_information("", asked.pairs)
    assert report(asked.port, 1, empty, calling_ae="ARCHIVE") == 0x0115
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.ASKED)


def test_what_a_report_does_not_mention_or_names_under_another_class_is_not_committed(asked):
    first, second = asked.pairs
    told = event_information(asked.transaction, [("1.2.3.4", first[1]), (second[0], second[1]), ("1.2", "3.4")])
    assert report(asked.port, 1, told, calling_ae="ARCHIVE") == 0x0000
    commitments = {made.sop_instance_uid: d.commitment for d, made in objects(asked.sessions)}
    assert commitments == {first[1]: CommitmentState.ASKED, second[1]: CommitmentState.COMMITTED}


@pytest.mark.requirement("REQ-DELIV-3")
def test_without_an_answer_it_is_asked_again_with_longer_pauses_then_a_person_is_called(asked):
    assert ask_due(asked.sessions, asked.settings, soon() + timedelta(seconds=50)) == 0
    now = utcnow()
    for attempt in range(2, commitment_scu.PATIENCE.max_attempts + 1):
        now += timedelta(hours=25)
        assert ask_due(asked.sessions, asked.settings, now) == 2
        assert rows(asked.sessions, Delivery)[0].commitment_attempts == attempt
    waits = [d.commitment_due_at - now for d in rows(asked.sessions, Delivery)]
    assert waits == [timedelta(seconds=60 * 2**10)] * 2
    assert len({transaction for transaction, _ in asked.archive.asked}) == commitment_scu.PATIENCE.max_attempts
    assert ask_due(asked.sessions, asked.settings, now + timedelta(hours=25)) == 0
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.ALARM)
    alarms = [e for e in rows(asked.sessions, AuditEvent) if e.tag == "delivery:commitment_alarm"]
    assert [(e.outcome, e.detail["reason"]) for e in alarms] == [("failure", "no answer")] * 2
    assert ask_due(asked.sessions, asked.settings, now + timedelta(days=365)) == 0
    # better late than never: the archive was away for a month
    transaction, pairs = asked.archive.asked[-1]
    assert report(asked.port, 1, event_information(transaction, pairs[:1]), calling_ae="ARCHIVE") == 0x0000
    # and a person may send what is left once more
    left = next(d for d in rows(asked.sessions, Delivery) if d.commitment is CommitmentState.ALARM)
    with unit_of_work(asked.sessions, Actor("admin", "person")) as uow:
        resubmit(uow, left.id)
    assert sorted((d.state, d.commitment) for d in rows(asked.sessions, Delivery)) == [
        (DeliveryState.DELIVERED, CommitmentState.COMMITTED),
        (DeliveryState.PENDING, CommitmentState.NOT_ASKED),
    ]


@pytest.mark.parametrize("reason", [0x0119, 0x0122])
def test_what_would_be_refused_again_calls_a_person_at_once(asked, reason):
    told = event_information(asked.transaction, [], dict.fromkeys(asked.pairs, reason))
    assert report(asked.port, 2, told, calling_ae="ARCHIVE") == 0x0000
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.ALARM)
    assert f"0x{reason:04X}" in rows(asked.sessions, Delivery)[0].last_error


def test_a_duplicate_transaction_is_asked_anew_without_sending_anything(asked):
    told = event_information(asked.transaction, [], dict.fromkeys(asked.pairs, 0x0131))
    assert report(asked.port, 2, told, calling_ae="ARCHIVE") == 0x0000
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.REFUSED)
    assert ask_due(asked.sessions, asked.settings, utcnow()) == 2
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.ASKED)


def test_an_archive_that_is_away_or_refuses_is_asked_later(tmp_path, sqlite_sessions, pacs):
    settings = delivered(tmp_path, sqlite_sessions, FREE)
    assert ask_due(sqlite_sessions, settings, soon()) == 0
    assert states(sqlite_sessions) == both(DeliveryState.DELIVERED, CommitmentState.ASKED)
    first = rows(sqlite_sessions, Delivery)[0]
    assert "no connection" in first.last_error
    assert 40 < (first.commitment_due_at - utcnow()).total_seconds() < 80
    refusing = pacs(status=0x0213)
    again = settings_for(tmp_path, refusing.port)
    assert ask_due(sqlite_sessions, again, utcnow() + timedelta(minutes=3)) == 0
    assert states(sqlite_sessions) == both(DeliveryState.DELIVERED, CommitmentState.REFUSED)
    assert rows(sqlite_sessions, Delivery)[0].last_error == "N-ACTION was answered 0x0213"
    with running_node(again, sqlite_sessions) as node:  # that transaction is over
        transaction, pairs = refusing.asked[0]
        assert report(node.port, 1, event_information(transaction, pairs), calling_ae="ARCHIVE") == 0x0115
    assert states(sqlite_sessions) == both(DeliveryState.DELIVERED, CommitmentState.REFUSED)
    refusing.status = 0x0000
    assert ask_due(sqlite_sessions, again, utcnow() + timedelta(minutes=10)) == 2


def test_a_refused_text_of_a_draft_that_no_longer_stands_is_not_sent_again(asked):
    with unit_of_work(asked.sessions, NODE) as uow:
        uow.session.execute(update(Reading).values(superseded=True))
    told = event_information(asked.transaction, [], dict.fromkeys(asked.pairs, 0x0112))
    assert report(asked.port, 2, told, calling_ae="ARCHIVE") == 0x0000
    assert states(asked.sessions) == both(DeliveryState.DELIVERED, CommitmentState.REFUSED)
    assert ask_due(asked.sessions, asked.settings, utcnow() + timedelta(days=365)) == 0


def test_orthanc_commits_to_what_it_holds_and_gets_again_what_it_lost(tmp_path, sqlite_sessions):
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        settings = settings_for(tmp_path / "node", orthanc.dicom_port, ae_title="PACS")
        with running_node(settings, sqlite_sessions) as node:
            orthanc.register("us", "FIRSTREAD", node.port)
            owe_objects(settings, sqlite_sessions, ["PACS0"])
            assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
            lost = next(made for _, made in objects(sqlite_sessions) if made.sop_class_uid == SegmentationStorage)
            orthanc.delete(lost.sop_instance_uid)
            assert ask_due(sqlite_sessions, settings, soon()) == 2
            assert answered(sqlite_sessions)
            assert states(sqlite_sessions) == {
                SegmentationStorage: (DeliveryState.PENDING, CommitmentState.REFUSED),
                Comprehensive3DSRStorage: (DeliveryState.DELIVERED, CommitmentState.COMMITTED),
            }
            assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
            assert ask_due(sqlite_sessions, settings, soon()) == 1
            assert answered(sqlite_sessions)
        assert states(sqlite_sessions) == both(DeliveryState.DELIVERED, CommitmentState.COMMITTED)
        assert orthanc.instances() == sorted(made.sop_instance_uid for _, made in objects(sqlite_sessions))


def answered(sessions):
    """Whether Orthanc's report came, which it sends when its job has run."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if CommitmentState.ASKED not in {d.commitment for d in rows(sessions, Delivery)}:
            return True
        time.sleep(0.05)
    return False
