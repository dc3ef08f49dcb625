"""Tables of storage commitment (PS3.4 Annex J): what peers asked of us, and what we asked of destinations."""

from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key, MaybeInstant, Sha256, Uid
from db.types import choice


class RequestState(StrEnum):
    """Where our answer to one request stands."""

    WAITING = "WAITING"
    REPORTED = "REPORTED"
    FAILED = "FAILED"


class CommitmentRequest(Base):
    """One N-ACTION that asked us to commit; a repetition with the same references is the same request."""

    __tablename__ = "commitment_request"
    id: Mapped[Key]
    transaction_uid: Mapped[Uid]
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))  # we report under this name (PS3.4 J.3.3.1.2 note 2)
    address: Mapped[str] = mapped_column(String(64), default="")  # it came from
    association_id: Mapped[UUID | None]
    instances: Mapped[JsonList]  # [[SOP Class UID, SOP Instance UID], …], as asked
    instances_sha256: Mapped[Sha256]
    is_reuse: Mapped[bool] = mapped_column(default=False)  # the Transaction UID was another request's
    state: Mapped[RequestState] = mapped_column(choice(RequestState), default=RequestState.WAITING)
    failures: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    # {SOP Instance UID: Failure Reason (0008,1197)}; null until the files were read again
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[Instant]
    lease_until: Mapped[MaybeInstant]
    last_error: Mapped[str] = mapped_column(String(200), default="")
    requested_at: Mapped[Instant]
    reported_at: Mapped[MaybeInstant]
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (
        UniqueConstraint("calling_ae", "transaction_uid", "instances_sha256"),
        Index("ix_commitment_request_due", "state", "next_attempt_at"),
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


class CommitmentOrder(Base):
    """One transaction in which we asked a destination; answers to it count as long as it is here."""

    __tablename__ = "commitment_order"
    transaction_uid: Mapped[Uid] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(String(32))
    deliveries: Mapped[JsonList]  # ids
    asked_at: Mapped[Instant]
