"""Accounts: add, close, open again, give another role or a new random password."""

from uuid import UUID

from flask import Blueprint, abort, flash, render_template, request
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.passwords import hash_password, random_password
from dashboard.people import person, sessions, work
from dashboard.permissions import Permission, requires
from db.report_models import UserAccount
from db.types import Role
from db.uow import UnitOfWork
from db.users import create_user, is_locked_out, list_users, set_active, set_password_hash, set_role

bp = Blueprint("admin", __name__, url_prefix="/users")

_ROLES = tuple(role for role in Role if role is not Role.SERVICE)  # a machine gets a token
_SOURCES = {"local": "Here", "oidc": "Single sign-on", "ldap": "Directory"}


@bp.get("")
@requires(Permission.USERS)
def users() -> ResponseReturnValue:
    """Show every account."""
    return _page()


@bp.post("")
@requires(Permission.USERS)
def create() -> ResponseReturnValue:
    """Add an account with a random password, shown once in the answer."""
    login, password = request.form.get("login", ""), random_password()
    with work() as uow:
        create_user(
            uow,
            login=login,
            printed_name=request.form.get("printed_name", ""),
            role=_role(),
            password_hash=hash_password(password),
        )
    return _page((login.strip().lower(), password))


@bp.post("/<uuid:user_id>")
@requires(Permission.USERS)
def change(user_id: UUID) -> ResponseReturnValue:
    """Close or open an account, give it a role or a new password; nobody can lock themselves out."""
    act = request.form.get("act", "")
    if user_id == person().id or act not in {"close", "open", "password", "role"}:
        raise RefusedInputError("that cannot be done with this account")
    with work() as uow:
        account = uow.session.get(UserAccount, user_id)
        if account is None:
            abort(404)
        login = account.login
        password = _change(uow, user_id, act)
    if act == "role":
        flash(f"{login} is {_role().value} now; sessions of the account have ended.", "ok")
    return _page((login, password) if password else None)


def _change(uow: UnitOfWork, user_id: UUID, act: str) -> str:
    """Do one act; return the new password, if it made one."""
    if act == "password":
        password = random_password()
        set_password_hash(uow, user_id, hash_password(password))
        return password
    if act == "role":
        set_role(uow, user_id, _role())
    else:
        set_active(uow, user_id, act == "open")
    return ""


def _role() -> Role:
    given = request.form.get("role", "")
    if given not in _ROLES:
        raise RefusedInputError("there is no such role for a person")
    return Role(given)


def _page(shown_once: tuple[str, str] | None = None) -> str:
    with sessions()() as db:
        accounts = list_users(db)
    locked = {one.id for one in accounts if is_locked_out(one)}
    return render_template(
        "users.html", users=accounts, locked=locked, roles=_ROLES, shown_once=shown_once, sources=_SOURCES
    )
