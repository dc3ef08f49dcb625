"""Pictures of findings: one image, what is outlined on it, and how bright it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from config.errors import GeometryError
from reports.equipment import copy_image_context

OUTLINE_COLOURS: Sequence[tuple[int, int, int]] = (
    (240, 228, 66),
    (86, 180, 233),
    (230, 159, 0),
    (0, 200, 150),
    (255, 130, 180),
    (255, 100, 60),
)
"""RGB, taken in turn: bright on grey and told apart by readers with colour vision deficiency (after Okabe and Ito)."""

# Body Part Examined that takes no side (PS3.16 Annex L, and what dicom3tools judges by).
_UNPAIRED = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CEREBELLUM", "CERVIX", "CHEST", "CHESTABDOMEN",
    "CHESTABDPELVIS", "COCCYX", "COLON", "CSPINE", "CTSPINE", "DUODENUM", "ESOPHAGUS", "FACE", "GALLBLADDER", "HEAD",
    "HEADNECK", "HEART", "ILEUM", "ILIUM", "JAW", "JEJUNUM", "LARYNX", "LIVER", "LSPINE", "LSSPINE", "MAXILLA",
    "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PANCREAS",
    "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SCALP", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM",
    "STOMACH", "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE", "URETER", "URETHRA", "UTERUS",
    "VAGINA", "VULVA", "WHOLEBODY",
))  # fmt: skip
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up as (column, row): turning right is + 1


@dataclass(frozen=True)
class Outline:
    """One structure on one image: ``mask`` is ``(rows, columns)`` on the grid of the image."""

    label: str
    mask: NDArray[np.bool_]
    tracking_uid: str = ""


@dataclass(frozen=True)
class KeyPicture:
    """One image that findings rest on.

    Attributes:
        source: its header; pixels are not needed.
        frame_number: 1-based; None for a single-frame Instance.
        grey: ``(rows, columns)`` uint8 as shown to a reader: windowed, MONOCHROME2; None for mere references.
        window: centre and width that made ``grey``, in the units of the Modality LUT; None when unknown.
        outlines: what is drawn on it.
        caption: the findings in words, one line.
    """

    source: Dataset
    frame_number: int | None
    grey: NDArray[np.uint8] | None = None
    window: tuple[float, float] | None = None
    outlines: Sequence[Outline] = ()
    caption: str = ""


def caption_of(label: str, laterality: str = "", volume_ml: float | None = None) -> str:
    """Return what a picture shows of one finding, in words; the side only with the volume it was measured with."""
    if volume_ml is None:
        return label
    side = f", {laterality} side" if laterality else ""
    return f"{label}{side}, {volume_ml:.1f} ml"


def require_drawable(picture: KeyPicture) -> None:
    """Check that a picture has something to draw, on the grid of its image.

    Raises:
        GeometryError: a mask or the grey picture has other rows and columns than the image, or no such frame.
    """
    try:
        rows, columns, frames = (int(picture.source.get(name) or 0) for name in ("Rows", "Columns", "NumberOfFrames"))
    except (ValueError, TypeError) as exc:
        raise GeometryError("the image of a picture has no readable number of rows, columns or frames") from exc
    grid = (rows, columns)
    shapes = {outline.mask.shape for outline in picture.outlines}
    if picture.grey is not None:
        shapes.add(picture.grey.shape)
    if shapes - {grid}:
        raise GeometryError(f"a picture's grids are {sorted(shapes)}, its image is {grid}")
    if not 1 <= (picture.frame_number or 1) <= max(frames, 1):
        raise GeometryError(f"frame {picture.frame_number} of an image with {max(frames, 1)} frames")


def copy_picture_context(ds: Dataset, header: Dataset) -> None:
    """Copy what the image says of body part and side to an object made from a picture; unknown is written as unknown.

    Laterality (type 2C) stands for Image Laterality, which such objects have not: empty when neither says a side,
    absent for a body part that comes once.
    """
    copy_image_context(ds, header)
    ds.pop("Laterality", None)
    if str(ds.get("BodyPartExamined") or "") not in _UNPAIRED:
        sides = (str(header.get(keyword) or "") for keyword in ("Laterality", "ImageLaterality"))
        ds.Laterality = next((side for side in sides if side in {"L", "R"}), None)


def closed_outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the borders of a mask as closed polylines along the edges of its pixels.

    The origin is the top left corner of the top left pixel, as for units PIXEL of a graphic object (PS3.3 C.10.5.1.2),
    so every corner has whole coordinates. The inside lies to the right of each line: outer borders run clockwise as
    seen on the screen, borders of holes the other way. Pixels that touch at a corner only get borders of their own.

    Args:
        mask: ``(rows, columns)``.

    Returns:
        Arrays ``(points, 2)`` of column and row, first point repeated at the end; empty for an empty mask.
    """
    ways = _border_edges(mask)
    outlines = []
    while ways:
        start = next(iter(ways))
        outlines.append(np.array(_walk(ways, start), dtype=np.float64))
    return outlines


def _border_edges(mask: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """Return the corner where each directed edge starts → its directions; rows first, so a start is a true corner."""
    used_rows, used_columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not used_rows.size:
        return {}
    top, left = int(used_rows[0]), int(used_columns[0])
    padded = np.pad(mask[top : used_rows[-1] + 1, left : used_columns[-1] + 1].astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    neighbours = (
        (padded[:-2, 1:-1], 0, (0, 0)),  # nothing above: along the top edge to the right
        (padded[1:-1, 2:], 1, (0, 1)),
        (padded[2:, 1:-1], 2, (1, 1)),
        (padded[1:-1, :-2], 3, (1, 0)),
    )
    ways: dict[tuple[int, int], list[int]] = {}
    for neighbour, direction, (down, right) in neighbours:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            ways.setdefault((left + column + right, top + row + down), []).append(direction)
    return ways


def _walk(ways: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """Follow the border from ``start`` until it closes, using up its edges; only corners are kept."""
    first = heading = _leave(ways, start, ways[start][0])
    points, at = [start], start
    while True:
        at = (at[0] + _STEPS[heading][0], at[1] + _STEPS[heading][1])
        turn = (heading + 1) % 4
        if at == start and (turn == first or at not in ways):
            return [*points, start]
        onward = turn if turn in ways[at] else ways[at][0]
        _leave(ways, at, onward)
        if onward != heading:
            points.append(at)
        heading = onward


def _leave(ways: dict[tuple[int, int], list[int]], corner: tuple[int, int], direction: int) -> int:
    ways[corner].remove(direction)
    if not ways[corner]:
        del ways[corner]
    return direction
