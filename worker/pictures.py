"""Pictures as the vision-language model is shown them, each with the record of where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.experts.base import ExpertInput, SegmentationResult
from worker.radiograph import Radiograph
from worker.rendering import (
    CT_LEVEL_HU,
    CT_WIDTH_HU,
    axial,
    axial_index,
    ct_grey,
    legend,
    mr_grey,
    overlay,
    radiograph_image,
    rgb,
)
from worker.selection import Region, first_slice, plane_centre, reading_number, same_level
from worker.vlm.prompts import MR_ROLES, Overlay
from worker.volume import Volume


@dataclass(frozen=True)
class Picture:
    """One picture and its evidence.

    Attributes:
        pixels: ``(rows, columns, 3)`` uint8.
        record: JSON values for the provenance: ``kind`` (``plain`` or ``overlay``), ``series_instance_uid``,
            ``sop_instance_uid``, ``frame_number`` (1-based), ``slice_index`` (in the Volume, from 0) and
            ``slice_number`` (as the viewer counts), ``window``, for MR the ``role``, for an overlay ``expert``,
            ``argument`` and ``labels``. A plane cut across the slices of a Series that is not axial has no Instance
            of its own: those four are None there, and ``axial_index`` and ``position_mm`` (z) say where it lies.
    """

    pixels: NDArray[np.uint8]
    record: Mapping[str, Any]


def first_pictures(study: ExpertInput, region: Region) -> tuple[Picture, ...]:
    """Return the pictures of a first message: the radiograph, one CT slice, or one slice of each MR sequence."""
    if study.radiograph is not None:
        return (_radiograph(study.radiograph),)
    if study.brain_mr is not None:
        guide = study.brain_mr["T1c"]
        index = first_slice(guide)
        return tuple(
            _plain(study.brain_mr[role], same_level(index, guide, study.brain_mr[role]), role=role) for role in MR_ROLES
        )
    assert study.volume is not None
    return (_plain(study.volume, first_slice(study.volume, region)),)


def shown_picture(study: ExpertInput, sop_instance_uid: str, frame_number: int) -> Picture | None:
    """Return the picture of one image of a Study; None when the models do not read that image as a picture.

    Those they read are the radiograph, and the slices of the Volumes that are cut across the body.

    Args:
        study: what the gate let through.
        sop_instance_uid, frame_number: of the image; frames count from 1.
    """
    if study.radiograph is not None:
        is_it = (study.radiograph.sop_instance_uid, 1) == (sop_instance_uid, frame_number)
        return _radiograph(study.radiograph) if is_it else None
    volumes = {"": study.volume} if study.brain_mr is None else dict(study.brain_mr)
    for role, volume in volumes.items():
        images = list(zip(volume.sop_instance_uids, volume.frame_numbers, strict=True)) if volume is not None else []
        if volume is None or (sop_instance_uid, frame_number) not in images:
            continue
        source = images.index((sop_instance_uid, frame_number))
        count = range(len(images))
        index = next((one for one in count if axial_index(one, volume) == source), None)
        return None if index is None else _plain(volume, index, role=role)
    return None


def overlay_picture(result: SegmentationResult, index: int) -> tuple[Picture, Overlay]:
    """Return slice ``index`` of the axial stack with a segmentation painted over, and what the legend is made of."""
    volume = result.volume
    shown = np.ascontiguousarray(axial(result.labels, volume.affine)[index]).astype(np.uint8)
    labels = [{"colour": colour, "value": value, "name": result.names[value]} for colour, value in legend(shown)]
    record = _where(volume, index) | {
        "kind": "overlay",
        "expert": result.card.name,
        "argument": result.argument,
        "labels": labels,
    }
    return Picture(overlay(_grey(volume, index), shown), record), Overlay(result, shown)


def _plain(volume: Volume, index: int, *, role: str = "") -> Picture:
    record = {"kind": "plain"} | _where(volume, index) | ({"role": role} if role else {})
    return Picture(rgb(_grey(volume, index)), record)


def _radiograph(radiograph: Radiograph) -> Picture:
    record = {
        "kind": "plain",
        "series_instance_uid": radiograph.series_instance_uid,
        "sop_instance_uid": radiograph.sop_instance_uid,
        "frame_number": 1,
        "slice_index": 0,
        "slice_number": 1,
        "window": {"low": 0.0, "high": 255.0},
    }
    return Picture(radiograph_image(radiograph), record)


def _where(volume: Volume, index: int) -> dict[str, Any]:
    source = axial_index(index, volume)
    record: dict[str, Any] = {
        "series_instance_uid": volume.series_instance_uid,
        "sop_instance_uid": None if source is None else volume.sop_instance_uids[source],
        "frame_number": None if source is None else volume.frame_numbers[source],
        "slice_index": source,
        "slice_number": None if source is None else reading_number(volume, source),
        "window": _window(volume),
    }
    if source is None:
        record |= {"axial_index": index, "position_mm": round(float(plane_centre(volume, index)[2]), 2)}
    return record


def _window(volume: Volume) -> dict[str, float]:
    if volume.modality == "CT":
        return {"level": CT_LEVEL_HU, "width": CT_WIDTH_HU}
    return {"low": float(volume.array.min()), "high": float(volume.array.max())}


def _grey(volume: Volume, index: int) -> NDArray[np.uint8]:
    plane = np.asarray(axial(volume.array, volume.affine)[index], dtype=np.float32)
    if volume.modality == "CT":
        return ct_grey(plane)
    return mr_grey(plane, low=float(volume.array.min()), high=float(volume.array.max()))
