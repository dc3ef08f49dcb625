"""What Prometheus is told: read by its own parser, counted by hand, and nobody's name in it."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from db import lifecycle
from db.models import PeerAssociation, Quarantined, Reading
from db.running_models import WorkerPresence
from db.tokens import Scope, create_token
from db.types import utcnow
from db.uow import unit_of_work
from tests.dashboard_support import NODE, Site, ct_study, make_site
from tests.db_support import an_object

HERE, ELSEWHERE = {"REMOTE_ADDR": "127.0.0.1"}, {"REMOTE_ADDR": "203.0.113.9"}


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    (tmp_path / "instances").mkdir()
    return make_site(tmp_path, sqlite_url)


def scraped(site: Site) -> Mapping[tuple[str, tuple[str, ...]], float]:
    """Every sample by name and label values."""
    answer = site.client().get("/metrics", environ_base=HERE)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    return {(one.name, tuple(one.labels.values())): one.value for family in families for one in family.samples}


def test_the_figures_are_those_of_the_hospital(site: Site) -> None:
    site.drafted(ct_study(2), objects=[an_object("SEG"), an_object("DRAFT_SR")], destinations=["pacs"])
    waiting = site.routed(site.receive(ct_study(3, AccessionNumber="A-2", PatientID="P-2")))
    with unit_of_work(site.sessions, NODE) as uow:
        uow.session.execute(
            update(Reading).where(Reading.id == waiting).values(completed_at=utcnow() - timedelta(seconds=500))
        )
        for rejected in ("", "", "calling AE title is not configured"):
            uow.session.add(PeerAssociation(calling_ae="CT1", rejected=rejected))
        uow.session.add(
            WorkerPresence(owner="w", started_at=utcnow(), seen_at=utcnow(), models=[{"role": "vlm", "is_warm": True}])
        )
        uow.session.add(
            WorkerPresence(owner="gone", started_at=utcnow(), seen_at=utcnow() - timedelta(minutes=5), models=[])
        )
        uow.session.add(Quarantined(reason="no UID", error="MissingUidError", status=0xC000))
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        assert job is not None
        lifecycle.delivered(uow, job.delivery_id)
    found = scraped(site)
    expected = {
        ("firstread_studies_received_total", ()): 2,
        ("firstread_instances_received_total", ()): 5,
        ("firstread_associations_total", ("accepted",)): 2,
        ("firstread_associations_total", ("rejected",)): 1,
        ("firstread_readings", ("DRAFTED",)): 1,
        ("firstread_readings", ("QUEUED",)): 1,
        ("firstread_readings", ("FAILED",)): 0,
        ("firstread_reports", ("DRAFTED",)): 1,
        ("firstread_reports", ("UNREAD",)): 1,
        ("firstread_deliveries", ("pacs", "DELIVERED")): 1,
        ("firstread_deliveries", ("pacs", "PENDING")): 1,
        ("firstread_quarantined", ()): 1,
        ("firstread_workers", ()): 1,
        ("firstread_workers_warm", ()): 1,
        ("firstread_queue_mode", ("OPEN",)): 1,
        ("firstread_queue_mode", ("PAUSED",)): 0,
        ("firstread_drafts_last_day", ("VILA-M3 demo", "0.1.0-demo")): 1,
        ("firstread_stage_readings_last_day", ("reading",)): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["firstread_critical_open", ()] >= 0
    assert 500 <= found["firstread_queue_oldest_seconds", ()] < 700
    assert found["firstread_disk_bytes", ("size",)] > found["firstread_disk_bytes", ("free",)] > 0
    assert found["firstread_stage_quantile_seconds", ("0.95", "reading")] >= 0


@pytest.mark.requirement("REQ-PRIV-2")
def test_no_label_holds_anything_of_a_patient_or_study(site: Site) -> None:
    study_id = site.drafted(ct_study(1))
    text = site.client().get("/metrics", environ_base=HERE).text
    for word in ("Halvorsen", "P-1001", "ACC-1001", str(study_id), "1.2.826", "lung"):
        assert word not in text


def test_from_elsewhere_it_takes_a_token_of_its_own_or_who_runs_the_system(site: Site) -> None:
    with unit_of_work(site.sessions, NODE) as uow:
        mine = create_token(uow, name="prometheus", scopes=[Scope.METRICS], days=30)
        other = create_token(uow, name="viewer", scopes=[Scope.READ], days=30)
    browser, forwarded = site.client(), {"X-Forwarded-For": "203.0.113.9"}
    refused = browser.get("/metrics", environ_base=ELSEWHERE)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    assert browser.get("/metrics", environ_base=HERE, headers=forwarded).status_code == 401
    bearer = {"Authorization": f"Bearer {mine}"}
    assert browser.get("/metrics", environ_base=ELSEWHERE, headers=bearer).status_code == 200
    wrong = {"Authorization": f"Bearer {other}"}
    assert browser.get("/metrics", environ_base=ELSEWHERE, headers=wrong).status_code == 403
    assert browser.get("/metrics", headers={"Authorization": "Bearer frt_nonsense"}).status_code == 401
    assert browser.get("/metrics", environ_base=HERE).status_code == 200  # from this machine
    assert site.client("admin").get("/metrics", headers=forwarded).status_code == 200
    assert site.client("radiologist").get("/metrics", headers=forwarded).status_code == 401


def test_figures_of_an_empty_system(site: Site) -> None:
    found = scraped(site)
    assert found["firstread_studies_received_total", ()] == 0
    assert found["firstread_queue_oldest_seconds", ()] == 0
    assert found["firstread_workers", ()] == 0
