"""Peers and archives on the destinations page: who called last, and what the node sees when it looks."""

import re
from pathlib import Path

from config.settings import Peer
from db.models import PeerAssociation
from db.peers import add_peer
from db.types import utcnow
from db.uow import unit_of_work
from dicom_node.archive import start_archive
from dicom_node.looking import look_due
from tests.dashboard_support import NODE, Browser, Site, make_site


def text(page: str, name: str) -> str:
    section = page.partition('id="peers"')[2]
    after = section.partition(f"<b>{name}</b>")[2].partition('<td class="mono"><b>')[0].partition("</section>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", after).split())


def looked(site: Site, admin: Browser, kind: str, name: str) -> str:
    assert admin.submit(f"/destinations/{kind}/{name}/echo").status_code == 303
    admin.submit(f"/destinations/{kind}/{name}/echo")
    assert "Waits for the node" in text(admin.get("/destinations").text, name)
    assert look_due(site.sessions, site.settings, utcnow()) == 1
    page = admin.get("/destinations").text
    assert text(admin.get("/destinations/states?of=peers").text, name) == text(page, name)
    return text(page, name)


def test_a_peer_that_answers_and_one_that_does_not(tmp_path: Path, sqlite_url: str) -> None:
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    peers = [
        {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port},
        {"ae_title": "CT1", "host": "192.0.2.7"},
        {"ae_title": "GONE", "host": "127.0.0.1", "port": 9},
    ]
    source = {"name": "old", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port}
    site = make_site(tmp_path, sqlite_url, dicom={"peers": peers}, priors={"sources": [source]})
    admin = site.client("admin")
    try:
        said = looked(site, admin, "peer", "ARCHIVE")
        from_source = looked(site, admin, "source", "old")
    finally:
        archive.stop()
    assert "Answers" in said
    assert "✓ C-ECHO status 0x0000" in said
    assert re.search(r"C-ECHO status 0x0000 \d+ ms", said)
    assert "✓ C-ECHO status 0x0000" in from_source
    gone = looked(site, admin, "peer", "GONE")
    assert "✗ TCP port 9: " in gone
    assert "only calls us" in text(admin.get("/destinations").text, "CT1")
    assert admin.submit("/destinations/peer/NOBODY/echo").status_code == 404
    assert site.tags(tag="peer:tested", outcome="failure") == ["peer:tested"]
    assert len(site.tags(tag="peer:tested")) == 3


def test_who_called_last_and_who_was_refused(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url)
    with unit_of_work(site.sessions, NODE) as uow:
        add_peer(uow, Peer(ae_title="CT1", host="192.0.2.7"))
        uow.session.add(PeerAssociation(calling_ae="CT1", instances=12))
        uow.session.add(PeerAssociation(calling_ae="CT1", rejected="too many associations"))
        uow.session.add(PeerAssociation(calling_ae="THIEF", address="203.0.113.5", rejected="calling AE title unknown"))
    page = site.client("admin").get("/destinations").text
    assert "added by node" in text(page, "CT1")
    assert "2 associations, 12 images 1 refused" in text(page, "CT1")
    assert "203.0.113.5" in page
    assert "calling AE title unknown" in page
