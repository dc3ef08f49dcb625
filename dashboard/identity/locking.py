"""The screen lock: a session that waits for its owner, and a page that keeps its text meanwhile.

The page covers itself after ``identity.lock_after_s`` without a key or a click and says so here; from then on the
session is refused everything but unlocking. A session that has ended is begun again by the same door, so that the
page under the cover goes on where it was.
"""

from typing import Any

from flask import Blueprint, Response, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_wtf.csrf import generate_csrf

from dashboard.auth import check_password, inside, land
from dashboard.identity.proof import has_signed_on, prove
from dashboard.people import (
    begin_session,
    is_locked,
    lock_session,
    note_proof,
    person,
    site,
    touch,
    unlock_session,
    work,
)
from dashboard.permissions import Permission, requires
from db.audit import AuditTag

bp = Blueprint("locking", __name__, url_prefix="/lock")

UNLOCK = "unlock"
_WRONG = "That is not right, or the account is locked."


@bp.get("")
@requires(Permission.ACCOUNT)
def show() -> ResponseReturnValue:
    """Show the lock as a page of its own: for a browser without a script, and for a page opened while locked."""
    return _page("") if is_locked() else land(request.args.get("next", ""))


@bp.post("", endpoint="lock")
@requires(Permission.ACCOUNT)
def lock() -> ResponseReturnValue:
    """Lock this session in every tab."""
    if not is_locked():
        with work() as uow:
            uow.audit(AuditTag.USER_SCREEN_LOCKED, object_type="user", object_id=str(person().id))
        lock_session()
    return redirect(url_for("locking.show", next=inside(request.form.get("next", "")) or None), 303)


@bp.get("/state")
@requires(Permission.PUBLIC)
def state() -> Response:
    """Answer whose session it is, whether it is locked, and with which mark its forms go.

    ``touch=1`` says that somebody is at work on a page that needs the server for nothing else.
    """
    if request.args.get("touch") and current_user.is_authenticated and not is_locked():
        touch()
    return jsonify(_state())


@bp.post("/open", endpoint="unlock")
@requires(Permission.PUBLIC)
def unlock() -> ResponseReturnValue:
    """Unlock the session, or begin one again for the person whose page it is, and answer its new mark."""
    name = request.form.get("login", "")
    if not current_user.is_authenticated:
        account = check_password(name, request.form.get("password", ""))
        if account is not None:
            begin_session(account)
        return _answer(account is not None)
    if name.strip().lower() != person().login:
        return _answer(False)
    if prove(UNLOCK) is None:
        return _answer(False)
    opened("passkey" if request.form.get("passkey") else "password")
    return _answer(True)


@bp.get("/opened", endpoint="opened_page")
@requires(Permission.ACCOUNT)
def opened_page() -> str:
    """Say that this session is open again; the page's script tells the other tabs."""
    return render_template("lock_opened.html")


def opened(method: str) -> None:
    """Take the lock off the present session, on the record."""
    if is_locked():
        with work() as uow:
            detail = {"method": method}
            uow.audit(AuditTag.USER_SCREEN_UNLOCKED, object_type="user", object_id=str(person().id), detail=detail)
    unlock_session()
    note_proof()


def _state() -> dict[str, Any]:
    login = person().login if current_user.is_authenticated else ""
    return {"login": login, "locked": bool(login) and is_locked(), "csrf": generate_csrf()}


def _answer(good: bool) -> ResponseReturnValue:
    if "application/json" in request.headers.get("Accept", ""):
        if not good:
            return jsonify({"error": _WRONG}), 403
        return jsonify(_state())
    if good:
        return land(request.form.get("next", ""))
    return (_page(_WRONG), 403) if current_user.is_authenticated else redirect(url_for("auth.login"), 303)


def _page(error: str) -> str:
    given = request.form.get("next", "") or request.args.get("next", "")
    return render_template(
        "lock.html", error=error, next=inside(given), signed_on=has_signed_on(), has_passkeys=site().identity.passkeys
    )
