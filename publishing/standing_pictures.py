"""The images that findings of a draft rest on, chosen again from its rows once a reader has decided."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset, dcmread

from db.report_models import Finding
from db.types import Decision, Presence
from publishing.facts import UNREADABLE
from reports.pictures import KeyPicture, caption_of


def standing_pictures(findings: Iterable[Finding], images: Mapping[str, Path]) -> list[KeyPicture]:
    """Return one picture, without pixels, for each image or frame that shows a positive finding nobody rejected.

    Args:
        findings: of one draft, in their order.
        images: SOP Instance UID → file; an image that is not there any more, or cannot be read, is left out.
    """
    pictures: dict[tuple[str, int | None], KeyPicture] = {}
    for row in findings:
        if row.presence is not Presence.PRESENT or row.decision is Decision.REJECTED:
            continue
        uid = str(row.key_slice.get("sop_instance_uid", ""))
        header = _header(images.get(uid))
        if header is None:
            continue
        frame = row.key_slice.get("frame_number") if "NumberOfFrames" in header else None
        caption, before = _caption(row), pictures.get((uid, frame))
        pictures[uid, frame] = (
            replace(before, caption=f"{before.caption}; {caption}")
            if before
            else KeyPicture(header, frame, caption=caption)
        )
    return list(pictures.values())


def _header(file: Path | None) -> Dataset | None:
    try:
        return dcmread(file, stop_before_pixels=True) if file is not None else None
    except UNREADABLE:
        return None


def _caption(row: Finding) -> str:
    volume = next((one["value"] for one in row.measurements if (one["name"], one["unit"]) == ("volume", "ml")), None)
    return caption_of(row.label, row.laterality, volume)
