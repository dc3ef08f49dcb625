"""Asking a named question: one page, or all of them, and what the event of the asking says."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.audit_models import AuditHead, AuditPending
from db.audit_record import canonical
from db.queries.audit.parameters import read
from db.queries.audit.questions import MOST_ROWS, Answers, Cell, Page, Question

_Key = tuple[str | int | float, ...]


@dataclass(frozen=True)
class Asked:
    """A question with one page of its answer; ``next_cursor`` is empty on the last page."""

    question: Question
    answers: Answers
    rows: Sequence[Sequence[Cell]]
    facts: Sequence[tuple[str, Cell]]
    next_cursor: str
    study_id: UUID | None

    def said(self) -> dict[str, Any]:
        """Return what the event of the asking says of it; what names a patient is under a private name."""
        openly = {name: text for name, text in self.answers.given.items() if name not in self._private()}
        apart = {name: text for name, text in self.answers.given.items() if name in self._private()}
        said = {"question": self.question.name, "parameters": openly, "digest": digest(openly)}
        return said | ({"patient": apart} if apart else {})

    def _private(self) -> frozenset[str]:
        return frozenset(one.name for one in self.question.parameters if one.private)


@dataclass(frozen=True)
class Stand:
    """How far the log was sealed when a question was asked."""

    size: int  # of the newest signed head; 0 when there is none
    root: str  # hex
    signed: str  # when, RFC 3339; empty when there is none
    waiting: int  # events that are committed and not sealed yet


def ask(
    session: Session,
    question: Question,
    given: Mapping[str, str],
    *,
    limit: int = 100,
    cursor: str = "",
    zone: tzinfo | None = None,
) -> Asked:
    """Return one page of the answer.

    Args:
        given: the parameters as text, by name.
        limit: rows, 1 … 500.
        cursor: ``next_cursor`` of the page before, of the same question with the same parameters.
        zone: of days; the system's when None.

    Raises:
        RefusedInputError: a parameter, the limit or the cursor is refused; the text names which.
    """
    if not 1 <= limit <= MOST_ROWS:
        raise RefusedInputError(f"limit: 1 to {MOST_ROWS} rows")
    answers = read(question, given, zone=zone)
    mark = f"{question.name} {digest(answers.given)[:16]}"
    answered = question.run(session, answers, Page(limit, _opened(cursor, mark)))
    after = "" if answered.after is None else _token(mark, answered.after)
    return Asked(question, answers, answered.rows, answered.facts, after, answered.study_id)


def pages(
    session: Session, question: Question, given: Mapping[str, str], *, zone: tzinfo | None = None
) -> Iterator[Asked]:
    """Yield the whole answer, page by page; give a session that reads one snapshot (:func:`snapshot`)."""
    cursor, first = "", True
    while first or cursor:
        asked = ask(session, question, given, limit=MOST_ROWS, cursor=cursor, zone=zone)
        given = dict(asked.answers.given)  # "today" stays the day it was
        cursor, first = asked.next_cursor, False
        yield asked


def snapshot(session: Session) -> None:
    """Let every query of this new session read the database as it is at the first of them."""
    # SQLite's write-ahead log does so by itself
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})


def stand(session: Session) -> Stand:
    """Return how far the log is sealed now."""
    waiting = session.scalar(select(func.count()).select_from(AuditPending)) or 0
    head = session.scalars(select(AuditHead).order_by(AuditHead.size.desc()).limit(1)).first()
    if head is None:
        return Stand(0, "", "", waiting)
    return Stand(head.size, head.root.hex(), head.signed_at.isoformat(timespec="seconds"), waiting)


def digest(given: Mapping[str, str]) -> str:
    """Return the SHA-256 of parameters in canonical JSON (RFC 8785), hex."""
    return hashlib.sha256(canonical(dict(given))).hexdigest()


def _token(mark: str, key: _Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([mark, *key]).encode()).decode("ascii").rstrip("=")


def _opened(cursor: str, mark: str) -> _Key | None:
    if not cursor:
        return None
    try:
        read_back = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise RefusedInputError("cursor: it is not one of ours") from None
    match read_back:
        case [str(said), *key] if said == mark and all(type(one) in {str, int, float} for one in key):
            return tuple(key)
    raise RefusedInputError("cursor: it is of another question, or of other parameters")
