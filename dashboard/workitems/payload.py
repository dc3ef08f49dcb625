"""A Data Set that a client sends, in the DICOM JSON Model (PS3.18 Annex F): checked before anything believes it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import Tag

from config.errors import BrokenBodyError, InvalidUidError, RefusedInputError
from instances.header import valid_uid

Element = dict[str, Any]
_DEEPEST = 8
_MOST = 20_000  # elements and values
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_LONGEST = {
    "AE": 16, "AS": 4, "CS": 16, "DA": 8, "DT": 26, "LO": 64, "LT": 10_240, "PN": 64, "SH": 16, "ST": 1024, "TM": 14,
}  # fmt: skip
_PATTERNS = {
    "AE": re.compile(r"[ -\[\]-~]*"),
    "AS": re.compile(r"(\d{3}[DWMY])?"),
    "CS": re.compile(r"[A-Z0-9_ ]*"),
    "DA": re.compile(r"(\d{8})?"),
    "DT": re.compile(r"(\d{4}(\d{2}){0,5}(\.\d{1,6})?([+-]\d{4})?)?"),
    "TM": re.compile(r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?"),
    "UR": re.compile(r"[!-~]*"),
    "AT": re.compile(r"[0-9A-Fa-f]{8}"),
}
_PARAGRAPHS = frozenset({"LT", "ST", "UT"})
_TEXTS = frozenset({*_LONGEST, "UC", "UR", "UT", "AT"}) - {"PN"}
_WHOLE = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_NUMBERS = frozenset({"DS", "FL", "FD"})
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_BREAKS = re.compile(r"[\t\n\f\r]")
_GROUPS = frozenset({"Alphabetic", "Ideographic", "Phonetic"})


@dataclass
class Payload:
    """What was sent: elements by tag, upper case; and the tags of those that nobody here knows, which are left out."""

    elements: dict[str, Element]
    dropped: list[str] = field(default_factory=list)


def read_payload(body: bytes, *, may_be_empty: bool = False) -> Payload:
    """Return the one Data Set of a request's body.

    Raises:
        BrokenBodyError: no JSON, no Data Set or more than one.
        RefusedInputError: a VR that is not the attribute's, a value that its VR does not allow, bulk data.
    """
    if may_be_empty and not body.strip():
        return Payload({})
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BrokenBodyError("the body is no JSON") from exc
    if isinstance(found, list):
        if len(found) != 1 and not (may_be_empty and not found):
            raise BrokenBodyError("the body holds one Data Set")
        found = found[0] if found else {}
    if not isinstance(found, dict):
        raise BrokenBodyError("the body is no Data Set in the DICOM JSON Model")
    reader = _Reader()
    return Payload(reader.dataset(found, 0), reader.dropped)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


class _Reader:
    def __init__(self) -> None:
        self.dropped: list[str] = []
        self._left = _MOST

    def dataset(self, found: Mapping[str, Any], depth: int) -> dict[str, Element]:
        if depth > _DEEPEST:
            raise RefusedInputError(f"sequences are nested deeper than {_DEEPEST}")
        kept = {}
        for name, element in found.items():
            self._count()
            if not _TAG.fullmatch(name):
                raise RefusedInputError("a member is named by eight hexadecimal digits")
            tag = name.upper()
            keyword = keyword_for_tag(int(tag, 16))
            if not keyword or int(tag[:4], 16) < 8 or int(tag[:4], 16) % 2:
                self.dropped.append(tag)
                continue
            kept[tag] = self._element(keyword, tag, element, depth)
        return dict(sorted(kept.items()))

    def _element(self, keyword: str, tag: str, element: Any, depth: int) -> Element:
        if not isinstance(element, dict) or "vr" not in element:
            raise RefusedInputError(f"{keyword} is no element")
        if set(element) - {"vr", "Value"}:
            raise RefusedInputError(f"{keyword} holds bulk data, which a workitem has none of")
        vr = element["vr"]
        if vr not in dictionary_VR(Tag(int(tag, 16))).split(" or "):
            raise RefusedInputError(f"{keyword} has another value representation")
        values = element.get("Value", [])
        if not isinstance(values, list):
            raise RefusedInputError(f"the Value of {keyword} is no list")
        self._count(len(values))
        if vr == "SQ":
            values = [self._item(keyword, value, depth) for value in values]
        else:
            values = [_checked(keyword, vr, value) for value in values if value is not None]
        return {"vr": vr, "Value": values} if values else {"vr": vr}

    def _item(self, keyword: str, value: Any, depth: int) -> dict[str, Element]:
        if not isinstance(value, dict):
            raise RefusedInputError(f"an item of {keyword} is no Data Set")
        return self.dataset(value, depth + 1)

    def _count(self, number: int = 1) -> None:
        self._left -= number
        if self._left < 0:
            raise RefusedInputError(f"more than {_MOST} elements and values")


def _checked(keyword: str, vr: str, value: Any) -> Any:
    kinds: tuple[tuple[frozenset[str], Callable[[str, str, Any], Any]], ...] = (
        (_TEXTS, _text),
        (frozenset({"PN"}), _name),
        (frozenset({"UI"}), _uid),
        (_WHOLE, _whole),
        (_NUMBERS, _number),
    )
    for representations, check in kinds:
        if vr in representations:
            return check(keyword, vr, value)
    raise RefusedInputError(f"{keyword} holds bulk data, which a workitem has none of")


def _text(keyword: str, vr: str, value: Any) -> str:
    if not isinstance(value, str) or not _is_printable(value, paragraphs=vr in _PARAGRAPHS):
        raise RefusedInputError(f"{keyword} is text")
    pattern = _PATTERNS.get(vr)
    if len(value) > _LONGEST.get(vr, len(value)) or (pattern and not pattern.fullmatch(value)):
        raise RefusedInputError(f"{keyword} is no {vr}")
    return value


def _is_printable(value: str, *, paragraphs: bool) -> bool:
    if _CONTROLS.search(value) or (not paragraphs and _BREAKS.search(value)):
        return False
    return not any("\ud800" <= sign <= "\udfff" for sign in value)  # half of a character: no UTF-8


def _name(keyword: str, vr: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) - _GROUPS:
        raise RefusedInputError(f"{keyword} is a name of component groups")
    return {group: _text(keyword, vr, text) for group, text in value.items() if text}


def _uid(keyword: str, vr: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidUidError(f"{keyword} is no {vr}")
    return valid_uid(value, what=keyword)


def _whole(keyword: str, vr: str, value: Any) -> int:
    if isinstance(value, str) and vr == "IS" and re.fullmatch(r"\s*[+-]?\d{1,10}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 64:
        raise RefusedInputError(f"{keyword} is a whole number")
    return value


def _number(keyword: str, vr: str, value: Any) -> float | int | str:
    if isinstance(value, str) and vr == "DS" and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", value):
        return value.strip()[:16]
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise RefusedInputError(f"{keyword} is a number")
    return value
