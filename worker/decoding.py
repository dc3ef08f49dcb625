"""From kept bytes to arrays: headers without pixels, and pixel data through the registered decoders."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VM
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_rescale, iter_pixels
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from config.errors import RefusedInputError, UndecodablePixelsError
from config.jpeg_extended import decode_jpeg_extended
from worker.grayscale import display_values
from worker.radiograph import Radiograph
from worker.views import view_position

# what pydicom and its decoder plugins raise for damaged or unsupported pixel data
_DECODER_FAILURES = (
    ArithmeticError, AttributeError, BytesLengthException, EOFError, KeyError, NotImplementedError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
_HEADER_GROUPS = {0x0008, 0x0010, 0x0018, 0x0020, 0x0028}  # what the gates ask


def read_header(path: Path) -> Dataset:
    """Read one kept Instance up to its pixel data; a value that is none for its VR or VM counts as absent.

    Raises:
        RefusedInputError: the file is not a DICOM Dataset any more.
    """
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except (InvalidDicomError, OSError, ValueError, EOFError) as exc:
        raise RefusedInputError(f"an instance cannot be read back: {type(exc).__name__}") from exc
    for tag in [tag for tag in ds.keys() if tag.group in _HEADER_GROUPS and not _has_value(ds, tag)]:  # noqa: SIM118
        del ds[tag]
    ds.filename = str(path)
    return ds


def _has_value(ds: Dataset, tag: BaseTag) -> bool:
    """Tell whether an element can be converted: pydicom does so when it is asked for, and raises then."""
    try:
        element = ds[tag]
        values = element.value if element.VM > 1 else [element.value]
        if element.VR in ("DS", "IS") and any(isinstance(value, str) for value in values):
            return False  # what pydicom could not make a number of stays text
        return element.VM <= 1 or not dictionary_has_tag(tag) or dictionary_VM(tag) != "1"
    except _DECODER_FAILURES:
        return False


def read_headers(paths: Sequence[Path]) -> list[Dataset]:
    """Read several headers; see :func:`read_header`."""
    return [read_header(path) for path in paths]


def decode(path: Path) -> tuple[Dataset, NDArray[np.generic]]:
    """Read one Instance with its decoded pixels, ``([frames,] rows, columns[, samples])``, stored values.

    Raises:
        UndecodablePixelsError: no decoder, or pixel data that contradict the header; the text names the syntax.
    """
    decode_jpeg_extended()
    try:
        ds = pydicom.dcmread(path, force=True)
        pixels: NDArray[np.generic] = ds.pixel_array
    except _DECODER_FAILURES as exc:
        raise _undecodable(path, exc) from exc
    return ds, pixels


def decode_frames(path: Path, numbers: Sequence[int], *, shape: tuple[int, int]) -> Iterator[NDArray[np.generic]]:
    """Decode frames of one Instance one at a time: neither the others nor all of them are held at once.

    Args:
        path: a classic or multi-frame Instance.
        numbers: 1-based frames, in the order wanted.
        shape: rows and columns, as the header says.

    Yields:
        ``(rows, columns)`` stored values.

    Raises:
        UndecodablePixelsError: no decoder, too few or damaged frames, or another shape; the text names the syntax.
    """
    decode_jpeg_extended()
    indices = [number - 1 for number in numbers]
    frames: Iterator[NDArray[np.generic]] | None = None
    for number in numbers:
        try:
            frames = frames or iter_pixels(_pixel_source(path), indices=indices)
            stored = next(frames)
        except StopIteration as exc:
            raise UndecodablePixelsError(f"pixel data have no frame {number}") from exc
        except _DECODER_FAILURES as exc:
            raise _undecodable(path, exc) from exc
        if stored.shape != shape:
            raise UndecodablePixelsError(f"pixel data are {stored.shape}, the header says {shape}")
        yield stored


def rescaled(stored: NDArray[np.generic], transform: Dataset) -> NDArray[np.float32]:
    """Return stored values as float32 modality values (HU for CT).

    Args:
        stored: from :func:`decode_frames`.
        transform: holds Rescale Slope and Intercept or a Modality LUT; without them the values stay.

    Raises:
        UndecodablePixelsError: the Modality LUT does not fit.
    """
    try:
        return np.asarray(apply_rescale(stored, transform), dtype=np.float32)
    except (ValueError, IndexError, TypeError) as exc:
        raise UndecodablePixelsError(f"the modality LUT cannot be applied ({type(exc).__name__})") from exc


def pixel_digest(path: Path, number: int) -> bytes:
    """Return the SHA-256 of one decoded frame; equal for copies whatever their transfer syntax.

    Raises:
        UndecodablePixelsError: see :func:`decode`.
    """
    _, pixels = decode(path)
    frame = pixels[number - 1] if pixels.ndim == 3 else pixels
    return hashlib.sha256(np.ascontiguousarray(frame.astype(np.int64)).tobytes()).digest()


def _pixel_source(path: Path) -> Path | Dataset:
    """Return what frames are streamed from; a deflated Data Set cannot be read from its middle."""
    deflated = _transfer_syntax(path) == DeflatedExplicitVRLittleEndian
    return pydicom.dcmread(path, force=True) if deflated else path


def _transfer_syntax(path: Path) -> UID:
    """Return the Transfer Syntax UID, empty when the file does not say."""
    ds = pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    return UID(str(ds.file_meta.get("TransferSyntaxUID") or ""))


def _undecodable(path: Path, cause: BaseException) -> UndecodablePixelsError:
    try:
        syntax = _transfer_syntax(path).name
    except _DECODER_FAILURES:
        syntax = ""
    named = syntax or "an unknown transfer syntax"
    return UndecodablePixelsError(f"pixel data in {named} cannot be decoded ({type(cause).__name__})")


def load_radiograph(path: Path) -> Radiograph:
    """Return one CR or DX Instance in display polarity, bone bright, 0…255; see `worker.grayscale`.

    Raises:
        UndecodablePixelsError: pixels that cannot be read, or that are not one grey image.
    """
    ds, stored = decode(path)
    spacing = ds.get("ImagerPixelSpacing") or ds.get("PixelSpacing")
    return Radiograph(
        pixels=display_values(ds, stored),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        view_position=view_position(ds),
        modality=str(ds.get("Modality", "")),
        pixel_spacing_mm=(float(spacing[0]), float(spacing[1])) if spacing else None,
    )
