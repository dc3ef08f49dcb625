"""WADO-RS: objects, their headers and their frames as streams that hold one piece at a time (PS3.18 section 10.4)."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import chain
from typing import Any

import structlog
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian

from config.errors import RefusedInputError, UndecodablePixelsError, UnreadableDatasetError
from config.jpeg_extended import decode_jpeg_extended
from dashboard.dicomweb.accept import Offer, dicom_offers
from dashboard.dicomweb.frames import FrameSource, is_decodable
from dashboard.dicomweb.model import json_model
from dashboard.dicomweb.objects import HeldObject, PixelElement, file_pieces, range_pieces, read_attributes, read_header
from dashboard.pixels import DECODE_ERRORS

log = structlog.get_logger()
_MOST_TRANSCODED = 1 << 29  # bytes of one object that is decoded in memory
MOST_FRAMES = 10_000  # in one answer
_MATRIX = (0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100)


def object_offers(held: HeldObject) -> list[Offer]:
    """Return how one object can be sent."""
    syntax = held.transfer_syntax_uid
    return dicom_offers(syntax, decodable=is_decodable(syntax) and _decoded_bytes(held) <= _MOST_TRANSCODED)


def _decoded_bytes(held: HeldObject) -> int:
    """Return how large an object is when it is decoded; of compressed pixels as their header announces."""
    size = held.path.stat().st_size
    if not UID(held.transfer_syntax_uid).is_encapsulated:
        return size
    header = read_attributes(held.path, held.transfer_syntax_uid, _MATRIX)
    factors = (header.get(keyword) or 1 for keyword in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"))
    return size + math.prod(map(int, factors)) * int(header.get("BitsAllocated") or 8) // 8


def object_parts(
    chosen: Sequence[tuple[HeldObject, Offer]], base: str
) -> Iterator[tuple[Mapping[str, str], Iterator[bytes]]]:
    """Yield header fields and bytes of each object, one after the other."""
    for held, offer in chosen:
        yield {"Content-Type": offer.content_type, "Content-Location": base + held.address}, object_pieces(held, offer)


def object_pieces(held: HeldObject, offer: Offer) -> Iterator[bytes]:
    """Yield the DICOM file: as it is kept, or in Explicit VR Little Endian.

    Raises:
        UndecodablePixelsError: it cannot be sent so after all; the answer breaks off, which a client notices.
    """
    if offer.transfer_syntax == held.transfer_syntax_uid:
        yield from file_pieces(held.path)
        return
    try:
        yield transcoded(held)
    except DECODE_ERRORS as exc:
        log.warning("instance.not_transcoded", error=type(exc).__name__)
        raise UndecodablePixelsError("an object cannot be sent in Explicit VR Little Endian") from exc


def transcoded(held: HeldObject) -> bytes:
    """Return the DICOM file in Explicit VR Little Endian."""
    decode_jpeg_extended()
    ds = dcmread(held.path, force=True)
    if UID(held.transfer_syntax_uid).is_compressed and "PixelData" in ds:
        ds.decompress(generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    ds.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def metadata(objects: Iterable[HeldObject], base: str) -> Iterator[dict[str, Any]]:
    """Yield each object's header in the DICOM JSON Model; larger binary values are addresses."""
    for held in objects:
        bulk = f"{base}{held.address}/bulkdata"
        try:
            with held.path.open("rb") as file:
                ds, pixels = read_header(file)
        except (OSError, UnreadableDatasetError):
            ds, pixels = _identity(held), None
        model = json_model(ds, bulk_address=bulk)
        model["00083002"] = {"vr": "UI", "Value": [held.transfer_syntax_uid]}  # Available Transfer Syntax UID
        if pixels is not None:
            model[f"{pixels.tag:08X}"] = {"vr": pixels.vr, "BulkDataURI": f"{bulk}/{pixels.tag:08X}"}
        yield model


def _identity(held: HeldObject) -> Dataset:
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = held.study_instance_uid, held.series_instance_uid
    ds.SOPInstanceUID, ds.SOPClassUID = held.sop_instance_uid, held.sop_class_uid
    return ds


def parse_frames(text: str, count: int) -> list[int]:
    """Return the 0-based frames that a frame list names.

    Raises:
        RefusedInputError: not a list of frame numbers from 1 on.
        LookupError: a frame that is not there.
    """
    numbers = text.split(",")
    if len(numbers) > MOST_FRAMES or not all(one.isdigit() and len(one) < 9 and int(one) for one in numbers):
        raise RefusedInputError("frames are numbers from 1 on, separated by commas")
    frames = [int(one) - 1 for one in numbers]
    if max(frames) >= count:
        raise LookupError(f"there are {count} frames")
    return frames


def frame_parts(
    source: FrameSource, frames: Sequence[int], offer: Offer, address: str
) -> Iterator[tuple[Mapping[str, str], tuple[bytes]]]:
    """Yield header fields and bytes of each frame.

    Raises:
        UndecodablePixelsError: a frame cannot be read; said at once of the first.
    """
    first = source.frame(frames[0], offer)
    contents = chain((first,), (source.frame(index, offer) for index in frames[1:]))
    return (
        ({"Content-Type": offer.content_type, "Content-Location": f"{address}/frames/{index + 1}"}, (content,))
        for index, content in zip(frames, contents, strict=True)
    )


def pixel_pieces(held: HeldObject, pixels: PixelElement) -> Iterator[bytes]:
    """Yield native pixel data, all frames."""
    return range_pieces(held.path, pixels.offset, pixels.length)
