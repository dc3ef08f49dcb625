"""Tables of what others said a Study should hold: archives (C-FIND, IAN) and modalities (MPPS)."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key, MaybeInstant, Uid
from db.types import ExpectationSource, ExpectationState, choice


class Expectation(Base):
    """One statement about one Study; it may come before the first Instance and after the last.

    ``object_uid`` is the SOP Instance UID of the procedure step or of the notification; for a count asked of an
    archive it is the Study Instance UID.
    """

    __tablename__ = "expectation"
    id: Mapped[Key]
    study_instance_uid: Mapped[Uid] = mapped_column(index=True)
    source: Mapped[ExpectationSource] = mapped_column(choice(ExpectationSource))
    object_uid: Mapped[Uid]
    said_by: Mapped[str] = mapped_column(String(32), default="")  # AE title of the peer, or name of the archive
    state: Mapped[ExpectationState] = mapped_column(choice(ExpectationState))
    instances: Mapped[int | None]  # None until a number, or a list of Series, was given
    attempts: Mapped[int] = mapped_column(default=0)  # times an archive was asked since the last Instance
    asked_at: Mapped[MaybeInstant]
    created_at: Mapped[Instant]
    updated_at: Mapped[Instant] = mapped_column(index=True)
    __table_args__ = (UniqueConstraint("source", "object_uid", "study_instance_uid"),)


class ExpectedInstance(Base):
    """One SOP Instance an Expectation names."""

    __tablename__ = "expected_instance"
    expectation_id: Mapped[UUID] = mapped_column(ForeignKey("expectation.id", ondelete="CASCADE"), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
