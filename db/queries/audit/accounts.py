"""Whose account somebody means by a login."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.report_models import UserAccount


def account_of(session: Session, login: str) -> UUID | None:
    """Return the account of a login, which indexes of rows that people made begin with; None when there is none."""
    return session.scalar(select(UserAccount.id).where(UserAccount.login == login))
