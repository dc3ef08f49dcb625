"""Reading what a person gave for a question's parameters."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from uuid import UUID

from config.errors import RefusedInputError
from db.queries.audit.questions import Answers, Kind, Parameter, Question, Value
from db.types import utcnow

_DAYS_AGO = re.compile(r"-(\d{1,5})d")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # what no database can compare with


def read(question: Question, given: Mapping[str, str], *, zone: tzinfo | None = None) -> Answers:
    """Return a question's answers.

    Args:
        question: whose parameters they are.
        given: text by name; empty means not given.
        zone: days are days of this zone; of the system's when None.

    Raises:
        RefusedInputError: a parameter is missing, unknown or not what it should be; it is named, its value is not.
    """
    unknown = sorted(set(given) - {one.name for one in question.parameters})
    if unknown:
        raise RefusedInputError(f"{question.name} has no parameter {unknown[0][:40]!r}")
    texts: dict[str, str] = {}
    values: dict[str, Value] = {}
    for one in question.parameters:
        texts[one.name], values[one.name] = _read_one(one, given.get(one.name, "").strip() or one.default, zone)
    answers = Answers(values, {name: text for name, text in texts.items() if text})
    if {"since", "until"} <= values.keys():
        since, until = answers.instant("since"), answers.instant("until")
        if since is not None and until is not None and since >= until:
            raise RefusedInputError("until: it is not after since")
    return answers


def _read_one(parameter: Parameter, text: str, zone: tzinfo | None) -> tuple[str, Value]:
    """Return the text, days written out, and its value."""
    if not text:
        if parameter.required:
            raise RefusedInputError(f"{parameter.name}: it is needed")
        return "", None
    if len(text) > parameter.longest or _UNSTORABLE.search(text):
        raise RefusedInputError(f"{parameter.name}: at most {parameter.longest} characters of text")
    try:
        if parameter.kind is Kind.DATE:
            return _day(text, parameter.ends, zone)
        return text, _READERS[parameter.kind](parameter, text)
    except (ValueError, OverflowError):
        raise RefusedInputError(f"{parameter.name}: {_WANTED[parameter.kind]}") from None


def _day(text: str, ends: bool, zone: tzinfo | None) -> tuple[str, datetime]:
    if text[10:11] in {"T", "t"}:
        return text, _instant(text)
    ago = _DAYS_AGO.fullmatch(text)
    if text == "today" or ago:
        day = utcnow().astimezone(zone).date() - timedelta(days=int(ago[1]) if ago else 0)
    else:
        day = date.fromisoformat(text)
    start = datetime.combine(day + timedelta(days=1 if ends else 0), time.min, tzinfo=zone)
    return day.isoformat(), start.astimezone(UTC)  # without a zone: of the system, its summer time included


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment.astimezone(UTC)


def _number(parameter: Parameter, text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or not parameter.least <= number <= parameter.most:
        raise ValueError("outside")
    return number


def _choice(parameter: Parameter, text: str) -> str:
    if text not in parameter.choices:
        raise RefusedInputError(f"{parameter.name}: one of {', '.join(parameter.choices)}")
    return text


_READERS: Mapping[Kind, Callable[[Parameter, str], Value]] = {
    Kind.INSTANT: lambda _, text: _instant(text),
    Kind.TEXT: lambda _, text: text,
    Kind.UUID: lambda _, text: UUID(text),
    Kind.CHOICE: _choice,
    Kind.NUMBER: _number,
}
_WANTED: Mapping[Kind, str] = {
    Kind.DATE: "a day (2026-11-22), today, -30d, or an instant with its zone (2026-11-22T08:00:00+01:00)",
    Kind.INSTANT: "an instant with its zone (2026-11-22T08:00:00+01:00)",
    Kind.TEXT: "a text",
    Kind.UUID: "an id (8-4-4-4-12 hexadecimal digits)",
    Kind.CHOICE: "one of the choices",
    Kind.NUMBER: "a number within its limits",
}
