"""People who may log in: accounts are added, locked and closed, never deleted or given to another person.

Hashing and checking passwords is the dashboard's; only hashes come here.
"""

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.report_models import Report, UserAccount
from db.types import Role, utcnow
from db.uow import UnitOfWork


def create_user(uow: UnitOfWork, *, login: str, printed_name: str, role: Role, password_hash: str) -> UUID:
    """Add an account and return its id. Logins are compared without case and never used twice.

    Raises:
        LifecycleError: the login is taken, by an account open or closed.
        RefusedInputError: an empty or over-long login or name, or no password hash.
    """
    login = login.strip().lower()
    name = printed_name.strip()
    if not 1 <= len(login) <= 64 or not 1 <= len(name) <= 128 or not password_hash:
        raise RefusedInputError("an account needs a login (1-64 characters), a name (1-128) and a password hash")
    if find_user(uow.session, login) is not None:
        raise LifecycleError("this login is, or was, somebody's")
    key = uuid4()
    uow.session.add(UserAccount(id=key, login=login, printed_name=name, role=role, password_hash=password_hash))
    uow.session.flush()
    _audit(uow, AuditTag.USER_CREATED, key, role=role.value)
    return key


def find_user(session: Session, login: str) -> UserAccount | None:
    """Return the account of a login, whatever its case; None when there is none."""
    return session.scalar(select(UserAccount).where(UserAccount.login == login.strip().lower()))


def list_users(session: Session) -> list[UserAccount]:
    """Return every account, open or closed, by login."""
    return list(session.scalars(select(UserAccount).order_by(UserAccount.login)))


def count_users(session: Session) -> int:
    """Return how many accounts there are."""
    return session.scalar(select(func.count()).select_from(UserAccount)) or 0


def set_password_hash(uow: UnitOfWork, user_id: UUID, password_hash: str, *, rehash: bool = False) -> None:
    """Replace a password hash and unlock the account.

    ``rehash`` says that the password is the same, kept with newer parameters: nothing to audit.
    """
    user = locked(uow, UserAccount, user_id)
    user.password_hash = password_hash
    if not rehash:
        user.failed_logins = 0
        user.locked_until = None
        _audit(uow, AuditTag.USER_PASSWORD_CHANGED, user_id)


def set_role(uow: UnitOfWork, user_id: UUID, role: Role) -> None:
    """Give the account another role; the audit event keeps the old one."""
    user = locked(uow, UserAccount, user_id)
    if user.role is not role:
        _audit(uow, AuditTag.USER_ROLE_CHANGED, user_id, **{"from": user.role.value, "to": role.value})
        user.role = role


def set_active(uow: UnitOfWork, user_id: UUID, active: bool) -> None:
    """Open or close the account; closing gives up its report locks."""
    user = locked(uow, UserAccount, user_id)
    if user.active == active:
        return
    user.active = active
    _audit(uow, AuditTag.USER_ACTIVATED if active else AuditTag.USER_DEACTIVATED, user_id)
    if active:
        return
    for report in uow.session.scalars(select(Report).where(Report.locked_by == user_id)):
        report.locked_by = report.locked_at = None
        uow.audit(AuditTag.REPORT_RELEASED, study_id=report.study_id, report_id=report.id)


def is_locked_out(user: UserAccount) -> bool:
    """Return True while too many failed logins keep the account shut."""
    return user.locked_until is not None and user.locked_until > utcnow()


def record_login(
    uow: UnitOfWork,
    login: str,
    ok: bool,
    *,
    lockout_failures: int,
    lockout_s: float,
    reauthentication: bool = False,
) -> UserAccount | None:
    """Record the outcome of one password check; return the account when the person may go on.

    The caller checks the password, also for unknown logins (in the same time), and says ``ok``. A locked or
    closed account is refused even with the right password. ``lockout_failures`` failures in a row, at login or
    at signing, lock the account for ``lockout_s``.
    """
    user = uow.session.scalar(
        select(UserAccount)
        .where(UserAccount.login == login.strip().lower())
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    good = AuditTag.USER_REAUTHENTICATED if reauthentication else AuditTag.USER_LOGIN
    bad = AuditTag.USER_REAUTHENTICATION_FAILED if reauthentication else AuditTag.USER_LOGIN_FAILED
    if user is None:
        uow.audit(bad, outcome="failure", object_type="user", detail={"reason": "unknown login"})
        return None
    refusal = _refusal(user, ok=ok)
    if not refusal:
        user.failed_logins = 0
        user.locked_until = None
        user.last_login_at = utcnow()
        _audit(uow, good, user.id)
        return user
    uow.audit(bad, outcome="failure", object_type="user", object_id=str(user.id), detail={"reason": refusal})
    if not ok and not is_locked_out(user):
        _count_failure(uow, user, lockout_failures, lockout_s)
    return None


def _refusal(user: UserAccount, *, ok: bool) -> str:
    if not user.active:
        return "account closed"
    if is_locked_out(user):
        return "account locked"
    return "" if ok else "wrong password"


def _count_failure(uow: UnitOfWork, user: UserAccount, lockout_failures: int, lockout_s: float) -> None:
    user.failed_logins += 1
    if user.failed_logins >= lockout_failures:
        user.failed_logins = 0
        user.locked_until = utcnow() + timedelta(seconds=lockout_s)
        uow.audit(
            AuditTag.USER_LOCKED_OUT,
            outcome="failure",
            object_type="user",
            object_id=str(user.id),
            detail={"seconds": lockout_s},
        )


def _audit(uow: UnitOfWork, tag: AuditTag, user_id: UUID, **detail: str) -> None:
    uow.audit(tag, object_type="user", object_id=str(user_id), detail=detail)
