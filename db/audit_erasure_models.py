"""The table of what was erased from beside the audit log."""

from uuid import UUID

from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base

_BIG = BigInteger().with_variant(Integer, "sqlite")


class AuditErasure(Base):
    """An event whose values kept apart are gone by law, and by which erasure; written once, in its transaction.

    The database lets go of a row of ``audit_private`` only when it stands here; the event ``audit:erased`` with the
    same id says who, by what authority, and how many.
    """

    __tablename__ = "audit_erasure"
    seq: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)  # of the event
    erasure_id: Mapped[UUID] = mapped_column(index=True)
