"""The DICOM JSON Model (PS3.18 Annex F): Data Sets as JSON, large binary values as addresses."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag, Tag

from dashboard.pixels import DECODE_ERRORS

MEDIA_TYPE = "application/dicom+json"
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_LARGEST_INLINE = 1024
_CHARACTER_SET = 0x00080005
_UTF_8 = "ISO_IR 192"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def json_model(ds: Dataset, *, bulk_address: str = "") -> dict[str, Any]:
    """Return ``ds`` in the DICOM JSON Model.

    Values that pydicom cannot decode are left out: one broken element must not hide a Study.

    Args:
        ds: any Data Set, without its file meta information.
        bulk_address: address of its bulk data; larger binary values are replaced by a Bulk Data URI below it.
    """
    out: dict[str, Any] = {}
    for tag in sorted(ds.keys()):
        if tag.element == 0:  # group length: of an encoding that is gone
            continue
        try:
            out[f"{tag:08X}"] = _element(ds[tag], f"{bulk_address}/{tag:08X}" if bulk_address else "")
        except DECODE_ERRORS:
            continue
    if f"{_CHARACTER_SET:08X}" in out:  # JSON is UTF-8, whatever the Data Set was (section F.2.1)
        out[f"{_CHARACTER_SET:08X}"] = {"vr": "CS", "Value": [_UTF_8]}
    return out


def _element(element: DataElement, bulk_address: str) -> dict[str, Any]:
    if element.VR == "SQ":
        items = [
            json_model(item, bulk_address=f"{bulk_address}/{index}" if bulk_address else "")
            for index, item in enumerate(element.value)
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    vr = element.VR if len(element.VR) == 2 else "OW"  # pydicom's "OB or OW"
    if vr in _BINARY and bulk_address and isinstance(element.value, bytes) and len(element.value) > _LARGEST_INLINE:
        return {"vr": vr, "BulkDataURI": bulk_address}
    made: dict[str, Any] = element.to_json_dict(None, 1 << 40)
    if "Value" in made:
        made["Value"] = [_finite(value) for value in made["Value"]]
    return made


def _finite(value: Any) -> Any:
    """Return what JSON can hold: it has no NaN (section F.2.2, note 3)."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values by keyword in the DICOM JSON Model; None, ``""`` and ``[]`` are attributes without one."""
    out = {}
    for keyword, value in values.items():
        tag, vr = _entry(keyword)
        held = value if isinstance(value, list) else [value] if value not in {None, ""} else []
        if vr == "PN":
            held = [
                {group: part for group, part in zip(_GROUPS, name.split("="), strict=False) if part} for name in held
            ]
        out[tag] = {"vr": vr, "Value": held} if held else {"vr": vr}
    return out


@cache
def _entry(keyword: str) -> tuple[str, str]:
    """Return the tag of an attribute, as JSON names it, and its VR."""
    return f"{tag_for_keyword(keyword):08X}", dictionary_VR(keyword)


def json_pieces(models: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield a JSON list one member at a time."""
    before = b"["
    for one in models:
        yield before + json.dumps(one, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        before = b","
    yield b"[]" if before == b"[" else b"]"


def tag_of(name: str) -> BaseTag | None:
    """Return the tag of ``GGGGEEEE`` or a keyword; None for anything else."""
    if len(name) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in name):
        return Tag(int(name, 16))
    tag = tag_for_keyword(name)
    return None if tag is None else Tag(tag)


def bulk_element(ds: Dataset, path: str) -> DataElement | None:
    """Return the element a Bulk Data URI ends with (tags, item numbers between them); None when it is not there."""
    steps = path.split("/")
    holder: Dataset | None = ds
    for name, number in zip(steps[0:-1:2], steps[1:-1:2], strict=False):
        holder = _item(holder, name, number) if holder is not None else None
    tag = tag_of(steps[-1])
    if holder is None or tag is None or tag not in holder or len(steps) % 2 == 0:
        return None
    return holder[tag]


def _item(ds: Dataset, name: str, number: str) -> Dataset | None:
    tag = tag_of(name)
    if tag is None or tag not in ds or ds[tag].VR != "SQ" or not number.isdigit():
        return None
    items = ds[tag].value
    found: Dataset | None = items[int(number)] if int(number) < len(items) else None
    return found
