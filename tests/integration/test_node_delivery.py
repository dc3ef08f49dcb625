"""Results go out by C-STORE: in order, as written, with retries, and every answer is recorded."""

import socket
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from config.errors import PeerUnavailableError
from config.results import SENDING_ORDER
from db.models import Delivery
from db.types import DeliveryState, utcnow
from dicom_node import scu
from dicom_node.archive import start_archive
from dicom_node.delivery import deliver_due
from dicom_node.scp import start_node
from dicom_node.sop_classes import SOP_CLASS
from instances.part10 import split_file
from tests.delivery_support import FREE, late_image, owe_objects, settings_for, states
from tests.node_support import associate, ct_slice, encoded, rows, store_bytes


@pytest.fixture
def archive(tmp_path):
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    yield archive
    archive.stop()


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


@pytest.mark.requirement("REQ-DELIV-2")
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


@pytest.mark.requirement("REQ-DELIV-1")
@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_success_and_warnings_count_as_stored(tmp_path, sqlite_sessions, status):
    ae, port = pacs(lambda event: status)
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
    ae.shutdown()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA700, "0xA700 out of resources"),
        (0x0110, "0x0110 processing failure"),
        (0x0124, "0x0124 we are not authorised"),
        (0xFE00, "0xFE00"),
    ],
)
def test_a_refusal_that_may_pass_is_tried_again(tmp_path, sqlite_sessions, status, words):
    ae, port = pacs(lambda event: status)
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
    ae.shutdown()
    assert states(sqlite_sessions) == {DeliveryState.PENDING}
    assert {delivery.last_error for delivery in rows(sqlite_sessions, Delivery)} == {words}


@pytest.mark.parametrize(
    ("status", "attempts", "words"),
    [
        (0xA900, 1, "Segmentation Storage: 0xA900 the object does not match its SOP Class"),
        (0x0122, 1, "Segmentation Storage: 0x0122 SOP Class not supported"),
        (0x0117, 1, "Segmentation Storage: 0x0117 invalid object instance"),
        (0xC000, 2, "Segmentation Storage: 0xC000 it cannot understand the object"),
    ],
)
def test_a_refusal_that_waiting_does_not_cure_soon_fails_and_names_the_option(
    tmp_path, sqlite_sessions, status, attempts, words
):
    ae, port = pacs(lambda event: status if event.request.AffectedSOPClassUID == SegmentationStorage else 0x0000)
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    now = utcnow()
    for _ in range(attempts):
        assert DeliveryState.FAILED not in states(sqlite_sessions)
        deliver_due(sqlite_sessions, settings, now)
        now += timedelta(minutes=1)
    ae.shutdown()
    by_state = {delivery.state: delivery for delivery in rows(sqlite_sessions, Delivery)}
    assert by_state.keys() == {DeliveryState.FAILED, DeliveryState.DELIVERED}  # the report went all the same
    failed = by_state[DeliveryState.FAILED]
    assert failed.last_error == f"{words}; segmentation: none may help"
    assert failed.attempts == attempts


def test_what_the_destination_holds_already_is_delivered(tmp_path, sqlite_sessions):
    ae, port = pacs(lambda event: 0x0111)  # Duplicate SOP Instance, PS3.7 C.4.2
    settings = settings_for(tmp_path, port)
    owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
    ae.shutdown()
    assert states(sqlite_sessions) == {DeliveryState.DELIVERED}


LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.mark.parametrize(
    ("kind", "sop_class", "error"),
    [
        ("SEG", SegmentationStorage, "Segmentation Storage; segmentation: none may help"),
        ("SEG_LABELMAP", LABEL_MAP, "Label Map Segmentation Storage; segmentation: binary may help"),
        ("DRAFT_SR", EnhancedSRStorage, "Enhanced SR Storage; report: basic-text may help"),
        ("DRAFT_PDF", EncapsulatedPDFStorage, "Encapsulated PDF Storage; pdf: false may help"),
    ],
)
def test_a_destination_without_one_sop_class_gets_the_rest_and_the_reason_names_class_and_option(
    tmp_path, sqlite_sessions, kind, sop_class, error
):
    ae, port = pacs(lambda event: 0x0000, classes=(Comprehensive3DSRStorage,))
    settings = settings_for(tmp_path, port)
    owe_objects(
        settings, sqlite_sessions, ["PACS0"], objects=(("FINDINGS_SR", Comprehensive3DSRStorage), (kind, sop_class))
    )
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
    (declined,) = [d for d in rows(sqlite_sessions, Delivery) if d.state is not DeliveryState.DELIVERED]
    assert declined.state is DeliveryState.PENDING  # once it may be a peer that is starting
    assert deliver_due(sqlite_sessions, settings, utcnow() + timedelta(minutes=1)) == 0
    ae.shutdown()
    (failed,) = [d for d in rows(sqlite_sessions, Delivery) if d.state is DeliveryState.FAILED]
    assert failed.last_error == f"SOP Class not accepted by the peer: {error}"
    assert failed.attempts == 2


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


def test_every_kind_of_object_arrives_at_a_pacs_in_the_order_of_the_table(tmp_path, sqlite_sessions, archive):
    """Also shows that our own archive, which negotiates as the node does, takes every SOP Class we make."""
    settings = settings_for(tmp_path, archive.port)
    made = owe_objects(settings, sqlite_sessions, ["PACS0"], objects=tuple(reversed(SOP_CLASS.items())))
    assert deliver_due(sqlite_sessions, settings, utcnow()) == len(SOP_CLASS)
    by_kind = {kind: str(ds.SOPInstanceUID) for kind, (_, ds) in zip(reversed(SOP_CLASS), made, strict=True)}
    assert [p.stem for p in archive.files()] == [by_kind[kind] for kind in SENDING_ORDER if kind in by_kind]


def test_a_draft_that_no_longer_stands_is_not_sent_on(tmp_path, sqlite_sessions):
    """The second object falls during the first one's C-STORE: each is asked about right before it leaves."""
    made = []

    def fall(event):
        late_image(sqlite_sessions, made[0][1].StudyInstanceUID)
        return 0x0000

    ae, port = pacs(fall)
    settings = settings_for(tmp_path, port)
    made += owe_objects(settings, sqlite_sessions, ["PACS0"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
    ae.shutdown()
    assert states(sqlite_sessions) == {DeliveryState.DELIVERED, DeliveryState.WITHDRAWN}


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
