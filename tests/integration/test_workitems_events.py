"""Who subscribes hears what happens: by WebSocket from the server that people run, again after a lost connection."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import func, select, update

from config.routing import RoutingVerdict
from db import lifecycle
from db.lifecycle.queue_control import hold
from db.lifecycle.workitem_events import KEPT
from db.types import utcnow
from db.uow import UnitOfWork, unit_of_work
from db.workitem_models import Subscription, WorkitemEvent
from tests.dashboard_support import NODE, WORKER, Site, ct_study, make_site
from tests.dicomweb_support import events
from tests.workitems_support import (
    FILTERED,
    GLOBAL,
    code,
    element,
    forget,
    orchestrator,
    subscribe,
    ups,
    waiting,
)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


@pytest.fixture
def any_site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url, dicom={"min_free_bytes": 0})


def test_a_reading_reports_each_step_to_who_subscribed_to_everything(any_site: Site) -> None:
    watcher = orchestrator(any_site, "WATCH")
    subscribe(watcher, GLOBAL)
    study_id = any_site.receive(ct_study(2))
    claim = any_site.claimed(study_id)
    (item,) = watcher.found()
    one = item.SOPInstanceUID
    with unit_of_work(any_site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, claim, "only 2 slices")
    assert waiting(any_site, "WATCH") == [
        (one, "1", "SCHEDULED"),  # from its first image
        (one, "1", "SCHEDULED"),  # its input is ready
        (one, "1", "IN PROGRESS"),
        (one, "1", "CANCELED"),
    ]
    with any_site.sessions() as db:
        told = db.scalars(select(WorkitemEvent.attributes).order_by(WorkitemEvent.id)).all()
    assert [one["00404041"]["Value"][0] for one in told] == ["INCOMPLETE", "READY", "READY", "READY"]
    assert told[3]["00741238"]["Value"] == ["only 2 slices"]


def test_nothing_becomes_final_but_through_in_progress(any_site: Site) -> None:
    watcher = orchestrator(any_site, "WATCH")
    subscribe(watcher, GLOBAL)
    any_site.routed(any_site.receive(ct_study(1)), RoutingVerdict("ignore", reason="no rule"))
    assert [state for _, _, state in waiting(any_site, "WATCH")] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]


def test_another_run_of_a_reading_is_reported_as_another_workitem(any_site: Site) -> None:
    watcher = orchestrator(any_site, "WATCH")
    claim = any_site.claimed(any_site.receive(ct_study(2)))
    with unit_of_work(any_site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, claim, "only 2 slices")
    (first,) = watcher.found()
    subscribe(watcher, GLOBAL)
    with unit_of_work(any_site.sessions, NODE) as uow:
        lifecycle.process_again(uow, claim.reading_id)
    (second,) = watcher.found()
    assert waiting(any_site, "WATCH") == [(second.SOPInstanceUID, "1", "SCHEDULED")]
    assert second.SOPInstanceUID != first.SOPInstanceUID


def test_what_a_person_takes_from_its_worker_is_canceled_and_released_as_another_workitem(any_site: Site) -> None:
    watcher = orchestrator(any_site, "WATCH")
    claim = any_site.claimed(any_site.receive(ct_study(2)))
    (first,) = watcher.found()
    subscribe(watcher, GLOBAL)
    with unit_of_work(any_site.sessions, NODE) as uow:
        hold(uow, claim.reading_id)
    assert waiting(any_site, "WATCH") == [(first.SOPInstanceUID, "1", "CANCELED")]
    forget(any_site)
    with unit_of_work(any_site.sessions, NODE) as uow:
        lifecycle.process_again(uow, claim.reading_id)
    (second,) = watcher.found()
    assert waiting(any_site, "WATCH") == [(second.SOPInstanceUID, "1", "SCHEDULED")]
    assert second.SOPInstanceUID != first.SOPInstanceUID


def test_two_subscribers_hear_each_what_they_asked_for(any_site: Site) -> None:
    ris, first, second = (orchestrator(any_site, name) for name in ("RIS", "ONE", "TWO"))
    mine, other = ris.create(ups()), ris.create(ups())
    subscribe(first, mine)
    subscribe(second, GLOBAL)
    assert waiting(any_site, "ONE") == [(mine, "1", "SCHEDULED")]  # its state now
    assert waiting(any_site, "TWO") == []
    for one in (mine, other):
        ris.claim(one)
    assert waiting(any_site, "ONE")[1:] == [(mine, "1", "IN PROGRESS")]
    assert waiting(any_site, "TWO") == [(mine, "1", "IN PROGRESS"), (other, "1", "IN PROGRESS")]
    forget(any_site)
    assert second.send("DELETE", f"/workitems/{mine}/subscribers/TWO").status_code == 200
    ris.send("POST", f"/workitems/{mine}/cancelrequest", element("ReasonForCancellation", "x"))
    ris.send("POST", f"/workitems/{other}/cancelrequest")
    assert waiting(any_site, "ONE") == [(mine, "2", "")]
    assert waiting(any_site, "TWO") == [(other, "2", "")]


def test_a_request_to_cancel_names_who_asked_and_why(site: Site) -> None:
    ris, performer = orchestrator(site, "RIS"), orchestrator(site, "AI2")
    workitem = ris.create(ups())
    performer.claim(workitem)
    subscribe(performer, workitem)
    forget(site)
    told = element("ReasonForCancellation", "patient left") | element("ContactDisplayName", "Front desk")
    assert ris.send("POST", f"/workitems/{workitem}/cancelrequest", told).status_code == 202
    with site.sessions() as db:
        event = db.scalars(select(WorkitemEvent)).one()
    assert event.attributes == {"00741236": {"vr": "AE", "Value": ["RIS"]}, **told}


def test_progress_and_assignment_are_reported(site: Site) -> None:
    client = orchestrator(site)
    subscribe(client, GLOBAL)
    workitem = client.create(ups(station="AI2"))
    assert [kind for _, kind, _ in waiting(site, "ORCH")] == ["1", "5"]
    forget(site)
    change = Dataset()
    change.ScheduledStationNameCodeSequence = [code("AI3", "99LOCAL", "Another")]
    client.send("POST", f"/workitems/{workitem}", change)
    transaction = client.claim(workitem)
    progress, item = Dataset(), Dataset()
    item.ProcedureStepProgress = "40"
    progress.ProcedureStepProgressInformationSequence = [item]
    client.send("POST", f"/workitems/{workitem}?{transaction}", progress)
    with site.sessions() as db:
        told = [(row.event_type.value, row.attributes) for row in db.scalars(select(WorkitemEvent))]
    assert [kind for kind, _ in told] == ["5", "1", "3"]
    assert told[0][1]["00404025"]["Value"][0]["00080100"]["Value"] == ["AI3"]
    assert told[2][1]["00741002"]["Value"][0]["00741004"]["Value"] == [40]


def test_a_filter_is_asked_when_something_is_new_and_holds_from_then_on(any_site: Site) -> None:
    client = orchestrator(any_site)
    old = client.create(ups())
    client.create(ups(PatientID="P-78"))
    subscribe(client, FILTERED, filter="PatientID=P-77,ProcedureStepState=SCHEDULED")
    new, other = client.create(ups()), client.create(ups(PatientID="P-79"))
    for one in (old, new, other):
        client.claim(one)  # no longer SCHEDULED: it was when it matched
    assert waiting(any_site, "ORCH") == [(new, "1", "SCHEDULED"), (old, "1", "IN PROGRESS"), (new, "1", "IN PROGRESS")]
    forget(any_site)
    any_site.receive(ct_study(1, PatientID="P-77"))
    any_site.receive(ct_study(1, PatientID="P-80"))
    assert len(waiting(any_site, "ORCH")) == 1


def test_with_a_lock_on_everything_each_state_is_reported_at_once(site: Site) -> None:
    client = orchestrator(site)
    workitem = client.create(ups())
    site.drafted(ct_study(2))
    subscribe(client, GLOBAL, deletionlock="true")
    states = {one: now for one, _, now in waiting(site, "ORCH")}
    assert len(states) == 2
    assert states[workitem] == "SCHEDULED"
    assert sorted(states.values()) == ["COMPLETED", "SCHEDULED"]


def test_a_suspended_subscription_hears_of_what_was_there_and_an_ended_one_of_nothing(any_site: Site) -> None:
    client = orchestrator(any_site)
    subscribe(client, GLOBAL)
    old = client.create(ups())
    assert client.send("POST", f"/workitems/{GLOBAL}/subscribers/ORCH/suspend").status_code == 200
    forget(any_site)
    new = client.create(ups())
    for one in (old, new):
        client.claim(one)
    assert waiting(any_site, "ORCH") == [(old, "1", "IN PROGRESS")]
    assert client.send("DELETE", f"/workitems/{GLOBAL}/subscribers/ORCH").status_code == 200
    assert waiting(any_site, "ORCH") == []
    client.claim(client.create(ups()))
    assert waiting(any_site, "ORCH") == []
    assert client.send("DELETE", f"/workitems/{GLOBAL}/subscribers/ORCH").status_code == 404
    assert [event.detail["subscriber"] for event in events(any_site.sessions, "workitem:unsubscribed")] == ["ORCH"] * 2
    assert len(events(any_site.sessions, "workitem:subscribed")) == 1


def test_what_rolls_back_is_not_reported(any_site: Site) -> None:
    client = orchestrator(any_site)
    subscribe(client, GLOBAL)
    study_id = any_site.receive(ct_study(1))
    reading_id = any_site.routed(study_id)
    forget(any_site)
    with any_site.sessions() as db:
        lifecycle.claim(UnitOfWork(db, WORKER), reading_id, owner="w", lease_s=60)
        db.flush()
        assert list(db.scalars(select(WorkitemEvent.event_type))) == ["1"]
        db.rollback()
    assert waiting(any_site, "ORCH") == []


def test_nobody_fetches_for_ever(site: Site) -> None:
    client = orchestrator(site)
    subscribe(client, GLOBAL)
    client.create(ups())
    with site.sessions() as db:
        db.execute(update(WorkitemEvent).values(created_at=utcnow() - KEPT - timedelta(seconds=1)))
        db.commit()
    new = client.create(ups())
    assert waiting(site, "ORCH") == [(new, "1", "SCHEDULED")]


def test_without_subscribers_nothing_is_kept(site: Site) -> None:
    site.drafted(ct_study(2))
    orchestrator(site).create(ups())
    with site.sessions() as db:
        assert db.scalar(select(func.count()).select_from(WorkitemEvent)) == 0
        assert db.scalar(select(func.count()).select_from(Subscription)) == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/workitems/{GLOBAL}/subscribers/SOMEBODY", 403),
        ("/workitems/1.2.3/subscribers/ORCH", 404),
        ("/workitems/x/subscribers/ORCH", 400),
        (f"/workitems/{GLOBAL}/subscribers/ORCH?deletionlock=perhaps", 400),
        (f"/workitems/{GLOBAL}/subscribers/ORCH?filter=PatientID%3D1", 400),
        (f"/workitems/{FILTERED}/subscribers/ORCH", 400),
        (f"/workitems/{FILTERED}/subscribers/ORCH?filter=NoSuchThing%3D1", 400),
        (f"/workitems/{FILTERED}/subscribers/ORCH?filter=Modality%3DCT", 400),
        (f"/workitems/{FILTERED}/subscribers/ORCH/suspend", 404),
        ("/workitems/1.2.3/subscribers/ORCH/suspend", 400),
    ],
)
def test_a_subscription_to_nothing_or_for_somebody_else_is_refused(site: Site, path: str, status: int) -> None:
    assert orchestrator(site).send("POST", path).status_code == status
