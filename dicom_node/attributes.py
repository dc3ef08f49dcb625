"""Attribute Lists of the normalised services: read once, checked, and what is wrong said by keyword, never by value."""

from collections.abc import Iterable
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode

from config.errors import InvalidUidError
from instances.elements import find_elements
from instances.header import valid_uid

SUCCESS = 0x0000
INVALID_VALUE = 0x0106  # PS3.7 annex C.5
PROCESSING_FAILURE = 0x0110
DUPLICATE_INSTANCE = 0x0111
NO_SUCH_INSTANCE = 0x0112
INVALID_INSTANCE = 0x0117
MISSING_ATTRIBUTE = 0x0120
MISSING_VALUE = 0x0121
RESOURCE_LIMITATION = 0x0213
_COMMENT_LENGTH = 64  # LO


def read_list(encoded: BytesIO | None, context: Any) -> Dataset:
    """Return an Attribute or Modification List; an empty one when the peer sent none.

    Args:
        encoded: as on the wire.
        context: the presentation context it came on.

    Raises:
        UnreadableDatasetError: it is no Data Set in its transfer syntax, or ends too early.
    """
    if encoded is None or not encoded.getbuffer():
        return Dataset()
    syntax = context.transfer_syntax
    # the walk is strict; what passes it, the library reads without surprises
    find_elements(encoded.getvalue(), str(syntax), ())
    encoded.seek(0)
    return decode(encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


def refusal(status: int, comment: str, *, error_id: int | None = None) -> Dataset:
    """Return a failed response: status, and what is wrong by keyword (PS3.7 C.5)."""
    response = Dataset()
    response.Status = status
    response.ErrorComment = comment[:_COMMENT_LENGTH]
    if error_id is not None:
        response.ErrorID = error_id
    return response


def lacking(ds: Dataset, keywords: Iterable[str]) -> Dataset | None:
    """Return the refusal of a list that lacks an attribute of type 1, or its value; None when all are there."""
    for keyword in keywords:
        if keyword not in ds:
            return refusal(MISSING_ATTRIBUTE, f"{keyword} is missing")
        if ds[keyword].is_empty:
            return refusal(MISSING_VALUE, f"{keyword} has no value")
    return None


def bad_uid(ds: Dataset, keyword: str) -> Dataset | None:
    """Return the refusal of a list whose UID is absent, empty or none; None when it is one."""
    missing = lacking(ds, (keyword,))
    if missing is not None:
        return missing
    try:
        valid_uid(str(ds[keyword].value), what=keyword)
    except InvalidUidError:
        return refusal(INVALID_VALUE, f"{keyword} is no UID")
    return None


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; none when it is absent, empty, or not encoded as a sequence."""
    if keyword not in ds or ds[keyword].VR != "SQ":
        return []
    return list(ds[keyword].value or [])
