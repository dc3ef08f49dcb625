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
from db.types import AccountSource, Role, utcnow
from db.uow import UnitOfWork


def create_user(uow: UnitOfWork, *, login: str, printed_name: str, role: Role, password_hash: str) -> UUID:
    """Add an account with a password of ours; return its id. Logins are compared without case and never used twice.

    Raises:
        LifecycleError: the login is taken, by an account open or closed.
        RefusedInputError: an empty or over-long login or name, no password hash, or the role of machines.
    """
    if not password_hash:
        raise RefusedInputError("an account needs a password hash")
    return _add(uow, login, printed_name, role, password_hash=password_hash)


def create_external_user(
    uow: UnitOfWork, *, login: str, printed_name: str, role: Role, source: AccountSource, external_id: str
) -> UUID:
    """Add an account whose password is checked elsewhere, at its first login; return its id.

    Args:
        uow: of the process that asked the provider or the directory.
        login: as the provider or the directory has it.
        printed_name: as in signatures.
        role: of the person's group.
        source: who checks the password.
        external_id: what the person is there, 64 characters at most, the same for ever; a login may be given on.

    Raises:
        LifecycleError: the login or the ``external_id`` is taken, by an account open or closed.
        RefusedInputError: an empty or over-long login or name, or the role of machines.
    """
    if not external_id or source is AccountSource.LOCAL:
        raise RefusedInputError("an external account needs what it is elsewhere")
    return _add(uow, login, printed_name, role, password_hash="", source=source, external_id=external_id)


def _add(uow: UnitOfWork, login: str, printed_name: str, role: Role, **columns: str) -> UUID:
    login = login.strip().lower()
    name = printed_name.strip()
    if not 1 <= len(login) <= 64 or not login.isprintable() or not 1 <= len(name) <= 128:
        raise RefusedInputError("an account needs a login (1-64 characters) and a name (1-128)")
    if role is Role.SERVICE:
        raise RefusedInputError("a machine needs no account: make it a token")
    if find_user(uow.session, login) is not None:
        raise LifecycleError("this login is, or was, somebody's")
    key = uuid4()
    uow.session.add(UserAccount(id=key, login=login, printed_name=name, role=role, **columns))
    uow.session.flush()
    _audit(uow, AuditTag.USER_CREATED, key, role=role.value, source=columns.get("source", AccountSource.LOCAL))
    return key


def find_external_user(session: Session, external_id: str) -> UserAccount | None:
    """Return the account of somebody a provider or a directory knows; None at the first login."""
    return session.scalar(select(UserAccount).where(UserAccount.external_id == external_id))


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

    Raises:
        RefusedInputError: the password of this account is checked elsewhere.
    """
    user = locked(uow, UserAccount, user_id)
    if user.source is not AccountSource.LOCAL:
        raise RefusedInputError("the password of this account is not kept here")
    user.password_hash = password_hash
    if not rehash:
        user.failed_logins = 0
        user.locked_until = None
        _audit(uow, AuditTag.USER_PASSWORD_CHANGED, user_id)


def set_role(uow: UnitOfWork, user_id: UUID, role: Role, *, by_provider: bool = False) -> None:
    """Give the account another role; the audit event keeps the old one.

    Raises:
        LifecycleError: it is the last open administrator, and it is not the person's provider that says so.
        RefusedInputError: the role of machines, or a role that the person's provider decides.
    """
    user = locked(uow, UserAccount, user_id)
    if role is Role.SERVICE or (user.source is not AccountSource.LOCAL and not by_provider):
        raise RefusedInputError("this account cannot be given that role here")
    if user.role is not role:
        if not by_provider:
            _keep_an_administrator(uow, user)
        _audit(uow, AuditTag.USER_ROLE_CHANGED, user_id, **{"from": user.role.value, "to": role.value})
        user.role = role


def set_active(uow: UnitOfWork, user_id: UUID, active: bool) -> None:
    """Open or close the account; closing gives up its report locks.

    Raises:
        LifecycleError: it is the last open administrator.
    """
    user = locked(uow, UserAccount, user_id)
    if user.active == active:
        return
    if not active:
        _keep_an_administrator(uow, user)
    user.active = active
    _audit(uow, AuditTag.USER_ACTIVATED if active else AuditTag.USER_DEACTIVATED, user_id)
    if active:
        return
    for report in uow.session.scalars(select(Report).where(Report.locked_by == user_id)):
        report.locked_by = report.locked_at = None
        uow.audit(AuditTag.REPORT_RELEASED, study_id=report.study_id, report_id=report.id)


def _keep_an_administrator(uow: UnitOfWork, user: UserAccount) -> None:
    """Refuse what would leave nobody to open accounts; two that try at once wait for each other."""
    query = select(UserAccount.id).where(UserAccount.role == Role.ADMIN, UserAccount.active.is_(True))
    open_ones = uow.session.scalars(query.with_for_update(key_share=True)).all()
    if list(open_ones) == [user.id]:
        raise LifecycleError("this is the last open administrator: open another one first")


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
    method: str = "password",
) -> UserAccount | None:
    """Record the outcome of one proof of who somebody is; return the account when the person may go on.

    The caller checks the password, also for unknown logins (in the same time), or a passkey, or what a provider
    signed (``method``), and says ``ok``. A locked or closed account is refused even with the right password, and so
    is a service, which comes with a token. ``lockout_failures`` failures in a row, at login or at signing, lock the
    account for ``lockout_s``.
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
    refusal = _refusal(user, ok=ok, method=method)
    if not refusal:
        user.failed_logins = 0
        user.locked_until = None
        user.last_login_at = utcnow()
        _audit(uow, good, user.id, method=method)
        return user
    uow.audit(bad, outcome="failure", object_type="user", object_id=str(user.id), detail={"reason": refusal})
    if not ok and not is_locked_out(user):
        _count_failure(uow, user, lockout_failures, lockout_s)
    return None


def _refusal(user: UserAccount, *, ok: bool, method: str) -> str:
    if not user.active:
        return "account closed"
    if user.role is Role.SERVICE:
        return "a service has no login"
    if is_locked_out(user):
        return "account locked"
    return "" if ok else f"wrong {method}"


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
