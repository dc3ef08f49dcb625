"""Who is logged in: the session, its end, and the guard in front of every view."""

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from flask import (
    Flask,
    Response,
    abort,
    current_app,
    g,
    has_request_context,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_login import LoginManager, current_user, login_user, logout_user
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response as BaseResponse

from config.settings import Settings
from dashboard.identity.challenges import Challenges
from dashboard.identity.marks import SessionMarks
from dashboard.identity.rates import install_rates
from dashboard.permissions import Permission, allows
from db.audit import AuditTag
from db.lifecycle.breaking import open_grant, open_grants
from db.report_models import UserAccount
from db.types import AccountSource, Role
from db.uow import Actor, UnitOfWork, unit_of_work

_PUBLIC_ENDPOINTS = frozenset({"static"})
_OWN_DOORS = frozenset({"dicomweb", "fhir", "workitems"})  # guarded by dashboard.dicomweb.door, which takes tokens too
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})  # none: the person typed the address
_WHILE_LOCKED = frozenset({"auth.logout"})  # single sign-on is open to everybody
_MANY_LOOKS = frozenset({"images", "dicomweb"})
SIGN_ON_S = 120.0  # a single sign-on that was asked for again counts so long, for one act
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
        return Actor(self.login, "person", self.id, self.role.value, address())

    def may(self, permission: str) -> bool:
        """Return whether the role allows ``permission``; for templates."""
        return allows(self.role, Permission(permission))


def person() -> Person:
    """Return who is logged in; only behind the guard."""
    return cast("Person", current_user)


def address() -> str:
    """Return where the present request came from; empty outside of one."""
    return (request.remote_addr or "")[:64] if has_request_context() else ""


def actor_of(account: UserAccount | None) -> Actor:
    """Return the Actor of somebody who is proving to be ``account``; of nobody known when it is None."""
    if account is None:
        return Actor("unknown", "person", address=address())
    return Actor(account.login, "person", account.id, Role(account.role).value, address())


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
    if "break_glass" in g:
        detail["break_glass"] = g.break_glass
    uow.audit(tag, detail=detail, **columns)
    g.look_recorded = True  # dashboard.looks writes for parts of pages that are asked for alone


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


def touch() -> None:
    """Keep that somebody is at work, so that the session does not end."""
    if time.time() - float(session.get("seen", 0)) > _TOUCH_S:
        session["seen"] = time.time()


def lock_session() -> None:
    """Refuse this session everything but unlocking; the server remembers it too, for a cookie can be old."""
    session["locked"] = True
    _marks("locked").add(session_name())


def unlock_session() -> None:
    """Let this session go on."""
    session.pop("locked", None)
    session["seen"] = time.time()
    _marks("locked").remove(session_name())


def is_locked() -> bool:
    """Return whether this session waits for its owner."""
    return bool(session.get("locked")) or session.get("key", "") in _marks("locked")


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
    if "key" in session:
        _marks("ended").add(session["key"])
    logout_user()
    session.clear()


def _marks(kind: str) -> SessionMarks:
    return cast("SessionMarks", current_app.extensions[f"firstread.{kind}_sessions"])


def _person(account: UserAccount) -> Person:
    role, source = Role(account.role), AccountSource(account.source)
    return Person(account.id, account.login, account.printed_name, role, stamp_of(account), source.value)


def install(app: Flask, settings: Settings) -> None:
    """Put login, idle timeout and the permission guard in front of every view of ``app``."""
    install_rates(app, settings)
    app.extensions["firstread.challenges"] = Challenges()
    manager = LoginManager()
    manager.session_protection = "strong"
    manager.init_app(app)
    app.extensions["firstread.ended_sessions"] = SessionMarks(settings.web.idle_timeout_s)
    app.extensions["firstread.locked_sessions"] = SessionMarks(settings.web.idle_timeout_s)

    @manager.user_loader  # type: ignore[untyped-decorator, unused-ignore]
    def load(user_id: str) -> Person | None:
        return _load(UUID(user_id), settings.web.idle_timeout_s)

    @app.context_processor
    def context() -> dict[str, object]:
        return _shown_everywhere(settings)

    @app.before_request
    def guard() -> BaseResponse | None:
        return _guard()


def _shown_everywhere(settings: Settings) -> dict[str, object]:
    """Return what the frame of every page says of the person: the lock, passkeys, and studies opened by a reason."""
    identity = settings.identity
    shown: dict[str, object] = {
        "lock_after_s": identity.lock_after_s,
        "passkeys_on": identity.passkeys,
        "sso_name": identity.oidc.name,
        "signed_on": lambda: time.time() - float(session.get("signed_on", 0)) < SIGN_ON_S,
        "screen_locked": False,
        "broken_glass": [],
    }
    if current_user.is_authenticated:
        shown["screen_locked"] = is_locked()
        if current_user.may("break_glass"):
            with sessions()() as db:
                shown["broken_glass"] = open_grants(db, person().id)
    return shown


def _load(user_id: UUID, idle_timeout_s: float) -> Person | None:
    if session.get("key", "") in _marks("ended") or time.time() - float(session.get("seen", 0)) > idle_timeout_s:
        return None
    with sessions()() as db:
        account = db.get(UserAccount, user_id)
    if account is None or not account.active or stamp_of(account) != session.get("stamp"):
        return None
    return _person(account)


def _guard() -> BaseResponse | None:
    """Refuse what the table does not allow; a view that names no permission is refused to everybody."""
    if request.endpoint is None or request.endpoint in _PUBLIC_ENDPOINTS:
        return None
    _refuse_other_sites()
    if request.blueprint in _OWN_DOORS:
        return None
    view = current_app.view_functions[request.endpoint]
    permission = getattr(view, "permission", None)
    if permission is Permission.PUBLIC:
        return None
    if not current_user.is_authenticated:
        return _to_login()
    if is_locked() and request.blueprint != "locking" and request.endpoint not in _WHILE_LOCKED:
        return _to_lock()
    if permission is None or not (allows(person().role, permission) or opened_by_reason(permission)):
        return _refuse(permission)
    if not getattr(view, "passive", False):
        touch()
    return None


def opened_by_reason(permission: Permission | None) -> bool:
    """Return whether the person broke the glass for the Study of this address, to read it; recorded each time.

    Looks at images are recorded by their own views, with the grant.
    """
    asked = request.view_args or {}
    if permission is not Permission.STUDY_READ or not person().may(Permission.BREAK_GLASS) or "prior_id" in asked:
        return False
    with sessions()() as db:
        grant = open_grant(db, person().id, study_id=asked.get("study_id"), study_uid=asked.get("study_uid", ""))
    if grant is None:
        return False
    g.break_glass = str(grant.id)
    if request.blueprint not in _MANY_LOOKS:
        with work() as uow:
            audit_view(
                uow, AuditTag.BREAK_GLASS_USED, study_id=grant.study_id, detail={"endpoint": request.endpoint or ""}
            )
    return True


def _refuse_other_sites() -> None:
    """Refuse what a page of another site sends, as the browser says; the forms' own mark would refuse it too."""
    if request.method not in _SAFE_METHODS and request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITE:
        abort(403)


def _refuse(permission: Permission | None) -> BaseResponse:
    study_id = (request.view_args or {}).get("study_id")
    with work() as uow:
        detail = {"endpoint": request.endpoint}
        audit_view(uow, AuditTag.ACCESS_REFUSED, outcome="failure", study_id=study_id, detail=detail)
    if permission is Permission.STUDY_READ and study_id and request.method == "GET" and person().may("break_glass"):
        return Response(render_template("break_glass.html", study_id=study_id, error=""), 403)
    raise Forbidden


def is_page() -> bool:
    """Return whether a browser asks for a whole page, not a part of one."""
    mode = request.headers.get("Sec-Fetch-Mode", "navigate")
    return request.method == "GET" and "HX-Request" not in request.headers and mode == "navigate"


def _to_login() -> BaseResponse:
    if is_page():
        return redirect(url_for("auth.login", next=request.path), 303)
    if "HX-Request" in request.headers or request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate":
        return Response("Your session has ended. Log in again; your text stays here.", 401, mimetype="text/plain")
    return redirect(url_for("auth.login"), 303)


def _to_lock() -> BaseResponse:
    if is_page():
        return redirect(url_for("locking.show", next=request.path), 303)
    return Response("The screen is locked. Unlock it; your text stays here.", 423, mimetype="text/plain")
