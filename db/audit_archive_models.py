"""Tables of what left the audit log for a bundle, and of what must not be disposed of."""

from datetime import datetime

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key, MaybeInstant, Sha256
from db.types import UtcDateTime

_BIG = BigInteger().with_variant(Integer, "sqlite")


class AuditArchive(Base):
    """A bundle that holds the events of an interval of positions; written once.

    Its manifest is signed: a row somebody adds to be allowed to delete events is told from a true one.
    """

    __tablename__ = "audit_archive"
    first_position: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)
    end_position: Mapped[int] = mapped_column(_BIG)  # one past the last
    file: Mapped[str] = mapped_column(String(200))  # its name in the archive folder
    sha256: Mapped[Sha256]  # as it was written
    manifest: Mapped[str] = mapped_column(Text)  # the signed note
    archived_at: Mapped[Instant]


class AuditHold(Base):
    """A legal hold on the record of an interval: while it stands, nothing of it is disposed of or erased.

    The hold on one study is ``Study.legal_hold``, which covers its images, its rows and its record.
    """

    __tablename__ = "audit_hold"
    id: Mapped[Key]
    since: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    until: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    reason: Mapped[str] = mapped_column(String(400))
    placed_by: Mapped[str] = mapped_column(String(64))
    placed_at: Mapped[Instant]
    lifted_by: Mapped[str] = mapped_column(String(64), default="")
    lifted_at: Mapped[MaybeInstant]
