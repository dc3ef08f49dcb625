"""Tables of the worklist: who is to read a Study, and the lists a person keeps."""

from uuid import UUID

from sqlalchemy import ForeignKey, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key


class Assignment(Base):
    """Who is to read a Report; its own table, so that giving work away makes nobody's open text stale."""

    __tablename__ = "assignment"
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"), index=True)
    assigned_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    assigned_at: Mapped[Instant]


class KeptList(Base):
    """A worklist somebody named: the query of its address, which never names a patient."""

    __tablename__ = "kept_list"
    id: Mapped[Key]
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    name: Mapped[str] = mapped_column(String(64))
    query: Mapped[str] = mapped_column(String(400))
    shared: Mapped[bool] = mapped_column(default=False, server_default=false())  # with everybody
    created_at: Mapped[Instant]
    __table_args__ = (UniqueConstraint("owner_id", "name"),)
