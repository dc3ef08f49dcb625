"""Who may use DICOMweb, FHIR and UPS-RS: a bearer token, or the session of somebody whose role allows it.

Every use is on record. A blueprint takes this door by ``bp.before_request(admit)``, ``people._OWN_DOORS`` and
:func:`install_door`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from flask import Flask, current_app, g, request
from flask_login import current_user
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Locked, Unauthorized

from dashboard.people import address, audit_view, is_locked, opened_by_reason, person, sessions, site
from dashboard.permissions import Permission, allows
from dashboard.slices import LruCache
from db.audit import AuditTag
from db.tokens import Bearer, Scope, find_bearer, note_use
from db.uow import Actor, unit_of_work

_SCOPES = {Permission.STUDY_READ: Scope.READ, Permission.STUDY_STORE: Scope.WRITE}  # all else is for people
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MERGED_S = 300  # frames of one Series within this are one look


@dataclass(frozen=True)
class Client:
    """Who asks: the Actor of its acts, and the AE title that what it stores is received under."""

    actor: Actor
    ae_title: str


class Record:
    """The audit events of DICOMweb; many small looks of one kind at one thing are one event."""

    def __init__(self) -> None:
        self._seen: LruCache[tuple[object, ...], bool] = LruCache(8192)

    def write(self, tag: AuditTag, *, study_id: UUID | None = None, outcome: str = "success", **detail: Any) -> None:
        """Record one act of the present client."""
        with unit_of_work(sessions(), client().actor) as uow:
            audit_view(uow, tag, study_id=study_id, outcome=outcome, detail=detail)

    def look(self, study_id: UUID, series_instance_uid: str, what: str) -> None:
        """Record that something small of a Series was read, unless it was recorded some minutes ago."""
        key = (client().actor.name, study_id, series_instance_uid, what)
        self._once(key, lambda: self.write(AuditTag.DICOMWEB_RETRIEVED, study_id=study_id, what=what))

    def refusal(self, actor: Actor, reason: str) -> None:
        """Record that somebody was refused; a client that repeats itself is recorded once in some minutes."""

        def write() -> None:
            detail = {"address": request.remote_addr or "", "endpoint": request.endpoint, "reason": reason}
            with unit_of_work(sessions(), actor) as uow:
                uow.audit(AuditTag.ACCESS_REFUSED, outcome="failure", detail=detail)

        self._once((actor.name, request.remote_addr, request.endpoint, reason), write)

    def _once(self, key: tuple[object, ...], write: Callable[[], None]) -> None:
        def done() -> bool:
            write()
            return True

        self._seen.get((*key, int(time.monotonic()) // _MERGED_S), done)


def install_door(app: Flask) -> None:
    """Give ``app`` what the door keeps; once for all blueprints behind it, whichever of them are served."""
    app.extensions.setdefault("firstread.dicomweb_record", Record())


def client() -> Client:
    """Return who asks; only behind :func:`admit`."""
    return cast("Client", g.dicomweb_client)


def record() -> Record:
    """Return the application's record of what clients did; only after :func:`install_door`."""
    return cast("Record", current_app.extensions["firstread.dicomweb_record"])


def admit() -> None:
    """Let the request in, by its token or its session; a token goes first, and a session that changes something
    needs its mark.

    Raises:
        Unauthorized: neither, or a token that is worth nothing.
        Forbidden: it may not do this.
        CSRFError: a session's POST, PUT, PATCH or DELETE without the X-CSRFToken header.
    """
    if request.blueprint == "dicomweb":  # objects; every other request is small
        request.max_content_length = site().web.stow_max_bytes
    permission = getattr(current_app.view_functions[request.endpoint or ""], "permission", None)
    if "Authorization" in request.headers:
        g.dicomweb_client = _by_token(permission)
    elif current_user.is_authenticated:
        g.dicomweb_client = _by_session(permission)
    else:
        raise _unauthorized("")


def _by_token(permission: Permission | None) -> Client:
    return admit_token(_SCOPES.get(permission) if permission else None)


def admit_token(scope: Scope | None) -> Client:
    """Return whose token the Authorization header carries, when it has ``scope``; None is no token's.

    Raises:
        Unauthorized: no token, or one that is worth nothing.
        Forbidden: it has not this scope.
    """
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    with sessions()() as db:
        bearer = find_bearer(db, given.strip()) if scheme.lower() == "bearer" else None
    if bearer is None:
        record().refusal(Actor("unknown", "peer", address=address()), "token")
        raise _unauthorized("invalid_token")
    actor = Actor(f"token:{bearer.name}", "peer", address=address())
    if scope is None or scope not in bearer.scopes:
        record().refusal(actor, "scope")
        raise Forbidden("The scope of this token does not allow it.")
    _note(bearer, actor)
    return Client(actor, bearer.name)


def _note(bearer: Bearer, actor: Actor) -> None:
    if bearer.is_used_unnoted:
        with unit_of_work(sessions(), actor) as uow:
            note_use(uow, bearer.id)


def _by_session(permission: Permission | None) -> Client:
    someone = person()
    if is_locked():
        raise Locked("The screen is locked.")
    if permission is None or not (allows(someone.role, permission) or opened_by_reason(permission)):
        record().refusal(someone.actor, "role")
        raise Forbidden("Your role does not allow this.")
    if request.method not in _SAFE_METHODS:
        current_app.extensions["csrf"].protect()
    return Client(someone.actor, _ae_title(someone.login))


def _ae_title(login: str) -> str:
    """Return a login as an AE title (PS3.5 section 6.2): 16 characters at most, none of them a backslash."""
    printable = "".join(c for c in login if c.isascii() and c.isprintable() and c != "\\")
    return printable.strip()[:16].strip() or "WEB"


def _unauthorized(error: str) -> Unauthorized:
    challenge = WWWAuthenticate(
        "bearer", {"realm": f"firstread {request.blueprint}", **({"error": error} if error else {})}
    )
    return Unauthorized("A bearer token or a session is needed.", www_authenticate=challenge)
