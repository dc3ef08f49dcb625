"""Slices and thumbnails as PNG; the first look at a Series in a session is recorded."""

import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from flask import Blueprint, Response, abort, current_app, request, session
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session, sessionmaker

from config.errors import PixelsDeletedError, RefusedInputError
from config.settings import Settings
from dashboard.library import SeriesImages, StudyImages, find_images
from dashboard.people import audit_view, work
from dashboard.permissions import Permission, requires
from dashboard.slices import LruCache, Overlay, SliceServer, parse_window
from db.audit import AuditTag

bp = Blueprint("images", __name__, url_prefix="/studies/<uuid:study_id>/series/<uuid:series_id>")
_FRESH_S = 10  # a Study's list of files is asked for again after this
_THUMBNAIL = 96


class ImageShelf:
    """The application's renderer, and what it remembers of studies being looked at."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self.slices = SliceServer()
        self._settings = settings
        self._sessions = sessions
        self._studies: LruCache[tuple[UUID, int], StudyImages | None] = LruCache(16)
        self._looked: LruCache[tuple[str, UUID], bool] = LruCache(4096)

    def study(self, study_id: UUID) -> StudyImages | None:
        """Return where the images of a Study are, as of a few seconds ago."""
        return self._studies.get((study_id, int(time.monotonic()) // _FRESH_S), lambda: self._find(study_id))

    def _find(self, study_id: UUID) -> StudyImages | None:
        with self._sessions() as db:
            return find_images(db, study_id, self._settings.instances_dir, self._settings.results_dir)

    def record(self, study_id: UUID, series_id: UUID, session_key: str) -> None:
        """Write one audit event per Series and session; a thousand slices are one look."""

        def write() -> bool:
            with work() as uow:
                audit_view(
                    uow, AuditTag.IMAGES_VIEWED, study_id=study_id, object_type="series", object_id=str(series_id)
                )
            return True

        self._looked.get((session_key, series_id), write)


def shelf() -> ImageShelf:
    """Return the application's image shelf."""
    return cast("ImageShelf", current_app.extensions["firstread.images"])


@bp.get("/slices/<int:index>.png")
@requires(Permission.STUDY_READ)
def slice_png(study_id: UUID, series_id: UUID, index: int) -> ResponseReturnValue:
    """Return one slice, windowed by ``?window=center,width`` and painted with each ``overlay=evidence:label``."""
    images, series = _series(study_id, series_id)
    window = parse_window(request.args.get("window", ""))
    overlays = parse_overlays(images, request.args.getlist("overlay"))
    server = shelf().slices
    stack = server.stack(series.id, series.paths)
    if not 0 <= index < len(stack.slices):
        abort(404)
    shelf().record(study_id, series_id, session.get("key", ""))
    return Response(server.png(stack, index, window=window, overlays=overlays), mimetype="image/png")


@bp.get("/thumbnail.png")
@requires(Permission.STUDY_READ)
def thumbnail(study_id: UUID, series_id: UUID) -> ResponseReturnValue:
    """Return the middle slice, small."""
    _, series = _series(study_id, series_id)
    server = shelf().slices
    stack = server.stack(series.id, series.paths)
    shelf().record(study_id, series_id, session.get("key", ""))
    png = server.png(stack, len(stack.slices) // 2, window=None, size=_THUMBNAIL)
    return Response(png, mimetype="image/png")


def parse_overlays(images: StudyImages, values: Sequence[str]) -> list[Overlay]:
    """Return the overlays that ``values`` (each ``evidence-id:label``) ask for, one per label map.

    Raises:
        RefusedInputError: malformed, or evidence of another study.
    """
    labels: dict[UUID, set[int]] = {}
    for value in values:
        try:
            evidence_id, label = value.split(":")
            labels.setdefault(UUID(evidence_id), set()).add(int(label))
        except ValueError as exc:
            raise RefusedInputError("an overlay is named evidence:label") from exc
    unknown = set(labels) - set(images.label_maps)
    if unknown:
        raise RefusedInputError("this evidence is not of this study's draft")
    return [Overlay(images.label_maps[key], frozenset(shown)) for key, shown in labels.items()]


def _series(study_id: UUID, series_id: UUID) -> tuple[StudyImages, SeriesImages]:
    images = shelf().study(study_id)
    series = images.by_id(series_id) if images else None
    if images and images.deleted and series_id in images.deleted.series_ids:
        raise PixelsDeletedError(images.deleted.words)
    if images is None or series is None:
        abort(404)
    return images, series
