"""Drawings and measurements on images: kept, changed and removed, until the report is signed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db.annotation_models import Annotation, AnnotationKind
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.lifecycle.review import drafter
from db.lifecycle.tables import SIGNED_REPORTS
from db.models import Instance, Series, Study
from db.report_models import Report
from db.types import utcnow
from db.uow import UnitOfWork

MOST_IN_STUDY = 500
_POINTS = {
    AnnotationKind.LENGTH: 2,
    AnnotationKind.ANGLE: 3,
    AnnotationKind.RECTANGLE: 4,
    AnnotationKind.ELLIPSE: 4,
    AnnotationKind.PROBE: 1,
    AnnotationKind.ARROW: 2,
}
_FARTHEST = 100_000.0  # pixels


@dataclass(frozen=True)
class Drawing:
    """What a reader drew; see :class:`db.annotation_models.Annotation`."""

    sop_instance_uid: str
    frame_number: int
    kind: AnnotationKind
    points: Sequence[tuple[float, float]]
    value: float | None = None
    unit: str = ""
    text: str = ""

    def require_sound(self) -> None:
        """Check numbers and sizes.

        Raises:
            RefusedInputError: the number of points is not that of the kind, a number is none, or a text is too long.
        """
        if len(self.points) != _POINTS[self.kind]:
            raise RefusedInputError(f"{self.kind.value.lower()} takes {_POINTS[self.kind]} points")
        numbers = [number for point in self.points for number in point]
        if not all(math.isfinite(number) and abs(number) <= _FARTHEST for number in numbers):
            raise RefusedInputError("a point lies outside every image")
        if self.value is not None and not (math.isfinite(self.value) and abs(self.value) < 1e9):
            raise RefusedInputError("the value is no number")
        if len(self.unit) > 32 or len(self.text) > 400 or self.frame_number < 1:
            raise RefusedInputError("a unit has 32 characters at most, a text 400, and frames count from 1")


def keep_annotation(uow: UnitOfWork, study_id: UUID, key: UUID, drawing: Drawing) -> bool:
    """Keep a drawing under its ``key``, or change the Actor's own; return whether it is new.

    Raises:
        LifecycleError: the report is signed, or the study holds ``MOST_IN_STUDY`` drawings.
        NotAuthorisedError: the Actor does not work on reports, or the drawing is somebody else's.
        RefusedInputError: the image is not of this study, or the drawing is unsound.
    """
    author = drafter(uow)
    drawing.require_sound()
    _require_unsigned(uow, study_id)
    series_instance_uid = _series_of(uow, study_id, drawing.sop_instance_uid)
    row = uow.session.get(Annotation, key)
    if row is not None and (row.study_id, row.author_id, row.removed_at) != (study_id, author.id, None):
        raise NotAuthorisedError("only its author may change a drawing")
    is_new = row is None
    if row is None:
        _require_room(uow, study_id)
        row = Annotation(id=key, study_id=study_id, author_id=author.id)
        uow.session.add(row)
    row.series_instance_uid, row.sop_instance_uid = series_instance_uid, drawing.sop_instance_uid
    row.frame_number, row.kind = drawing.frame_number, drawing.kind
    row.points = [list(point) for point in drawing.points]
    row.value, row.unit, row.text, row.changed_at = drawing.value, drawing.unit, drawing.text, utcnow()
    tag = AuditTag.ANNOTATION_KEPT if is_new else AuditTag.ANNOTATION_CHANGED
    _note(uow, tag, row)
    return is_new


def remove_annotation(uow: UnitOfWork, study_id: UUID, key: UUID) -> None:
    """Take a drawing off the screen; its row stays. One that is removed already stays so.

    Raises:
        LifecycleError: the report is signed.
        NotAuthorisedError: the Actor does not work on reports.
        RefusedInputError: this study has no such drawing.
    """
    reader = drafter(uow)
    row = uow.session.get(Annotation, key)
    if row is None or row.study_id != study_id:
        raise RefusedInputError("this study has no such drawing")
    _require_unsigned(uow, study_id)
    if row.removed_at is None:
        row.removed_at, row.removed_by = utcnow(), reader.id
        _note(uow, AuditTag.ANNOTATION_REMOVED, row)


def _require_unsigned(uow: UnitOfWork, study_id: UUID) -> None:
    report_id = uow.session.scalar(select(Report.id).where(Report.study_id == study_id))
    if report_id is None:
        raise RefusedInputError("there is no such study")
    if locked(uow, Report, report_id).state in SIGNED_REPORTS:
        raise LifecycleError("the report is signed: its measurements no longer change")


def _require_room(uow: UnitOfWork, study_id: UUID) -> None:
    here = select(func.count()).where(Annotation.study_id == study_id, Annotation.removed_at.is_(None))
    if (uow.session.scalar(here) or 0) >= MOST_IN_STUDY:
        raise LifecycleError(f"a study holds {MOST_IN_STUDY} drawings at most")


def _series_of(uow: UnitOfWork, study_id: UUID, sop_instance_uid: str) -> str:
    query = (
        select(Series.series_instance_uid)
        .join(Instance, Instance.series_id == Series.id)
        .join(Study, Study.id == Series.study_id)
        .where(Study.id == study_id, Instance.sop_instance_uid == sop_instance_uid)
    )
    found = uow.session.scalar(query)
    if found is None:
        raise RefusedInputError("the image is not of this study")
    return found


def _note(uow: UnitOfWork, tag: AuditTag, row: Annotation) -> None:
    detail = {"kind": row.kind.value}
    uow.audit(tag, study_id=row.study_id, object_type="annotation", object_id=str(row.id), detail=detail)
