"""Reports go out as HL7 and FHIR messages: in order of making, over real sockets, with every answer's consequence."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError
from config.settings import Settings
from db import lifecycle
from db.models import AuditEvent, Delivery
from db.queries.destinations import destination_states
from db.types import DeliveryState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node.delivery import deliver_due
from tests.delivery_support import (
    FREE,
    Reply,
    Request,
    answering,
    drafted,
    late_image,
    owe_message,
    received_study,
    states,
)
from tests.node_support import node_settings, rows

Sessions = sessionmaker[Session]
ACCEPT, REJECT, ERROR = "AA", "AR", "AE"


@contextmanager
def receiver(answer: Callable[[str], str]) -> Iterator[tuple[int, list[str]]]:
    """An MLLP receiver that answers each control id with a code; yields its port and what it was sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                content = b""
                while not content.endswith(b"\x1c\r"):
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    content += piece
                else:
                    control_id = content.split(b"\r")[0].split(b"|")[9].decode()
                    seen.append(control_id)
                    head = "MSH|^~\\&|RIS||FIRSTREAD||20261122||ACK^R01^ACK|1|P|2.5.1"
                    said = f"{head}\rMSA|{answer(control_id)}|{control_id}\r"
                    connection.sendall(b"\x0b" + said.encode() + b"\x1c\r")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.close()
        thread.join(1)


def message(control_id: str, status: str = "F") -> bytes:
    segments = [
        f"MSH|^~\\&|FIRSTREAD||RIS||20261122||ORU^R01^ORU_R01|{control_id}|P|2.5.1",
        "PID|1||P-1",
        f"OBR|1|||18748-4^Diagnostic imaging study^LN|||||||||||||||||||||{status}",
    ]
    return ("\r".join(segments) + "\r").encode()


def site(folder: Path, **destination: Any) -> Settings:
    return node_settings(folder, destinations=[{"name": "RIS", **destination}])


def to_ris(folder: Path, port: int) -> Settings:
    return site(folder, protocol="mllp", host="127.0.0.1", port=port)


def a_draft(sessions: Sessions) -> tuple[UUID, str]:
    study_id, image = received_study(sessions)
    drafted(sessions, study_id, [])
    return study_id, str(image.StudyInstanceUID)


def deliver(settings: Settings, sessions: Sessions, minutes: float = 0) -> int:
    return deliver_due(sessions, settings, utcnow() + timedelta(minutes=minutes))


def state_of(sessions: Sessions, delivery_id: UUID) -> DeliveryState:
    (found,) = [one for one in rows(sessions, Delivery) if one.id == delivery_id]
    return found.state


@pytest.mark.requirement("REQ-DELIV-5")
def test_messages_of_one_study_arrive_in_order_of_making(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    with receiver(lambda _: ACCEPT) as (port, seen):
        settings = to_ris(tmp_path, port)
        study_id, _ = a_draft(sqlite_sessions)
        for control_id in ("P1", "F2", "C3"):
            owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message(control_id))
        assert [deliver(settings, sqlite_sessions) for _ in range(4)] == [1, 1, 1, 0]  # one at a time
    assert seen == ["P1", "F2", "C3"]


def next_attempt(sessions: Sessions) -> datetime:
    """When the page of destinations says that the RIS is tried again."""
    with sessions() as session:
        at = destination_states(session)["RIS"].next_attempt_at
    assert at is not None
    return at


def test_a_later_message_waits_for_an_earlier_one_and_not_for_another_study(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    busy = {"P1"}
    with receiver(lambda control_id: ERROR if control_id in busy else ACCEPT) as (port, seen):
        settings = to_ris(tmp_path, port)
        study_id, _ = a_draft(sqlite_sessions)
        other_id, _ = a_draft(sqlite_sessions)
        owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message("P1"))
        final = owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message("F2"))
        owe_message(settings, sqlite_sessions, other_id, "REPORT_ORU", "RIS", message("X1"))
        assert deliver(settings, sqlite_sessions) == 1
        assert deliver(settings, sqlite_sessions) == 0
        assert sorted(seen) == ["P1", "X1"]  # F2 is due and waits: P1 was put off
        assert state_of(sqlite_sessions, final) is DeliveryState.PENDING
        assert next_attempt(sqlite_sessions) > utcnow()  # P1's; that of F2 is over and means nothing
        busy.clear()
        assert deliver(settings, sqlite_sessions, minutes=1) == 1
        assert deliver(settings, sqlite_sessions, minutes=1) == 1
    assert seen[2:] == ["P1", "F2"]


def test_a_message_refused_for_good_fails_at_once_and_holds_up_no_other(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    with receiver(lambda control_id: REJECT if control_id == "P1" else ACCEPT) as (port, seen):
        settings = to_ris(tmp_path, port)
        study_id, _ = a_draft(sqlite_sessions)
        first = owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message("P1"))
        final = owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message("F2"))
        assert deliver(settings, sqlite_sessions) == 0
        assert state_of(sqlite_sessions, first) is DeliveryState.FAILED
        (failed,) = [one for one in rows(sqlite_sessions, Delivery) if one.id == first]
        assert re.match(r"REPORT_ORU: .*AR", failed.last_error)
        assert deliver(settings, sqlite_sessions) == 1
        assert seen == ["P1", "F2"]
        (started,) = [
            one for one in rows(sqlite_sessions, AuditEvent)
            if one.tag == "delivery:started" and one.object_id == str(final)
        ]  # fmt: skip
        assert started.detail["note"] == "an earlier message of this study was not delivered"
        # to send the preliminary report after the final one would undo it
        with (
            pytest.raises(LifecycleError, match="a later message"),
            unit_of_work(sqlite_sessions, Actor("ada", "person")) as uow,
        ):
            lifecycle.resubmit(uow, first)


def test_the_text_of_a_draft_that_fell_never_leaves(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    """It falls between its claim and its turn, while another message is being sent."""
    studies = {}

    def fall(control_id: str) -> str:
        (other,) = studies.keys() - {control_id}
        late_image(sqlite_sessions, studies[other][1])
        return ACCEPT

    with receiver(fall) as (port, seen):
        settings = to_ris(tmp_path, port)
        for control_id in ("D1", "D2"):
            studies[control_id] = a_draft(sqlite_sessions)
            owe_message(settings, sqlite_sessions, studies[control_id][0], "DRAFT_ORU", "RIS", message(control_id, "R"))
        assert deliver(settings, sqlite_sessions) == 1
    assert len(seen) == 1
    assert states(sqlite_sessions) == {DeliveryState.DELIVERED, DeliveryState.WITHDRAWN}


def test_a_ris_that_is_away_postpones_all(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    settings = to_ris(tmp_path, FREE)
    for control_id in ("P1", "P2"):
        study_id, _ = a_draft(sqlite_sessions)
        owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message(control_id))
    assert deliver(settings, sqlite_sessions) == 0
    assert states(sqlite_sessions) == {DeliveryState.PENDING}
    assert all(one.last_error for one in rows(sqlite_sessions, Delivery))


def bundle() -> bytes:
    request = {"method": "PUT", "url": "Device/1"}
    entry = [{"resource": {"resourceType": "Device", "id": "1"}, "request": request}]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entry}).encode()


def taken(request: Request) -> Reply:
    entry = [{"response": {"status": "200 OK"}} for _ in json.loads(request.body)["entry"]]
    said = {"resourceType": "Bundle", "type": "transaction-response", "entry": entry}
    return 200, {"Content-Type": "application/fhir+json"}, json.dumps(said).encode()


def test_a_bundle_is_pushed_as_it_was_kept(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    with answering(taken) as server:
        settings = site(tmp_path, protocol="fhir", url=server.url)
        study_id, _ = a_draft(sqlite_sessions)
        owe_message(settings, sqlite_sessions, study_id, "REPORT_FHIR", "RIS", bundle())
        assert deliver(settings, sqlite_sessions) == 1
    assert [one.body for one in server.requests] == [bundle()]


@pytest.mark.parametrize(
    ("status", "state"), [(422, DeliveryState.FAILED), (400, DeliveryState.FAILED), (503, DeliveryState.PENDING)]
)
def test_a_bundle_that_is_refused(tmp_path: Path, sqlite_sessions: Sessions, status: int, state: DeliveryState) -> None:
    with answering(lambda _: (status, {}, b"")) as server:
        settings = site(tmp_path, protocol="fhir", url=server.url)
        study_id, _ = a_draft(sqlite_sessions)
        owe_message(settings, sqlite_sessions, study_id, "REPORT_FHIR", "RIS", bundle())
        assert deliver(settings, sqlite_sessions) == 0
    (delivery,) = rows(sqlite_sessions, Delivery)
    assert delivery.state is state
    assert str(status) in delivery.last_error


def test_what_a_destination_cannot_take_any_more_fails_with_that_reason(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    """The protocol in the settings changed after the message was owed."""
    settings = site(tmp_path, protocol="c-store", ae_title="PACS", host="127.0.0.1", port=FREE)
    study_id, _ = a_draft(sqlite_sessions)
    owe_message(settings, sqlite_sessions, study_id, "REPORT_ORU", "RIS", message("F1"))
    assert deliver(settings, sqlite_sessions) == 0
    (delivery,) = rows(sqlite_sessions, Delivery)
    assert (delivery.state, delivery.last_error) == (DeliveryState.FAILED, "REPORT_ORU is not sent by c-store")
