"""Slices and overlays as the vision-language model sees them: 8-bit RGB, patient right on the image's left.

Windowing, truncation to 8 bits, colours and blending follow VILA-M3's data preparation to the value, because
the published weights were trained on exactly these pictures.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.radiograph import Radiograph
from worker.volume import Volume

CT_LEVEL_HU: Final = 50.0
CT_WIDTH_HU: Final = 400.0

COLOURS: Final[tuple[tuple[str, tuple[float, float, float]], ...]] = (
    ("red", (1.0, 0.0, 0.0)),
    ("blue", (0.0, 0.0, 1.0)),
    ("yellow", (1.0, 1.0, 0.0)),
    ("magenta", (1.0, 0.0, 1.0)),
    ("green", (0.0, 128 / 255, 0.0)),
    ("indigo", (75 / 255, 0.0, 130 / 255)),
    ("darkorange", (1.0, 140 / 255, 0.0)),
    ("cyan", (0.0, 1.0, 1.0)),
    ("pink", (1.0, 192 / 255, 203 / 255)),
    ("brown", (165 / 255, 42 / 255, 42 / 255)),
    ("orange", (1.0, 165 / 255, 0.0)),
    ("lime", (0.0, 1.0, 0.0)),
    ("orange", (1.0, 165 / 255, 0.0)),
    ("gold", (1.0, 215 / 255, 0.0)),
    ("yellowgreen", (154 / 255, 205 / 255, 50 / 255)),
    ("darkgreen", (0.0, 100 / 255, 0.0)),
)
"""Overlay colours by rank of the label in the shown slice; the 17th label starts again with red."""

_OVERLAY_ALPHA = 0.3


def ct_grey(hounsfield: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return CT values as 8-bit grey, level 50 and width 400 HU: -150 HU is 0, 250 HU is 255."""
    low = CT_LEVEL_HU - CT_WIDTH_HU / 2
    scaled = (np.asarray(hounsfield, dtype=np.float64) - low) / CT_WIDTH_HU * 255.0
    return np.clip(scaled, 0.0, 255.0).astype(np.uint8)


def mr_grey(signal: NDArray[np.float32], *, low: float, high: float) -> NDArray[np.uint8]:
    """Return MR signal as 8-bit grey between the lowest and highest signal of its whole Volume.

    A Volume of one single value is black.
    """
    if high <= low:
        return np.zeros(signal.shape, dtype=np.uint8)
    scaled = (np.asarray(signal, dtype=np.float64) - low) / (high - low) * 255.0
    return np.clip(scaled, 0.0, 255.0).astype(np.uint8)


def axial(array: NDArray[np.generic], affine: NDArray[np.float64]) -> NDArray[np.generic]:
    """Return ``array`` with its axes along the patient: foot to head, front to back, right to left.

    So ``axial(...)[k]`` is a picture with anterior at the top and the patient's right on its left.

    Args:
        array: ``(slices, rows, columns)`` in any orientation.
        affine: ``(4, 4)`` index → mm, LPS, as in `Volume.affine`.
    """
    order, flips = axial_axes(affine)
    turned = np.transpose(array, order)
    return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def axial_index(index: int, volume: Volume) -> int | None:
    """Return the source slice shown by ``axial(...)[index]``; None when the Series was not axial."""
    order, flips = axial_axes(volume.affine)
    if order[0] != 0:
        return None
    return volume.array.shape[0] - 1 - index if flips[0] else index


def axial_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return the array axes that run most along z, y and x, and which of them run backwards."""
    # For each of z, y, x the array axis that runs most along it, each axis used once: the largest cosine first.
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left = np.abs(cosines)
    chosen: dict[int, int] = {}
    for _ in range(3):
        world, axis = np.unravel_index(int(np.argmax(left)), left.shape)
        chosen[int(world)] = int(axis)
        left[world, :] = -1.0
        left[:, axis] = -1.0
    order = (chosen[2], chosen[1], chosen[0])
    flips = (cosines[2, order[0]] < 0, cosines[1, order[1]] < 0, cosines[0, order[2]] < 0)
    return order, (bool(flips[0]), bool(flips[1]), bool(flips[2]))


def volume_slice(volume: Volume, index: int) -> NDArray[np.uint8]:
    """Return one axial slice as ``(rows, columns, 3)`` uint8, windowed for its modality.

    Args:
        volume: a CT (HU) or MR Volume in any orientation.
        index: slice of the axial stack, counted from the feet.
    """
    plane = np.asarray(axial(volume.array, volume.affine)[index], dtype=np.float32)
    if volume.modality == "CT":
        return rgb(ct_grey(plane))
    return rgb(mr_grey(plane, low=float(volume.array.min()), high=float(volume.array.max())))


def radiograph_image(radiograph: Radiograph) -> NDArray[np.uint8]:
    """Return a radiograph as ``(rows, columns, 3)`` uint8."""
    return rgb(np.clip(radiograph.pixels, 0.0, 255.0).astype(np.uint8))


def rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a grey picture with three equal channels."""
    return np.repeat(grey[..., None], 3, axis=-1)


def widest_slice(labels: NDArray[np.uint8], wanted: frozenset[int] | None = None) -> int:
    """Return the slice (first axis) that shows most of ``wanted`` labels; the middle one when none is there.

    Args:
        labels: ``(slices, rows, columns)`` label map; pass it through `axial` first.
        wanted: label values that count; None counts every label.
    """
    shown = labels > 0 if wanted is None else np.isin(labels, sorted(wanted))
    areas = shown.sum(axis=(1, 2))
    return int(np.argmax(areas)) if areas.any() else labels.shape[0] // 2


def legend(labels: NDArray[np.uint8]) -> list[tuple[str, int]]:
    """Return (colour name, label value) of a slice in order of value; colours go by rank, not by value."""
    values = [int(value) for value in np.unique(labels) if value != 0]
    return [(COLOURS[rank % len(COLOURS)][0], value) for rank, value in enumerate(values)]


def overlay(grey: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a slice with its labels painted over, ``(rows, columns, 3)`` uint8.

    A labelled pixel is 0.3 of its colour and 0.7 of the picture; the rest is darkened to 0.7.

    Args:
        grey: ``(rows, columns)`` 8-bit picture.
        labels: ``(rows, columns)`` label values, 0 is background.
    """
    # The order of operations is the reference's: truncation to 8 bits makes rounding visible (100 becomes 69).
    colours = np.zeros((*labels.shape, 3))
    for rank, (_, value) in enumerate(legend(labels)):
        colours[labels == value] = COLOURS[rank % len(COLOURS)][1]
    picture = rgb(grey) / 255.0
    blended = colours * _OVERLAY_ALPHA + picture * (1.0 - _OVERLAY_ALPHA)
    return (blended * 255.0).astype(np.uint8)
