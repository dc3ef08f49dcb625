"""Workitems that a client creates for this station: performed as their Study allows."""

from pathlib import Path
from typing import Any

import pytest

from config.routing import RoutingVerdict
from db import lifecycle
from db.models import Reading
from db.types import ReadingState
from db.uow import unit_of_work
from tests.dashboard_support import DRAFT, WORKER, Site, ct_study, make_site
from tests.workitems_support import orchestrator, uid, ups


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


def warnings(answer: Any) -> str:
    return " ".join(answer.headers.getlist("Warning"))


def test_a_workitem_for_a_study_that_is_drafted_is_completed_at_once(site: Site) -> None:
    images = ct_study(3)
    site.drafted(images)
    client = orchestrator(site)
    workitem = client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    seen = client.item(workitem)
    assert seen.ProcedureStepState == "COMPLETED"
    assert seen.UnifiedProcedureStepPerformedProcedureSequence[0].PerformedProcedureStepEndDateTime
    assert site.tags(object_id=workitem) == ["workitem:created", "workitem:claimed", "workitem:completed"]


def test_a_workitem_for_a_study_that_failed_asks_for_another_run(site: Site) -> None:
    client, images = orchestrator(site), ct_study(3)
    claim = site.claimed(site.receive(images))
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.fail(uow, claim, "a model broke")
    workitem = client.create(ups(str(images[0].StudyInstanceUID), site.settings.dicom.ae_title))
    assert client.item(workitem).ProcedureStepState == "SCHEDULED"
    assert site.one(Reading, id=claim.reading_id).state is ReadingState.QUEUED
    assert "reading:process_again" in site.tags(actor="token:ORCH")


def test_a_workitem_for_a_study_that_no_rule_drafted_takes_the_rule_that_would(site: Site) -> None:
    client, images = orchestrator(site), ct_study(3)
    reading_id = site.routed(site.receive(images), RoutingVerdict("ignore", reason="not for us"))
    client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    reading = site.one(Reading, id=reading_id)
    assert (reading.state, bool(reading.profile)) == (ReadingState.QUEUED, True)


def test_a_held_study_stays_held_whoever_asks(site: Site) -> None:
    client, images = orchestrator(site), ct_study(3)
    reading_id = site.routed(site.receive(images), RoutingVerdict("hold", reason="a person decides"))
    workitem = client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    assert site.one(Reading, id=reading_id).state is ReadingState.HELD
    assert client.item(workitem).ProcedureStepState == "SCHEDULED"


def test_later_images_do_not_end_a_workitem_whose_study_is_read_again(site: Site) -> None:
    client, images = orchestrator(site), ct_study(4)
    study_id = site.receive(images[:3])
    workitem = client.create(ups(str(images[0].StudyInstanceUID), "FIRSTREAD"))
    site.claimed(study_id)
    site.receive(images[3:])  # a new revision: the first Reading is superseded
    assert client.item(workitem).ProcedureStepState == "IN PROGRESS"
    states = sorted(one.ProcedureStepState for one in client.found(ProcedureStepLabel="Draft report"))
    assert states == ["CANCELED", "SCHEDULED"]
    assert site.routed(study_id, DRAFT)


def test_the_input_of_anybodys_workitem_becomes_ready_when_its_study_is_whole(site: Site) -> None:
    client, images = orchestrator(site), ct_study(2)
    study = str(images[0].StudyInstanceUID)
    workitem = client.create(ups(study, "AI2", InputReadinessState="INCOMPLETE"))
    site.routed(site.receive(images))
    assert client.item(workitem).InputReadinessState == "READY"
    answer = client.send("POST", f"/workitems?{uid()}", ups(study, InputReadinessState="INCOMPLETE"))
    assert "The Workitem was created with modifications." in warnings(answer)
