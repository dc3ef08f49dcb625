"""What became of each draft, once a person decided: the numbers behind the quality page, without patient data."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key
from db.types import Verdict, choice


class DraftOutcome(Base):
    """One Draft against what a person made of it: the first FINAL signature over it, or its rejection."""

    __tablename__ = "draft_outcome"
    id: Mapped[Key]
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"), unique=True)
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), index=True)
    reader_id: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    verdict: Mapped[Verdict] = mapped_column(choice(Verdict))
    demonstration: Mapped[bool] = mapped_column(default=False)
    model: Mapped[str] = mapped_column(String(200))  # the language model, name and version
    modality: Mapped[str] = mapped_column(String(64), default="")
    body_part: Mapped[str] = mapped_column(String(64), default="")
    scanner: Mapped[str] = mapped_column(String(200), default="")  # manufacturer and model
    sex: Mapped[str] = mapped_column(String(16), default="")
    age_group: Mapped[str] = mapped_column(String(16), default="")  # of ten years, at the study
    priority: Mapped[str] = mapped_column(String(16), default="")
    words_drafted: Mapped[int] = mapped_column(default=0)
    words_signed: Mapped[int] = mapped_column(default=0)
    edits: Mapped[int] = mapped_column(default=0)  # words inserted, deleted or replaced (Levenshtein)
    changed_sections: Mapped[JsonList]
    received_at: Mapped[Instant]
    drafted_at: Mapped[Instant]
    decided_at: Mapped[Instant] = mapped_column(index=True)
    __table_args__ = (  # of the audit's questions
        Index("ix_draft_outcome_reader", "reader_id", "decided_at", "draft_id"),
        Index("ix_draft_outcome_model", "model", "decided_at", "draft_id"),
    )
