"""Tables beside drafts by which audit questions find them: which models had a part, and what was not assessed.

They say nothing that the drafts do not say themselves; they are written with the draft and never changed.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Sha256
from db.types import UtcDateTime


class DraftModel(Base):
    """One model that had a part in one Draft; ``created_at`` is the Draft's, ``site`` the AE that sent the Study."""

    __tablename__ = "draft_model"
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)  # PackageKind
    package: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    weights_sha256: Mapped[Sha256]  # db.lifecycle.draft_index.weights_digest
    site: Mapped[str] = mapped_column(String(16), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    __table_args__ = (
        Index("ix_draft_model_created", "created_at", "draft_id", "kind", "package"),
        Index("ix_draft_model_package", "package", "created_at", "draft_id"),
        Index("ix_draft_model_version", "package", "version", "created_at", "draft_id"),
        Index("ix_draft_model_weights", "weights_sha256", "created_at", "draft_id"),
        Index("ix_draft_model_site", "site", "created_at", "draft_id"),
    )


class ModelWeights(Base):
    """One weights file of a set: by the hash of any of its files the set is found."""

    __tablename__ = "model_weights"
    weights_sha256: Mapped[Sha256] = mapped_column(primary_key=True)  # of the set
    file: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[Sha256] = mapped_column(index=True)


class DraftGap(Base):
    """One thing a Draft says was not assessed, and why: an Expert failed, or none is there for it."""

    __tablename__ = "draft_gap"
    draft_id: Mapped[UUID] = mapped_column(ForeignKey("draft.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    what: Mapped[str] = mapped_column(String(200))
    why: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)  # of the Draft
    __table_args__ = (Index("ix_draft_gap_created", "created_at", "draft_id", "position"),)
