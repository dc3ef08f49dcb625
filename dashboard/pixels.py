"""Pixels of one frame as 8-bit display values: modality LUT, VOI, polarity, colour and aspect (PS3.4 N.2)."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from config.errors import UndecodablePixelsError
from config.jpeg_extended import decode_jpeg_extended
from reports.geometry import functional_group

_MOST_PIXELS = 100_000_000  # a frame that claims more is refused before it is decoded
# what decoders and readers raise on bytes that are not what their tags say
DECODE_ERRORS = (
    ValueError,
    RuntimeError,
    AttributeError,
    NotImplementedError,
    LookupError,
    TypeError,
    OSError,
    EOFError,
    struct.error,
    InvalidDicomError,
    BytesLengthException,
    zlib.error,
)


@dataclass(frozen=True)
class Window:
    """A VOI window in modality units (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str = "LINEAR"


PRESETS: dict[str, tuple[tuple[str, Window], ...]] = {
    "CT": (
        ("Soft tissue", Window(40, 400)),
        ("Lung", Window(-600, 1500)),
        ("Bone", Window(480, 2500)),
        ("Brain", Window(40, 80)),
        ("Liver", Window(60, 160)),
        ("Mediastinum", Window(50, 350)),
    )
}


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        values: ``(rows, columns)`` float32 in modality units, or ``(rows, columns, 3)`` uint8 for colour.
        window: the window the Instance asks for, else one that spans the 1st to 99th percentile.
        display: for a VOI LUT table, the table's output scaled to 0…255; else None.
        inverted: MONOCHROME1, the lowest value is white.
        row_to_column: height of a pixel over its width in mm.
    """

    values: NDArray[Any]
    window: Window
    display: NDArray[np.uint8] | None
    inverted: bool
    row_to_column: float

    @property
    def is_colour(self) -> bool:
        """Whether the frame already holds display colours."""
        return self.values.ndim == 3


def read_frame(path: Path, frame: int) -> Frame:
    """Decode frame ``frame`` (0-based) of the Instance at ``path``.

    Raises:
        UndecodablePixelsError: the file is missing, or its pixels cannot be decoded here; the text names no patient.
    """
    decode_jpeg_extended()
    try:
        ds = dcmread(path, force=True)
        _check_size(ds)
        return _decode(ds, frame)
    except DECODE_ERRORS as exc:
        raise UndecodablePixelsError(f"pixel data cannot be decoded ({type(exc).__name__})") from exc


def _check_size(ds: Dataset) -> None:
    if "PixelData" not in ds:
        raise UndecodablePixelsError("this object has no image")
    pixels = int(ds.Rows) * int(ds.Columns)
    if not 0 < pixels <= _MOST_PIXELS:
        raise UndecodablePixelsError(f"{ds.Rows} x {ds.Columns} pixels cannot be shown")


def _decode(ds: Dataset, frame: int) -> Frame:
    stored = pixel_array(ds, index=frame)
    aspect = _aspect(ds, frame)
    photometric = str(ds.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        return _colour(apply_color_lut(stored, ds), aspect)
    if stored.ndim == 3:
        return _colour(stored, aspect)  # the decoder has turned YBR into RGB
    values = apply_modality_lut(stored, functional_group(ds, frame, "PixelValueTransformationSequence"))
    values = np.asarray(values, dtype=np.float32)
    voi = functional_group(ds, frame, "FrameVOILUTSequence")
    return Frame(
        values=values,
        window=_own_window(voi) or _spanning_window(values, ds),
        display=_table_display(stored, ds),
        inverted=photometric == "MONOCHROME1",
        row_to_column=aspect,
    )


def _colour(values: NDArray[Any], aspect: float) -> Frame:
    if values.dtype != np.uint8:
        values = (values / max(1, np.iinfo(values.dtype).max) * 255).astype(np.uint8)
    return Frame(values[..., :3], Window(127.5, 255), None, False, aspect)


def _first(value: Any) -> float:
    """The first of one or several values."""
    try:
        return float(value)
    except TypeError:
        return float(value[0])


def _own_window(voi: Dataset) -> Window | None:
    if voi.get("WindowCenter") is None or voi.get("WindowWidth") is None:
        return None
    width = _first(voi.WindowWidth)
    function = str(voi.get("VOILUTFunction") or "LINEAR")
    return Window(_first(voi.WindowCenter), width, function) if width > 0 else None


def _spanning_window(values: NDArray[np.float32], ds: Dataset) -> Window:
    """Span the 1st to 99th percentile, leaving out padding (PS3.3 C.7.5.1.1.2)."""
    padding = ds.get("PixelPaddingValue")
    real = values[values != _first(padding)] if isinstance(padding, int) else values
    low, high = np.percentile(real if real.size else values, (1, 99))
    return Window(float(low + high) / 2, max(float(high - low), 1.0))


def _table_display(stored: NDArray[Any], ds: Dataset) -> NDArray[np.uint8] | None:
    """Apply a VOI LUT table when the Instance has one; tables need the integers before it."""
    if not ds.get("VOILUTSequence"):
        return None
    integers = apply_modality_lut(stored, ds)
    shown = apply_voi_lut(integers.astype(np.int32), ds, prefer_lut=True)
    bits = int(ds.VOILUTSequence[0].LUTDescriptor[2])
    scaled: NDArray[np.uint8] = np.clip(shown / (2**bits - 1) * 255, 0, 255).astype(np.uint8)
    return scaled


def _aspect(ds: Dataset, frame: int) -> float:
    measures = functional_group(ds, frame, "PixelMeasuresSequence")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        pair = measures.get(keyword) or ds.get(keyword)
        if pair and len(pair) == 2 and float(pair[0]) > 0 and float(pair[1]) > 0:
            return float(np.clip(float(pair[0]) / float(pair[1]), 0.1, 10))
    return 1.0


def render(frame: Frame, window: Window | None = None) -> NDArray[np.uint8]:
    """Return display values of ``frame``, bone-bright polarity resolved.

    Args:
        frame: as decoded.
        window: the reader's choice; None shows the Instance as it asks to be shown.

    Returns:
        ``(rows, columns)`` or, for colour, ``(rows, columns, 3)`` uint8.
    """
    if frame.is_colour:
        colours: NDArray[np.uint8] = frame.values
        return colours
    if window is None and frame.display is not None:
        grey = frame.display
    else:
        grey = apply_window(frame.values, window or frame.window)
    return 255 - grey if frame.inverted else grey


def apply_window(values: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    """Map modality values to 0…255 by the window's function (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    center, width = window.center, max(window.width, 1e-6)
    if window.function == "SIGMOID":
        shown = 255.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -60, 60)))
    elif window.function == "LINEAR_EXACT" or width <= 1.0:
        shown = ((values - center) / width + 0.5) * 255.0
    else:
        shown = ((values - (center - 0.5)) / (width - 1.0) + 0.5) * 255.0
    grey: NDArray[np.uint8] = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    return grey


def square_pixels(image: Image.Image, row_to_column: float, *, smooth: bool = True) -> Image.Image:
    """Stretch ``image`` so that a millimetre is as long down as across."""
    if abs(row_to_column - 1.0) < 0.01:
        return image
    width, height = image.size
    size = (width, round(height * row_to_column)) if row_to_column > 1 else (round(width / row_to_column), height)
    return image.resize(size, Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)
