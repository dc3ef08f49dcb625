"""Lists of the worklist that a person names and keeps; a lead may share one with everybody."""

from uuid import UUID

from sqlalchemy import func, select

from config.errors import NotAuthorisedError, RefusedInputError
from db.audit import AuditTag
from db.report_models import UserAccount
from db.types import Role
from db.uow import UnitOfWork
from db.worklist_models import KeptList

NAME_LENGTH, QUERY_LENGTH = 64, 400
LISTS_EACH = 30  # of one person


def keep_list(uow: UnitOfWork, name: str, query: str, *, shared: bool) -> UUID:
    """Keep a list under a name; one of the Actor's own with this name is replaced. Return its id.

    Args:
        uow: of its owner.
        name: 1 to 64 characters.
        query: of its address; it must name no patient.
        shared: everybody sees it; only a lead may share.

    Raises:
        NotAuthorisedError: shared by somebody who is no lead.
        RefusedInputError: no name, too long, or 30 lists are kept already.
    """
    owner = _owner(uow)
    name = " ".join(name.split())
    if not 0 < len(name) <= NAME_LENGTH or len(query) > QUERY_LENGTH:
        raise RefusedInputError(f"a kept list has a name of 1 to {NAME_LENGTH} characters")
    if shared and owner.role is not Role.LEAD:
        raise NotAuthorisedError("only a lead shares lists")
    kept = uow.session.scalars(select(KeptList).where(KeptList.owner_id == owner.id, KeptList.name == name)).first()
    if kept is None:
        count = uow.session.scalar(select(func.count()).where(KeptList.owner_id == owner.id))
        if count is not None and count >= LISTS_EACH:
            raise RefusedInputError(f"you keep {LISTS_EACH} lists already; delete one first")
        kept = KeptList(owner_id=owner.id, name=name)
        uow.session.add(kept)
    kept.query, kept.shared = query, shared
    uow.session.flush()
    detail = {"shared": shared, "filters": query}
    uow.audit(AuditTag.WORKLIST_KEPT, object_type="list", object_id=str(kept.id), detail=detail)
    return kept.id


def drop_list(uow: UnitOfWork, list_id: UUID) -> None:
    """Delete a list of one's own, or, as a lead, a shared one; nothing happens when there is none.

    Raises:
        NotAuthorisedError: it is somebody else's.
    """
    owner = _owner(uow)
    kept = uow.session.get(KeptList, list_id)
    if kept is None:
        return
    if kept.owner_id != owner.id and not (kept.shared and owner.role is Role.LEAD):
        raise NotAuthorisedError("a list is deleted by who keeps it")
    uow.session.delete(kept)
    uow.audit(AuditTag.WORKLIST_DROPPED, object_type="list", object_id=str(list_id))
    uow.session.flush()


def _owner(uow: UnitOfWork) -> UserAccount:
    account = uow.session.get(UserAccount, uow.actor.user_id) if uow.actor.user_id else None
    if account is None or not account.active:
        raise NotAuthorisedError("lists are kept by people with an active account")
    return account
