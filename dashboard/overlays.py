"""Label maps of the evidence, painted over a slice."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import UndecodablePixelsError
from dashboard.stacks import distance_mm

_OPACITY = 0.38
_SAME_PLACE_MM = 0.1
# distinct on grey for the common forms of colour blindness; cycled by label value
COLOURS = (
    (255, 176, 59), (86, 180, 233), (240, 98, 146), (120, 210, 120), (178, 132, 250),
    (255, 241, 118), (77, 208, 225), (255, 112, 67), (174, 213, 129), (206, 147, 216),
)  # fmt: skip


@dataclass(frozen=True)
class LabelMap:
    """One expert's segmentation as stored behind the draft.

    Attributes:
        labels: ``(slices, rows, columns)`` uint8; 0 is background.
        sop_instance_uids: one per slice, in array order; a multi-frame UID repeats.
        names: label value → name, of the labels that have a voxel.
        origins_mm: per slice, LPS position of its first voxel's centre: its Image Position (Patient).
        frame_numbers: one per slice, 1-based frame of its Instance; empty when the file does not say.
    """

    labels: NDArray[np.uint8]
    sop_instance_uids: tuple[str, ...]
    names: dict[int, str]
    origins_mm: tuple[tuple[float, float, float], ...]
    frame_numbers: tuple[int, ...] = ()

    def plane(
        self, sop_instance_uid: str, frame_number: int, origin_mm: tuple[float, float, float] | None
    ) -> NDArray[np.uint8] | None:
        """Return the ``(rows, columns)`` labels of a slice, or None when the map does not cover it.

        Frames of a multi-frame Instance share its UID, and time points or echoes share positions too: an
        overlay on the wrong frame would lie. Without frame numbers the position must decide.
        """
        found = [i for i, uid in enumerate(self.sop_instance_uids) if uid == sop_instance_uid]
        if self.frame_numbers:
            found = [i for i in found if self.frame_numbers[i] == frame_number]
        elif len(found) > 1:
            found = [i for i in found if distance_mm(self.origins_mm[i], origin_mm) <= _SAME_PLACE_MM]
        return self.labels[found[0]] if found else None


def load_label_map(path: Path) -> LabelMap:
    """Read a label map file (numpy archive, never pickled objects).

    Raises:
        UndecodablePixelsError: the file is missing or is not a label map.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = [int(value) for value in stored["label_values"]]
            names = dict(zip(values, (str(name) for name in stored["label_names"]), strict=True))
            uids = tuple(str(uid) for uid in stored["sop_instance_uids"])
            labels = np.asarray(stored["labels"], dtype=np.uint8)
            affine = np.asarray(stored["affine"], dtype=np.float64).reshape(4, 4)
            frames = tuple(int(n) for n in stored["frame_numbers"]) if "frame_numbers" in stored else ()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise UndecodablePixelsError(f"label map cannot be read ({type(exc).__name__})") from exc
    if labels.ndim != 3 or len(uids) != labels.shape[0] or len(frames) not in (0, len(uids)):
        raise UndecodablePixelsError(f"label map is {labels.shape} for {len(uids)} slices")
    counts = np.bincount(labels.ravel(), minlength=256)
    origins = (affine[:3, 3] + affine[:3, 0] * index for index in range(len(uids)))
    return LabelMap(
        labels,
        uids,
        {value: name for value, name in names.items() if 0 < value < 256 and counts[value]},
        tuple((float(x), float(y), float(z)) for x, y, z in origins),
        frames,
    )


def colour_of(label: int) -> tuple[int, int, int]:
    """Return the display colour of a label value."""
    return COLOURS[label % len(COLOURS)]


def paint(image: NDArray[np.uint8], plane: NDArray[np.uint8], shown: frozenset[int]) -> NDArray[np.uint8]:
    """Return ``image`` as RGB with the ``shown`` labels of ``plane`` tinted and outlined.

    Args:
        image: ``(rows, columns)`` or ``(rows, columns, 3)`` uint8 display values.
        plane: ``(rows, columns)`` labels on the same grid.
        shown: label values to paint.

    Returns:
        ``(rows, columns, 3)`` uint8; unpainted when the grids differ, for a shifted overlay would lie.
    """
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()
    if plane.shape != rgb.shape[:2]:
        return rgb
    for label in sorted(shown & set(np.unique(plane).tolist())):
        inside = plane == label
        tint = np.asarray(colour_of(label), dtype=np.float32)
        rgb[inside] = (rgb[inside] * (1 - _OPACITY) + tint * _OPACITY).astype(np.uint8)
        rgb[_outline(inside)] = colour_of(label)
    return rgb


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of ``inside`` that touch the outside."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: NDArray[np.bool_] = inside & ~core
    return edge
