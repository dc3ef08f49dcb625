"""What a named question to the audit trail is: parameters, columns, and the query that answers a page of it.

A module of questions has a list ``QUESTIONS``; ``db.queries.audit.ALL`` is made of these lists. A question's ``run``
gets parsed answers to its parameters and a page, and changes nothing. How to ask one is in ``asking``; keyset pages
are in ``keyset``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import cast
from uuid import UUID

from sqlalchemy.orm import Session

Cell = str | int | float | bool | datetime | UUID | None
Value = str | float | datetime | UUID | None
MOST_ROWS = 500  # on a page


class Kind(StrEnum):
    """How a parameter is written, and what its value is."""

    DATE = "date"  # a day of site time, or an instant; its value is an instant
    INSTANT = "instant"  # RFC 3339, with its zone
    TEXT = "text"
    UUID = "uuid"
    CHOICE = "choice"
    NUMBER = "number"


class Audience(StrEnum):
    """Whose question it is; the values are those of ``dashboard.permissions.Permission``."""

    AUDIT = "audit"
    QUALITY = "audit_quality"  # about drafts and readers, without patients: leads may ask it too


class Shown(StrEnum):
    """What a column holds, for whoever prints it."""

    TEXT = "text"
    CODE = "code"  # hashes, UIDs, tags
    NUMBER = "number"
    INSTANT = "instant"
    STUDY = "study"  # the id of a Study, which has a page
    YES_NO = "yes-no"


@dataclass(frozen=True)
class Parameter:
    """One thing a question wants to know.

    Attributes:
        name: as in forms, ``--set name=value`` and exports.
        default: text as a person would give it; ``today`` and ``-30d`` are days before today.
        choices: of ``Kind.CHOICE``, each with its words.
        private: it names a patient: never in an address, and apart from the chain in the event of the asking.
        ends: a day stands for its end, not its start.
        least, most: of ``Kind.NUMBER``.
        longest: of ``Kind.TEXT``, characters.
    """

    name: str
    kind: Kind
    label: str
    required: bool = False
    default: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    private: bool = False
    ends: bool = False
    least: float = 0.0
    most: float = 1e9
    longest: int = 200
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """One column of the answer; ``name`` is its key in JSON."""

    name: str
    label: str
    shown: Shown = Shown.TEXT


@dataclass(frozen=True)
class Answers:
    """What was given for a question's parameters.

    Attributes:
        values: parsed, by name; None where nothing was given.
        given: as text, defaults filled in, days written out; empty ones left out.
    """

    values: Mapping[str, Value]
    given: Mapping[str, str]

    def text(self, name: str) -> str:
        """Return a text or choice; empty when it was not given."""
        return cast("str", self.values[name] or "")

    def number(self, name: str) -> float:
        """Return a number that has a default or is required."""
        return cast("float", self.values[name])

    def uuid(self, name: str) -> UUID | None:
        """Return an id, or None."""
        return cast("UUID | None", self.values[name])

    def instant(self, name: str) -> datetime | None:
        """Return an instant: of a day its start, or its end where the parameter says so."""
        return cast("datetime | None", self.values[name])

    def period(self) -> tuple[datetime, datetime]:
        """Return the half-open interval of ``PERIOD``."""
        return cast("datetime", self.values["since"]), cast("datetime", self.values["until"])


@dataclass(frozen=True)
class Page:
    """Which rows are wanted: at most ``limit``, after the row with this key (``keyset`` reads it)."""

    limit: int
    after: tuple[str | int | float, ...] | None = None

    @property
    def is_first(self) -> bool:
        """Whether nothing was shown before; counts above the rows are made for this page only."""
        return self.after is None


@dataclass(frozen=True)
class Answered:
    """One page: rows in the order of the columns, the key of the next page (None at the end), and what stands above.

    A page may be short, or empty, and still have a next one: where a query looks at so many candidates at a time.
    ``study_id`` is there when all of it is about one Study; the event of the asking then names it.
    """

    rows: Sequence[Sequence[Cell]]
    after: tuple[str | int | float, ...] | None = None
    facts: Sequence[tuple[str, Cell]] = ()
    study_id: UUID | None = None


@dataclass(frozen=True)
class Question:
    """One question an auditor may ask.

    Attributes:
        name: ``Q1`` … as in docs/audit.md; ``slug`` is it in words, for addresses and file names.
        asks: one sentence.
        source: the paragraph that wants it answered.
    """

    name: str
    slug: str
    title: str
    asks: str
    source: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    run: Callable[[Session, Answers, Page], Answered]
    audience: Audience = Audience.AUDIT


PERIOD = (
    Parameter("since", Kind.DATE, "From", default="-30d", hint="a day of site time, or an instant with its zone"),
    Parameter("until", Kind.DATE, "To", default="today", ends=True, hint="the whole day"),
)
"""Most questions are about a stretch of time; ``Answers.period`` gives it."""
