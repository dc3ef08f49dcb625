"""Events that have no seal: those that wait for it too long, and those that somebody took off what waits."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from audit.checks.segment import Problem
from audit.reading import Reader
from audit.tables import moment

_AT_ONCE = 500  # numbers in one question
_LISTED = 1000


def unsealed(
    reader: Reader, clusters: Sequence[tuple[int, int]], foreign: Sequence[int], alarm_s: float
) -> list[Problem]:
    """Return the events without a seal that should have one.

    Args:
        reader: of the log.
        clusters: intervals of numbers that were read with the seals.
        foreign: numbers found there that were not sealed beside their neighbours.
        alarm_s: how long an event may wait.
    """
    found = set(foreign)
    for first, last in _between(clusters):
        statement, values = "SELECT seq FROM audit_event WHERE seq >= ?", [first]
        if last is not None:
            statement, values = f"{statement} AND seq <= ?", [first, last]
        found |= {row[0] for row in reader.ask(f"{statement} LIMIT ?", [*values, _LISTED * 100])}
    late = datetime.now(UTC) - timedelta(seconds=alarm_s)
    return [problem for some in _some(sorted(found)) for problem in _without_seal(reader, some, late)][:_LISTED]


def _without_seal(reader: Reader, some: Sequence[int], late: datetime) -> list[Problem]:
    signs = ", ".join("?" * len(some))  # nothing but signs for values
    sealed = {row[0] for row in reader.ask(f"SELECT seq FROM audit_seal WHERE seq IN ({signs})", some)}  # noqa: S608
    rows = reader.ask(f"SELECT seq, occurred_at FROM audit_pending WHERE seq IN ({signs})", some)  # noqa: S608
    waiting = {seq: _moment(at) for seq, at in rows}
    problems = []
    for seq in some:
        if seq in sealed:
            continue
        if seq not in waiting:
            problems.append(Problem("unsealed", -1, seq, "the event has no seal and does not wait for one"))
        elif (waiting[seq] or late) <= late:
            problems.append(Problem("unsealed", -1, seq, "the event waits too long for its seal"))
    return problems


def _between(clusters: Sequence[tuple[int, int]]) -> list[tuple[int, int | None]]:
    """Return the intervals of numbers outside ``clusters``; the last one has no end."""
    gaps: list[tuple[int, int | None]] = []
    at = -(2**62)
    for first, last in sorted(clusters):
        if first > at:
            gaps.append((at, first - 1))
        at = max(at, last + 1)
    return [*gaps, (at, None)]


def _some(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]


def _moment(at: Any) -> datetime | None:
    if isinstance(at, datetime):
        return at
    read = moment(str(at))
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read
