"""The page of destinations says what is owed, what went wrong and whether each answers; the node does the test."""

import json
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from db import lifecycle
from db.delivery_models import DestinationTest
from db.lifecycle import counts, deliveries
from db.lifecycle.counts import CountPatience
from db.models import AuditEvent, Delivery
from db.types import DeliveryState, utcnow
from db.uow import unit_of_work
from dicom_node.archive import start_archive
from dicom_node.scp import start_node
from dicom_node.testing import try_due
from tests.dashboard_support import NODE, Browser, Site, ct_study, make_site
from tests.db_support import an_object
from tests.delivery_support import FREE, Reply, Request, answering
from tests.node_support import node_settings, rows

PACS = {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": FREE, "drafts": True}


def site_with(tmp_path: Path, url: str, *destinations: dict[str, Any]) -> Site:
    return make_site(tmp_path, url, destinations=list(destinations))


def row_of(page: str, name: str) -> str:
    """The table row, and what a test said below it, as text with single spaces."""
    after = (
        page.partition("</main>")[0]
        .partition('<div id="peers"')[0]
        .partition(f"<b>{name}</b>")[2]
        .partition("<td><b>")[0]
    )
    return " ".join(re.sub(r"<[^>]+>", " ", after).split())


def said_by(site: Site, admin: Browser, name: str) -> str:
    """Press the button, let the node do it, and return what the page says."""
    assert admin.submit(f"/destinations/{name}/test").status_code == 303
    waiting = admin.get("/destinations").text
    assert 'hx-get="/destinations/states"' in waiting
    assert "Test waits for the node" in row_of(waiting, name)
    assert try_due(site.sessions, site.settings, utcnow()) == 1
    page = admin.get("/destinations").text
    assert "hx-get" not in page
    assert row_of(admin.get("/destinations/states").text, name) == row_of(page, name)
    return row_of(page, name)


def test_each_destination_shows_what_is_owed_and_what_went_wrong(tmp_path: Path, sqlite_url: str) -> None:
    site = site_with(
        tmp_path,
        sqlite_url,
        PACS,
        {"name": "web", "protocol": "stow-rs", "url": "https://web.example/dicom", "segmentation": "none"},
        {"name": "ris", "protocol": "mllp", "host": "ris.example", "port": 2575, "tls": False},
    )
    objects = [an_object(kind) for kind in ("SEG", "FINDINGS_SR", "DRAFT_SR", "KEY_IMAGES")]
    site.drafted(ct_study(1), objects=objects, destinations=["pacs", "gone"])
    for outcome in ("delivered", "failed", "postponed"):
        with unit_of_work(site.sessions, NODE) as uow:
            job = _claim(uow, "pacs")
            if outcome == "delivered":
                lifecycle.delivered(uow, job.delivery_id)
            else:
                attempts = 1 if outcome == "failed" else 12
                error = f"it was {outcome}"
                lifecycle.delivery_failed(uow, job.delivery_id, error, base_s=100, max_attempts=attempts)
    page = site.client("admin").get("/destinations").text
    pacs = row_of(page, "pacs")
    assert pacs.startswith("c-store · ARCHIVE at 127.0.0.1:9 segmentations (binary), heat maps, findings SR")
    assert "drafts too" in pacs
    assert re.search(r"; drafts too 2 since \S+ \S+ 1 1 0 20\d\d-", pacs)  # waiting, sent, failed, withdrawn, success
    assert "it was postponed" in pacs  # newer than the failure
    assert "https://web.example/dicom" in page
    assert "segmentations" not in row_of(page, "web")
    assert "mllp · ris.example:2575 report as HL7 ORU" in row_of(page, "ris")
    assert "not in the settings" in row_of(page, "gone")
    assert "/destinations/gone/test" not in page


def _claim(uow: Any, destination: str) -> Any:
    while True:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=600)
        assert job is not None
        if job.destination == destination:
            return job


def test_the_test_of_a_pacs_says_which_sop_classes_it_takes(tmp_path: Path, sqlite_url: str) -> None:
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    try:
        site = site_with(tmp_path, sqlite_url, {**PACS, "port": archive.port})
        said = said_by(site, site.client("admin"), "pacs")
    finally:
        archive.stop()
    assert "Answers" in said
    for words in (
        "✓ C-ECHO status 0x0000",
        "✓ Segmentation Storage accepted",
        "✓ Label Map Segmentation Storage accepted",
        "✓ Basic Text SR Storage accepted",
        "✓ Encapsulated PDF Storage accepted",
    ):
        assert words in said
    event = site.one(AuditEvent, tag="destination:tested")
    assert (event.outcome, event.object_id, event.actor) == ("success", "pacs", "node")
    assert event.detail["asked_by"] == "admin"
    assert "C-ECHO" in event.detail["steps"]
    assert archive.files() == []  # nothing was sent


def test_a_pacs_that_refuses_what_it_would_be_sent_is_not_in_order(tmp_path: Path, sqlite_url: str) -> None:
    ae = AE("ARCHIVE")
    ae.add_supported_context(Verification)
    ae.add_supported_context(Comprehensive3DSRStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        site = site_with(tmp_path, sqlite_url, {**PACS, "port": server.server_address[1], "segmentation": "labelmap"})
        said = said_by(site, site.client("admin"), "pacs")
    finally:
        server.shutdown()
    assert "Does not answer as it should" in said
    assert "✗ Label Map Segmentation Storage SOP Class not supported" in said
    assert "✓ Comprehensive 3D SR Storage accepted" in said
    assert "✓ Encapsulated PDF Storage SOP Class not supported (nothing of it is sent there)" in said
    event = site.one(AuditEvent, tag="destination:tested")
    assert event.outcome == "failure"
    assert event.detail["reason"] == "SOP Class not supported"


def test_nobody_there(tmp_path: Path, sqlite_url: str) -> None:
    site = site_with(tmp_path, sqlite_url, PACS, {"name": "ris", "protocol": "mllp", "host": "127.0.0.1", "port": FREE})
    admin = site.client("admin")
    assert "✗ TCP port 9: " in said_by(site, admin, "pacs")
    assert "✗ TCP port 9: " in said_by(site, admin, "ris")


CAPABILITIES = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "software": {"name": "HAPI"}}


@pytest.mark.parametrize(
    ("protocol", "reply", "verdict", "words"),
    [
        ("stow-rs", (200, {}, b"[]"), "Answers", "✓ DICOMweb a search was answered 200"),
        ("stow-rs", (204, {}, b""), "Answers", "✓ DICOMweb a search was answered 204"),
        ("stow-rs", (401, {}, b""), "Does not", "✗ DICOMweb it answered 401: it does not accept our bearer token"),
        ("stow-rs", (200, {}, b"<html>"), "Does not", "✗ DICOMweb what it answered is no DICOMweb"),
        ("stow-rs", (404, {}, b""), "Does not", "✗ DICOMweb it answered 404: it has no such service"),
        ("stow-rs", (405, {"Allow": "POST"}, b""), "Does not", "✗ DICOMweb it answered 405"),
        ("fhir", (200, {}, json.dumps(CAPABILITIES).encode()), "Answers", "✓ FHIR FHIR 4.0.1, HAPI"),
        ("fhir", (200, {}, b'{"resourceType": "Patient"}'), "Does not", "✗ FHIR what it answered is no FHIR"),
        ("fhir", (200, {}, json.dumps({**CAPABILITIES, "fhirVersion": "3.0.2"}).encode()), "Does not",
         "✗ FHIR it speaks FHIR 3.0.2, we R4"),
    ],
)  # fmt: skip
def test_web_destinations_are_asked_something_that_names_no_patient(
    tmp_path: Path, sqlite_url: str, protocol: str, reply: Reply, verdict: str, words: str
) -> None:
    with answering(lambda _: reply) as server:
        site = site_with(tmp_path, sqlite_url, {"name": "web", "protocol": protocol, "url": server.url})
        said = said_by(site, site.client("admin"), "web")
    assert verdict in said
    assert words in said
    first = server.requests[0]
    assert first.method == "GET"
    assert first.body == b""
    asked = "/dicom-web/metadata" if protocol == "fhir" else "/dicom-web/studies?StudyInstanceUID=2.25."
    assert first.path.startswith(asked)
    assert {one.method for one in server.requests} <= {"GET", "OPTIONS"}


def test_a_server_that_only_stores_is_asked_what_it_allows(tmp_path: Path, sqlite_url: str) -> None:
    def reply(request: Request) -> Reply:
        return (200, {"Allow": "OPTIONS, POST"}, b"") if request.method == "OPTIONS" else (405, {}, b"")

    with answering(reply) as server:
        site = site_with(tmp_path, sqlite_url, {"name": "web", "protocol": "stow-rs", "url": server.url})
        assert "✓ DICOMweb no search (405), and it allows OPTIONS, POST" in said_by(site, site.client("admin"), "web")


def test_the_running_node_does_it_and_asking_twice_is_one_test(tmp_path: Path, sqlite_url: str) -> None:
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    site = site_with(tmp_path, sqlite_url, {**PACS, "port": archive.port})
    admin = site.client("admin")
    for _ in range(2):
        admin.submit("/destinations/pacs/test")
    assert len(rows(site.sessions, DestinationTest)) == 1
    node = start_node(node_settings(tmp_path, destinations=[{**PACS, "port": archive.port}]), site.sessions)
    try:
        deadline = time.monotonic() + 30
        while "Answers" not in admin.get("/destinations").text and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        node.stop()
        archive.stop()
    assert "Answers" in row_of(admin.get("/destinations").text, "pacs")
    assert site.tags(tag="destination:tested") == ["destination:tested"]


def test_a_destination_the_node_does_not_know_says_so(tmp_path: Path, sqlite_url: str) -> None:
    """The dashboard was restarted after a change of the settings, and the node was not."""
    site = site_with(tmp_path, sqlite_url, PACS)
    admin = site.client("admin")
    admin.submit("/destinations/pacs/test")
    assert try_due(site.sessions, node_settings(tmp_path), utcnow()) == 1
    assert "✗ settings the node does not know this destination: restart it" in row_of(
        admin.get("/destinations").text, "pacs"
    )


def test_only_administrators_see_the_page_and_test(tmp_path: Path, sqlite_url: str) -> None:
    site = site_with(tmp_path, sqlite_url, PACS)
    for role in ("radiologist", "auditor"):
        browser = site.client(role)
        assert browser.get("/destinations").status_code == 403
        assert browser.submit("/destinations/pacs/test").status_code == 403
        assert "/destinations" not in browser.get("/account/password").text
    admin = site.client("admin")
    assert 'href="/destinations"' in admin.get("/destinations").text
    assert admin.submit("/destinations/nobody/test").status_code == 404
    assert rows(site.sessions, DestinationTest) == []


def test_what_is_not_held_is_a_problem_and_is_sent_again(tmp_path: Path, sqlite_url: str) -> None:
    site = site_with(tmp_path, sqlite_url, PACS)
    site.drafted(ct_study(1), objects=[an_object("SEG")], destinations=["pacs"])
    patience = CountPatience(wait_s=10, max_attempts=1, max_missed=0)
    with unit_of_work(site.sessions, NODE) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        assert job is not None
        deliveries.delivered(uow, job.delivery_id, is_counted=True)
        asked = counts.order_count(uow, "pacs", utcnow() + timedelta(minutes=1), patience)
        assert asked is not None
        assert counts.take_count(uow, asked, set(), patience).alarms == 1
    admin = site.client("admin")
    assert "1 not safe" in row_of(admin.get("/destinations").text, "pacs")
    section = admin.get("/problems").text.partition('aria-label="Not held"')[2].partition("</section>")[0]
    for words in ("Segmentation", "pacs", "accepted 1 times, and not there when it was asked", "Send again"):
        assert words in section
    assert admin.submit(f"/problems/deliveries/{job.delivery_id}/again").status_code == 303
    assert site.one(Delivery, id=job.delivery_id).state is DeliveryState.PENDING
    assert "1 not safe" not in admin.get("/destinations").text
