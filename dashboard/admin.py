"""Accounts: add, close, open again, give a new random password."""

from uuid import UUID

from flask import Blueprint, abort, render_template, request
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.passwords import hash_password, random_password
from dashboard.people import person, sessions, work
from dashboard.permissions import Permission, requires
from db.report_models import UserAccount
from db.types import Role
from db.users import create_user, is_locked_out, list_users, set_active, set_password_hash

bp = Blueprint("admin", __name__, url_prefix="/users")


@bp.get("")
@requires(Permission.USERS)
def users() -> ResponseReturnValue:
    """Show every account."""
    return _page()


@bp.post("")
@requires(Permission.USERS)
def create() -> ResponseReturnValue:
    """Add an account with a random password, shown once in the answer."""
    role = request.form.get("role", "")
    if role not in list(Role):
        raise RefusedInputError("there is no such role")
    login, password = request.form.get("login", ""), random_password()
    with work() as uow:
        create_user(
            uow,
            login=login,
            printed_name=request.form.get("printed_name", ""),
            role=Role(role),
            password_hash=hash_password(password),
        )
    return _page((login.strip().lower(), password))


@bp.post("/<uuid:user_id>")
@requires(Permission.USERS)
def change(user_id: UUID) -> ResponseReturnValue:
    """Close or open an account, or give it a new password; nobody can lock themselves out."""
    act = request.form.get("act", "")
    if user_id == person().id or act not in {"close", "open", "password"}:
        raise RefusedInputError("that cannot be done with this account")
    password = random_password()
    with work() as uow:
        account = uow.session.get(UserAccount, user_id)
        if account is None:
            abort(404)
        if act == "password":
            set_password_hash(uow, user_id, hash_password(password))
        else:
            set_active(uow, user_id, act == "open")
        login = account.login
    return _page((login, password) if act == "password" else None)


def _page(shown_once: tuple[str, str] | None = None) -> str:
    with sessions()() as db:
        accounts = list_users(db)
    locked = {one.id for one in accounts if is_locked_out(one)}
    return render_template("users.html", users=accounts, locked=locked, roles=list(Role), shown_once=shown_once)
