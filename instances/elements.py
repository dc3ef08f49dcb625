"""Walk an encoded Data Set from end to end without decoding it: structure checked, wanted values returned.

A full parser raises whatever its author did not foresee; for bytes from a network every departure has
to be one typed error. The walk jumps over values, pixel data included, so it costs microseconds.
"""

import struct
import zlib
from collections.abc import Collection

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from config.errors import UnreadableDatasetError

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_MAX_DEPTH = 48
_MAX_INFLATED = 1 << 30
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_SHORT = struct.Struct("<HH2sH")  # an element header in Explicit VR with a 16-bit length (PS3.5 table 7.1-2)
_TAG = struct.Struct("<HH")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")


class BeyondError(Exception):
    """What was asked lies beyond the beginning of the Data Set that was given."""


_DATASET_GROUPS = range(0x0008, 0xFFFE)  # below stand command, file meta and directory elements (PS3.5 7.1)


def find_elements(
    data: bytes | memoryview,
    transfer_syntax_uid: str,
    wanted: Collection[int],
    *,
    groups: range = _DATASET_GROUPS,
    size: int | None = None,
) -> dict[int, bytes]:
    """Return the encoded values of the ``wanted`` top-level elements that ``data`` holds.

    Args:
        data: a Data Set as on the wire, without file meta information (PS3.5 section 7, PS3.10 section 7).
        transfer_syntax_uid: how it is encoded.
        wanted: tags as ``0xGGGGEEEE``.
        groups: group numbers that may stand at the top level.
        size: of the whole Data Set, when ``data`` is only its beginning.

    Raises:
        BeyondError: its beginning is not enough.
        UnreadableDatasetError: it is not a Data Set in this transfer syntax, or it ends too early. What is
            said names tags and lengths only, never a value.
    """
    if transfer_syntax_uid == ExplicitVRBigEndian:
        raise UnreadableDatasetError("Explicit VR Big Endian is retired and not read")
    size = len(data) if size is None else size
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        if size > len(data):
            raise BeyondError
        data = inflate(data)
        size = len(data)
    if not size:
        raise UnreadableDatasetError("the Data Set is empty")
    return _Walk(data, groups, size).top(implicit=transfer_syntax_uid == ImplicitVRLittleEndian, wanted=wanted)


def inflate(data: bytes | memoryview) -> bytes:
    """Return a deflated Data Set inflated (PS3.5 A.5: raw deflate, padded to even length).

    Raises:
        UnreadableDatasetError: damaged, cut short, or larger than 1 GiB when inflated.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _MAX_INFLATED)
    except zlib.error as exc:
        raise UnreadableDatasetError("the deflated Data Set is damaged") from exc
    if not inflater.eof:
        raise UnreadableDatasetError("the deflated Data Set ends too early, or is too large")
    return inflated


class _Walk:
    """One pass over one Data Set; positions are byte offsets into it."""

    def __init__(self, data: bytes | memoryview, groups: range, size: int) -> None:
        self._data = data
        self._groups = groups
        self._end = size
        self._held = len(data)  # the bytes that can be looked at

    def top(self, *, implicit: bool, wanted: Collection[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        position = 0
        while self._end - position >= 8:
            self._require(min(position + 12, self._end))
            tag, start, stop = self._short(position) if not implicit else (0, 0, 0)
            if not tag or stop > self._end:
                tag, start, stop = self._element(position, implicit, 0)
            if tag >> 16 not in self._groups:
                raise UnreadableDatasetError(f"{_named(tag)} has no place in a Data Set")
            if tag in wanted:
                if tag in found:
                    raise UnreadableDatasetError(f"{_named(tag)} stands twice in the Data Set")
                self._require(stop)
                found[tag] = bytes(self._data[start:stop])
            position = stop
        if position < self._end:
            self._require(self._end)
        if any(bytes(self._data[position : self._end])):
            raise UnreadableDatasetError(f"{self._end - position} stray bytes at the end")
        return found

    def _require(self, stop: int) -> None:
        if stop > self._held:
            raise BeyondError

    def _short(self, position: int) -> tuple[int, int, int]:
        """Return what :meth:`_element` does, quickly, for the most usual kind of element; zeros for any other."""
        group, number, vr, length = _SHORT.unpack_from(self._data, position)
        if vr not in _SHORT_VRS:
            return 0, 0, 0
        return group << 16 | number, position + 8, position + 8 + length

    def _element(self, position: int, implicit: bool, depth: int) -> tuple[int, int, int]:
        """Return tag, value start and the position after the element."""
        if self._end - position < 8:
            raise UnreadableDatasetError(f"the Data Set ends inside an element header at byte {position}")
        self._require(min(position + 12, self._end))
        group, number = _TAG.unpack_from(self._data, position)
        tag = group << 16 | number
        # a copy at once: a slice that an error carries away would keep a mapped file open
        vr = b"" if implicit else bytes(self._data[position + 4 : position + 6])
        start, length = self._length(position, tag, vr)
        if length == _UNDEFINED:
            # the content of an UN of undefined length is Implicit VR (PS3.5 section 6.2.2)
            return tag, start, self._items(start, implicit or vr == b"UN", depth + 1)
        stop = start + length
        if stop > self._end:
            raise UnreadableDatasetError(f"{_named(tag)} announces {length} bytes, {self._end - start} follow")
        return tag, start, stop

    def _length(self, position: int, tag: int, vr: bytes) -> tuple[int, int]:
        if not vr:
            return position + 8, _U32.unpack_from(self._data, position + 4)[0]
        if not (vr.isalpha() and vr.isupper()):
            raise UnreadableDatasetError(f"{_named(tag)} has no value representation")
        if vr not in _LONG_VRS:
            return position + 8, _U16.unpack_from(self._data, position + 6)[0]
        if self._end - position < 12:
            raise UnreadableDatasetError(f"the Data Set ends inside the header of {_named(tag)}")
        return position + 12, _U32.unpack_from(self._data, position + 8)[0]

    def _items(self, position: int, implicit: bool, depth: int) -> int:
        """Return the position after the Sequence Delimitation Item of a value of undefined length."""
        if depth > _MAX_DEPTH:
            raise UnreadableDatasetError(f"sequences are nested more than {_MAX_DEPTH} deep")
        while True:
            tag, length = self._item_header(position)
            position += 8
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise UnreadableDatasetError(f"{_named(tag)} where an item should begin")
            if length == _UNDEFINED:
                position = self._open_item(position, implicit, depth)
            elif length > self._end - position:
                raise UnreadableDatasetError(f"an item announces {length} bytes, {self._end - position} follow")
            else:
                position += length

    def _open_item(self, position: int, implicit: bool, depth: int) -> int:
        """Return the position after the Item Delimitation Item of an item of undefined length."""
        while True:
            tag, _ = self._item_header(position)
            if tag == _ITEM_END:
                return position + 8
            _, _, position = self._element(position, implicit, depth)

    def _item_header(self, position: int) -> tuple[int, int]:
        if self._end - position < 8:
            raise UnreadableDatasetError(f"the Data Set ends inside a sequence at byte {position}")
        self._require(position + 8)
        group, number = _TAG.unpack_from(self._data, position)
        return group << 16 | number, _U32.unpack_from(self._data, position + 4)[0]


def _named(tag: int) -> str:
    return f"({tag >> 16:04x},{tag & 0xFFFF:04x})"
