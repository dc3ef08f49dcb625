"""What an audit event is, byte for byte: its canonical body (RFC 8785), and what of it is kept apart.

The body goes into the chain and stays. What names or describes a patient is not in it: such values stand in
``audit_private``, and the body holds a keyed digest of each, so that erasing the values and their key leaves the
chain whole and the digests without meaning (docs/audit.md).
"""

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any
from uuid import uuid4

import rfc8785

VERSION = 1
CARRIED = 0  # version of bodies that the migration made from rows recorded before there was a chain
ERASED = "[erased]"
# details that name a patient, or by which one is found ("gone" and "stays" are the ids of a merge, "filters" is what
# a reader searched for and kept)
PRIVATE = frozenset(
    ("accession", "accession_number", "birth_date", "filler", "filler_order_number", "filters", "gone", "indication",
     "issuer_of_patient_id", "other_patient_ids", "patient", "patient_birth_date", "patient_id", "patient_name",
     "patient_sex", "placer", "placer_order_number", "search", "stays", "visit_number")
)  # fmt: skip
# details in people's or peers' own words; private where the event is about a patient
FREE_TEXT = frozenset(
    ("after", "answer", "before", "comment", "instruction", "no_read_back_reason", "note", "question", "reached",
     "sentence", "text", "what", "words")
)  # fmt: skip
# a reason: of a process it is one of our own sentences, unless it repeats what another system answered
REASONS = frozenset(("error", "reason"))
REPEATING = frozenset(("commitment", "delivery", "notice", "prior", "workitem"))  # subjects of such processes' events
# what an event can be about without naming a Study, and yet be about one patient
ABOUT_A_PATIENT = frozenset(("expectation", "instance", "message", "order", "quarantined", "workitem"))
PRIVATE_OBJECTS = frozenset(("accession", "patient"))  # kinds of object whose id is a patient's
_OBJECT = "object_id"
_INTEGERS = 2**53 - 1  # the largest that every reader of JSON has exactly


@dataclass(frozen=True)
class Sheet:
    """One event as it is written: the canonical body, and the values kept apart with the key of their digests."""

    occurred_at: datetime
    body: bytes  # RFC 8785, UTF-8
    key: str  # hex; empty when nothing is kept apart
    private: dict[str, Any]

    @property
    def content(self) -> str:
        """The values kept apart as JSON."""
        return json.dumps(self.private) if self.private else ""


def sheet(about: Mapping[str, Any], detail: Mapping[str, Any], *, occurred_at: datetime) -> Sheet:
    """Return an event's sheet.

    Args:
        about: the columns of ``audit_event`` that say who and what (``None`` and empty ones are left out).
        detail: what else is said; names in ``PRIVATE``, and in ``FREE_TEXT`` of an event about a patient, go apart.
        occurred_at: instant, with time zone; kept to the microsecond.
    """
    open_part, private = _divided(dict(about), detail)
    key = secrets.token_hex(32) if private else ""
    body = {
        "v": VERSION,
        "id": uuid4().hex,  # the same words twice are two events
        "at": instant(occurred_at),
        **{name: _plain(value) for name, value in open_part.items() if value is not None and value != ""},
    }
    if private:
        body["private"] = {name: private_digest(key, name, value) for name, value in private.items()}
    return Sheet(occurred_at, canonical(body), key, private)


def _divided(about: dict[str, Any], detail: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is said openly, and what is kept apart."""
    plain = {str(name): _plain(value) for name, value in detail.items()}
    if about.get("object_type") in PRIVATE_OBJECTS and about.get(_OBJECT):
        plain[_OBJECT] = about.pop(_OBJECT)
    apart = _apart(about)
    private = {name: value for name, value in plain.items() if name in apart and value not in ("", None)}
    said = {name: value for name, value in plain.items() if name not in private}
    return {**about, "detail": said or None}, private


_OPEN = PRIVATE | {_OBJECT}
_WORDS = _OPEN | FREE_TEXT
_ALL = _WORDS | REASONS


def _apart(about: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of details that are kept apart in an event."""
    of_patient = any(about.get(name) for name in ("study_id", "reading_id", "report_id"))
    if not of_patient and about.get("object_type") not in ABOUT_A_PATIENT:
        return _OPEN
    ours = about.get("kind") == "process" and str(about.get("tag")).partition(":")[0] not in REPEATING
    return _WORDS if ours else _ALL


def canonical(value: Any) -> bytes:
    """Return the JSON of ``value`` in its one canonical form (RFC 8785).

    The library does it for what it alone can: numbers with a fraction, and names beyond ASCII, whose order in UTF-16
    is another. For everything else the standard library writes the same bytes, in a tenth of the time.
    """
    return _write(value).encode("utf-8") if _is_simple(value) else rfc8785.dumps(value)


_write = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _is_simple(value: Any) -> bool:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return abs(int(value)) <= _INTEGERS
    if kind is dict:
        return all(type(name) is str and name.isascii() and _is_simple(one) for name, one in value.items())
    return kind is list and all(map(_is_simple, value))


def instant(when: datetime) -> str:
    """Return an instant as RFC 3339 in UTC with microseconds: ``2026-11-23T04:05:06.000007Z``."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def private_digest(key: str, name: str, value: Any) -> str:
    """Return the keyed digest that stands in the body for a value kept apart: HMAC-SHA-256, hex."""
    return hmac.digest(bytes.fromhex(key), canonical([name, value]), "sha256").hex()


def private_holds(body: str, key: str, content: Mapping[str, Any]) -> bool:
    """Return whether values kept apart are those that the body has the digests of: all of them, and no others."""
    said = json.loads(body).get("private") or {}
    try:
        return bool(said) and said == {name: private_digest(key, name, value) for name, value in content.items()}
    except (TypeError, ValueError):  # no key, or what no digest was ever made of
        return False


def detail_of(body: str, private: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an event's details: what the body says, and what is kept apart; what was erased says so."""
    read = json.loads(body)
    kept = private or {}
    return {**read.get("detail", {}), **{name: kept.get(name, ERASED) for name in read.get("private", {})}}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; integers beyond 2^53 as text (RFC 8785 has IEEE numbers only)."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is bool or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, int):
        return int(value) if abs(value) <= _INTEGERS else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    return instant(value) if isinstance(value, datetime) else _text(str(value))


def _text(value: str) -> str:
    """Return what a database, and UTF-8, can hold of a text."""
    return value if value.isascii() and "\x00" not in value else _fitting(value)


def _fitting(value: str) -> str:
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
