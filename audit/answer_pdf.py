"""The answer to a named question on paper: every page says what was asked, by whom, when, and how far the log stood."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from db.queries.audit.questions import Question
from reports.pdf_page import QUIET, WARNING, Head, Sheet
from reports.pdf_page import instant as printed
from reports.text import one_line

_LONGEST = 1500  # bytes of one value


def write_pdf(
    question: Question,
    given: Mapping[str, str],
    facts: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    *,
    head: Mapping[str, str],
    organization: str,
    written_at: datetime,
) -> bytes:
    """Return the document: the question, its counts, then one numbered block for each row.

    Args:
        given: the parameters as they were read.
        rows: cells as words, in the order of the question's columns; empty ones are left out.
        head: what stands on every page beside question, parameters and number of rows.
    """
    asked = ", ".join(f"{name} {text}" for name, text in given.items()) or "none"
    banner = {"Question": f"{question.name} {question.title}", **head, "Parameters": asked, "Rows": str(len(rows))}
    sheet = Sheet(_characters(question, banner, facts, rows, organization), written_at=written_at, language="en")
    sheet.set_title(f"Audit question {question.name}")  # no name of a patient: titles show up in listings
    sheet.begin(
        Head(
            sheet,
            notice="",
            organization=organization or "Radiology",
            title=f"Audit – {question.name}",
            remark="",
            facts=tuple(banner.items()),
            version=f"{question.slug} · asked {printed(written_at)}",
        )
    )
    sheet.heading(question.title)
    sheet.pen(9.5)
    sheet.paragraph(question.asks)
    sheet.pen(8, ink=QUIET)
    sheet.paragraph(f"Source: {question.source}")
    for name, value in facts:
        sheet.pen(9)
        sheet.paragraph(f"{one_line(name)}: {one_line(value, _LONGEST)}")
    sheet.heading("Rows")
    labels = [column.label for column in question.columns]
    for number, row in enumerate(rows, 1):
        _write_row(sheet, number, len(rows), labels, row)
    if not rows:
        sheet.pen(9.5, bold=True, ink=WARNING)
        sheet.paragraph("Nothing was found.")
    return sheet.finished()


def _write_row(sheet: Sheet, number: int, count: int, labels: Sequence[str], row: Sequence[str]) -> None:
    sheet.keep_together(10)
    sheet.pen(7, ink=QUIET)
    sheet.paragraph(f"Row {number} of {count}")
    sheet.pen(8.5)
    said = (f"{label}: {one_line(value, _LONGEST)}" for label, value in zip(labels, row, strict=True) if value)
    sheet.paragraph(" · ".join(said))
    sheet.ln(0.8)


def _characters(
    question: Question,
    banner: Mapping[str, str],
    facts: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    organization: str,
) -> Iterator[str]:
    """Yield every text, to know which scripts it needs."""
    yield from (question.asks, question.source, organization, *banner.values(), "·–…")
    for name, value in facts:
        yield name + value
    for row in rows:
        yield from row
