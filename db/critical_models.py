"""Tables of critical results: what somebody has to be told, who was told, and what was sent about it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key, MaybeInstant
from db.types import choice


class AlertState(StrEnum):
    """Where one critical result stands."""

    SUSPECTED = "SUSPECTED"  # a model or a resident thinks so
    CONFIRMED = "CONFIRMED"  # a radiologist does
    COMMUNICATED = "COMMUNICATED"  # somebody responsible was told
    DISMISSED = "DISMISSED"


class Means(StrEnum):
    """How somebody was told."""

    PHONE = "phone"
    IN_PERSON = "in_person"
    SECURE_MESSAGE = "secure_message"


class Channel(StrEnum):
    """How a notice leaves."""

    MAIL = "mail"
    WEBHOOK = "webhook"


class Occasion(StrEnum):
    """Why a notice is sent."""

    SUSPECTED = "suspected"
    NOT_ANSWERED = "not_answered"
    NOT_TOLD = "not_told"


class NoticeState(StrEnum):
    """Where one notice stands."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    SENT = "SENT"
    FAILED = "FAILED"
    WITHDRAWN = "WITHDRAWN"  # somebody answered before it could be sent


OPEN_ALERTS = (AlertState.SUSPECTED, AlertState.CONFIRMED)
_OPEN = "state IN ('SUSPECTED', 'CONFIRMED')"


class CriticalAlert(Base):
    """One critical result of one Study; at most one of a name is open.

    ``category`` is 1 (minutes), 2 (hours) or 3 (days), the actionable findings of RadLex RID49480, RID49481 and
    RID49482. The clock runs from ``clock_at``: opened, confirmed, or escalated last.
    """

    __tablename__ = "critical_alert"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    finding_id: Mapped[UUID | None] = mapped_column(ForeignKey("finding.id"))
    label: Mapped[str] = mapped_column(String(200))  # of the Finding, or a person's words
    found_by: Mapped[str] = mapped_column(String(64))  # source of the Finding; for a person's own alert, empty
    category: Mapped[int] = mapped_column(default=1)
    state: Mapped[AlertState] = mapped_column(choice(AlertState), default=AlertState.SUSPECTED)
    image_set_sha256: Mapped[str] = mapped_column(String(64), default="")  # of the draft that asserted it
    opened_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))  # None: the pipeline
    opened_at: Mapped[Instant]
    confirmed_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    confirmed_at: Mapped[MaybeInstant]
    closed_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    closed_at: Mapped[MaybeInstant]
    reason: Mapped[str] = mapped_column(Text, default="")  # of the dismissal
    clock_at: Mapped[Instant]
    level: Mapped[int] = mapped_column(default=0)  # how often it was escalated
    noticed_level: Mapped[int] = mapped_column(default=-1)  # notices were written up to this level
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (
        Index(
            "uq_critical_alert_open", "study_id", "label", unique=True,
            sqlite_where=text(_OPEN), postgresql_where=text(_OPEN),
        ),
        Index("ix_critical_alert_clock", "state", "clock_at"),
        Index("ix_critical_alert_opened", "opened_at", "id"),
    )  # fmt: skip
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


class CriticalCommunication(Base):
    """One attempt to tell somebody, as a person recorded it; never changed, corrected by a further record."""

    __tablename__ = "critical_communication"
    id: Mapped[Key]
    alert_id: Mapped[UUID] = mapped_column(ForeignKey("critical_alert.id"), index=True)
    told_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    told_name: Mapped[str] = mapped_column(String(128))
    told_role: Mapped[str] = mapped_column(String(64), default="")
    means: Mapped[Means] = mapped_column(choice(Means))
    told_at: Mapped[Instant]  # when they spoke, or tried
    reached: Mapped[bool]
    read_back: Mapped[bool] = mapped_column(default=False)
    no_read_back_reason: Mapped[str] = mapped_column(Text, default="")
    note: Mapped[str] = mapped_column(Text, default="")
    corrects_id: Mapped[UUID | None] = mapped_column(ForeignKey("critical_communication.id"), unique=True)
    created_at: Mapped[Instant]


class CriticalNotice(Base):
    """One message about an alert to one recipient: the outbox row, and the record of its sending."""

    __tablename__ = "critical_notice"
    id: Mapped[Key]  # travels with the message, so that a receiver knows a repeated one
    alert_id: Mapped[UUID] = mapped_column(ForeignKey("critical_alert.id"), index=True)
    level: Mapped[int]
    occasion: Mapped[Occasion] = mapped_column(choice(Occasion))
    channel: Mapped[Channel] = mapped_column(choice(Channel))
    recipient: Mapped[str] = mapped_column(String(254))  # mail address; host of the webhook
    state: Mapped[NoticeState] = mapped_column(choice(NoticeState), default=NoticeState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Instant]
    lease_until: Mapped[MaybeInstant]
    last_error: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[Instant]
    sent_at: Mapped[MaybeInstant]
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (
        UniqueConstraint("alert_id", "level", "channel", "recipient"),
        Index("ix_critical_notice_due", "state", "channel", "next_attempt_at"),
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses


@dataclass(frozen=True)
class NewCommunication:
    """What a person says of one attempt to tell somebody.

    Attributes:
        told_name, told_role: whom.
        told_at: when; not in the future, not before the Study.
        reached: False for an attempt that reached nobody.
        read_back: whether they repeated the result.
        no_read_back_reason: why not; needed for category 1.
        corrects_id: the record that this one replaces.
    """

    told_name: str
    told_role: str
    means: Means
    told_at: datetime
    reached: bool = True
    read_back: bool = False
    no_read_back_reason: str = ""
    note: str = ""
    corrects_id: UUID | None = None
