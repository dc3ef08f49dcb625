"""What a search, or the filter of a subscription, asks for (PS3.18 sections 8.3.4 and 11.9)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydicom.datadict import keyword_for_tag
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from dashboard.dicomweb.model import tag_of
from dashboard.workitems.requirements import instant
from db.workitem_matching import INSTANTS, Key, Wanted
from instances.header import valid_uid

MOST = 1000
_CONTROLS = frozenset({
    "accept", "emptyvaluematching", "fuzzymatching", "includefield", "limit", "multiplevaluematching", "offset",
})  # fmt: skip
_UIDS = frozenset({Key.UID, Key.STUDY, Key.INPUT_STUDY})
_WORDS = frozenset({Key.STATE, Key.READINESS, Key.PRIORITY})
_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
_UNITS = ((4, 365), (6, 28), (8, 1))


@dataclass
class Query:
    """What one search asks for."""

    wanted: list[Wanted] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)  # to be answered, empty where they have no value
    is_whole: bool = False
    limit: int = MOST
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


def parse(args: MultiDict[str, str]) -> Query:
    """Return the query of an address.

    Raises:
        RefusedInputError: a parameter that is no attribute, or a value that its VR does not allow.
    """
    query = Query()
    for name, values in args.lists():
        if name.lower() not in _CONTROLS:
            _add(query, name, values)
    limit, offset = _count(args, "limit"), _count(args, "offset")
    query.limit, query.offset = min(MOST if limit is None else limit, MOST), offset or 0
    if args.get("fuzzymatching", "false").lower() not in {"false", ""}:
        query.warnings.append(_FUZZY)
    for value in (part.strip() for given in args.getlist("includefield") for part in given.split(",")):
        if value.lower() == "all":
            query.is_whole = True
        elif value:
            query.keywords.append(_path(value)[0])
    query.is_whole |= bool({"InputInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence"} & {
        *query.keywords
    })  # fmt: skip
    return query


def parse_filter(given: str) -> list[Wanted]:
    """Return the keys of ``attribute=value,attribute=value``; a comma of a value is not followed by ``name=``.

    Raises:
        RefusedInputError: no key, or one that is not matched by.
    """
    query = Query()
    for pair in re.split(r",(?=[A-Za-z0-9.]+=)", given):
        name, sign, value = pair.partition("=")
        if not sign or not value.strip():
            raise RefusedInputError("a filter is a list of attribute=value")
        _add(query, name.strip(), [value])
    if query.warnings or not query.wanted:
        raise RefusedInputError("a filter names attributes that workitems are matched by, with values")
    return query.wanted


def _add(query: Query, name: str, values: list[str]) -> None:
    path = _path(name)
    query.keywords.append(path[0])
    try:
        key = Key(".".join(path))
    except ValueError:
        query.warnings.append(f"The attribute {'.'.join(path)} is not supported for matching and was ignored.")
        return
    wanted = _wanted(key, values)
    if wanted is not None:
        query.wanted.append(wanted)


def _path(name: str) -> list[str]:
    """Return the keywords of an attribute's path, given by keywords or tags."""
    path = []
    for step in name.split("."):
        tag = tag_of(step)
        keyword = keyword_for_tag(tag) if tag is not None else ""
        if not keyword:
            raise RefusedInputError(f"{step[:64]!r} is no attribute")
        path.append(keyword)
    return path


def _wanted(key: Key, values: list[str]) -> Wanted | None:
    """Return the matching that values ask for; None for universal matching (PS3.4 C.2.2.2)."""
    values = [value.strip() for value in values]
    if key in _UIDS | _WORDS:
        values = [part for value in values for part in re.split(r"[,\\]", value)]
    values = [value for value in values if value]
    if not values or values == ["*"]:
        return None
    if key in _UIDS:
        values = [valid_uid(value, what=key.value) for value in values]
    elif key in INSTANTS:
        return _range(key, values)
    elif len(values) > 1 and key not in _WORDS:
        raise RefusedInputError(f"{key.value} is given more than once")
    return Wanted(key, tuple(values))


def _range(key: Key, values: list[str]) -> Wanted:
    """Return the range of a DateTime: ``a-b``, ``a-``, ``-b`` or ``a``; offsets may hold a minus sign themselves."""
    if len(values) > 1:
        raise RefusedInputError(f"{key.value} is given more than once")
    # a plus sign in an address is a blank; four digits after a minus sign at an end are its offset
    text = re.sub(r" (\d{4})", r"+\1", values[0])
    match = re.fullmatch(r"([\d.]+(?:[+-]\d{4}(?=-|$))?)?(-)?([\d.]+(?:[+-]\d{4})?)?", text)
    if match is None or not (match[1] or match[3]):
        raise RefusedInputError(f"{key.value} is a DateTime or a range of two")
    low, dash, high = match[1], match[2], match[3]
    if not dash:
        high = low
    return Wanted(key, since=instant(low) if low else None, until=_end(high) if high else None)


def _end(value: str) -> datetime:
    """Return the last instant that a DateTime of this precision covers (PS3.5 section 6.2, note 2 of DT)."""
    digits = re.match(r"\d*", value)
    length = len(digits[0]) if digits else 0
    found = instant(value)
    if "." in value:
        return found
    spans = {14: timedelta(seconds=1), 12: timedelta(minutes=1), 10: timedelta(hours=1), 8: timedelta(days=1)}
    if length in spans:
        return found + spans[length] - timedelta(microseconds=1)
    days = 365 if length == 4 else 31
    return found + timedelta(days=days)


def _count(args: MultiDict[str, str], name: str) -> int | None:
    value = args.get(name, "")
    if value and not re.fullmatch(r"\d{1,9}", value):
        raise RefusedInputError(f"{name} is a number, 0 or more")
    return int(value) if value else None


def bare_parameter(names: Iterable[str], args: MultiDict[str, str]) -> str:
    """Return a UID given as ``?name=uid`` by any of ``names``, or as ``?uid`` alone, as PS3.18 writes it."""
    for name in names:
        if args.get(name):
            return str(args[name])
    alone = [key for key, value in args.items() if not value and re.fullmatch(r"[0-9.]{1,64}", key)]
    return alone[0] if len(alone) == 1 else ""
