"""What readers draw and measure on images, kept with the study."""

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from flask import jsonify, request
from flask.typing import ResponseReturnValue

from config.errors import RefusedInputError
from dashboard.images import shelf
from dashboard.people import person, sessions, work
from dashboard.permissions import Permission, requires
from dashboard.scene import Spacing, spacing_of
from dashboard.viewport import bp
from db.annotation_models import AnnotationKind
from db.lifecycle.annotations import Drawing, keep_annotation, remove_annotation
from db.queries.annotations import AnnotationRow, annotations_of

_MOST_BYTES = 8192


@bp.get("/annotations")
@requires(Permission.STUDY_READ)
def kept(study_id: UUID) -> ResponseReturnValue:
    """Return the drawings of a study."""
    with sessions()() as db:
        rows = annotations_of(db, study_id)
    return jsonify(annotations=[_shown(row) for row in rows])


@bp.post("/annotations/<uuid:annotation_id>")
@requires(Permission.REPORT_EDIT)
def keep(study_id: UUID, annotation_id: UUID) -> ResponseReturnValue:
    """Keep one drawing, or change it; the answer says what was measured."""
    request.max_content_length = _MOST_BYTES
    drawing = parse_drawing(request.get_json(silent=True), _spacing(study_id))
    with work() as uow:
        is_new = keep_annotation(uow, study_id, annotation_id, drawing)
    return jsonify(id=annotation_id, value=drawing.value, unit=drawing.unit), 201 if is_new else 200


@bp.delete("/annotations/<uuid:annotation_id>")
@requires(Permission.REPORT_EDIT)
def remove(study_id: UUID, annotation_id: UUID) -> ResponseReturnValue:
    """Remove one drawing from the screen."""
    with work() as uow:
        remove_annotation(uow, study_id, annotation_id)
    return "", 204


def parse_drawing(given: Any, spacing: "dict[str, Spacing]") -> Drawing:
    """Return the drawing of a request, measured here where points and spacing suffice.

    Args:
        given: the JSON of the request.
        spacing: of the Instance, by SOP Instance UID; empty when it is not of this study.

    Raises:
        RefusedInputError: it is not of that shape.
    """
    try:
        kind = AnnotationKind(given["kind"])
        points = [(float(x), float(y)) for x, y in given["points"][:8]]
        value = None if given.get("value") is None else float(given["value"])
        drawing = Drawing(
            str(given["sop_instance_uid"])[:65],
            int(given["frame_number"]),
            kind,
            points,
            value,
            str(given.get("unit") or ""),
            " ".join(str(given.get("text") or "").split()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise RefusedInputError("a drawing needs kind, points, sop_instance_uid and frame_number") from exc
    drawing.require_sound()
    measured = measure(kind, points, spacing.get(drawing.sop_instance_uid, Spacing()))
    if measured is None:
        return drawing
    return Drawing(drawing.sop_instance_uid, drawing.frame_number, kind, points, *measured, text=drawing.text)


def measure(
    kind: AnnotationKind, points: Sequence[tuple[float, float]], spacing: Spacing
) -> tuple[float | None, str] | None:
    """Return value and unit of a length or an angle; (None, "") of an arrow; None where pixels decide."""
    if kind is AnnotationKind.ARROW:
        return None, ""
    placed = [(x * spacing.column_mm, y * spacing.row_mm) for x, y in points]
    if kind is AnnotationKind.LENGTH:
        return round(math.dist(*placed), 2), spacing.unit
    if kind is AnnotationKind.ANGLE:
        (ax, ay), (bx, by), (cx, cy) = placed
        turn = abs(math.atan2(ay - by, ax - bx) - math.atan2(cy - by, cx - bx))
        return round(math.degrees(min(turn, 2 * math.pi - turn)), 1), "deg"
    return None


def _spacing(study_id: UUID) -> "dict[str, Spacing]":
    """Return the spacing of the Instance that the request names; empty when it is not of the study."""
    given = request.get_json(silent=True)
    if not isinstance(given, dict) or not isinstance(given.get("frame_number"), int):
        return {}
    uid = str(given.get("sop_instance_uid", ""))
    images = shelf().study(study_id)
    series = images.holding(uid) if images else None
    if series is None:
        return {}
    stack = shelf().slices.stack(series.id, series.paths)
    index = stack.index_of(uid, given["frame_number"])
    if index is None:
        raise RefusedInputError("the Instance has no such frame")
    return {uid: spacing_of(stack.slices[index].path, stack.slices[index].frame)}


def _shown(row: AnnotationRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "series_instance_uid": row.series_instance_uid,
        "sop_instance_uid": row.sop_instance_uid,
        "frame_number": row.frame_number,
        "kind": row.kind.value,
        "points": row.points,
        "value": row.value,
        "unit": row.unit,
        "text": row.text,
        "author": row.author,
        "mine": row.author_id == person().id,
    }


__all__ = ["bp", "measure", "parse_drawing"]
