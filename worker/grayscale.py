"""From stored values of a projection radiograph to what a person would see: 0…255, bone bright, air dark."""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import apply_rescale, apply_voi_lut

from config.errors import UndecodablePixelsError

_GAP = 0.25  # of the range of values; see _picture_range
_FEWEST_LEVELS = 16  # fewer grey levels make no photograph, and gaps are natural


def display_values(ds: Dataset, stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return ``(rows, columns)`` float32 in 0…255, display polarity.

    Modality LUT or rescale (PS3.3 C.11.1), VOI LUT or window (C.11.2), stretch over the values of the
    picture, then inversion of MONOCHROME1 (C.7.6.3.1.2). Pixel padding (C.7.5.1.1.2) is no part of the
    picture: it does not count for the stretch, and is black.

    Args:
        ds: the Instance.
        stored: its decoded pixel data.

    Raises:
        UndecodablePixelsError: not one grey image, an unusual place of the bits, LUTs that cannot be
            applied, or one value everywhere.
    """
    photometric = str(ds.get("PhotometricInterpretation", ""))
    if stored.ndim != 2 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise UndecodablePixelsError(f"not one grey image: {stored.shape}, {photometric or 'no photometric'}")
    if why := unusual_bits(ds):
        raise UndecodablePixelsError(why)
    try:
        modality = apply_rescale(stored, ds)
        if ds.get("VOILUTSequence"):
            modality = np.rint(modality).astype(np.int64)  # a LUT is indexed by whole numbers
        values = np.asarray(apply_voi_lut(modality, ds), dtype=np.float32)
    except (ValueError, IndexError, TypeError, KeyError, AttributeError) as exc:
        raise UndecodablePixelsError(f"the display LUTs cannot be applied ({type(exc).__name__})") from exc
    if not np.isfinite(values).all():
        raise UndecodablePixelsError("the display LUTs give values that are no numbers")
    padding = _padding(ds, stored)
    picture = values[~padding]
    low, high = _picture_range(picture, windowed=_has_voi(ds)) if picture.size else (0.0, 0.0)
    if high <= low:
        raise UndecodablePixelsError("every pixel has the same value")
    grey = np.clip((values - np.float32(low)) * np.float32(255.0 / (high - low)), 0.0, 255.0)
    if photometric == "MONOCHROME1":
        grey = np.float32(255.0) - grey
    grey[padding] = 0.0
    return np.asarray(grey, dtype=np.float32)


def unusual_bits(ds: Dataset) -> str:
    """Return what is wrong with pixels that do not fill the low bits of their words, or ``""``.

    High Bit is one less than Bits Stored (PS3.3 C.7.6.3.1.2, since PS3.5 retired other places); the decoders
    do not shift any other.
    """
    stored, high = int(ds.get("BitsStored", 0) or 0), int(ds.get("HighBit", -1))
    return "" if high == stored - 1 else f"High Bit is {high} with {stored} Bits Stored"


def _has_voi(ds: Dataset) -> bool:
    window = ds.get("WindowCenter") is not None and ds.get("WindowWidth") is not None
    return bool(ds.get("VOILUTSequence")) or window


def _padding(ds: Dataset, stored: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return where Pixel Padding Value, or the range to its limit, stands in the stored values."""
    value = ds.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = ds.get("PixelPaddingRangeLimit")
    ends = sorted((int(value), int(value if limit is None else limit)))
    values = stored.astype(np.int64)
    return (values >= ends[0]) & (values <= ends[1])


def _picture_range(picture: NDArray[np.float32], *, windowed: bool) -> tuple[float, float]:
    """Return the values that become black and white.

    A window has already decided what is shown; its output is stretched from end to end. Without one the
    whole range is shown, but a frame or a marker burnt in at an extreme value must not flatten the picture:
    the brightest value, and then the darkest, is clipped when nothing lies between it and the next value for
    more than a fourth of the range. No grey level of the body is lost, as there is none in the gap. Percentiles
    are not used: they clip the same share of every picture, also where that share is lung.
    """
    levels = np.unique(picture)
    low, high = float(levels[0]), float(levels[-1])
    if windowed or len(levels) < _FEWEST_LEVELS:
        return low, high
    if high - levels[-2] > _GAP * (high - low):
        high = float(levels[-2])
    if levels[1] - low > _GAP * (high - low):
        low = float(levels[1])
    return low, high
