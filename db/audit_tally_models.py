"""The table behind the question how a model does in each group of patients: counts by day, raised at each decision."""

from datetime import date

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base

DIMENSIONS = ("all", "age_group", "sex", "scanner", "site")  # what the counts are divided by


class PerformanceTally(Base):
    """How often, on one day, a model's findings of one label in one group agreed with the signed report.

    Agreement is counted as on the quality page: an edited finding holds, an absent one agrees unless the reader
    refused it, undetermined ones and those that nobody decided do not count.
    """

    __tablename__ = "performance_tally"
    dimension: Mapped[str] = mapped_column(String(16), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)  # of the decision, UTC
    value: Mapped[str] = mapped_column(String(200), primary_key=True)  # of the dimension; "" when not known
    model: Mapped[str] = mapped_column(String(200), primary_key=True)  # as in DraftOutcome
    label: Mapped[str] = mapped_column(String(64), primary_key=True)
    demonstration: Mapped[bool] = mapped_column(primary_key=True)
    tp: Mapped[int] = mapped_column(default=0, server_default="0")  # the AI said present, and the report does
    fp: Mapped[int] = mapped_column(default=0, server_default="0")
    fn: Mapped[int] = mapped_column(default=0, server_default="0")
    tn: Mapped[int] = mapped_column(default=0, server_default="0")
