"""Whether every erasure that excuses missing private values is an act that the log records."""

from uuid import UUID

from audit.checks.segment import Problem
from audit.reading import Reader

_ERASED = "audit:erased"


def erasure_problems(reader: Reader) -> list[Problem]:
    """Return the first event of each erasure that no event of the log tells of."""
    rows = reader.ask("SELECT CAST(erasure_id AS CHAR(36)), min(seq) FROM audit_erasure GROUP BY erasure_id")
    if not rows:
        return []
    told = {_plain(row[0]) for row in reader.ask("SELECT object_id FROM audit_event WHERE tag = ?", [_ERASED])}
    what = "what is kept apart was erased by an act that the log does not tell of"
    return [Problem("private", -1, int(seq), what) for one, seq in rows if _plain(one) not in told]


def _plain(value: object) -> str:
    try:
        return UUID(str(value)).hex
    except ValueError:
        return str(value)
