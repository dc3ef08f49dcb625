"""The tracer as a page: found by number, told with reasons, without a patient's name, on record."""

from datetime import timedelta
from pathlib import Path

import pytest

from config.routing import RoutingVerdict
from dashboard.app import create_app
from db.models import PeerAssociation
from db.types import utcnow
from instances.retention import delete_due
from tests.dashboard_support import Browser, Site, ct_study, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def test_everybody_who_works_here_finds_a_study_by_its_number_and_no_page_names_the_patient(site: Site) -> None:
    study_id = site.drafted()
    for login in ("radiologist", "admin", "auditor"):
        page = site.client(login).submit("/trace", key="ACC-1001")
        assert page.status_code == 200
        assert "ACC-1001" in page.text
        assert "✓ ct" in page.text
        for private in ("Halvorsen", "HALVORSEN", "Ingrid", "P-1001", "1958"):
            assert private not in page.text
    assert site.tags(study_id=study_id).count("study:traced") == 3
    assert site.client().get(f"/trace/{study_id}").status_code in {302, 303}


def test_it_says_why_the_images_stay_and_what_is_owed(site: Site) -> None:
    study_id = site.drafted()
    page = site.client("admin").get(f"/trace/{study_id}").text
    assert "its draft is not signed" in page
    assert "Reception has ended." in page
    assert f"/audit/studies/{study_id}" not in page
    assert f"/audit/studies/{study_id}" in site.client("auditor").get(f"/trace/{study_id}").text


def test_a_study_that_is_being_received_says_until_when(site: Site) -> None:
    study_id = site.receive(ct_study())
    assert "Complete at the next look." in site.client("admin").get(f"/trace/{study_id}").text
    site.routed(study_id, RoutingVerdict("draft", profile="ct-torso", rule="ct"))
    assert "<b>0</b> before it in the queue" in site.client("admin").get(f"/trace/{study_id}").text


def test_a_study_that_is_not_here_shows_who_was_refused(site: Site) -> None:
    with site.sessions() as db:
        db.add(PeerAssociation(calling_ae="CT9", address="192.0.2.9", rejected="calling AE title is not configured"))
        db.commit()
    page = site.client("admin").submit("/trace", key="NOSUCH")
    assert page.status_code == 404
    assert "CT9" in page.text
    assert "calling AE title is not configured" in page.text
    assert "study:traced" in site.tags(outcome="failure")


@pytest.mark.parametrize("key", ["P-1001", "", "   "])
def test_a_patient_id_and_nothing_are_refused_in_words(site: Site, key: str) -> None:
    site.drafted()
    page = site.client("admin").submit("/trace", key=key)
    assert page.status_code == 400
    assert "accession number" in page.text
    assert "study:traced" not in site.tags()


def test_hostile_text_of_a_peer_is_shown_as_text(site: Site) -> None:
    with site.sessions() as db:
        db.add(PeerAssociation(calling_ae="<script>x", rejected="<img src=x onerror=alert(1)>"))
        db.commit()
    page = site.client("admin").submit("/trace", key="<b>NOSUCH</b>").text
    assert "<script>x" not in page
    assert "<img src=x" not in page
    assert "<b>NOSUCH" not in page


def test_the_worklist_and_the_problems_lead_to_it(site: Site) -> None:
    study_id = site.drafted()
    assert f'href="/trace/{study_id}"' in site.client("admin").get("/worklist").text
    held = site.receive(ct_study(AccessionNumber="ACC-2"))
    site.routed(held, RoutingVerdict("hold", rule="h", reason="a person decides"))
    assert f'href="/trace/{held}"' in site.client("admin").get("/problems").text


def test_images_that_retention_deleted_are_said_to_be_gone(site: Site) -> None:
    study_id = site.receive(ct_study())
    site.routed(study_id, RoutingVerdict("ignore", rule="none"))
    series_id = site.series_id(study_id)
    settings = site.settings.model_copy(
        update={"retention": site.settings.retention.model_copy(update={"keep_days": 1.0, "unreported": True})}
    )
    reader = site.client("radiologist")
    assert reader.get(f"/studies/{study_id}/series/{series_id}/slices/0.png").status_code == 200
    assert delete_due(site.sessions, settings, utcnow() + timedelta(days=2)) == 8
    fresh = restarted(site)
    gone = fresh.get(f"/studies/{study_id}/series/{series_id}/slices/0.png")
    assert gone.status_code == 410
    words = f"deleted by retention on {utcnow():%Y-%m-%d}"
    assert words in gone.text
    page = fresh.get(f"/studies/{study_id}")
    assert page.status_code == 200
    assert words in page.text
    assert "The pixel data were deleted on" in fresh.get(f"/trace/{study_id}").text


def restarted(site: Site) -> Browser:
    """The same installation after a restart, with its reader logged in: nothing is remembered of the files."""
    browser = Browser(create_app(site.settings, site.sessions))
    assert browser.log_in("radiologist").status_code == 303
    return browser
