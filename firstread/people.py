"""Verbs about people and the audit log, each an act with its own event."""

import getpass
import secrets
from typing import Any

from config.errors import RefusedInputError
from config.settings import Settings
from db import queries, users
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.types import Role
from db.uow import Actor, unit_of_work


def _actor() -> Actor:
    return Actor(f"cli:{getpass.getuser()}", "person")


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
    with unit_of_work(make_sessions(make_engine(settings.database)), _actor()) as uow:
        users.create_user(
            uow, login=login, printed_name=printed_name, role=Role(role), password_hash=hash_password(password)
        )
    return password


def list_people(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Return login, printed name, role and whether the account is active."""
    with make_sessions(make_engine(settings.database))() as session:
        return [(u.login, u.printed_name, str(u.role), "yes" if u.active else "no") for u in users.list_users(session)]


def study_events(settings: Settings, accession: str) -> list[dict[str, Any]]:
    """Return a Study's audit events in order; looking is itself recorded."""
    sessions = make_sessions(make_engine(settings.database))
    with unit_of_work(sessions, _actor()) as uow:
        uow.audit(AuditTag.AUDIT_VIEWED, object_type="accession", object_id=accession[:64])
    with sessions() as session:
        if "." in accession:
            # an Accession Number (SH) of digits and dots is rare, and would be a UID
            events = queries.audit_events(session, study_instance_uid=accession)
        else:
            events = queries.audit_events(session, accession=accession)
        return [
            {
                "seq": e.seq,
                "occurred_at": e.occurred_at.isoformat(),
                "actor": e.actor,
                "tag": e.tag,
                "outcome": e.outcome,
                "object": f"{e.object_type}:{e.object_id}" if e.object_id else e.object_type,
                "detail": e.detail,
            }
            for e in events
        ]
