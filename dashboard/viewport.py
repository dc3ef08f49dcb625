"""What the browser's viewer asks of one Study beside its pixels, which come by DICOMweb."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, abort, json, jsonify, render_template, request, session
from flask.typing import ResponseReturnValue

from config.errors import PixelsDeletedError
from dashboard.hanging import Hung, hang
from dashboard.images import shelf
from dashboard.library import SeriesImages, StudyImages
from dashboard.masks import masks_of
from dashboard.people import sessions, site
from dashboard.permissions import Permission, requires
from dashboard.priors import priors_view
from dashboard.reading import desk, record_view
from dashboard.received_masks import frames_of, received_on, segments_of
from dashboard.scene import NO_IMAGES, presets_of, role_of, scene_of
from dashboard.slices import LruCache
from db.queries import study_detail

# the name is that of the first of its views; those of measurements are in dashboard.annotations
bp = Blueprint("annotations", __name__, url_prefix="/studies/<uuid:study_id>")
_scenes: LruCache[tuple[UUID, int], str] = LruCache(32)
_roles: LruCache[tuple[UUID, int], str] = LruCache(512)


@bp.get("/scene")
@requires(Permission.STUDY_READ)
def scene(study_id: UUID) -> ResponseReturnValue:
    """Return the Series of a Study, how they are hung (``?first=`` goes first), and priors whose images are here."""
    images = _images(study_id)
    with sessions()() as db:
        detail = study_detail(db, study_id)
        priors = [] if "alone" in request.args else priors_view(db, study_id).priors
    if detail is None:
        abort(404)
    shown = [one for one in images.series if one.modality not in NO_IMAGES]
    hung = [Hung(str(one.id), one.modality, _role(one), one.count) for one in shown]
    hanging = hang(hung, request.args.get("first", ""))
    return jsonify(
        study_id=study_id,
        study_uid=detail.study.study_instance_uid,
        study_date=detail.study.study_date,
        description=detail.study.study_description,
        dicomweb=site().web.dicomweb,
        series=[_series(one, a) for one, a in zip(shown, hung, strict=True)],
        hanging={
            "rows": hanging.rows,
            "columns": hanging.columns,
            "cells": hanging.cells,
            "linked": hanging.linked,
        },
        priors=[
            {
                "study_id": one.open_id,
                "day": one.day,
                "description": one.row.description,
                "modalities": one.row.modalities,
            }
            for one in priors
            if one.open_id is not None
        ],
    )


@bp.get("/scene/<uuid:series_id>")
@requires(Permission.STUDY_READ)
def frames(study_id: UUID, series_id: UUID) -> ResponseReturnValue:
    """Return the frames of one Series; the look is recorded."""
    _, series = _one(study_id, series_id)
    shelf().record(study_id, series_id, session.get("key", ""))
    made = _scenes.get((series.id, series.count), lambda: _frames(series))
    return Response(made, mimetype="application/json")


@bp.get("/masks/<uuid:series_id>")
@requires(Permission.STUDY_READ)
def masks(study_id: UUID, series_id: UUID) -> ResponseReturnValue:
    """Return the segments on one Series, of the draft and of received Segmentations, and, unless ``?only=segments``,
    the pixels of each; ``refused`` names the Segmentations that cannot be painted.
    """
    images, series = _one(study_id, series_id)
    server = shelf().slices
    with sessions()() as db:
        found, findings, own = masks_of(db, images, series, server)
        segments = found.segments(findings)
    stack = server.stack(series.id, series.paths)
    received = received_on(images, series, stack, own=own)
    segments += segments_of(received, found.count)
    planes: dict[int, list[Any]] = {}
    if segments and request.args.get("only") != "segments":
        planes = found.frames(stack)
        for index, runs in frames_of(received, found.count).items():
            planes.setdefault(index, []).extend(runs)
    refused = [{"name": one.name, "why": one.refused} for one in received if one.refused]
    text = json.dumps({"segments": segments, "frames": planes, "refused": refused}, separators=(",", ":"))
    return Response(text, mimetype="application/json")


@bp.get("/viewer-window")
@requires(Permission.STUDY_READ)
def window(study_id: UUID) -> ResponseReturnValue:
    """Show the images alone, for a second monitor, below the same patient banner."""
    page = desk(study_id, with_viewer=True)
    record_view(page, "viewer window")
    return render_template("viewer_window.html", p=page)


def _images(study_id: UUID) -> StudyImages:
    images = shelf().study(study_id)
    if images is None:
        abort(404)
    return images


def _one(study_id: UUID, series_id: UUID) -> tuple[StudyImages, SeriesImages]:
    images = _images(study_id)
    if images.deleted and series_id in images.deleted.series_ids:
        raise PixelsDeletedError(images.deleted.words)
    series = images.by_id(series_id)
    if series is None:
        abort(404)
    return images, series


def _role(series: SeriesImages) -> str:
    return _roles.get((series.id, series.count), lambda: role_of(series))


def _series(one: SeriesImages, hung: Hung) -> dict[str, Any]:
    return {
        "id": one.id,
        "uid": one.series_instance_uid,
        "modality": one.modality,
        "number": one.series_number,
        "description": one.series_description,
        "role": hung.role,
        "count": one.count,
        "presets": presets_of(one.modality),
    }


def _frames(series: SeriesImages) -> str:
    made = scene_of(shelf().slices.stack(series.id, series.paths))
    return json.dumps({"common": made.common, "frames": made.frames}, separators=(",", ":"))
