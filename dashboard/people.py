"""Who is logged in: the session, its end, and the guard in front of every view."""

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from flask import Flask, Response, abort, current_app, redirect, request, session, url_for
from flask_login import LoginManager, current_user, login_user, logout_user
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.wrappers import Response as BaseResponse

from config.settings import Settings
from dashboard.identity.challenges import Challenges
from dashboard.identity.rates import install_rates
from dashboard.permissions import Permission, allows
from db.audit import AuditTag
from db.report_models import UserAccount
from db.types import Role
from db.uow import Actor, UnitOfWork, unit_of_work

_PUBLIC_ENDPOINTS = frozenset({"static"})
_OWN_DOORS = frozenset({"dicomweb", "fhir", "workitems"})  # guarded by dashboard.dicomweb.door, which takes tokens too
_TOUCH_S = 20.0  # the session cookie is renewed at most this often


@dataclass(frozen=True)
class Person:
    """The account behind a session, as Flask-Login wants it."""

    id: UUID
    login: str
    printed_name: str
    role: Role
    stamp: str
    source: str = "local"
    is_authenticated: bool = True
    is_active: bool = True
    is_anonymous: bool = False

    def get_id(self) -> str:
        """Return what the session keeps."""
        return str(self.id)

    @property
    def actor(self) -> Actor:
        """The Actor whose acts are audited."""
        return Actor(self.login, "person", self.id)

    def may(self, permission: str) -> bool:
        """Return whether the role allows ``permission``; for templates."""
        return allows(self.role, Permission(permission))


class EndedSessions:
    """Sessions that were logged out, so that a copied cookie is worth nothing afterwards."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    def end(self, key: str) -> None:
        """Refuse ``key`` from now on; forgotten once its cookie would have expired anyway."""
        now = time.time()
        with self._lock:
            self._ended = {one: at for one, at in self._ended.items() if at > now - self._keep_s} | {key: now}

    def __contains__(self, key: str) -> bool:
        return key in self._ended


def person() -> Person:
    """Return who is logged in; only behind the guard."""
    return cast("Person", current_user)


def sessions() -> sessionmaker[Session]:
    """Return the application's database sessions."""
    return cast("sessionmaker[Session]", current_app.extensions["firstread.sessions"])


def site() -> Settings:
    """Return the application's settings."""
    return cast("Settings", current_app.extensions["firstread.settings"])


def work() -> Any:
    """Open a unit of work of the person logged in."""
    return unit_of_work(sessions(), person().actor)


def audit_view(uow: UnitOfWork, tag: AuditTag, **columns: Any) -> None:
    """Record that patient data was looked at, with the address it was shown to."""
    detail = {"address": request.remote_addr or "", **columns.pop("detail", {})}
    uow.audit(tag, detail=detail, **columns)


def stamp_of(account: UserAccount) -> str:
    """Return what ends every session when the password or the role changes."""
    return hashlib.sha256(f"{account.password_hash}|{account.role}".encode()).hexdigest()[:16]


def begin_session(account: UserAccount, method: str = "password") -> None:
    """Log ``account`` in, in a session that shares nothing with the one before."""
    session.clear()
    session.permanent = True
    session["key"] = secrets.token_urlsafe(18)
    session["stamp"] = stamp_of(account)
    session["seen"] = session["proven"] = time.time()
    session["method"] = method
    login_user(_person(account))


def session_name() -> str:
    """Return a name of this session that nobody else knows; also before logging in."""
    if "key" not in session:
        session["key"] = secrets.token_urlsafe(18)
    return str(session["key"])


def note_proof() -> None:
    """Keep that the person just proved who they are."""
    session["proven"] = time.time()


def account_of_session() -> UserAccount | None:
    """Return the account of who is logged in, as it is now; None when it was closed."""
    with sessions()() as db:
        account = db.get(UserAccount, person().id)
    return account if account is not None and account.active else None


def end_session() -> None:
    """Log out; a copy of the cookie is refused too."""
    ended: EndedSessions = current_app.extensions["firstread.ended_sessions"]
    if "key" in session:
        ended.end(session["key"])
    logout_user()
    session.clear()


def _person(account: UserAccount) -> Person:
    return Person(
        account.id,
        account.login,
        account.printed_name,
        Role(account.role),
        stamp_of(account),
        str(account.source.value),
    )


def install(app: Flask, settings: Settings) -> None:
    """Put login, idle timeout and the permission guard in front of every view of ``app``."""
    install_rates(app, settings)
    app.extensions["firstread.challenges"] = Challenges()
    manager = LoginManager()
    manager.session_protection = "strong"
    manager.init_app(app)
    app.extensions["firstread.ended_sessions"] = EndedSessions(settings.web.idle_timeout_s)

    @manager.user_loader  # type: ignore[untyped-decorator, unused-ignore]
    def load(user_id: str) -> Person | None:
        return _load(UUID(user_id), settings.web.idle_timeout_s)

    @app.before_request
    def guard() -> BaseResponse | None:
        return _guard()


def _load(user_id: UUID, idle_timeout_s: float) -> Person | None:
    ended: EndedSessions = current_app.extensions["firstread.ended_sessions"]
    if session.get("key", "") in ended or time.time() - float(session.get("seen", 0)) > idle_timeout_s:
        return None
    with sessions()() as db:
        account = db.get(UserAccount, user_id)
    if account is None or not account.active or stamp_of(account) != session.get("stamp"):
        return None
    return _person(account)


def _guard() -> BaseResponse | None:
    """Refuse what the table does not allow; a view that names no permission is refused to everybody."""
    if request.endpoint is None or request.endpoint in _PUBLIC_ENDPOINTS or request.blueprint in _OWN_DOORS:
        return None
    view = current_app.view_functions[request.endpoint]
    permission = getattr(view, "permission", None)
    if permission is Permission.PUBLIC:
        return None
    if not current_user.is_authenticated:
        return _to_login()
    if permission is None or not allows(person().role, permission):
        with work() as uow:
            audit_view(uow, AuditTag.ACCESS_REFUSED, outcome="failure", detail={"endpoint": request.endpoint})
        abort(403)
    if not getattr(view, "passive", False) and time.time() - float(session.get("seen", 0)) > _TOUCH_S:
        session["seen"] = time.time()
    return None


def _to_login() -> BaseResponse:
    if request.headers.get("HX-Request") or request.method != "GET":
        if request.headers.get("HX-Request"):
            return Response("Your session has ended. Log in again in another tab; your text stays here.", 401)
        return redirect(url_for("auth.login"), 303)
    return redirect(url_for("auth.login", next=request.path), 303)
