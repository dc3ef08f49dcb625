"""What a destination accepted is counted there: by C-FIND and QIDO-RS, at Orthanc and elsewhere."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError
from config.settings import Settings
from db import lifecycle
from db.models import AuditEvent, Delivery
from db.types import CommitmentState, CountState, DeliveryState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node.archive import start_archive
from dicom_node.counting import PATIENCE, count_due
from dicom_node.delivery import deliver_due
from dicom_node.sop_classes import SOP_CLASS
from tests.delivery_support import Reply, Request, answering, late_image, owe_objects, states
from tests.node_support import node_settings, rows
from tests.orthanc import Orthanc, dicomweb_plugin, running_orthanc

Sessions = sessionmaker[Session]
LATER = timedelta(minutes=1)  # what was taken is asked for after half a minute
EVIDENCE = [(kind.value, str(SOP_CLASS[kind])) for kind in SOP_CLASS if kind in {"SEG", "FINDINGS_SR", "KEY_IMAGES"}]


def site(folder: Path, **destination: Any) -> Settings:
    return node_settings(folder, destinations=[{"name": "PACS", "count": True, **destination}])


def at_orthanc(folder: Path, pacs: Orthanc, protocol: str) -> Settings:
    if protocol == "stow-rs":
        return site(folder, protocol="stow-rs", url=pacs.dicomweb_url)
    return site(folder, ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.dicom_port)


def counted(sessions: Sessions) -> list[CountState]:
    return sorted(one.counted for one in rows(sessions, Delivery))


def events(sessions: Sessions) -> list[tuple[str, dict[str, Any]]]:
    found = [one for one in rows(sessions, AuditEvent) if one.tag == "delivery:counted"]
    return [(one.outcome, one.detail) for one in sorted(found, key=lambda one: one.seq)]


@pytest.mark.requirement("REQ-DELIV-3")
@pytest.mark.parametrize("protocol", ["c-store", "stow-rs"])
def test_what_orthanc_lost_is_sent_again_and_counted_again(
    tmp_path: Path, sqlite_sessions: Sessions, protocol: str
) -> None:
    with running_orthanc(tmp_path / "pacs", Plugins=[dicomweb_plugin()]) as pacs:
        settings = at_orthanc(tmp_path / "site", pacs, protocol)
        made = owe_objects(settings, sqlite_sessions, ["PACS"], objects=EVIDENCE)
        uids = sorted(str(ds.SOPInstanceUID) for _, ds in made)
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 3
        assert count_due(sqlite_sessions, settings, utcnow()) == 0  # not yet: it may still index them
        assert events(sqlite_sessions) == []
        pacs.delete(uids[0])
        assert count_due(sqlite_sessions, settings, utcnow() + LATER) == 2
        assert counted(sqlite_sessions) == [CountState.HELD, CountState.HELD, CountState.NOT_ASKED]
        assert states(sqlite_sessions) == {DeliveryState.DELIVERED, DeliveryState.PENDING}
        assert deliver_due(sqlite_sessions, settings, utcnow() + LATER) == 1
        assert pacs.instances() == uids
        assert count_due(sqlite_sessions, settings, utcnow() + LATER) == 1
        assert counted(sqlite_sessions) == [CountState.HELD] * 3
    assert events(sqlite_sessions) == [
        ("failure", {"destination": "PACS", "sent": 3, "held": 2, "missing": [uids[0]]}),
        ("success", {"destination": "PACS", "sent": 1, "held": 1, "missing": []}),
    ]


def test_a_whole_study_that_is_gone_is_sent_again(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    """Orthanc answers 404 for a Study it does not know; that is an answer, not a missing service."""
    with running_orthanc(tmp_path / "pacs", Plugins=[dicomweb_plugin()]) as pacs:
        settings = at_orthanc(tmp_path / "site", pacs, "stow-rs")
        made = owe_objects(settings, sqlite_sessions, ["PACS"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
        for _, ds in made:
            pacs.delete(ds.SOPInstanceUID)
        assert count_due(sqlite_sessions, settings, utcnow() + LATER) == 0
        assert states(sqlite_sessions) == {DeliveryState.PENDING}
        assert deliver_due(sqlite_sessions, settings, utcnow() + LATER) == 2
        assert len(pacs.instances()) == 2


def forgetful(request: Request) -> Reply:
    """It stores everything and holds nothing."""
    return (200, {}, b"") if request.method == "POST" else (200, {}, b"[]")


def test_after_three_times_a_person_has_to_look_and_can_send_again(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    with answering(forgetful) as server:
        settings = site(tmp_path, protocol="stow-rs", url=server.url)
        owe_objects(settings, sqlite_sessions, ["PACS"], objects=EVIDENCE[:1])
        now = utcnow()
        for missed in range(4):
            assert deliver_due(sqlite_sessions, settings, now) == 1
            (delivery,) = rows(sqlite_sessions, Delivery)
            assert delivery.count_missed == missed
            now = due(delivery) + LATER
            count_due(sqlite_sessions, settings, now)
            now += timedelta(hours=1)
    (delivery,) = rows(sqlite_sessions, Delivery)
    assert PATIENCE.max_missed == 3
    assert (delivery.state, delivery.counted) == (DeliveryState.DELIVERED, CountState.ALARM)
    assert delivery.last_error == "accepted 4 times, and not there when it was asked"
    with unit_of_work(sqlite_sessions, Actor("ada", "person")) as uow:
        lifecycle.resubmit(uow, delivery.id)
    (delivery,) = rows(sqlite_sessions, Delivery)
    assert (delivery.state, delivery.counted, delivery.count_missed) == (
        DeliveryState.PENDING, CountState.NOT_ASKED, 0,
    )  # fmt: skip


def due(delivery: Delivery) -> datetime:
    assert delivery.count_due_at is not None
    return delivery.count_due_at


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((503, {}, b""), "it answered 503: it cannot do this now"),
        ((404, {}, b""), "it answered 404: it has no such service: is the URL right?"),
        ((200, {}, b"<html>"), "what it answered is no DICOMweb"),
        ((200, {}, b'{"a": 1}'), "what it answered is no DICOMweb"),
        ((401, {}, b""), "it answered 401: it does not accept our bearer token"),
    ],
)
def test_one_that_does_not_say_is_asked_again_with_doubled_pauses_and_nothing_is_sent_again(
    tmp_path: Path, sqlite_sessions: Sessions, answer: Reply, words: str
) -> None:
    with answering(lambda request: (200, {}, b"") if request.method == "POST" else answer) as server:
        settings = site(tmp_path, protocol="stow-rs", url=server.url)
        owe_objects(settings, sqlite_sessions, ["PACS"], objects=EVIDENCE[:1])
        deliver_due(sqlite_sessions, settings, utcnow())
        now, pauses = utcnow() + LATER, []
        for attempt in range(1, PATIENCE.max_attempts + 1):
            assert count_due(sqlite_sessions, settings, now) == 0
            (delivery,) = rows(sqlite_sessions, Delivery)
            assert (delivery.state, delivery.last_error) == (DeliveryState.DELIVERED, f"not counted: {words}")
            assert delivery.count_attempts == attempt
            if attempt < PATIENCE.max_attempts:
                assert delivery.counted is CountState.WAITING
                pauses.append((due(delivery) - now).total_seconds())
                now = due(delivery)
    for index, pause in enumerate(pauses):
        assert 60 * 2**index * 0.7 < pause < 60 * 2**index * 1.3
    assert counted(sqlite_sessions) == [CountState.ALARM]
    assert [outcome for outcome, _ in events(sqlite_sessions)] == ["failure"]


def test_a_peer_that_answers_no_query_is_asked_again(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    archive = start_archive(tmp_path / "archive", "ARCHIVE")  # Storage only
    try:
        settings = site(tmp_path, ae_title="ARCHIVE", host="127.0.0.1", port=archive.port)
        owe_objects(settings, sqlite_sessions, ["PACS"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
        assert count_due(sqlite_sessions, settings, utcnow() + LATER) == 0
    finally:
        archive.stop()
    for delivery in rows(sqlite_sessions, Delivery):
        assert delivery.counted is CountState.WAITING
        assert delivery.last_error.startswith("not counted: ")


def test_nobody_is_asked_while_something_of_the_study_is_on_its_way(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    def busy(request: Request) -> Reply:
        if request.method == "POST":  # the second object is refused for now
            return (200 if len(server.requests) == 1 else 500), {}, b""
        return 200, {}, json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()

    with answering(busy) as server:
        settings = site(tmp_path, protocol="stow-rs", url=server.url)
        uids = [str(ds.SOPInstanceUID) for _, ds in owe_objects(settings, sqlite_sessions, ["PACS"])]
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
        assert count_due(sqlite_sessions, settings, utcnow() + LATER) == 0
        assert [one.method for one in server.requests] == ["POST", "POST"]
        (waiting,) = [one for one in rows(sqlite_sessions, Delivery) if one.state is DeliveryState.PENDING]
        with unit_of_work(sqlite_sessions, Actor("node", "process")) as uow:
            row = uow.session.get_one(Delivery, waiting.id)
            row.state = DeliveryState.FAILED  # as after the last attempt: what did arrive is counted
        assert count_due(sqlite_sessions, settings, utcnow() + LATER) == 1


def test_nothing_of_a_draft_that_fell_is_sent_again_and_a_broken_promise_keeps_our_bytes(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    with answering(forgetful) as server:
        settings = site(tmp_path, protocol="stow-rs", url=server.url)
        ((_, ds),) = owe_objects(settings, sqlite_sessions, ["PACS"], objects=EVIDENCE[:1])
        deliver_due(sqlite_sessions, settings, utcnow())
        with unit_of_work(sqlite_sessions, Actor("node", "process")) as uow:
            (delivery,) = uow.session.query(Delivery).all()
            delivery.commitment = CommitmentState.COMMITTED
        count_due(sqlite_sessions, settings, utcnow() + LATER)
        (delivery,) = rows(sqlite_sessions, Delivery)
        assert (delivery.state, delivery.commitment) == (DeliveryState.PENDING, CommitmentState.NOT_ASKED)
        deliver_due(sqlite_sessions, settings, utcnow() + LATER)
        late_image(sqlite_sessions, ds.StudyInstanceUID)
        count_due(sqlite_sessions, settings, utcnow() + LATER)
    (delivery,) = rows(sqlite_sessions, Delivery)
    assert (delivery.state, delivery.counted) == (DeliveryState.DELIVERED, CountState.NOT_ASKED)


def test_a_rejection_note_and_a_destination_without_count_are_not_asked_about(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    with answering(forgetful) as server:
        settings = site(tmp_path, protocol="stow-rs", url=server.url)
        owe_objects(settings, sqlite_sessions, ["PACS"], objects=[("REJECTION_NOTE", "1.2.840.10008.5.1.4.1.1.88.59")])
        deliver_due(sqlite_sessions, settings, utcnow())
        silent = site(tmp_path, protocol="stow-rs", url=server.url, count=False)
        owe_objects(silent, sqlite_sessions, ["PACS"])
        deliver_due(sqlite_sessions, silent, utcnow())
        count_due(sqlite_sessions, settings, utcnow() + LATER)
    assert counted(sqlite_sessions) == [CountState.NOT_ASKED] * 3
    assert {one.method for one in server.requests} == {"POST"}
    with (
        pytest.raises(LifecycleError, match="was delivered"),
        unit_of_work(sqlite_sessions, Actor("ada", "person")) as uow,
    ):
        lifecycle.resubmit(uow, rows(sqlite_sessions, Delivery)[0].id)
