"""What a search asks for: its parameters as values, refused where one is not understood."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from config.settings import Settings
from db.queries.fhir import Wanted, issuers_of, signed_study_uids
from publishing.documents import report_uid
from reports.fhir.datatypes import URI_SYSTEM, authority_system, clean, local_system

_SHOWN = frozenset({"_format", "_pretty"})
_PREFIXED = re.compile(r"(eq|ge|gt|le|lt)?(\d{4}(?:-\d\d(?:-\d\d)?)?)(T.+)?")
_DATES = "a date is like ge2026-11-22 or lt2026-11-22T10:00:00Z"
_MOST_ROWS = 100_000  # of an offset: who wants more should ask by _lastUpdated


@dataclass(frozen=True)
class Window:
    """Which part of what was found is wanted."""

    count: int
    offset: int


@dataclass(frozen=True)
class Span:
    """A span of time, from and up to but without."""

    since: datetime | None
    until: datetime | None


def check_known(args: "MultiDict[str, str]", known: Sequence[str]) -> None:
    """Refuse parameters that are not known: to pass over one would tell of more patients than was asked for.

    Raises:
        RefusedInputError: there is one.
    """
    if any("\0" in value for _, value in args.items(multi=True)):
        raise RefusedInputError("a search parameter has a character that no text has")
    unknown = sorted(set(args) - set(known) - _SHOWN)
    if unknown:
        raise RefusedInputError(f"search parameters are {', '.join(sorted(known))}; one of yours is none of them")


def number(args: "MultiDict[str, str]", name: str, default: int, most: int) -> int:
    """Return a number of 0 or more; a larger one than ``most`` is ``most``.

    Raises:
        RefusedInputError: it is none.
    """
    text = args.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise RefusedInputError(f"{name} is a number")
    return min(int(text), most)


def window(args: "MultiDict[str, str]", *, default: int, most: int) -> Window:
    """Return ``_count`` and ``_offset``."""
    return Window(number(args, "_count", default, most), number(args, "_offset", 0, _MOST_ROWS))


def span(text: str) -> Span:
    """Return what a date parameter asks for: a prefix, and a year, month, day or moment (FHIR R4 3.1.1.5.5).

    Days without a zone are UTC, which our times are in.

    Raises:
        RefusedInputError: it is none.
    """
    match = _PREFIXED.fullmatch(text)
    if match is None:
        raise RefusedInputError(_DATES)
    try:
        begin, end = _period(match[2], match[3])
    except (ValueError, OverflowError) as exc:
        raise RefusedInputError(_DATES) from exc
    since, until = {
        "ge": (begin, None),
        "gt": (end, None),
        "le": (None, end),
        "lt": (None, begin),
    }.get(match[1] or "eq", (begin, end))
    return Span(since, until)


def _period(day: str, time: str | None) -> tuple[datetime, datetime]:
    if time is not None:
        moment = datetime.fromisoformat(day + time.replace(" ", "+"))  # a plus sign in an address is a blank
        step = timedelta(seconds=1) if moment.microsecond == 0 else timedelta(milliseconds=1)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment, moment + step
    year, month, date = [*(int(one) for one in day.split("-")), 0, 0][:3]
    begin = datetime(year, month or 1, date or 1, tzinfo=UTC)
    if date:
        return begin, begin + timedelta(days=1)
    later = begin.replace(year=year + 1) if not month or month == 12 else begin.replace(month=month + 1)
    return begin, later.replace(month=1) if month == 12 else later


REPORT_PARAMETERS = (
    "_id", "identifier", "accession", "patient.identifier", "subject.identifier", "_lastUpdated", "_count", "_offset",
    "_include", "_revinclude",
)  # fmt: skip


def wanted_reports(args: "MultiDict[str, str]", db: Session, settings: Settings) -> Wanted:
    """Return which reports are asked for.

    Raises:
        RefusedInputError: a parameter that is unknown, empty or given twice.
    """
    check_known(args, REPORT_PARAMETERS)
    spans = [span(text) for text in args.getlist("_lastUpdated")]
    one = {name: single(args, name) for name in REPORT_PARAMETERS[:5]}
    report_ids = None if one["_id"] is None else [_id(text) for text in one["_id"].split(",")]
    accession = one["accession"]
    if one["identifier"] is not None:
        system, value = token(one["identifier"])
        if value.startswith("urn:oid:") and system in {None, URI_SYSTEM}:
            report_ids = _both(report_ids, _with_uid(db, value.removeprefix("urn:oid:")))
        elif system in {None, local_system("accession", clean(settings.organization))}:
            # two numbers at once: no report has both
            report_ids, accession = (report_ids, value) if accession in {None, value} else ([], None)
        else:
            report_ids = []
    patient = one["patient.identifier"] or one["subject.identifier"]
    patient_id, issuers = patient_issuers(db, settings, patient) if patient else (None, None)
    return Wanted(
        report_ids=report_ids,
        accession=accession,
        patient_id=patient_id,
        issuers=issuers,
        since=[one.since for one in spans if one.since],
        until=[one.until for one in spans if one.until],
    )


def token(text: str) -> tuple[str | None, str]:
    """Return system and value of a token; None for any system (FHIR R4 3.1.1.5.10).

    Raises:
        RefusedInputError: no value, or several.
    """
    pieces = re.split(r"(?<!\\)\|", text)
    if len(pieces) > 2 or not pieces[-1] or re.search(r"(?<!\\),", text):
        raise RefusedInputError("an identifier is value, or system|value")
    plain = [re.sub(r"\\(.)", r"\1", one) for one in pieces]
    return (plain[0] if len(plain) == 2 else None), plain[-1]


def single(args: "MultiDict[str, str]", name: str) -> str | None:
    """Return a parameter that may be given once; None when it is not.

    Raises:
        RefusedInputError: it is given twice, or without a value.
    """
    values = args.getlist(name)
    if len(values) > 1 or values == [""]:
        raise RefusedInputError(f"{name} is asked for once, and with a value")
    return values[0] if values else None


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)  # no report's


def _both(known: list[UUID] | None, found: list[UUID]) -> list[UUID]:
    return found if known is None else [one for one in found if one in known]


def _with_uid(db: Session, uid: str) -> list[UUID]:
    return [report_id for report_id, study in signed_study_uids(db) if report_uid(study) == uid]


def patient_issuers(db: Session, settings: Settings, text: str) -> tuple[str, list[str] | None]:
    """Return the Patient ID of a token, and the issuers it may have; None for any.

    Raises:
        RefusedInputError: it is no token.
    """
    system, value = token(text)
    if system is None:
        return value, None
    default = settings.hl7.authority or settings.organization
    return value, [one for one in issuers_of(db, value) if authority_system(one, default) == system]


def link(base: str, args: "MultiDict[str, str]", **changes: int) -> str:
    """Return the address of the same search with other numbers."""
    kept = [(name, value) for name, value in args.items(multi=True) if name not in changes]
    return f"{base}?{urlencode([*kept, *changes.items()])}"
