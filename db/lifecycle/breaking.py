"""Break-glass: read access to one Study that the role does not give, for a stated reason and a limited time.

A grant is written once. It ends by itself, and whoever needs longer states a reason again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db.audit import AuditTag
from db.identity_models import BreakGlass
from db.models import Study
from db.report_models import UserAccount
from db.types import utcnow
from db.uow import UnitOfWork

MIN_REASON = 10
MAX_REASON = 1000


@dataclass(frozen=True)
class GrantRow:
    """One grant with who took it and for which Study."""

    grant: BreakGlass
    login: str
    printed_name: str
    accession_number: str


def break_glass(uow: UnitOfWork, study_id: UUID, *, reason: str, lasts_s: float) -> BreakGlass:
    """Give the Actor read access to one Study for ``lasts_s`` from now.

    Raises:
        LifecycleError: there is no such Study.
        NotAuthorisedError: the Actor is no person.
        RefusedInputError: the reason says nothing, or is longer than 1000 characters.
    """
    if uow.actor.user_id is None:
        raise NotAuthorisedError("only a person may do this")
    words = " ".join(reason.split())
    if not MIN_REASON <= len(words) <= MAX_REASON:
        raise RefusedInputError(f"state the reason in {MIN_REASON} to {MAX_REASON} characters")
    if uow.session.get(Study, study_id) is None:
        raise LifecycleError("there is no such study")
    now = utcnow()
    grant = BreakGlass(
        id=uuid4(),
        user_id=uow.actor.user_id,
        study_id=study_id,
        reason=words,
        granted_at=now,
        expires_at=now + timedelta(seconds=lasts_s),
    )
    uow.session.add(grant)
    uow.session.flush()
    uow.audit(
        AuditTag.BREAK_GLASS_GRANTED,
        study_id=study_id,
        object_type="break_glass",
        object_id=str(grant.id),
        detail={"reason": words, "expires_at": grant.expires_at.isoformat(timespec="seconds")},
    )
    return grant


def open_grant(
    session: Session, user_id: UUID, *, study_id: UUID | None = None, study_uid: str = ""
) -> BreakGlass | None:
    """Return the grant by which somebody may read a Study now, named by its id or its UID; None when there is none."""
    query = select(BreakGlass).where(BreakGlass.user_id == user_id, BreakGlass.expires_at > utcnow())
    if study_id is not None:
        query = query.where(BreakGlass.study_id == study_id)
    elif study_uid:
        query = query.join(Study, Study.id == BreakGlass.study_id).where(Study.study_instance_uid == study_uid)
    else:
        return None
    return session.scalar(query.order_by(BreakGlass.expires_at.desc()).limit(1))


def open_grants(session: Session, user_id: UUID) -> list[tuple[UUID, str, datetime]]:
    """Return the Studies somebody may read now by a grant: id, Accession Number, until when."""
    query = (
        select(BreakGlass.study_id, Study.accession_number, BreakGlass.expires_at)
        .join(Study, Study.id == BreakGlass.study_id)
        .where(BreakGlass.user_id == user_id, BreakGlass.expires_at > utcnow())
        .order_by(BreakGlass.expires_at.desc())
    )
    found: dict[UUID, tuple[UUID, str, datetime]] = {}
    for key, accession, until in session.execute(query):
        found.setdefault(key, (key, accession, until))
    return list(found.values())


def all_grants(session: Session, most: int = 500) -> list[GrantRow]:
    """Return the newest grants of everybody."""
    query = (
        select(BreakGlass, UserAccount.login, UserAccount.printed_name, Study.accession_number)
        .join(UserAccount, UserAccount.id == BreakGlass.user_id)
        .join(Study, Study.id == BreakGlass.study_id)
        .order_by(BreakGlass.granted_at.desc())
        .limit(most)
    )
    return [GrantRow(*row) for row in session.execute(query)]
