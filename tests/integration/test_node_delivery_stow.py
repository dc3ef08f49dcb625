"""Results go out by STOW-RS: to Orthanc, to another installation of ours, and to servers that answer anything."""

import json
import socket
import ssl
import threading
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SegmentationStorage
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.models import Delivery, Instance, ResultObject
from db.types import DeliveryState, utcnow
from dicom_node.delivery import deliver_due
from instances.part10 import split_file
from tests.delivery_support import (
    Reply,
    Request,
    answering,
    drafted,
    late_image,
    owe_objects,
    received_study,
    result_file,
    states,
)
from tests.dicomweb_support import serving
from tests.node_support import encoded, node_settings, rows
from tests.orthanc import dicomweb_plugin, running_orthanc
from tests.tls_support import Authority

Sessions = sessionmaker[Session]
JSON = {"Content-Type": "application/dicom+json"}
XML = {"Content-Type": "application/dicom+xml"}


def site(folder: Path, url: str, **changes: Any) -> Settings:
    web = {"name": "WEB", "protocol": "stow-rs", "url": url, **changes.pop("web", {})}
    return node_settings(folder, destinations=[web], **changes)


def by_kind(sessions: Sessions) -> dict[str, Delivery]:
    kinds = {one.id: one.kind for one in rows(sessions, ResultObject)}
    return {kinds[one.result_object_id]: one for one in rows(sessions, Delivery)}


def uid_in(request: Request) -> str:
    meta, _ = split_file(request.part)
    return meta.sop_instance_uid


def module(tag: str, uid: str, reason: int | None = None) -> bytes:
    """A Store Instances Response Module with one item, after PS3.18 Annex I.2.2 and its examples."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if reason is not None:
        item["00081196" if tag == "00081199" else "00081197"] = {"vr": "US", "Value": [reason]}
    return json.dumps({tag: {"vr": "SQ", "Value": [item]}}).encode()


def test_orthanc_stores_what_is_delivered_as_it_was_written(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    with running_orthanc(tmp_path / "pacs", Plugins=[dicomweb_plugin()]) as pacs:
        settings = site(tmp_path / "site", pacs.dicomweb_url)
        made = owe_objects(settings, sqlite_sessions, ["WEB"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
        assert states(sqlite_sessions) == {DeliveryState.DELIVERED}
        for path, ds in made:
            assert pacs.file(ds.SOPInstanceUID) == path.read_bytes()


def test_another_installation_stores_it_for_a_bearer_token(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    token = tmp_path / "token"
    token.write_text("wrong\n", encoding="ascii")
    (tmp_path / "other").mkdir()
    with serving(tmp_path / "other") as served:
        settings = site(tmp_path / "site", served.url, web={"token_file": token})
        made = owe_objects(settings, sqlite_sessions, ["WEB"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
        errors = {one.last_error for one in rows(sqlite_sessions, Delivery)}
        assert errors == {"it answered 401: it does not accept our bearer token"}
        assert states(sqlite_sessions) == {DeliveryState.PENDING}  # a token can be renewed
        token.write_text(f"{served.token}\n", encoding="ascii")
        assert deliver_due(sqlite_sessions, settings, utcnow() + timedelta(minutes=1)) == 2
        kept = {one.sop_instance_uid: one.path for one in rows(served.site.sessions, Instance)}
        for _, ds in made:
            content = (served.site.settings.instances_dir / kept[ds.SOPInstanceUID]).read_bytes()
            assert content[split_file(content)[1] :] == encoded(ds)


def test_one_object_in_each_request_segmentation_first_with_token_and_length(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n", encoding="ascii")
    with answering(lambda request: (200, JSON, module("00081199", uid_in(request)))) as server:
        settings = site(tmp_path, server.url, web={"token_file": token})
        (report, _), (segmentation, _) = owe_objects(settings, sqlite_sessions, ["WEB"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 2
    first, second = server.requests
    assert (first.part, second.part) == (segmentation.read_bytes(), report.read_bytes())
    for one in server.requests:
        assert (one.method, one.path) == ("POST", "/dicom-web/studies")
        assert one.headers["authorization"] == "Bearer secret"
        assert 'type="application/dicom"' in one.headers["content-type"]
        assert int(one.headers["content-length"]) == len(one.body)
        assert "transfer-encoding" not in one.headers


# what one answer means; the first object of the two is the Segmentation
FAILED, PENDING, DELIVERED = DeliveryState.FAILED, DeliveryState.PENDING, DeliveryState.DELIVERED
SEG_NAME, OPTION = "Segmentation Storage", "segmentation: none may help"
XML_FAILED = """<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">
<DicomAttribute tag="00081155" vr="UI"><Value number="1">{uid}</Value></DicomAttribute>
<DicomAttribute tag="00081197" vr="US"><Value number="1">290</Value></DicomAttribute></Item></DicomAttribute>
</NativeDicomModel>"""
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><NativeDicomModel>&b;</NativeDicomModel>'


@pytest.mark.parametrize(
    ("status", "headers", "body", "state", "error"),
    [
        (200, JSON, "", DELIVERED, ""),
        (200, {}, "<html>stored</html>", DELIVERED, ""),
        (202, JSON, ("00081199", 0xB000), DELIVERED, ""),  # stored, with a warning
        (202, JSON, ("00081198", 0x0122), FAILED, f"{SEG_NAME}: 0x0122 SOP Class not supported; {OPTION}"),
        (409, JSON, ("00081198", 0xA900), FAILED,
         f"{SEG_NAME}: 0xA900 the object does not match its SOP Class; {OPTION}"),
        (409, JSON, ("00081198", 0xC000), PENDING, f"{SEG_NAME}: 0xC000 it cannot understand the object; {OPTION}"),
        (409, JSON, ("00081198", 0xA700), PENDING, "0xA700 out of resources"),
        (409, JSON, ("00081198", 0x0110), PENDING, "0x0110 processing failure"),
        (409, JSON, ("00081198", 0x0111), DELIVERED, ""),  # held already
        (409, JSON, ("00081198", 45070), DELIVERED, ""),  # the same in Azure's words
        (409, XML, XML_FAILED, FAILED, f"{SEG_NAME}: 0x0122 SOP Class not supported; {OPTION}"),
        (202, JSON, "", PENDING, "it answered 202 and does not say whether it stored the object"),
        (202, XML, BOMB, PENDING, "it answered 202 and does not say whether it stored the object"),
        (409, {}, "", FAILED, f"{SEG_NAME}: it answered 409: it refused; {OPTION}"),
        (400, {}, "", FAILED, f"{SEG_NAME}: it answered 400: it refused; {OPTION}"),
        (413, {}, "", FAILED, f"{SEG_NAME}: it answered 413: the object is too large for it; {OPTION}"),
        (415, {}, "", FAILED, f"{SEG_NAME}: it answered 415: it does not take this media type; {OPTION}"),
        (500, {}, "", PENDING, "it answered 500: it failed"),
        (302, {"Location": "/elsewhere"}, "", PENDING,
         "it answered 302: it redirects, and redirects are not followed; is the URL right?"),
    ],
)  # fmt: skip
def test_each_answer_has_its_consequence_and_the_next_object_goes_on(
    tmp_path: Path,
    sqlite_sessions: Sessions,
    status: int,
    headers: dict[str, str],
    body: str | tuple[str, int],
    state: DeliveryState,
    error: str,
) -> None:
    def reply(request: Request) -> Reply:
        meta, _ = split_file(request.part)
        if meta.sop_class_uid != SegmentationStorage:
            return 200, JSON, module("00081199", meta.sop_instance_uid)
        if isinstance(body, tuple):
            return status, headers, module(body[0], meta.sop_instance_uid, body[1])
        return status, headers, body.replace("{uid}", meta.sop_instance_uid).encode()

    with answering(reply) as server:
        settings = site(tmp_path, server.url)
        owe_objects(settings, sqlite_sessions, ["WEB"])
        deliver_due(sqlite_sessions, settings, utcnow())
    found = by_kind(sqlite_sessions)
    assert (found["SEG"].state, found["SEG"].last_error) == (state, error)
    assert found["DRAFT_SR"].state is DELIVERED
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "it does not accept our bearer token"),
        (403, "our bearer token may not do this"),
        (404, "it has no such service: is the URL right?"),
        (503, "it cannot do this now"),
    ],
)
def test_an_answer_that_holds_for_all_is_asked_for_once(
    tmp_path: Path, sqlite_sessions: Sessions, status: int, words: str
) -> None:
    with answering(lambda _: (status, {"Retry-After": "600"}, b"")) as server:
        settings = site(tmp_path, server.url)
        owe_objects(settings, sqlite_sessions, ["WEB"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
    assert len(server.requests) == 1
    for delivery in rows(sqlite_sessions, Delivery):
        assert (delivery.state, delivery.last_error) == (PENDING, f"it answered {status}: {words}")
        wait_s = (delivery.next_attempt_at - utcnow()).total_seconds()
        assert 500 < wait_s <= 600  # it said when to come again


def test_a_draft_that_no_longer_stands_is_not_sent_on(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    made: list[Any] = []

    def fall(request: Request) -> Reply:
        late_image(sqlite_sessions, str(made[0][1].StudyInstanceUID))
        return 200, JSON, module("00081199", uid_in(request))

    with answering(fall) as server:
        settings = site(tmp_path, server.url)
        made += owe_objects(settings, sqlite_sessions, ["WEB"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
    assert len(server.requests) == 1
    assert states(sqlite_sessions) == {DELIVERED, DeliveryState.WITHDRAWN}


def test_nobody_there_and_a_server_that_hangs_up_postpone(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(10)
        connection.close()

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    settings = site(tmp_path, f"http://127.0.0.1:{port}/dicom-web")
    owe_objects(settings, sqlite_sessions, ["WEB"])
    assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
    thread.join()
    lost = {one.last_error for one in rows(sqlite_sessions, Delivery)}
    assert lost == {"the connection was lost, or what it answered is no HTTP"}
    listener.close()
    assert deliver_due(sqlite_sessions, settings, utcnow() + timedelta(minutes=1)) == 0
    assert {one.last_error for one in rows(sqlite_sessions, Delivery)} == {"no connection"}
    assert states(sqlite_sessions) == {PENDING}


def test_a_file_that_vanished_and_a_token_that_cannot_be_read_are_recorded(
    tmp_path: Path, sqlite_sessions: Sessions
) -> None:
    with answering(lambda request: (200, JSON, module("00081199", uid_in(request)))) as server:
        settings = site(tmp_path, server.url)
        (report, _), _ = owe_objects(settings, sqlite_sessions, ["WEB"])
        report.unlink()
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
        error = by_kind(sqlite_sessions)["DRAFT_SR"].last_error
        assert error == "the object's file cannot be read: FileNotFoundError"
        settings = site(tmp_path, server.url, web={"token_file": tmp_path / "none"})
        assert deliver_due(sqlite_sessions, settings, utcnow() + timedelta(minutes=1)) == 0
    error = by_kind(sqlite_sessions)["DRAFT_SR"].last_error
    assert error == "the token file of WEB cannot be read"


def test_an_object_is_streamed_not_held(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    """100 MB go out, and of client and server together never a tenth of it is in memory."""
    size = 100 * 10**6
    with answering(lambda _: (200, JSON, b""), keeps_bodies=False) as server:
        settings = site(tmp_path, server.url)
        study_id, image = received_study(sqlite_sessions)
        path, _, made = result_file(settings, "SEG", SegmentationStorage, image)
        with path.open("ab") as file:
            file.truncate(size)
        drafted(sqlite_sessions, study_id, [replace(made, destinations=("WEB",))])
        tracemalloc.start()
        try:
            assert deliver_due(sqlite_sessions, settings, utcnow()) == 1
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    (request,) = server.requests
    assert request.size > size
    assert peak < size / 10


@pytest.mark.requirement("REQ-ACCESS-10")
def test_a_server_has_to_show_a_certificate_we_trust(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    with answering(lambda request: (200, JSON, module("00081199", uid_in(request))), tls=context) as server:
        settings = site(tmp_path, server.url)
        owe_objects(settings, sqlite_sessions, ["WEB"])
        assert deliver_due(sqlite_sessions, settings, utcnow()) == 0
        for delivery in rows(sqlite_sessions, Delivery):
            assert delivery.last_error.startswith("no connection: its certificate is not trusted")
        assert not server.requests  # nothing left before that
        settings = site(tmp_path, server.url, dicom={"tls": {"authorities": authority.file}})
        assert deliver_due(sqlite_sessions, settings, utcnow() + timedelta(minutes=1)) == 2
