"""What readers draw and measure on images."""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key, MaybeInstant, Uid
from db.types import choice


class AnnotationKind(StrEnum):
    """What is drawn."""

    LENGTH = "LENGTH"
    ANGLE = "ANGLE"
    RECTANGLE = "RECTANGLE"
    ELLIPSE = "ELLIPSE"
    PROBE = "PROBE"
    ARROW = "ARROW"


class Annotation(Base):
    """One drawing on one frame of an Instance; one that is removed keeps its row.

    ``points`` are ``[column, row]`` pairs in pixels of the frame, ``[0, 0]`` at the centre of its first pixel. The
    ``value`` in ``unit`` of lengths and angles is computed from the points and the Instance's own spacing; the mean of
    a region is as the screen computed it. An ARROW has neither.
    """

    __tablename__ = "annotation"
    id: Mapped[Key]
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    series_instance_uid: Mapped[Uid]
    sop_instance_uid: Mapped[Uid]
    frame_number: Mapped[int]  # from 1
    kind: Mapped[AnnotationKind] = mapped_column(choice(AnnotationKind))
    points: Mapped[JsonList]
    value: Mapped[float | None]
    unit: Mapped[str] = mapped_column(String(32), default="")
    text: Mapped[str] = mapped_column(String(400), default="")
    author_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    created_at: Mapped[Instant]
    changed_at: Mapped[Instant]
    removed_at: Mapped[MaybeInstant]
    removed_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
