"""Passkeys of people: their owner registers and removes them; a removed one keeps its row."""

from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.identity_models import Passkey
from db.lifecycle.moves import locked
from db.types import utcnow
from db.uow import UnitOfWork

_MOST = 20  # of one person


def passkeys_of(session: Session, user_id: UUID) -> list[Passkey]:
    """Return somebody's passkeys that are not removed, oldest first."""
    query = select(Passkey).where(Passkey.user_id == user_id, Passkey.removed_at.is_(None))
    return list(session.scalars(query.order_by(Passkey.created_at)))


def find_passkey(session: Session, credential_id: str) -> Passkey | None:
    """Return the passkey of a credential id (base64url); None when there is none or it was removed."""
    return session.scalar(select(Passkey).where(Passkey.credential_id == credential_id, Passkey.removed_at.is_(None)))


def add_passkey(
    uow: UnitOfWork, *, credential_id: str, public_key: bytes, sign_count: int, name: str, backed_up: bool
) -> UUID:
    """Keep a passkey that the Actor registered; return its id.

    Args:
        uow: of the person it belongs to.
        credential_id: base64url, as the authenticator made it.
        public_key: its COSE_Key.
        sign_count: of the registration.
        name: by which its owner knows it.
        backed_up: it is copied to other devices of its owner.

    Raises:
        LifecycleError: the credential is, or was, registered.
        RefusedInputError: no name, a name over 64 characters, or too many passkeys.
    """
    owner = uow.actor.user_id
    if owner is None or not 1 <= len(name.strip()) <= 64 or not name.isprintable():
        raise RefusedInputError("a passkey needs a name of 1 to 64 characters")
    if len(passkeys_of(uow.session, owner)) >= _MOST:
        raise RefusedInputError(f"a person has {_MOST} passkeys at most: remove one first")
    if uow.session.scalar(select(Passkey.id).where(Passkey.credential_id == credential_id)) is not None:
        raise LifecycleError("this passkey is, or was, registered")
    key = uuid4()
    uow.session.add(
        Passkey(
            id=key,
            user_id=owner,
            credential_id=credential_id,
            public_key=public_key,
            sign_count=sign_count,
            name=name.strip(),
            backed_up=backed_up,
        )
    )
    uow.session.flush()
    _audit(uow, AuditTag.PASSKEY_ADDED, key, name=name.strip())
    return key


def remove_passkey(uow: UnitOfWork, passkey_id: UUID) -> None:
    """Take one of the Actor's passkeys back; a second time changes nothing.

    Raises:
        RefusedInputError: it is not the Actor's.
    """
    passkey = uow.session.get(Passkey, passkey_id)
    if passkey is None or passkey.user_id != uow.actor.user_id:
        raise RefusedInputError("you have no such passkey")
    if passkey.removed_at is None:
        passkey.removed_at = utcnow()
        _audit(uow, AuditTag.PASSKEY_REMOVED, passkey_id, name=passkey.name)


def count_use(uow: UnitOfWork, passkey_id: UUID, sign_count: int, *, backed_up: bool) -> bool:
    """Keep the counter of a verified use; False, and nothing kept, when it shows that there are two of it.

    A counter that never left 0 says nothing; any other has to grow (WebAuthn Level 3 section 6.1.1).
    """
    passkey = locked(uow, Passkey, passkey_id)
    if (sign_count or passkey.sign_count) and sign_count <= passkey.sign_count:
        detail = {"kept": passkey.sign_count, "given": sign_count}
        uow.audit(
            AuditTag.PASSKEY_CLONED, outcome="failure", object_type="passkey", object_id=str(passkey_id), detail=detail
        )
        return False
    passkey.sign_count, passkey.backed_up, passkey.last_used_at = sign_count, backed_up, utcnow()
    return True


def _audit(uow: UnitOfWork, tag: AuditTag, passkey_id: UUID, **detail: str) -> None:
    uow.audit(tag, object_type="passkey", object_id=str(passkey_id), detail=detail)
