"""Tables around a signature: what was checked before it, the pause before it is sent, and how long images were seen."""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key, MaybeInstant, Sha256
from db.types import choice


class HoldState(StrEnum):
    """Where the pause between a signature and its dispatch stands."""

    WAITING = "WAITING"  # until its time; after that everything is on its way
    STOPPED = "STOPPED"  # a person stopped it; nothing leaves
    RELEASED = "RELEASED"  # a person sent it without waiting, or after all
    REPLACED = "REPLACED"  # a later signature went in its place


class SafetyCheck(Base):
    """What the linter said of a signed text and what the signer answered; written with the signature, never changed."""

    __tablename__ = "safety_check"
    id: Mapped[Key]
    signature_id: Mapped[UUID] = mapped_column(ForeignKey("signature.id"), unique=True)
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    text_sha256: Mapped[Sha256]  # of what was checked: equal to the signature's
    rules: Mapped[str] = mapped_column(String(16))  # version of the rules
    issues: Mapped[JsonList]  # [{"rule", "severity", "words", "section", "start", "end", "finding", "reason"}]
    view_s: Mapped[float]  # seconds the signer had looked at the images
    created_at: Mapped[Instant]


class SignatureHold(Base):
    """The pause between one signature and its dispatch."""

    __tablename__ = "signature_hold"
    id: Mapped[Key]
    signature_id: Mapped[UUID] = mapped_column(ForeignKey("signature.id"), unique=True)
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    until: Mapped[Instant]
    state: Mapped[HoldState] = mapped_column(choice(HoldState), default=HoldState.WAITING)
    acted_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))  # who stopped or released it
    acted_at: Mapped[MaybeInstant]
    reason: Mapped[str] = mapped_column(Text, default="")  # of the stop
    created_at: Mapped[Instant]
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class ImageView(Base):
    """How long one reader looked at the images of one Study."""

    __tablename__ = "image_view"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    seconds: Mapped[float] = mapped_column(default=0.0)
    opened_at: Mapped[Instant]  # the page, for the first time
    counted_at: Mapped[Instant]  # no second before this one counts again
    images_at: Mapped[MaybeInstant]  # first word that an image was on the screen
    __table_args__ = (UniqueConstraint("study_id", "user_id"),)
