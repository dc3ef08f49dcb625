"""Who subscribes hears what happens: by WebSocket from the server that people run, again after a lost connection."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import simple_websocket
from pydicom.dataset import Dataset
from simple_websocket.ws import Base
from sqlalchemy import func, select, update

from config.routing import RoutingVerdict
from dashboard.workitems.channel import Channels
from db import lifecycle
from db.lifecycle.workitem_events import KEPT
from db.tokens import revoke_token
from db.types import utcnow
from db.uow import UnitOfWork, unit_of_work
from db.workitem_models import Subscription, WorkitemEvent
from tests.dashboard_support import NODE, WORKER, Site, ct_study, make_site
from tests.dicomweb_support import PEOPLE, Served, events, serving
from tests.workitems_support import (
    FILTERED,
    GLOBAL,
    Orchestrator,
    code,
    element,
    orchestrator,
    state,
    ups,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("ups")) as one:
        yield one


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


@pytest.fixture
def any_site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url, dicom={"min_free_bytes": 0})


def waiting(site: Site, ae_title: str) -> list[tuple[str, str, str]]:
    """(workitem, event type, state) of the event reports that wait."""
    with site.sessions() as db:
        rows = db.scalars(select(WorkitemEvent).where(WorkitemEvent.ae_title == ae_title).order_by(WorkitemEvent.id))
        return [
            (row.uid, row.event_type.value, row.attributes.get("00741000", {}).get("Value", [""])[0]) for row in rows
        ]


def forget(site: Site) -> None:
    with site.sessions() as db:
        db.query(WorkitemEvent).delete()
        db.commit()


def subscribe(client: Orchestrator, workitem: str, **query: str) -> None:
    answer = client.send("POST", f"/workitems/{workitem}/subscribers/{client.ae_title}", **query)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Content-Location"] == f"ws://localhost/ups/subscribers/{client.ae_title}"


# --- what is kept for whom ---------------------------------------------------------------------------------


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


# --- the channel -------------------------------------------------------------------------------------------


class Deaf(simple_websocket.Client):
    """A client whose machine is gone: it reads, and answers no Ping."""

    def _handle_events(self) -> bool:
        for event in self.ws.events():
            if isinstance(getattr(event, "data", None), str):
                self.input_buffer.append(event.data)
                self.event.set()
        return True


@contextmanager
def channel(served: Served, client: Orchestrator, kind: type[Base] = simple_websocket.Client) -> Iterator[Base]:
    address = f"ws://127.0.0.1:{served.port}/ups/subscribers/{client.ae_title}"
    socket = kind(address, headers=client.headers)
    try:
        yield socket
    finally:
        if socket.connected:
            socket.close()


def heard(socket: Base, number: int) -> list[dict[str, Any]]:
    """The next event reports; each is waited for as long as it takes."""
    told = []
    for _ in range(number):
        message = socket.receive(timeout=60)
        assert message is not None
        told.append(json.loads(message))
    return told


def of(told: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [
        (one["00001000"]["Value"][0], one["00001002"]["Value"][0], one.get("00741000", {}).get("Value", [""])[0])
        for one in told
    ]


def test_what_happens_is_heard_as_it_happens(served: Served) -> None:
    client = orchestrator(served.site, "LIVE")
    subscribe(client, GLOBAL)
    with channel(served, client) as socket:
        study_id = served.site.receive(ct_study(2))
        (report,) = heard(socket, 1)
        assert report["00000002"]["Value"] == ["1.2.840.10008.5.1.4.34.6.1"]
        assert report["00000110"]["vr"] == "US"
        assert report["00404041"] == {"vr": "CS", "Value": ["INCOMPLETE"]}
        served.site.claimed(study_id)
        assert [now for _, _, now in of(heard(socket, 2))] == ["SCHEDULED", "IN PROGRESS"]
        workitem = client.create(ups())
        client.claim(workitem)
        assert of(heard(socket, 2)) == [(workitem, 1, "SCHEDULED"), (workitem, 1, "IN PROGRESS")]
    client.send("DELETE", f"/workitems/{GLOBAL}/subscribers/LIVE")


def test_what_was_missed_is_heard_after_reconnecting_once_and_in_order(served: Served) -> None:
    client = orchestrator(served.site, "AGAIN")
    first = client.create(ups())
    subscribe(client, first)
    with channel(served, client) as socket:
        assert of(heard(socket, 1)) == [(first, 1, "SCHEDULED")]
        _until_nothing_waits(served.site, "AGAIN")
    transaction = client.claim(first)
    client.send("PUT", f"/workitems/{first}/state", state("CANCELED", transaction))
    with channel(served, client) as socket:
        assert of(heard(socket, 2)) == [(first, 1, "IN PROGRESS"), (first, 1, "CANCELED")]
        _until_nothing_waits(served.site, "AGAIN")
        assert socket.receive(timeout=0.1) is None


def test_what_a_dead_connection_swallowed_is_sent_again(served: Served) -> None:
    client = orchestrator(served.site, "DEAF")
    workitem = client.create(ups())
    subscribe(client, workitem)
    with channel(served, client, Deaf) as socket:
        assert of(heard(socket, 1)) == [(workitem, 1, "SCHEDULED")]
        assert waiting(served.site, "DEAF") == [(workitem, "1", "SCHEDULED")]  # sent, and not confirmed
    with channel(served, client) as socket:
        assert of(heard(socket, 1)) == [(workitem, 1, "SCHEDULED")]


def _until_nothing_waits(site: Site, ae_title: str) -> None:
    for _ in range(600):
        if not waiting(site, ae_title):
            return
        time.sleep(0.05)
    raise AssertionError("it was never confirmed")


class Late(simple_websocket.Client):
    """A client that reads the end of the handshake, the first event report and the first Ping in one piece."""

    def handshake(self) -> None:
        self.sock = Slow(self.sock)
        super().handshake()


class Slow:
    """A connection whose first answer is read a moment late."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._is_first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, size: int) -> bytes:
        if self._is_first:
            self._is_first = False
            time.sleep(1.0)
        found: bytes = self._connection.recv(size)
        return found


def test_a_client_that_reads_everything_in_one_piece_confirms_all_the_same(served: Served) -> None:
    client = orchestrator(served.site, "LATE")
    workitem = client.create(ups())
    subscribe(client, workitem)
    with channel(served, client, Late) as socket:
        assert of(heard(socket, 1)) == [(workitem, 1, "SCHEDULED")]
        _until_nothing_waits(served.site, "LATE")


def test_a_second_connection_of_a_subscriber_takes_the_place_of_the_first(served: Served) -> None:
    client = orchestrator(served.site, "TWICE")
    subscribe(client, GLOBAL)
    with channel(served, client) as old, channel(served, client) as new:
        with pytest.raises(simple_websocket.ConnectionClosed):
            old.receive(timeout=60)
        workitem = client.create(ups())
        assert of(heard(new, 1)) == [(workitem, 1, "SCHEDULED")]
    client.send("DELETE", f"/workitems/{GLOBAL}/subscribers/TWICE")


def test_channels_leave_threads_for_everybody_else(served: Served) -> None:
    most = Channels(served.site.settings.web.threads).most
    assert 0 < most <= served.site.settings.web.threads // 4
    clients = [orchestrator(served.site, f"FULL{number}") for number in range(most + 1)]
    for client in clients:
        subscribe(client, GLOBAL)
    *able, refused = clients
    with channel(served, able[0]), channel(served, able[1]):
        with pytest.raises(simple_websocket.ConnectionError) as error:
            simple_websocket.Client(
                f"ws://127.0.0.1:{served.port}/ups/subscribers/{refused.ae_title}", headers=refused.headers
            )
        assert "503" in str(error.value) or error.value.status_code == 503
        assert requests.get(f"http://127.0.0.1:{served.port}/alive", timeout=30).status_code < 500
    for client in clients:
        client.send("DELETE", f"/workitems/{GLOBAL}/subscribers/{client.ae_title}")


def test_a_revoked_token_hears_nothing_more(served: Served) -> None:
    client = orchestrator(served.site, "OUT")
    subscribe(client, GLOBAL)
    with channel(served, client) as socket:
        with unit_of_work(served.site.sessions, PEOPLE) as uow:
            revoke_token(uow, "OUT")
        with pytest.raises(simple_websocket.ConnectionClosed):
            socket.receive(timeout=60)


def test_a_channel_is_only_for_who_subscribed_and_only_its_own(served: Served) -> None:
    nobody = orchestrator(served.site, "NOBODY")
    address = f"ws://127.0.0.1:{served.port}/ups/subscribers"
    for path, headers, status in (
        ("NOBODY", nobody.headers, 404),
        ("LIVE", nobody.headers, 403),
        ("NOBODY", {}, 401),
        ("NOBODY", {"Authorization": "Bearer x"}, 401),
    ):
        with pytest.raises(simple_websocket.ConnectionError) as error:
            simple_websocket.Client(f"{address}/{path}", headers=headers)
        assert error.value.status_code == status
    plain = requests.get(f"http://127.0.0.1:{served.port}/ups/subscribers/NOBODY", headers=nobody.headers, timeout=30)
    assert (plain.status_code, plain.headers["Upgrade"]) == (426, "websocket")


def test_a_page_of_another_site_opens_no_channel_with_somebodys_session(served: Served) -> None:
    web, browser = f"http://127.0.0.1:{served.port}", requests.Session()
    form = browser.get(f"{web}/login", timeout=30).text
    token = form.partition('name="csrf_token" value="')[2].partition('"')[0]
    fields = {"csrf_token": token, "login": "radiologist", "password": "correct-horse-battery"}
    assert browser.post(f"{web}/login", data=fields, timeout=30).status_code == 200
    page = browser.get(f"{web}/account/password", timeout=30).text
    mark = page.partition('name="csrf_token" value="')[2].partition('"')[0]
    own = f"{web}/ups/workitems/{GLOBAL}/subscribers/radiologist"
    assert browser.post(own, headers={"X-CSRFToken": mark}, timeout=30).status_code == 201
    cookie = "; ".join(f"{one.name}={one.value}" for one in browser.cookies)
    address = f"ws://127.0.0.1:{served.port}/ups/subscribers/radiologist"
    known = {"Cookie": cookie, "User-Agent": str(browser.headers["User-Agent"])}
    for more in ({"Origin": "https://evil.test"}, {}):
        with pytest.raises(simple_websocket.ConnectionError) as error:
            simple_websocket.Client(address, headers=known | more)
        assert error.value.status_code == 403
    socket = simple_websocket.Client(address, headers=known | {"Origin": web})
    workitem = orchestrator(served.site, "RIS9").create(ups())
    assert of(heard(socket, 1)) == [(workitem, 1, "SCHEDULED")]
    socket.close()
    browser.delete(own, headers={"X-CSRFToken": mark}, timeout=30)
