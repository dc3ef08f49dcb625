"""Objects in files: their header without the pixels, single attributes of it, and where the pixels are."""

import mmap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.errors import RefusedInputError, UnreadableDatasetError
from dashboard.pixels import DECODE_ERRORS
from instances.elements import find_elements
from instances.part10 import split_file

CHUNK = 1 << 18
PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
UNDEFINED = 0xFFFFFFFF
_HEAD = 1 << 16
_CHARACTER_SET = 0x00080005
_LONG_HEADER = 12
_IMPLICIT_HEADER = 8


@dataclass(frozen=True)
class HeldObject:
    """One object of a Study that can be retrieved: an Instance that was received, or a result of ours.

    ``is_deleted`` says that retention took the file; its size is of the Data Set, 0 when nobody counted.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: Path
    is_deleted: bool = False

    @property
    def address(self) -> str:
        """Its place below the service's root (PS3.18 section 10.1.1)."""
        series = f"/studies/{self.study_instance_uid}/series/{self.series_instance_uid}"
        return f"{series}/instances/{self.sop_instance_uid}"


@dataclass(frozen=True)
class PixelElement:
    """Where a file's pixel data begin, and how long they are; encapsulated ones have no length."""

    tag: int
    vr: str
    offset: int
    length: int

    @property
    def is_encapsulated(self) -> bool:
        """Whether the frames stand in fragments (PS3.5 A.4)."""
        return self.length == UNDEFINED


def read_header(file: BinaryIO) -> tuple[Dataset, PixelElement | None]:
    """Return a file's Data Set up to the pixel data, which are not read.

    The Pixel Data of a deflated Data Set have no place of their own in the file: they are in what is returned.

    Raises:
        UnreadableDatasetError: pydicom cannot read it.
    """
    try:
        ds = dcmread(file, stop_before_pixels=True, force=True)
        syntax = str(ds.file_meta.TransferSyntaxUID)
        if syntax == DeflatedExplicitVRLittleEndian:
            file.seek(0)
            return dcmread(file, force=True), None
        return ds, _pixel_element(file, implicit=syntax == ImplicitVRLittleEndian)
    except DECODE_ERRORS as exc:
        raise UnreadableDatasetError(f"the header cannot be read ({type(exc).__name__})") from exc


def _pixel_element(file: BinaryIO, *, implicit: bool) -> PixelElement | None:
    start = file.tell()
    head = file.read(_LONG_HEADER)
    if len(head) < _IMPLICIT_HEADER:
        return None
    tag = int.from_bytes(head[0:2], "little") << 16 | int.from_bytes(head[2:4], "little")
    if tag not in PIXELS:
        return None
    if implicit:
        return PixelElement(tag, "OW", start + _IMPLICIT_HEADER, int.from_bytes(head[4:8], "little"))
    vr = head[4:6].decode("ascii", errors="replace")
    return PixelElement(tag, vr, start + _LONG_HEADER, int.from_bytes(head[8:12], "little"))


def read_attributes(path: Path, transfer_syntax_uid: str, tags: Collection[int]) -> Dataset:
    """Return some top-level attributes of an object; empty when the file is gone or cannot be walked.

    Only their bytes are touched, so it costs a fraction of a millisecond, however large the object is.
    """
    wanted = {*tags, _CHARACTER_SET}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            _, offset = split_file(whole[:_HEAD])
            with memoryview(whole) as view, view[offset:] as encoded:
                found = find_elements(encoded, transfer_syntax_uid, wanted)
    except (OSError, ValueError, RefusedInputError):
        return Dataset()
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    # without a VR pydicom takes its dictionary's, which is the sender's for every attribute asked for here
    raw: dict[BaseTag, Any] = {
        BaseTag(tag): RawDataElement(BaseTag(tag), None, len(value), value, 0, implicit, True)
        for tag, value in sorted(found.items())
    }
    return Dataset(raw)


def file_pieces(path: Path) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def range_pieces(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """Yield ``length`` bytes of a file from ``offset`` on."""
    with path.open("rb") as file:
        file.seek(offset)
        while length > 0 and (piece := file.read(min(CHUNK, length))):
            length -= len(piece)
            yield piece
