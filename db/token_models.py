"""Table of the bearer tokens by which DICOMweb clients come in."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key, MaybeInstant, Sha256
from db.types import UtcDateTime


class ApiToken(Base):
    """One bearer token; only the hash of its secret is kept, and a name is never given twice."""

    __tablename__ = "api_token"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(String(16), unique=True)  # an AE title: what it stores is received under it
    secret_sha256: Mapped[Sha256]
    scopes: Mapped[str] = mapped_column(String(32))  # comma separated, sorted
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[Instant]
    expires_at: Mapped[Instant] = mapped_column(UtcDateTime)
    last_used_at: Mapped[MaybeInstant]
    revoked_by: Mapped[str] = mapped_column(String(64), default="")
    revoked_at: Mapped[MaybeInstant]
