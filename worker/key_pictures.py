"""The pictures that positive findings of a draft rest on, for key images and their fallbacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from publishing.draft import Shown
from reports.pictures import KeyPicture, Outline, caption_of
from worker.drafting import DraftContent, DraftFinding
from worker.experts.base import Classification, SegmentationResult
from worker.intake import Intake
from worker.rendering import CT_LEVEL_HU, CT_WIDTH_HU, ct_grey, mr_grey
from worker.volume import Volume

HOT = 0.5
"""A heat map is outlined where it reaches half of its own maximum: where the model looked, no edge of a lesion."""


@dataclass(frozen=True)
class _Spot:
    """One finding on one image: ``source`` and ``frame`` as in `KeyPicture`."""

    source: Dataset
    frame: int | None
    grey: NDArray[np.uint8]
    window: tuple[float, float] | None
    outline: Outline | None


def key_pictures(content: DraftContent, intake: Intake, tracking: Mapping[str, str]) -> list[Shown]:
    """Return one picture for each image or frame that shows a finding which the draft calls present.

    Findings on the same image share a picture. A finding that no Expert localised on an image has none.

    Args:
        content: what was found.
        intake: the source images.
        tracking: finding label → Tracking UID.
    """
    pictures: dict[tuple[str, int | None], Shown] = {}
    for finding in content.findings:
        if not finding.is_present:
            continue
        result = content.results[finding.result_key]
        uid = tracking[finding.label]
        spot = (
            _on_radiograph(finding, result, intake, uid)
            if isinstance(result, Classification)
            else _on_slice(finding, result, intake, uid)
        )
        if spot is not None:
            key = (str(spot.source.SOPInstanceUID), spot.frame)
            pictures[key] = _with(pictures.get(key), spot, _caption(finding), uid)
    return list(pictures.values())


def _with(before: Shown | None, spot: _Spot, caption: str, uid: str) -> Shown:
    outlines = [spot.outline] if spot.outline else []
    if before is None:
        return Shown(KeyPicture(spot.source, spot.frame, spot.grey, spot.window, outlines, caption), (uid,))
    picture = before.picture
    joined = replace(picture, outlines=[*picture.outlines, *outlines], caption=f"{picture.caption}; {caption}")
    return Shown(joined, (*before.tracking_uids, uid))


def _caption(finding: DraftFinding) -> str:
    m = finding.measured
    return caption_of(finding.label, m.laterality, m.volume_ml) if m else caption_of(finding.label)


def _on_radiograph(finding: DraftFinding, result: Classification, intake: Intake, uid: str) -> _Spot | None:
    radiograph = intake.study.radiograph
    source = _header(intake, result.sop_instance_uid)
    if radiograph is None or source is None:
        return None
    heat = result.heat_maps.get(finding.label)
    outline = None
    if heat is not None and heat.max() > 0:
        outline = Outline(f"{finding.label} (where the model looked)", heat >= HOT * heat.max(), uid)
    grey = np.clip(radiograph.pixels, 0.0, 255.0).astype(np.uint8)
    return _Spot(source, None, grey, None, outline)


def _on_slice(finding: DraftFinding, result: SegmentationResult, intake: Intake, uid: str) -> _Spot | None:
    if finding.measured is None:
        return None
    volume, index = result.volume, finding.measured.slice_index
    source = _header(intake, volume.sop_instance_uids[index])
    if source is None:
        return None
    mask = np.isin(result.labels[index], sorted(finding.segments))
    frame = volume.frame_numbers[index] if "NumberOfFrames" in source else None
    grey, window = _windowed(volume, index)
    return _Spot(source, frame, grey, window, Outline(finding.label, mask, uid))


def _windowed(volume: Volume, index: int) -> tuple[NDArray[np.uint8], tuple[float, float] | None]:
    """Return a source slice in 8 bits on its own grid, as the model was shown it, and the window that made it."""
    if volume.modality == "CT":
        return ct_grey(volume.array[index]), (CT_LEVEL_HU, CT_WIDTH_HU)
    low, high = float(volume.array.min()), float(volume.array.max())
    # a window has a width of at least 1 (PS3.3 C.11.2.1.2)
    return mr_grey(volume.array[index], low=low, high=high), ((low + high) / 2, high - low) if high > low + 1 else None


def _header(intake: Intake, sop_instance_uid: str) -> Dataset | None:
    headers: Sequence[Dataset] = [ds for series in intake.headers.values() for ds in series]
    return next((ds for ds in headers if str(ds.SOPInstanceUID) == sop_instance_uid), None)
