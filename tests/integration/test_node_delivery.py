"""Results go out by C-STORE: in order, as written, with retries, and every answer is recorded."""

import hashlib
import socket
import threading
import time
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from config.errors import PeerUnavailableError
from config.routing import RoutingVerdict
from db import lifecycle
from db.lifecycle import InstanceHeader, NewDraft, NewObject
from db.models import Delivery, Reading
from db.types import DeliveryState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node import scu
from dicom_node.archive import start_archive
from dicom_node.delivery import deliver_due
from dicom_node.scp import start_node
from instances.part10 import split_file
from tests.node_support import associate, ct_slice, encoded, node_settings, rows, store_bytes, write_file

WORKER = Actor("worker", "process")
FREE = 9  # the discard port: nothing listens there


def settings_for(tmp_path, *ports, **changes):
    names = [f"PACS{n}" for n in range(len(ports))]
    destinations = [
        {"name": name, "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port}
        for name, port in zip(names, ports, strict=True)
    ]
    return node_settings(tmp_path, destinations=destinations, **changes)


def owe_objects(settings, sessions, destinations):
    """A drafted Study whose SR and SEG are owed; return the files in the order they were made."""
    uid = ct_slice()
    header = InstanceHeader(
        str(uid.StudyInstanceUID), str(uid.SeriesInstanceUID), str(uid.SOPInstanceUID), str(uid.SOPClassUID),
        ExplicitVRLittleEndian,
    )  # fmt: skip
    files = []
    for kind, sop_class in (("DRAFT_SR", Comprehensive3DSRStorage), ("SEG", SegmentationStorage)):
        ds = ct_slice(SOPClassUID=sop_class, StudyInstanceUID=uid.StudyInstanceUID)
        path = write_file(settings.results_dir / f"{uuid4()}.dcm", ds)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        made = NewObject(kind, ds.SOPInstanceUID, sop_class, sha256, path.name, destinations)
        files.append((path, ds, made))
    with unit_of_work(sessions, WORKER) as uow:
        received = lifecycle.receive_instance(
            uow, header, path="x", sha256="0" * 64, size_bytes=1, calling_ae="CT", called_ae="FIRSTREAD", quiet_s=1
        )
    (reading,) = [r for r in rows(sessions, Reading) if r.study_id == received.study_id]
    with unit_of_work(sessions, WORKER) as uow:
        lifecycle.complete(uow, reading.id, RoutingVerdict("draft", profile="ct", rule="r"))
        claim = lifecycle.claim(uow, reading.id, owner="w", lease_s=60)
        draft = NewDraft(
            sections={},
            image_set_sha256=claim.image_set_sha256,
            pipeline_version="1",
            objects=[made for _, _, made in files],
        )
        lifecycle.drafted(uow, claim, draft)
    return [(path, ds) for path, ds, _ in files]


@pytest.fixture
def archive(tmp_path):
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    yield archive
    archive.stop()


def states(sessions):
    return {delivery.state for delivery in rows(sessions, Delivery)}


def test_objects_arrive_as_written_segmentation_first(tmp_path, sqlite_sessions, archive):
    settings = settings_for(tmp_path, archive.port)
    report, segmentation = owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
    assert states(sqlite_sessions) == {DeliveryState.DELIVERED}
    arrived = archive.files()
    assert [p.stem for p in arrived] == [segmentation[1].SOPInstanceUID, report[1].SOPInstanceUID]
    for path, (_, ds) in zip(arrived, (segmentation, report), strict=True):
        content = path.read_bytes()
        meta, offset = split_file(content)
        assert content[offset:] == encoded(ds)
        assert meta.transfer_syntax_uid == ExplicitVRLittleEndian
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
    assert all(delivery.delivered_at for delivery in rows(sqlite_sessions, Delivery))


def test_an_absent_destination_postpones_with_growing_delays_until_it_is_there(tmp_path, sqlite_sessions):
    settings = settings_for(tmp_path, FREE)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    now, delays = utcnow(), []
    for attempt in (1, 2, 3):
        assert deliver_due(sqlite_sessions, settings, now) == 0
        delivery = rows(sqlite_sessions, Delivery)[0]
        assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, attempt)
        assert "no connection" in delivery.last_error
        delays.append((delivery.next_attempt_at - utcnow()).total_seconds())
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 0  # not due yet: nobody is asked
        assert rows(sqlite_sessions, Delivery)[0].attempts == attempt
        now = delivery.next_attempt_at + timedelta(minutes=10)
    for delay, base in zip(delays, (15, 30, 60), strict=True):
        assert base * 0.7 < delay < base * 1.3
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    try:
        assert deliver_due(sqlite_sessions, settings_for(tmp_path, archive.port), now) == 2
    finally:
        archive.stop()
    assert states(sqlite_sessions) == {DeliveryState.DELIVERED}


def test_one_absent_destination_does_not_hold_up_another(tmp_path, sqlite_sessions, archive):
    settings = settings_for(tmp_path, FREE, archive.port)
    owe_objects(settings, sqlite_sessions, ["PACS0", "PACS1", "REMOVED"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
    by_name = {(d.destination, d.state): d.last_error for d in rows(sqlite_sessions, Delivery)}
    assert by_name[("PACS1", DeliveryState.DELIVERED)] == ""
    assert "no connection" in by_name[("PACS0", DeliveryState.PENDING)]
    assert by_name[("REMOVED", DeliveryState.PENDING)] == "this destination is not configured"


def test_a_destination_that_says_nothing_does_not_hold_up_another(tmp_path, sqlite_sessions, archive):
    silent = socket.create_server(("127.0.0.1", 0))  # it connects, and that is all
    settings = settings_for(tmp_path, silent.getsockname()[1], archive.port)
    owe_objects(settings, sqlite_sessions, ["PACS0", "PACS1"])
    sender = threading.Thread(target=deliver_due, args=(sqlite_sessions, settings, utcnow()))
    sender.start()
    try:
        deadline = time.monotonic() + 20
        while len(archive.files()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(archive.files()) == 2
        assert sender.is_alive()  # still waiting for the silent one
    finally:
        silent.close()
        sender.join()
    assert {(d.destination, d.state) for d in rows(sqlite_sessions, Delivery)} == {
        ("PACS0", DeliveryState.PENDING),
        ("PACS1", DeliveryState.DELIVERED),
    }


def test_a_wrong_ae_title_is_named_as_the_reason(tmp_path, sqlite_sessions):
    archive = start_archive(tmp_path / "archive", "OTHER")
    try:
        settings = settings_for(tmp_path, archive.port)
        owe_objects(settings, sqlite_sessions, ["PACS0"])
        deliver_due(sqlite_sessions, settings, utcnow())
    finally:
        archive.stop()
    errors = {delivery.last_error for delivery in rows(sqlite_sessions, Delivery)}
    assert errors == {"the association was rejected: called AE title not recognised"}


def pacs(answer, *, classes=(SegmentationStorage, Comprehensive3DSRStorage)):
    """Some other PACS, which answers what we tell it to."""
    ae = AE("ARCHIVE")
    for sop_class in classes:
        ae.add_supported_context(sop_class, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    return ae, server.server_address[1]


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_success_and_warnings_count_as_stored(tmp_path, sqlite_sessions, status):
    ae, port = pacs(lambda event: status)
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
    ae.shutdown()


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC000, 0x0122, 0x0110, 0xFE00])
def test_every_other_answer_is_a_failure_that_is_tried_again(tmp_path, sqlite_sessions, status):
    ae, port = pacs(lambda event: status)
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
    ae.shutdown()
    assert states(sqlite_sessions) == {DeliveryState.PENDING}
    assert {delivery.last_error for delivery in rows(sqlite_sessions, Delivery)} == {f"0x{status:04X}"}


def test_a_destination_without_segmentations_still_gets_the_report(tmp_path, sqlite_sessions):
    ae, port = pacs(lambda event: 0x0000, classes=(Comprehensive3DSRStorage,))
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
    ae.shutdown()
    (failed,) = [d for d in rows(sqlite_sessions, Delivery) if d.state is DeliveryState.PENDING]
    assert failed.last_error == "SOP Class not accepted by the peer: Segmentation Storage"


def test_a_peer_that_aborts_in_the_middle_gets_the_rest_on_a_new_association(tmp_path, sqlite_sessions):
    seen = []

    def abort_first(event):
        seen.append(event.request.AffectedSOPInstanceUID)
        if len(seen) == 1:
            event.assoc.abort()
        return 0x0000

    ae, port = pacs(abort_first)
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
    ae.shutdown()
    errors = {d.state: d.last_error for d in rows(sqlite_sessions, Delivery)}
    assert errors == {
        DeliveryState.DELIVERED: "",
        DeliveryState.PENDING: "no answer: the association was lost",
    }


def test_a_result_file_that_vanished_is_a_recorded_failure(tmp_path, sqlite_sessions, archive):
    settings = settings_for(tmp_path, archive.port)
    report, _ = owe_objects(settings, sqlite_sessions, ["PACS0"])
    report[0].unlink()
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
    (failed,) = [d for d in rows(sqlite_sessions, Delivery) if d.state is DeliveryState.PENDING]
    assert failed.last_error == "the object's file cannot be read: FileNotFoundError"


def test_the_node_delivers_by_itself(tmp_path, sqlite_sessions, archive):
    settings = settings_for(tmp_path, archive.port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    node = start_node(settings, sqlite_sessions)
    deadline = time.monotonic() + 30
    while states(sqlite_sessions) != {DeliveryState.DELIVERED} and time.monotonic() < deadline:
        time.sleep(0.1)
    node.stop()
    assert states(sqlite_sessions) == {DeliveryState.DELIVERED}
    assert len(archive.files()) == 2


def test_echo_of_a_destination(archive):
    here = scu.Address("127.0.0.1", archive.port, "ARCHIVE", "FIRSTREAD")
    scu.echo(here)
    with pytest.raises(PeerUnavailableError, match="called AE title"):
        scu.echo(replace(here, called_ae="B"))
    with pytest.raises(PeerUnavailableError, match="no connection"):
        scu.echo(replace(here, port=FREE))


def test_the_archive_refuses_what_it_cannot_name(archive):

    assoc = associate(archive.port, called_ae="ARCHIVE")
    ds = ct_slice()
    assert store_bytes(assoc, b"garbage!!", sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)[0] == 0xC002
    assert store_bytes(assoc, encoded(ds), sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)[0] == 0x0000
    assoc.release()
    assert [p.stem for p in archive.files()] == [ds.SOPInstanceUID]
