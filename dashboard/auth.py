"""Log in, log out, change one's password."""

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, flash, redirect, render_template, request, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as BaseResponse

from config.errors import PeerUnavailableError, RefusedInputError
from dashboard.identity.directory import Directory
from dashboard.identity.rates import count_attempt
from dashboard.passwords import hash_password, needs_rehash, verify_password
from dashboard.people import actor_of, begin_session, end_session, person, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.report_models import UserAccount
from db.types import AccountSource
from db.uow import unit_of_work
from db.users import find_user, record_login, set_password_hash

bp = Blueprint("auth", __name__)
account = Blueprint("account", __name__, url_prefix="/account")


@bp.get("/login")
@requires(Permission.PUBLIC)
def login() -> str | BaseResponse:
    """Show the login form."""
    if current_user.is_authenticated:
        return redirect(url_for("home.index"), 303)
    return _login_page(next_path=request.args.get("next", ""))


@bp.post("/login", endpoint="login_submit")
@requires(Permission.PUBLIC)
def submit() -> Response | BaseResponse:
    """Begin a session, or say that login and password do not fit without saying which."""
    name = request.form.get("login", "")[:64]
    verified = check_password(name, request.form.get("password", ""))
    if verified is None:
        text = "Login or password is wrong, or the account is locked. An administrator can help."
        return Response(_login_page(error=text, login=name, next_path=request.form.get("next", "")), 401)
    begin_session(verified)
    return land(request.form.get("next", ""))


@bp.post("/logout")
@requires(Permission.ACCOUNT)
def logout() -> BaseResponse:
    """End the session."""
    with work() as uow:
        uow.audit(AuditTag.USER_LOGOUT, object_type="user", object_id=str(person().id))
    end_session()
    return redirect(url_for("auth.login"), 303)


@account.get("/password")
@requires(Permission.ACCOUNT)
def password() -> str:
    """Show the form to change one's password."""
    return render_template("password.html", error="")


@account.post("/password", endpoint="password_submit")
@requires(Permission.ACCOUNT)
def change_password() -> Any:
    """Change one's password; every other session of the account ends."""
    new = request.form.get("new", "")
    if new != request.form.get("again", ""):
        return render_template("password.html", error="The two new passwords differ."), 400
    if check_password(person().login, request.form.get("current", ""), again=True) is None:
        return render_template("password.html", error="The present password is wrong, or the account is locked."), 400
    try:
        hashed = hash_password(new, login=person().login)
    except RefusedInputError as exc:
        return render_template("password.html", error=f"Not changed: {exc}."), 400
    with work() as uow:
        set_password_hash(uow, person().id, hashed)
        changed = find_user(uow.session, person().login)
    assert changed is not None
    begin_session(changed)
    flash("Password changed. Other sessions of this account have ended.", "ok")
    return redirect(url_for("account.password"), 303)


def check_password(login_name: str, given: str, *, again: bool = False) -> UserAccount | None:
    """Check a password and record the outcome; return the account when its owner may go on.

    A local account is checked here and nowhere else; any other login by the directory, when there is one. Each way
    takes as long for a login that does not exist.

    Args:
        login_name: the account; an unknown one is not recorded by name, for it may be a mistyped password.
        given: the password as typed.
        again: a re-authentication inside a session; failures count toward the same lock.

    Raises:
        NotAuthorisedError: the directory knows the person, who is in none of the groups that may come in.
        TooManyRequests: too many attempts from this address.
    """
    count_attempt()
    with sessions()() as db:
        known = find_user(db, login_name)
    is_local = known is not None and known.source is AccountSource.LOCAL
    stored = known.password_hash if known is not None and is_local else None
    ok = verify_password(stored, given)
    directory = people_directory()
    if directory is not None and (known is None or known.source is AccountSource.LDAP):
        return _by_directory(directory, login_name, given, again=again)
    if directory is not None:
        directory.rehearse(login_name)
    verified = _record(known, login_name, ok, again=again)
    # at a login only: sessions are bound to the hash, and signing must not end the one it happens in
    if verified is not None and not again and stored is not None and needs_rehash(stored):
        with unit_of_work(sessions(), actor_of(verified)) as uow:
            set_password_hash(uow, verified.id, hash_password(given), rehash=True)
            verified = find_user(uow.session, login_name)
    return verified


def people_directory() -> Directory | None:
    """Return the directory that checks passwords; None without one."""
    chosen = site().identity.ldap
    if not chosen.url:
        return None
    kept: Directory = current_app.extensions.setdefault("firstread.directory", Directory(chosen))
    return kept


def _by_directory(directory: Directory, login_name: str, given: str, *, again: bool) -> UserAccount | None:
    from dashboard.identity.external import External, admit_external

    try:
        found = directory.check(login_name, given)
    except PeerUnavailableError:
        with unit_of_work(sessions(), actor_of(None)) as uow:
            tag = AuditTag.USER_REAUTHENTICATION_FAILED if again else AuditTag.USER_LOGIN_FAILED
            uow.audit(tag, outcome="failure", object_type="user", detail={"reason": "directory does not answer"})
        return None
    if found is None:
        with sessions()() as db:
            known = find_user(db, login_name)
        return _record(known, login_name, False, again=again)
    external = External(AccountSource.LDAP, found.external_id, login_name, found.printed_name, found.role)
    return admit_external(external, again=again)


def _record(known: UserAccount | None, login_name: str, ok: bool, *, again: bool) -> UserAccount | None:
    web = site().web
    with unit_of_work(sessions(), actor_of(known)) as uow:
        return record_login(
            uow,
            login_name,
            ok,
            lockout_failures=web.lockout_failures,
            lockout_s=web.lockout_s,
            reauthentication=again,
        )


def _login_page(*, next_path: str, error: str = "", login: str = "") -> str:
    directory = people_directory()
    if directory is not None and directory.is_down:
        error = f"{error} The directory does not answer at the moment: only local accounts can log in.".strip()
    return render_template(
        "login.html",
        next=inside(next_path),
        error=error,
        login=login,
        organization=site().organization,
        sso_on=bool(site().identity.oidc.issuer),
    )


def land(next_path: str) -> BaseResponse:
    """Go where somebody wanted to go before logging in, or to the start page."""
    return redirect(inside(next_path) or url_for("home.index"), 303)


def inside(path: str) -> str:
    """Return ``path`` when it stays on this site, else ``""``: a login must not send anybody elsewhere."""
    parts = urlsplit(path.replace("\\", "/"))
    inside = path.startswith("/") and not path.startswith("//") and not parts.scheme and not parts.netloc
    return path if inside and path.isprintable() else ""
