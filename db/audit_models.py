"""Tables around the audit log: what waits for the seal, the seal itself, the tree above it and its signed heads.

Written by ``audit``; ``db.models.AuditEvent`` holds the events.
"""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base
from db.types import UtcDateTime

_BIG = BigInteger().with_variant(Integer, "sqlite")


class AuditPending(Base):
    """An event that is committed and not sealed yet; a trigger of ``audit_event`` adds it, the sealer removes it."""

    __tablename__ = "audit_pending"
    seq: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AuditSeal(Base):
    """The place of one event in the chain, in the order of commits; written once."""

    __tablename__ = "audit_seal"
    position: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)  # from 0, without gaps
    seq: Mapped[int] = mapped_column(_BIG)
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime)  # of the event: where PostgreSQL keeps it
    leaf: Mapped[bytes] = mapped_column(LargeBinary(32))  # RFC 6962 section 2.1
    chain: Mapped[bytes] = mapped_column(LargeBinary(32))  # SHA-256 of the chain value before it, and the leaf
    __table_args__ = (Index("ix_audit_seal_seq", "seq", unique=True),)


class AuditNode(Base):
    """The hash of a whole subtree of 2^level leaves, for proofs without reading every leaf; written once."""

    __tablename__ = "audit_node"
    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)  # from 0, left to right
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class AuditHead(Base):
    """A signed tree head: what the whole log was when it had so many events; written once."""

    __tablename__ = "audit_head"
    size: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))
    chain: Mapped[bytes] = mapped_column(LargeBinary(32))
    signed_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    key_name: Mapped[str] = mapped_column(String(64))
    note: Mapped[str] = mapped_column(Text)  # the signed text itself (C2SP checkpoint)
