"""Verbs about people, each an act with its own event."""

import getpass
import secrets

from sqlalchemy.orm import Session, sessionmaker

from config.errors import RefusedInputError
from config.settings import Settings
from db import users
from db.audit import AuditTag
from db.engine import current_sessions
from db.types import Role
from db.uow import Actor, unit_of_work


def actor() -> Actor:
    """Return the person at the command line, for the audit log."""
    return Actor(f"cli:{getpass.getuser()}", "person")


def record_look(sessions: sessionmaker[Session], tab: str) -> None:
    """Record that the person at the command line was shown a list that names studies."""
    with unit_of_work(sessions, actor()) as uow:
        uow.audit(AuditTag.WORKLIST_VIEWED, detail={"tab": tab})


def add_user(settings: Settings, *, login: str, role: str, printed_name: str) -> str:
    """Create a user and return the random password, which is kept nowhere else.

    Raises:
        RefusedInputError: no such role.
        LifecycleError: the login was ever used; logins are never given to another person.
    """
    from dashboard.passwords import hash_password

    if role not in set(Role):
        raise RefusedInputError(f"no role {role!r}; there are: {', '.join(Role)}")
    password = secrets.token_urlsafe(15)
    with unit_of_work(current_sessions(settings.database), actor()) as uow:
        users.create_user(
            uow, login=login, printed_name=printed_name, role=Role(role), password_hash=hash_password(password)
        )
    return password


def list_people(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Return login, printed name, role and whether the account is active."""
    with current_sessions(settings.database)() as session:
        return [(u.login, u.printed_name, str(u.role), "yes" if u.active else "no") for u in users.list_users(session)]
