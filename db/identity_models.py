"""Tables of how people prove who they are, and of access that was given for a stated reason."""

from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key, MaybeInstant
from db.types import UtcDateTime


class Passkey(Base):
    """One WebAuthn credential of a person; the private key never leaves the authenticator."""

    __tablename__ = "passkey"
    id: Mapped[Key]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"), index=True)
    credential_id: Mapped[str] = mapped_column(String(1366), unique=True)  # base64url of 1023 bytes at most
    public_key: Mapped[bytes] = mapped_column(LargeBinary)  # COSE_Key
    sign_count: Mapped[int] = mapped_column(BigInteger, default=0)
    name: Mapped[str] = mapped_column(String(64))
    backed_up: Mapped[bool] = mapped_column(default=False)  # it is copied to other devices of its owner
    created_at: Mapped[Instant]
    last_used_at: Mapped[MaybeInstant]
    removed_at: Mapped[MaybeInstant]


class BreakGlass(Base):
    """Read access to one Study that the role does not give, for a reason and a time; never changed, never extended."""

    __tablename__ = "break_glass"
    id: Mapped[Key]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"), index=True)
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    granted_at: Mapped[Instant]
    expires_at: Mapped[Instant] = mapped_column(UtcDateTime)
