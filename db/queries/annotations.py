"""What readers measured on the images of a Study."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.annotation_models import Annotation, AnnotationKind
from db.report_models import UserAccount


@dataclass(frozen=True)
class AnnotationRow:
    """One drawing that is shown; points and value as in :class:`db.annotation_models.Annotation`."""

    id: UUID
    series_instance_uid: str
    sop_instance_uid: str
    frame_number: int
    kind: AnnotationKind
    points: Sequence[Any]
    value: float | None
    unit: str
    text: str
    author_id: UUID
    author: str
    changed_at: datetime


def annotations_of(session: Session, study_id: UUID) -> list[AnnotationRow]:
    """Return the drawings of a Study that were not removed, oldest first."""
    query = (
        select(Annotation, UserAccount.printed_name)
        .join(UserAccount, UserAccount.id == Annotation.author_id)
        .where(Annotation.study_id == study_id, Annotation.removed_at.is_(None))
        .order_by(Annotation.created_at, Annotation.id)
    )
    return [
        AnnotationRow(
            row.id,
            row.series_instance_uid,
            row.sop_instance_uid,
            row.frame_number,
            row.kind,
            row.points,
            row.value,
            row.unit,
            row.text,
            row.author_id,
            author,
            row.changed_at,
        )
        for row, author in session.execute(query)
    ]
