"""Bearer tokens of DICOMweb clients: made once, shown once, checked without saying what was wrong.

A token is ``frt_ID_SECRET``: the id finds the row, the secret has 256 random bits, and only its SHA-256 is kept.
So many bits need neither a slow hash nor a lockout, which a stranger could use to shut a client out.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.token_models import ApiToken
from db.types import utcnow
from db.uow import UnitOfWork

_NAME = re.compile(r"[A-Za-z0-9_-]{1,16}")
_TOKEN = re.compile(r"frt_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(b"").hexdigest()
_MOST_DAYS = 3660
_NOTED_S = 60.0  # last_used_at is this coarse: not every request writes


class Scope(StrEnum):
    """What a token may do."""

    READ = "read"
    WRITE = "write"
    METRICS = "metrics"  # /metrics of a monitor; no patient data


@dataclass(frozen=True)
class Bearer:
    """Whom a token belongs to and what it may do."""

    id: UUID
    name: str
    scopes: frozenset[Scope]
    last_used_at: datetime | None

    @property
    def is_used_unnoted(self) -> bool:
        """Whether this use should be noted; within a minute of the last it need not."""
        return self.last_used_at is None or utcnow() - self.last_used_at > timedelta(seconds=_NOTED_S)


def create_token(uow: UnitOfWork, *, name: str, scopes: Collection[Scope], days: int) -> str:
    """Add a token and return it; it is kept nowhere else.

    Raises:
        LifecycleError: the name is, or was, another token's.
        RefusedInputError: a name that is no AE title of letters, digits, ``-`` and ``_``; no scope; no such days.
    """
    if not _NAME.fullmatch(name):
        raise RefusedInputError("a token's name has 1 to 16 letters, digits, hyphens or underscores")
    if not scopes or not 1 <= days <= _MOST_DAYS:
        raise RefusedInputError(f"a token needs a scope (read, write, metrics) and 1 to {_MOST_DAYS} days")
    if uow.session.scalar(select(ApiToken.id).where(ApiToken.name == name)) is not None:
        raise LifecycleError("this name is, or was, another token's")
    key, secret = uuid4(), secrets.token_urlsafe(32)
    kept = ",".join(sorted(set(scopes)))
    expires_at = utcnow() + timedelta(days=days)
    uow.session.add(
        ApiToken(
            id=key,
            name=name,
            secret_sha256=_hash(secret),
            scopes=kept,
            created_by=uow.actor.name[:64],
            expires_at=expires_at,
        )
    )
    uow.session.flush()
    detail = {"name": name, "scopes": kept, "expires_at": expires_at.isoformat(timespec="seconds")}
    uow.audit(AuditTag.TOKEN_CREATED, object_type="token", object_id=str(key), detail=detail)
    return f"frt_{key.hex}_{secret}"


def list_tokens(session: Session) -> list[ApiToken]:
    """Return every token that ever was, by name."""
    return list(session.scalars(select(ApiToken).order_by(ApiToken.name)))


def revoke_token(uow: UnitOfWork, name: str) -> None:
    """Make a token worthless from now on; a second time changes nothing.

    Raises:
        RefusedInputError: there is none of this name.
    """
    key = uow.session.scalar(select(ApiToken.id).where(ApiToken.name == name))
    if key is None:
        raise RefusedInputError(f"there is no token {name!r}")
    token = locked(uow, ApiToken, key)
    if token.revoked_at is None:
        token.revoked_at, token.revoked_by = utcnow(), uow.actor.name[:64]
        uow.audit(AuditTag.TOKEN_REVOKED, object_type="token", object_id=str(key), detail={"name": name})


def find_bearer(session: Session, given: str) -> Bearer | None:
    """Return whom ``given`` belongs to; None for a token that is unknown, wrong, expired or revoked."""
    parts = _TOKEN.fullmatch(given)
    token = session.get(ApiToken, UUID(parts[1])) if parts else None
    # compared also when there is no such token, so that neither case takes longer
    matches = hmac.compare_digest(_hash(parts[2] if parts else given), token.secret_sha256 if token else _NOBODY)
    if token is None or not matches or token.revoked_at is not None or token.expires_at <= utcnow():
        return None
    return Bearer(token.id, token.name, frozenset(Scope(s) for s in token.scopes.split(",")), token.last_used_at)


def note_use(uow: UnitOfWork, token_id: UUID) -> None:
    """Keep when a token was used last."""
    locked(uow, ApiToken, token_id).last_used_at = utcnow()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
