"""Table of the places outside this system that heads of the audit log were put, written by ``audit.anchors``."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base
from db.types import UtcDateTime

_BIG = BigInteger().with_variant(Integer, "sqlite")


class AuditAnchor(Base):
    """One head put into one place, or the first failure to do so; written once."""

    __tablename__ = "audit_anchor"
    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    size: Mapped[int] = mapped_column(_BIG)  # of the head
    kind: Mapped[str] = mapped_column(String(16))  # file, syslog, timestamp
    anchored_at: Mapped[datetime] = mapped_column(UtcDateTime)
    outcome: Mapped[str] = mapped_column(String(16))  # success, failure
    target: Mapped[str] = mapped_column(String(256))  # file name or address; of a failure, the error's class
    token: Mapped[bytes | None] = mapped_column(LargeBinary)  # RFC 3161 response, DER
    __table_args__ = (Index("ix_audit_anchor_kind", "kind", "size"),)
