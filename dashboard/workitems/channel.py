"""The event channel: one WebSocket per subscriber, its event reports sent until they are confirmed (PS3.18 8.10.4).

A WebSocket holds a request thread for as long as it is open, so their number is bounded well below ``web.threads``;
who finds no place is told to come back. An event report is forgotten when a Pong answers the Ping behind it: what a
connection lost is sent again on the next.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import structlog
from flask import Response, current_app, request, session
from simple_websocket import ConnectionClosed, Server  # type: ignore[import-untyped, unused-ignore]
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, ServiceUnavailable
from wsproto.events import Ping
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from dashboard.dicomweb.door import client
from dashboard.people import person, sessions, stamp_of
from dashboard.permissions import Permission, requires
from dashboard.workitems.service import bp, plain, root
from db.lifecycle.subscriptions import confirm
from db.queries.workitems import is_subscriber, waiting_events
from db.report_models import UserAccount
from db.tokens import find_bearer
from db.uow import unit_of_work
from db.workitem_models import WorkitemEvent
from db.workitem_values import UPS_CLASS, text

log = structlog.get_logger()
LOOK_S = 1.0
PING_S = 20.0
_PATIENCE_S = 10.0
_ADMIT_S = 10.0
_LONGEST_MESSAGE = 1024
_GOING_AWAY, _POLICY = 1001, 1008


class Channels:
    """Which subscribers have a channel open; a new one takes the place of the same subscriber's older one."""

    def __init__(self, threads: int) -> None:
        self.most = max(threads // 4, 1) if threads > 1 else 0
        self._places = threading.BoundedSemaphore(max(self.most, 1))
        self._holders: dict[str, object] = {}
        self._lock = threading.Lock()

    @contextmanager
    def place(self, ae_title: str) -> Iterator[Callable[[], bool]]:
        """Hold a place; yields whether it is still this connection's.

        Raises:
            ServiceUnavailable: there is none free.
        """
        mine = object()
        with self._lock:
            self._holders[ae_title] = mine
        if self.most == 0 or not self._places.acquire(timeout=3 * LOOK_S):
            raise ServiceUnavailable("Every event channel is taken: search by modification time meanwhile.")
        try:
            yield lambda: self._holders.get(ae_title) is mine
        finally:
            self._places.release()
            with self._lock:
                if self._holders.get(ae_title) is mine:
                    del self._holders[ae_title]


class _TakenOver(Response):
    """What is left to answer after a WebSocket: nothing; its server is told so in the way it knows."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Leave the connection alone."""
        if "gunicorn.socket" in environ:
            raise StopIteration
        return super().__call__(environ, start_response)


@bp.get("/subscribers/<ae_title>", websocket=True)
@requires(Permission.STUDY_READ)
def open_channel(ae_title: str) -> Response:
    """Open the channel of a subscriber and send what happens until either side ends it."""
    require_own(ae_title)
    _require_same_origin()
    with sessions()() as db:
        if not is_subscriber(db, ae_title):
            raise NotFound("This AE title has no subscription.")
    if not {"gunicorn.socket", "werkzeug.socket"} & set(request.environ):
        raise ServiceUnavailable("This server opens no WebSocket.")
    channels = cast("Channels", current_app.extensions["firstread.ups_channels"])
    with channels.place(ae_title) as is_mine:
        try:
            socket = Server(request.environ, max_message_size=_LONGEST_MESSAGE)
        except (RemoteProtocolError, LocalProtocolError) as exc:
            raise BadRequest("The WebSocket handshake is incomplete.") from exc
        log.info("channel.opened", subscriber=ae_title)
        try:
            _Channel(socket, ae_title, is_mine).serve()
        except (ConnectionClosed, OSError):
            pass
        finally:
            _close(socket, _GOING_AWAY)
            log.info("channel.closed", subscriber=ae_title)
    return _TakenOver()


@bp.get("/subscribers/<ae_title>")
@requires(Permission.STUDY_READ)
def not_a_channel(ae_title: str) -> Response:
    """Say that the channel is a WebSocket."""
    del ae_title
    answer = plain(426, "Open a WebSocket here (RFC 6455).")
    answer.headers["Upgrade"] = "websocket"
    return answer


class _Channel:
    """One open connection."""

    def __init__(self, socket: Server, ae_title: str, is_mine: Callable[[], bool]) -> None:
        self._socket = socket
        self._ae_title = ae_title
        self._is_mine = is_mine
        self._still_in = _admission()

    def serve(self) -> None:
        """Send until the other side hangs up, another connection takes over, or the client may no longer look."""
        pinged = admitted = time.monotonic()
        while self._is_mine():
            now = time.monotonic()
            if now - admitted > _ADMIT_S:
                admitted = now
                if not self._still_in():
                    _close(self._socket, _POLICY)
                    return
            with sessions()() as db:
                events = waiting_events(db, self._ae_title)
            for event in events:
                self._socket.send(json.dumps(message(event), ensure_ascii=False))
            if events or now - pinged > PING_S:
                if not self._is_answered():
                    return
                pinged = now
            if events:
                with unit_of_work(sessions(), client().actor) as uow:
                    confirm(uow, [event.id for event in events])
                continue
            self._socket.receive(timeout=LOOK_S)  # what clients say means nothing here; a close raises

    def _is_answered(self) -> bool:
        """Ping, and return whether a Pong came: all that was sent before has arrived too.

        Asked again each second: a client that got frames together with its handshake may look at them only when
        more comes.
        """
        self._socket.pong_received = False
        end, again = time.monotonic() + _PATIENCE_S, 0.0
        while self._socket.connected and time.monotonic() < end:
            if time.monotonic() >= again:
                self._socket.sock.send(self._socket.ws.send(Ping()))
                again = time.monotonic() + LOOK_S
            if self._socket.pong_received:
                return True
            time.sleep(0.01)
        return False


def message(event: WorkitemEvent) -> dict[str, Any]:
    """Return an event report as it is sent: a Data Set with the command elements that say what it is about."""
    told = {
        "00000002": text("UI", UPS_CLASS),
        "00000110": text("US", event.id % 65_535 + 1),
        "00001000": text("UI", event.uid),
        "00001002": text("US", int(event.event_type)),
        **event.attributes,
    }
    return dict(sorted(told.items()))


def require_own(ae_title: str) -> None:
    """Refuse a client that speaks for another subscriber than itself: what waits there is not its own.

    Raises:
        Forbidden: the AE title is not that of its token, or of its login.
    """
    if ae_title != client().ae_title:
        raise Forbidden(f"This client is the subscriber {client().ae_title}; a token is named by its AE title.")


def _require_same_origin() -> None:
    """Refuse a WebSocket that a page of another site opens with somebody's session."""
    if "Authorization" in request.headers:
        return
    given, own = urlsplit(request.headers.get("Origin", "")), urlsplit(root())
    if (given.scheme, given.netloc) != (own.scheme, own.netloc):
        raise Forbidden("A session opens this from a page of this site only.")


def _admission() -> Callable[[], bool]:
    """Return how to ask again whether the client may still look: nobody else asks while a connection is open."""
    if "Authorization" in request.headers:
        given = request.headers["Authorization"].partition(" ")[2].strip()

        def by_token() -> bool:
            with sessions()() as db:
                return find_bearer(db, given) is not None

        return by_token
    someone, key = person(), session.get("key", "")
    ended = current_app.extensions["firstread.ended_sessions"]

    def by_session() -> bool:
        with sessions()() as db:
            account = db.get(UserAccount, someone.id)
        known = account is not None and account.active and stamp_of(account) == someone.stamp
        return known and key not in ended

    return by_session


def _close(socket: Server, code: int) -> None:
    try:
        socket.close(code)
    except (ConnectionClosed, OSError, LocalProtocolError):
        return
