"""Tables of the words readers start from: report templates, macros, and AI text somebody accepted as it is."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Json, Key, MaybeInstant, Sha256

_KEPT = text("retired_at IS NULL")
_KEPT_OWN = text("retired_at IS NULL AND owner_id IS NOT NULL")
_KEPT_SITE = text("retired_at IS NULL AND owner_id IS NULL")


class ReportTemplate(Base):
    """Section texts for one kind of procedure. A change is a new row; the old one is retired and kept."""

    __tablename__ = "report_template"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(String(80))
    modality: Mapped[str] = mapped_column(String(16), default="")  # Modality (0008,0060); "" for any
    body_part: Mapped[str] = mapped_column(String(64), default="")  # Body Part Examined (0018,0015); "" for any
    procedure: Mapped[str] = mapped_column(String(200), default="")  # its code, or words of its description
    sections: Mapped[Json]  # section key -> text with fields such as "[ ]"
    added_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    added_at: Mapped[Instant]
    retired_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    retired_at: Mapped[MaybeInstant]
    __table_args__ = (
        Index("uq_report_template_kept", "name", unique=True, sqlite_where=_KEPT, postgresql_where=_KEPT),
    )


class Macro(Base):
    """A short word and the text it stands for: one reader's own, or the site's. A change is a new row."""

    __tablename__ = "macro"
    id: Mapped[Key]
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"), index=True)  # None: the site's
    word: Mapped[str] = mapped_column(String(32))  # without the full stop it is typed with
    text: Mapped[str] = mapped_column(Text)
    added_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    added_at: Mapped[Instant]
    retired_by: Mapped[UUID | None] = mapped_column(ForeignKey("user_account.id"))
    retired_at: Mapped[MaybeInstant]
    __table_args__ = (
        Index("uq_macro_own", "owner_id", "word", unique=True, sqlite_where=_KEPT_OWN, postgresql_where=_KEPT_OWN),
        Index("uq_macro_site", "word", unique=True, sqlite_where=_KEPT_SITE, postgresql_where=_KEPT_SITE),
    )


class AcceptedText(Base):
    """A reader took one section of a Draft as it was; written once."""

    __tablename__ = "accepted_text"
    id: Mapped[Key]
    report_id: Mapped[UUID] = mapped_column(ForeignKey("report.id"), index=True)
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"))
    section: Mapped[str] = mapped_column(String(32))
    text_sha256: Mapped[Sha256]  # of the section's text when it was accepted
    accepted_by: Mapped[UUID] = mapped_column(ForeignKey("user_account.id"))
    accepted_at: Mapped[Instant]
    __table_args__ = (UniqueConstraint("report_id", "draft_id", "section"),)
