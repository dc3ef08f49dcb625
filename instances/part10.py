"""DICOM files around Data Sets that stay exactly as they were received (PS3.10 section 7)."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from config.errors import UnreadableDatasetError
from instances.elements import find_elements

IMPLEMENTATION_CLASS_UID = UID("2.25.180432907513846219307645128890113547266")
IMPLEMENTATION_VERSION_NAME = "FIRSTREAD_0_1"
HEAD_BYTES = 65536  # more than any file meta information
_PREAMBLE = bytes(128) + b"DICM"
_SOP_CLASS, _SOP_INSTANCE, _SYNTAX, _SOURCE = (
    int(Tag(keyword))
    for keyword in (
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "SourceApplicationEntityTitle",
    )
)


@dataclass(frozen=True)
class FileMeta:
    """What the file meta information says about the Data Set behind it; a missing value is empty."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source_ae: str = ""


def file_head(meta: FileMeta) -> bytes:
    """Return preamble, prefix and file meta information to put before a Data Set's bytes."""
    named = _uid_element(0x0002, meta.sop_class_uid) + _uid_element(0x0003, meta.sop_instance_uid)
    source = _element(0x0016, b"AE", meta.source_ae.encode("ascii", "replace"), b" ") if meta.source_ae else b""
    group = _VERSION + named + _uid_element(0x0010, meta.transfer_syntax_uid) + _IMPLEMENTATION + source
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(group)), b"") + group


def _element(number: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    """Return one element of group 0002 with a short value, in Explicit VR Little Endian (PS3.5 section 7.1.2)."""
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


def _uid_element(number: int, uid: str) -> bytes:
    return _element(number, b"UI", uid.encode("ascii", "replace"), b"\0")


_VERSION = struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1"
_IMPLEMENTATION = _uid_element(0x0012, IMPLEMENTATION_CLASS_UID) + _element(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode(), b" "
)


def split_file(content: bytes) -> tuple[FileMeta, int]:
    """Return the file meta information of a DICOM file and the offset of its Data Set.

    Raises:
        UnreadableDatasetError: no DICM prefix, or file meta information that ends too early.
    """
    if content[128:132] != b"DICM":
        raise UnreadableDatasetError("no DICM prefix at byte 128")
    offset = _end_of_group_2(content)
    if offset == 132:
        return FileMeta("", "", ""), offset
    return _meta(content[132:offset]), offset


def _end_of_group_2(content: bytes) -> int:
    """Walk the elements of group 0002: their group length is wrong in too many files to be trusted."""
    position = 132
    while content[position : position + 2] == b"\x02\x00":
        vr = content[position + 4 : position + 6]
        if not (vr.isalpha() and vr.isupper()):
            raise UnreadableDatasetError("the file meta information is not Explicit VR Little Endian")
        long = vr in {b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR"}
        head, width = (12, 4) if long else (8, 2)
        length = int.from_bytes(content[position + head - width : position + head], "little")
        position += head + length
        if position > len(content):
            raise UnreadableDatasetError("the file ends inside its file meta information")
    return position


def _meta(encoded: bytes) -> FileMeta:
    wanted = {_SOP_CLASS, _SOP_INSTANCE, _SYNTAX, _SOURCE}
    found = find_elements(encoded, ExplicitVRLittleEndian, wanted, groups=range(2, 3))
    text = {tag: found.get(tag, b"").rstrip(b"\0 ").decode("ascii", errors="replace") for tag in wanted}
    return FileMeta(text[_SOP_CLASS], text[_SOP_INSTANCE], text[_SYNTAX], text[_SOURCE].strip())


def dataset_digest(path: Path) -> str:
    """Return the SHA-256 of the Data Set inside a file, the same sum as of the bytes that were received.

    Raises:
        UnreadableDatasetError: it is not a DICOM file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _, offset = split_file(file.read(HEAD_BYTES))
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").hexdigest()
