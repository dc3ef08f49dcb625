"""The first accounts of a new installation."""

from sqlalchemy.orm import Session, sessionmaker

from dashboard.passwords import hash_password, random_password
from db.types import Role
from db.uow import Actor, unit_of_work
from db.users import count_users, create_user

_FIRST = (
    ("radiologist", "First Radiologist", Role.RADIOLOGIST),
    ("lead", "First Lead", Role.LEAD),
    ("admin", "First Administrator", Role.ADMIN),
    ("auditor", "First Auditor", Role.AUDITOR),
)


def create_first_users(sessions: sessionmaker[Session]) -> list[tuple[str, str, str]]:
    """Add one account for each role that a new site needs with a random password, when there is no account yet.

    Returns:
        (login, role, password) of each account made; empty when accounts exist. The passwords are kept
        nowhere else: show them once.
    """
    made: list[tuple[str, str, str]] = []
    with unit_of_work(sessions, Actor("firstread", "process")) as uow:
        if count_users(uow.session):
            return []
        for login, printed_name, role in _FIRST:
            password = random_password()
            create_user(uow, login=login, printed_name=printed_name, role=role, password_hash=hash_password(password))
            made.append((login, role.value, password))
    return made
