"""The answer to a named question as a file an auditor takes along: CSV, JSON or PDF.

A file is made whole, in one snapshot of the database, before any of it leaves: so the event of the export can say how
many rows it has and its SHA-256, and is written first.
"""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import IO, Any, cast
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from audit.answer_pdf import write_pdf
from config.errors import RefusedInputError
from db.queries.audit.asking import Asked, Stand, pages, snapshot, stand
from db.queries.audit.questions import Cell, Question
from db.types import utcnow

MOST_ROWS: Mapping[str, int] = {"csv": 200_000, "json": 200_000, "pdf": 1000}
MIMETYPES: Mapping[str, str] = {
    "csv": "text/csv; charset=utf-8; header=present",  # RFC 4180 section 3
    "json": "application/json",
    "pdf": "application/pdf",
}
_IN_MEMORY = 4 * 1024**2
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Circumstances:
    """Who asked, when, and how far the log was sealed then."""

    asked_by: str
    asked_at: datetime
    stand: Stand
    organization: str = ""


@dataclass(frozen=True)
class AnswerFile:
    """A finished file; whoever made it closes ``content``."""

    content: IO[bytes]
    name: str
    mimetype: str
    rows: int
    sha256: str
    first: Asked  # page

    def said(self, kind: str) -> dict[str, Any]:
        """Return what the event of the export says."""
        return self.first.said() | {"rows": self.rows, "format": kind, "sha256": self.sha256}


def answer_file(
    sessions: sessionmaker[Session],
    question: Question,
    given: Mapping[str, str],
    kind: str,
    *,
    asked_by: str,
    organization: str = "",
) -> AnswerFile:
    """Return the whole answer as a file of ``kind``.

    Raises:
        RefusedInputError: a parameter or the kind is refused, or there are more rows than such a file takes.
    """
    if kind not in MIMETYPES:
        raise RefusedInputError(f"format: one of {', '.join(MIMETYPES)}")
    with sessions() as session:
        snapshot(session)
        found = pages(session, question, given)
        first = next(found)
        about = Circumstances(asked_by, utcnow(), stand(session), organization)
        content = cast("IO[bytes]", tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115 its reader closes it
        try:
            rows = _WRITERS[kind](content, first, chain([first], found), about)
        except BaseException:
            content.close()
            raise
    name = f"firstread-{question.name}-{question.slug}-{about.asked_at:%Y%m%dT%H%M%SZ}.{kind}"
    return AnswerFile(content, name, MIMETYPES[kind], rows, _sha256(content), first)


def _sha256(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    content.seek(0)
    while block := content.read(1024**2):
        digest.update(block)
    content.seek(0)
    return digest.hexdigest()


def _rows(found: Iterator[Asked], kind: str) -> Iterator[Sequence[Cell]]:
    """Yield the rows of all pages.

    Raises:
        RefusedInputError: there are too many: a file that was cut would look whole.
    """
    count = 0
    for page in found:
        for row in page.rows:
            count += 1
            if count > MOST_ROWS[kind]:
                raise RefusedInputError(f"the answer has more than {MOST_ROWS[kind]} rows, which a {kind} file takes")
            yield row


def _write_csv(content: IO[bytes], first: Asked, found: Iterator[Asked], about: Circumstances) -> int:
    del about  # RFC 4180 has no place for it; the event of the export has the file's hash
    text = io.TextIOWrapper(content, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([column.name for column in first.question.columns])
    count = 0
    for row in _rows(found, "csv"):
        writer.writerow([_csv_cell(cell) for cell in row])
        count += 1
    text.detach()
    return count


def _csv_cell(cell: Cell) -> str | int | float:
    """Return a cell as CSV has it; text that a spreadsheet would take for a formula begins with a quote."""
    plain = _plain(cell)
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return "yes" if plain else "no"
    return f"'{plain}" if isinstance(plain, str) and plain.startswith(_FORMULA) else plain


def _write_json(content: IO[bytes], first: Asked, found: Iterator[Asked], about: Circumstances) -> int:
    question = first.question
    names = [column.name for column in question.columns]
    head = {
        "question": {"name": question.name, "title": question.title, "asks": question.asks, "source": question.source},
        "parameters": dict(first.answers.given),
        "asked_by": about.asked_by,
        "asked_at": _plain(about.asked_at),
        "log": vars(about.stand),
        "facts": [[name, _plain(value)] for name, value in first.facts],
        "columns": [{"name": one.name, "label": one.label} for one in question.columns],
    }
    content.write(_json(head)[:-1] + b',"rows":[')
    count = 0
    for row in _rows(found, "json"):
        content.write((b",\n" if count else b"\n") + _json(dict(zip(names, map(_plain, row), strict=True))))
        count += 1
    content.write(b'],"row_count":%d}\n' % count)
    return count


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _write_pdf(content: IO[bytes], first: Asked, found: Iterator[Asked], about: Circumstances) -> int:
    rows = list(_rows(found, "pdf"))
    shown = [[_words(cell) for cell in row] for row in rows]
    facts = [(name, _words(value)) for name, value in first.facts]
    about_log = (
        f"{about.stand.size} events, root {about.stand.root}" if about.stand.size else "no signed head yet"
    ) + (f"; {about.stand.waiting} wait" if about.stand.waiting else "")
    content.write(
        write_pdf(
            first.question, first.answers.given, facts, shown,
            head={"Asked by": about.asked_by, "Asked at": _words(about.asked_at), "Log sealed to": about_log},
            organization=about.organization, written_at=about.asked_at,
        )
    )  # fmt: skip
    return len(rows)


def _words(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(cell)


def _plain(cell: Cell) -> str | int | float | bool | None:
    """Return a cell as JSON has it: instants in RFC 3339, UTC."""
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return str(cell) if isinstance(cell, UUID) else cell


_WRITERS: Mapping[str, Callable[[IO[bytes], Asked, Iterator[Asked], Circumstances], int]] = {
    "csv": _write_csv,
    "json": _write_json,
    "pdf": _write_pdf,
}
