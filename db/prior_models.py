"""Tables of comparison: which archives were asked for earlier Studies of a patient, and what became of each."""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key, Long, MaybeInstant, Uid
from db.types import choice


class SearchState(StrEnum):
    """Where the search for the priors of one Study stands."""

    WAITING = "WAITING"
    DONE = "DONE"
    SKIPPED = "SKIPPED"  # there is nothing to ask by
    FAILED = "FAILED"


class PriorState(StrEnum):
    """Where one earlier Study stands."""

    FOUND = "FOUND"
    FETCHING = "FETCHING"
    HERE = "HERE"
    REFUSED = "REFUSED"  # it is here, and not of this patient, or nobody can say so
    FAILED = "FAILED"


class PriorSearch(Base):
    """The archives are asked once for each Study that is received to be read."""

    __tablename__ = "prior_search"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), unique=True)
    state: Mapped[SearchState] = mapped_column(choice(SearchState), default=SearchState.WAITING, index=True)
    reason: Mapped[str] = mapped_column(String(400), default="")  # why it was skipped or failed, who did not answer
    candidates: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Instant]
    lease_until: Mapped[MaybeInstant]
    created_at: Mapped[Instant]
    finished_at: Mapped[MaybeInstant]
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


class Prior(Base):
    """One earlier Study that was chosen for comparison with ``study_id``, as its archive described it.

    ``message_id`` is that of every retrieval of it (0000,0110), so that what arrives is told from what others send,
    late arrivals of an earlier attempt included. ``documents`` are the reports found in it, see
    ``reports.prior_report``; a REFUSED prior has none.
    """

    __tablename__ = "prior"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    study_instance_uid: Mapped[Uid] = mapped_column(index=True)
    # the earlier Study, once any of it is here
    held_id: Mapped[UUID | None] = mapped_column(ForeignKey("study.id"), index=True)
    source: Mapped[str] = mapped_column(String(32))
    method: Mapped[str] = mapped_column(String(16))
    position: Mapped[int]  # 1 is compared first
    study_date: Mapped[str] = mapped_column(String(8), default="")
    modalities: Mapped[str] = mapped_column(String(64), default="")
    description: Mapped[Long]
    expected_instances: Mapped[int | None]
    note: Mapped[str] = mapped_column(String(400), default="")  # what a reader should know, such as a missing issuer
    state: Mapped[PriorState] = mapped_column(choice(PriorState), default=PriorState.FOUND, index=True)
    reason: Mapped[str] = mapped_column(String(400), default="")
    message_id: Mapped[int]
    documents: Mapped[JsonList]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Instant]
    lease_until: Mapped[MaybeInstant]
    found_at: Mapped[Instant]
    finished_at: Mapped[MaybeInstant]
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (UniqueConstraint("study_id", "study_instance_uid"),)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012
