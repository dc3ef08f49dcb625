"""The table of destination tests: a person asks on the page, the node looks, the page shows what it saw."""

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key, MaybeInstant


class DestinationTest(Base):
    """One test of one destination; the audit log keeps its outcome, this row only until the next one has ended."""

    __tablename__ = "destination_test"
    id: Mapped[Key]
    destination: Mapped[str] = mapped_column(String(32))
    asked_by: Mapped[str] = mapped_column(String(64), default="")
    asked_at: Mapped[Instant]
    lease_until: Mapped[MaybeInstant]  # a node looks
    finished_at: Mapped[MaybeInstant]
    is_good: Mapped[bool] = mapped_column(default=False)
    steps: Mapped[JsonList]  # [{"name", "is_good", "note", "milliseconds"}], in the order they were done
    __table_args__ = (Index("ix_destination_test_waiting", "finished_at", "asked_at"),)
