"""Tables of the worklist that others use (UPS, PS3.4 Annex CC): their workitems, who listens, and what they wait for.

A Reading has no row here: its workitem is derived from it (``db.lifecycle.workitem_values``). Only when a Reading
that ended without a draft is processed again, ``ReadingRun`` keeps what the ended run said.
"""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Json, JsonList, Key, MaybeInstant, Sequence, Uid
from db.types import choice


class StepState(StrEnum):
    """Procedure Step State (0074,1000), PS3.4 table CC.1.1-1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class Readiness(StrEnum):
    """Input Readiness State (0040,4041), PS3.3 C.30.2."""

    INCOMPLETE = "INCOMPLETE"
    UNAVAILABLE = "UNAVAILABLE"
    READY = "READY"


class StepPriority(StrEnum):
    """Scheduled Procedure Step Priority (0074,1200)."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


class EventType(StrEnum):
    """Kinds of event reports by their Event Type ID (PS3.4 table CC.2.4-1)."""

    STATE_REPORT = "1"
    CANCEL_REQUESTED = "2"
    PROGRESS_REPORT = "3"
    ASSIGNED = "5"


class Workitem(Base):
    """A workitem that a client created; ``attributes`` is its Data Set (DICOM JSON), columns are what is asked for.

    Those named here as columns are never read from ``attributes``: state, readiness, times and Transaction UID.
    """

    __tablename__ = "workitem"
    id: Mapped[Key]
    uid: Mapped[Uid] = mapped_column(unique=True)
    state: Mapped[StepState] = mapped_column(choice(StepState), default=StepState.SCHEDULED, index=True)
    readiness: Mapped[Readiness] = mapped_column(choice(Readiness))
    priority: Mapped[StepPriority] = mapped_column(choice(StepPriority))
    transaction_uid: Mapped[str] = mapped_column(String(64), default="")  # the lock; never told to anybody
    is_ours: Mapped[bool] = mapped_column(default=False)  # scheduled for our station: we perform it
    reading_id: Mapped[UUID | None] = mapped_column(ForeignKey("reading.id"))  # that performed it
    label: Mapped[str] = mapped_column(String(64))
    worklist_label: Mapped[str] = mapped_column(String(64), default="")
    code: Mapped[str] = mapped_column(String(64), default="")  # first Scheduled Workitem Code
    station: Mapped[str] = mapped_column(String(16), default="")  # first Scheduled Station Name Code
    patient_id: Mapped[str] = mapped_column(String(64), default="", index=True)
    patient_name: Mapped[str] = mapped_column(String(324), default="")
    accession_number: Mapped[str] = mapped_column(String(16), default="", index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), default="", index=True)  # of its input
    attributes: Mapped[Json]
    reason: Mapped[str] = mapped_column(Text, default="")  # why it was canceled, when we know
    created_by: Mapped[str] = mapped_column(String(64), default="")
    scheduled_at: Mapped[Instant] = mapped_column(index=True)
    created_at: Mapped[Instant]
    modified_at: Mapped[Instant] = mapped_column(index=True)
    finished_at: Mapped[MaybeInstant] = mapped_column(index=True)
    deleted_at: Mapped[MaybeInstant]  # its attributes are gone; the row remembers that there was one
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


class ReadingRun(Base):
    """One run of a Reading that ended canceled, and the UID of the next: a canceled workitem never comes back."""

    __tablename__ = "reading_run"
    id: Mapped[Key]
    reading_id: Mapped[UUID] = mapped_column(ForeignKey("reading.id"), index=True)
    number: Mapped[int]
    uid: Mapped[Uid] = mapped_column(unique=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    started_at: Mapped[Instant]
    ended_at: Mapped[MaybeInstant]  # None for the present run
    __table_args__ = (UniqueConstraint("reading_id", "number"),)


class Subscription(Base):
    """Who wants the events of which workitem, or of all of them (the two well-known UIDs)."""

    __tablename__ = "workitem_subscription"
    id: Mapped[Key]
    ae_title: Mapped[str] = mapped_column(String(16))
    uid: Mapped[Uid] = mapped_column(index=True)
    is_subscribed: Mapped[bool] = mapped_column(default=True)  # False: not this one, in spite of a global subscription
    deletion_lock: Mapped[bool] = mapped_column(default=False)
    filter: Mapped[JsonList]  # [[key, how, values]] of a filtered subscription
    suspended_at: Mapped[MaybeInstant]  # nothing that was created later
    created_at: Mapped[Instant]
    __table_args__ = (UniqueConstraint("ae_title", "uid"),)


class WorkitemEvent(Base):
    """One event report that a subscriber has not confirmed yet."""

    __tablename__ = "workitem_event"
    id: Mapped[Sequence]
    ae_title: Mapped[str] = mapped_column(String(16))
    uid: Mapped[Uid]
    event_type: Mapped[EventType] = mapped_column(choice(EventType))
    attributes: Mapped[Json]  # DICOM JSON, without what identifies the message
    created_at: Mapped[Instant] = mapped_column(index=True)
    __table_args__ = (Index("ix_workitem_event_waiting", "ae_title", "id"),)
