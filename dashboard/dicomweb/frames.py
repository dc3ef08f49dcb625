"""Frames of one Instance: as they are stored, or decoded, one at a time (PS3.5 section 8, A.4)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

from config.errors import UndecodablePixelsError
from config.jpeg_extended import decode_jpeg_extended
from dashboard.dicomweb.accept import Offer, both_ways
from dashboard.dicomweb.objects import PixelElement, read_header
from dashboard.pixels import DECODE_ERRORS
from dashboard.slices import LruCache

_OCTETS = "application/octet-stream"
_MOST_PIXELS = 100_000_000  # of a frame that is decoded
# PS3.18 table 8.7.3-5; transfer syntaxes by the end of their UID
_MEDIA_TYPES = {
    "image/jpeg": ("4.50", "4.51", "4.57", "4.70"),
    "image/jls": ("4.80", "4.81"),
    "image/jp2": ("4.90", "4.91"),
    "image/jpx": ("4.92", "4.93"),
    "image/jphc": ("4.201", "4.202", "4.203"),
    "image/jxl": ("4.110", "4.111", "4.112"),
    "image/dicom-rle": ("5",),
}
_headers: LruCache[Path, tuple[Dataset, PixelElement | None]] = LruCache(16)
_COMPRESSED = {f"1.2.840.10008.1.2.{end}": media_type for media_type, ends in _MEDIA_TYPES.items() for end in ends}


@dataclass(frozen=True)
class FrameSource:
    """An open Instance with pixel data."""

    path: Path
    file: BinaryIO
    ds: Dataset
    pixels: PixelElement
    count: int

    @property
    def transfer_syntax(self) -> str:
        """How the frames are stored."""
        return str(self.ds.file_meta.TransferSyntaxUID)

    def offers(self) -> list[Offer]:
        """Return how the frames can be sent; octet-stream by itself means uncompressed."""
        syntax = self.transfer_syntax
        if not self.pixels.is_encapsulated:
            return both_ways(_OCTETS, str(ExplicitVRLittleEndian))
        if syntax not in _COMPRESSED:  # video has no frames to take out
            return []
        offers = both_ways(_COMPRESSED[syntax], syntax) + both_ways(_OCTETS, syntax, is_default=False)
        pixels = int(self.ds.get("Rows") or 0) * int(self.ds.get("Columns") or 0)
        if is_decodable(syntax) and pixels <= _MOST_PIXELS:
            offers += both_ways(_OCTETS, str(ExplicitVRLittleEndian))
        return offers

    def frame(self, index: int, offer: Offer) -> bytes:
        """Return frame ``index`` (0-based) in the form of ``offer``.

        Raises:
            UndecodablePixelsError: the pixel data are not what the header says.
        """
        try:
            if not self.pixels.is_encapsulated:
                return self._native(index)
            if offer.transfer_syntax == self.transfer_syntax:
                return self._stored(index)
            return self._decoded(index)
        except DECODE_ERRORS as exc:
            raise UndecodablePixelsError(f"frame {index + 1} cannot be read ({type(exc).__name__})") from exc

    def _native(self, index: int) -> bytes:
        ds = self.ds
        bits = int(ds.Rows) * int(ds.Columns) * int(ds.SamplesPerPixel) * int(ds.BitsAllocated)
        if ds.PhotometricInterpretation == "YBR_FULL_422":
            bits = bits // 3 * 2
        first, last = index * bits, (index + 1) * bits
        if bits <= 0 or (last + 7) // 8 > self.pixels.length:
            raise ValueError("pixel data end too early")
        self.file.seek(self.pixels.offset + first // 8)
        content = self.file.read((last + 7) // 8 - first // 8)
        if first % 8 == 0 and last % 8 == 0:
            return content
        # frames of one bit per pixel follow each other without padding (PS3.5 section 8.1.1)
        unpacked = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[first % 8 :][:bits]
        return np.packbits(unpacked, bitorder="little").tobytes()

    def _stored(self, index: int) -> bytes:
        self.file.seek(self.pixels.offset)
        offsets = self.ds.get("ExtendedOffsetTable"), self.ds.get("ExtendedOffsetTableLengths")
        extended = offsets if offsets[0] and offsets[1] else None
        frame: bytes = get_frame(self.file, index, extended_offsets=extended, number_of_frames=self.count)
        return frame

    def _decoded(self, index: int) -> bytes:
        decode_jpeg_extended()
        decoded = pixel_array(self.path, index=index)
        content: bytes = decoded.astype(decoded.dtype.newbyteorder("<"), copy=False).tobytes()
        return content


@contextmanager
def open_frames(path: Path) -> Iterator[FrameSource]:
    """Open the Instance at ``path`` for its frames.

    Raises:
        UndecodablePixelsError: it has no pixel data.
        UnreadableDatasetError: its header cannot be read.
        OSError: there is no such file.
    """
    with path.open("rb") as file:
        # a viewer asks for one frame after the other; what is kept under a path never changes
        ds, pixels = _headers.get(path, lambda: read_header(file))
        count = max(int(ds.get("NumberOfFrames") or 1), 1)
        if pixels is not None:
            yield FrameSource(path, file, ds, pixels, count)
        elif "PixelData" in ds:  # it was deflated
            content = ds.PixelData
            yield FrameSource(path, BytesIO(content), ds, PixelElement(0x7FE00010, "OW", 0, len(content)), count)
        else:
            raise UndecodablePixelsError("this object has no frames")


def is_decodable(transfer_syntax_uid: str) -> bool:
    """Return whether pixel data in this transfer syntax can be decoded here."""
    from pydicom.pixels import get_decoder

    uid = UID(transfer_syntax_uid)
    if not uid.is_compressed or uid.is_deflated:
        return True
    decode_jpeg_extended()
    try:
        return bool(get_decoder(uid).is_available)
    except NotImplementedError:
        return False
