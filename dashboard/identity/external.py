"""People whose account is kept elsewhere: a provider or a directory says who they are and which role they have."""

from dataclasses import dataclass

from config.errors import NotAuthorisedError
from dashboard.people import actor_of, address, sessions, site
from db.audit import AuditTag
from db.report_models import UserAccount
from db.types import AccountSource, Role
from db.uow import Actor, UnitOfWork, unit_of_work
from db.users import create_external_user, find_external_user, find_user, record_login, set_role

_METHODS = {AccountSource.OIDC: "single sign-on", AccountSource.LDAP: "directory password"}


@dataclass(frozen=True)
class External:
    """What a provider or a directory says of somebody who proved who they are there."""

    source: AccountSource
    external_id: str  # the same for ever; a login may be given on to somebody else
    login: str
    printed_name: str
    role: Role | None  # of the first of their groups that has one


def admit_external(one: External, *, again: bool = False) -> UserAccount | None:
    """Record the login and return the account, which is made at the first one; the role follows at each.

    Args:
        one: checked already.
        again: a re-authentication inside a session, which changes no role.

    Returns:
        None for an account that is closed or locked here.

    Raises:
        NotAuthorisedError: in none of the groups, or the login is another account's.
    """
    with sessions()() as db:
        known = find_external_user(db, one.external_id)
        taken = known is None and find_user(db, one.login) is not None
    if one.role is None:
        _refuse(known, "in no group", "You are known, but in none of the groups that may use Firstread")
    if taken:
        _refuse(None, "login taken", "Another account of this site has your login; an administrator can help")
    web = site().web
    actor = actor_of(known) if known else Actor(one.source.value, "process", address=address())
    with unit_of_work(sessions(), actor) as uow:
        login = known.login if known else _create(uow, one)
        if known is not None and one.role is not None and not again:
            set_role(uow, known.id, one.role, by_provider=True)
        return record_login(
            uow,
            login,
            True,
            lockout_failures=web.lockout_failures,
            lockout_s=web.lockout_s,
            reauthentication=again,
            method=_METHODS[one.source],
        )


def _create(uow: UnitOfWork, one: External) -> str:
    assert one.role is not None
    create_external_user(
        uow,
        login=one.login,
        printed_name=one.printed_name[:128] or one.login,
        role=one.role,
        source=one.source,
        external_id=one.external_id,
    )
    return one.login.strip().lower()


def _refuse(known: UserAccount | None, reason: str, words: str) -> None:
    with unit_of_work(sessions(), actor_of(known)) as uow:
        uow.audit(
            AuditTag.USER_LOGIN_FAILED,
            outcome="failure",
            object_type="user",
            object_id=str(known.id) if known else "",
            detail={"reason": reason},
        )
    raise NotAuthorisedError(words)
