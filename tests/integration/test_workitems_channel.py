"""The event channel of the server that people run: heard as it happens, and again after a lost connection."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import simple_websocket
from simple_websocket.ws import Base

from dashboard.workitems.channel import Channels
from db.tokens import revoke_token
from db.uow import unit_of_work
from tests.dashboard_support import Site, ct_study
from tests.dicomweb_support import PEOPLE, Served, serving
from tests.workitems_support import (
    GLOBAL,
    Orchestrator,
    orchestrator,
    state,
    subscribe,
    ups,
    waiting,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("ups")) as one:
        yield one


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
