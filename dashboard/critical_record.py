"""The six facts of critical results as a file."""

import csv
import io
from collections.abc import Sequence

from db.queries.critical import SixFacts

_COLUMNS = (
    "accession number", "alert", "state", "category", "what", "found by", "found at", "confirmed by", "confirmed at",
    "told", "role", "told by", "told at", "means", "read back", "why not", "attempts", "escalations", "complete",
)  # fmt: skip


def six_facts_csv(facts: Sequence[SixFacts]) -> str:
    """Return one row for each critical result; no cell can act as a formula of a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_COLUMNS)
    for one in facts:
        writer.writerow([_cell(value) for value in _row(one)])
    return buffer.getvalue()


def _row(one: SixFacts) -> tuple[object, ...]:
    return (
        one.accession_number,
        one.alert_id,
        one.state.value,
        one.category,
        one.what,
        one.found_by,
        one.found_at.isoformat(),
        one.confirmed_by,
        one.confirmed_at.isoformat() if one.confirmed_at else "",
        one.told,
        one.told_role,
        one.told_by,
        one.told_at.isoformat() if one.told_at else "",
        one.means,
        {True: "yes", False: "no", None: ""}[one.read_back],
        one.no_read_back_reason,
        one.attempts,
        one.escalations,
        "yes" if one.is_complete else "no",
    )


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
