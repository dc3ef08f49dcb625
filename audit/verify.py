"""Verification of the whole log, or a part: every event hashed again, compared with chain, tree, heads and anchors.

Needs to read the database, and the public key; nothing here writes. Segments are hashed side by side in processes of
their own, each over a connection of its own. What is appended while it runs is left for the next time.
"""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np

from audit import tree
from audit.checks.erasures import erasure_problems
from audit.checks.heads import Heads, archives, compare, read_heads
from audit.checks.schema import schema_problems
from audit.checks.segment import SEGMENT, Checked, Marks, Problem, SegmentCheck, Task, apart
from audit.checks.unsealed import unsealed
from audit.keys import PublicKey
from audit.reading import Reader, Source, open_reader
from audit.tables import KEPT_LEVEL

# name -> what it means that it holds
CHECKS = {
    "schema": "columns are read from the body by the database; the triggers that guard the log are in place",
    "position": "every place in the chain is taken, none twice",
    "missing": "every sealed event is there, or in a signed bundle",
    "leaf": "every event is what was sealed: number, instant, body",
    "instant": "every event's instant is that of its body",
    "mark": "every event was made by this system, as it stands",
    "replay": "no event stands there twice",
    "carried": "unmarked events stand only before the chain's beginning",
    "chain": "every chain value is made from the one before it",
    "node": "every kept hash of the tree is that of the leaves below it",
    "private": "what is kept apart is what its digests were made of, or was erased by a recorded act",
    "unsealed": "every event has a seal, or has waited for it a short time only",
    "clock": "no clock was set back",
    "archive": "every archived interval has a signed manifest",
    "head": "every signed head is this log's, and none is missing between them",
    "anchor": "every head outside this system is this log's, and in it",
    "timestamp": "every time stamp is of its head and from the authority that is trusted",
}
_OF_MANY = frozenset(("schema", "node", "archive", "head", "anchor", "timestamp"))  # they name no single record
WARNINGS = frozenset(("clock",))  # to be explained by people; no sign that the log was changed
_POOL_FROM = 4 * SEGMENT  # fewer events are not worth starting processes
_LISTED = 1000


@dataclass(frozen=True)
class Terms:
    """What verification goes by."""

    public_keys: Mapping[str, PublicKey]
    origin_keys: Mapping[str, bytes] | None = None  # None: marks are not checked
    heads: Sequence[Path] = ()  # folders or files of anchored heads
    first: int = 0  # position to begin at
    end: int | None = None  # ... and to stop before
    clock_tolerance_s: float = 300.0
    unsealed_alarm_s: float = 600.0
    processes: int = 0  # 0: one per core
    timestamps: Callable[[Reader, Sequence[Any]], list[Problem]] | None = None


@dataclass
class Verdict:
    """What verification found."""

    size: int = 0  # events sealed when it began
    first: int = 0
    end: int = 0
    root: bytes = tree.EMPTY_ROOT
    heads: int = 0
    anchored: int = 0
    archived: int = 0  # events that only a bundle holds
    erased: int = 0  # events of which something kept apart was erased
    problems: list[Problem] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # check -> why it was not made

    @property
    def holds(self) -> bool:
        """Whether nothing shows that the log was changed."""
        return not any(count for name, count in self.found.items() if name not in WARNINGS)

    @property
    def first_bad(self) -> Problem | None:
        """The first record that does not hold, by its place in the chain; else what is wrong with many together."""
        grave = [one for one in self.problems if one.check not in WARNINGS]
        return min(grave, key=lambda one: (one.check in _OF_MANY, one.position < 0, one.position), default=None)

    def add(self, problems: Iterable[Problem]) -> None:
        """Note problems."""
        for one in problems:
            self.found[one.check] = self.found.get(one.check, 0) + 1
            self.problems.append(one)

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for a machine."""
        return {
            "holds": self.holds,
            "size": self.size,
            "from": self.first,
            "to": self.end,
            "root": self.root.hex(),
            "heads": self.heads,
            "anchored_heads": self.anchored,
            "archived": self.archived,
            "erased": self.erased,
            "checks": {
                name: {"meaning": meaning, "found": self.found.get(name, 0), "skipped": self.skipped.get(name, "")}
                for name, meaning in CHECKS.items()
            },
            "first_bad": self.first_bad._asdict() if self.first_bad else None,
            "problems": [one._asdict() for one in self.problems[:_LISTED]],
        }


def verify(source: Source, terms: Terms) -> Verdict:
    """Verify a log.

    Raises:
        ConfigurationError: the database, or a place of anchored heads, cannot be read.
    """
    reader = open_reader(source)
    try:
        return _Verification(reader, source, terms).run()
    finally:
        reader.close()


class _Verification:
    """One verification, as it goes on."""

    def __init__(self, reader: Reader, source: Source, terms: Terms) -> None:
        self._reader = reader
        self._source = source
        self._terms = terms
        self._verdict = Verdict()
        self._frontier = _Peaks([])
        self._roots: dict[int, bytes] = {}
        self._chains: dict[int, bytes] = {}
        self._ids = array("Q")
        self._latest = b""
        self._first_new = -1
        self._clusters: list[tuple[int, int]] = []
        self._foreign: list[int] = []

    def run(self) -> Verdict:
        """Verify."""
        verdict, terms = self._verdict, self._terms
        verdict.add(schema_problems(self._reader, self._source.dialect))
        heads = read_heads(self._reader, terms.public_keys, terms.heads, timedelta(seconds=terms.clock_tolerance_s))
        verdict.size = int(self._reader.ask("SELECT coalesce(max(position) + 1, 0) FROM audit_seal")[0][0])
        verdict.end = min(verdict.size, terms.end if terms.end is not None else verdict.size)
        verdict.first = min(terms.first, verdict.end) // SEGMENT * SEGMENT
        held, problems = archives(self._reader, terms.public_keys)
        verdict.add(problems)
        self._frontier = _Peaks(self._edge(verdict.first))
        tasks = list(self._tasks(heads, held))
        with _workers(self._source, terms, len(tasks)) as check:
            for checked in check(tasks):
                self._take(checked)
        verdict.root = tree.fold(self._frontier.hashes)
        self._conclude(heads)
        return verdict

    def _edge(self, first: int) -> list[tuple[int, bytes]]:
        """Return the whole subtrees before ``first``, as they are kept; the heads tell whether they are true."""
        kept = {
            (level, number): bytes(value)
            for level, number in tree.peaks_of(first)
            for (value,) in self._reader.ask(
                "SELECT hash FROM audit_node WHERE level = ? AND number = ?", [level, number]
            )
        }
        return [(level, kept.get((level, number), bytes(32))) for level, number in tree.peaks_of(first)]

    def _tasks(self, heads: Heads, held: Sequence[tuple[int, int]]) -> Iterator[Task]:
        verdict = self._verdict
        sizes = heads.sizes(verdict.end)
        for low in range(verdict.first, verdict.end, SEGMENT):
            high = min(low + SEGMENT, verdict.end)
            wanted = tuple(size for size in sizes if low < size <= high)
            cuts = sorted({low, high, *(at for one in held for at in one if low < at < high)})
            archived = tuple(any(a <= start < b for a, b in held) for start in cuts[:-1])
            yield Task(low, high, wanted, tuple(zip(cuts, cuts[1:], archived, strict=False)))

    def _take(self, one: Checked) -> None:
        """Add what one segment turned out to be to what came before it."""
        verdict = self._verdict
        verdict.problems += one.problems
        for name, count in one.found.items():
            verdict.found[name] = verdict.found.get(name, 0) + count
        before = self._frontier.hashes
        self._roots |= {size: tree.fold([*before, fold]) for size, fold in one.roots.items()}
        self._chains |= one.chains
        for level, value in one.peaks:
            self._nodes_above(one.low, self._frontier.append(level, value))
        self._ids.frombytes(one.ids)
        self._clusters += one.clusters
        self._foreign += one.foreign
        verdict.archived += one.absent
        verdict.erased += one.erased
        self._order(one)

    def _order(self, one: Checked) -> None:
        """Compare a segment's clock and kind of events with those before it."""
        at, position, seq = one.earliest
        if position >= 0 and apart(self._latest, at) > timedelta(seconds=self._terms.clock_tolerance_s):
            what = f"it says {at.decode()}, an earlier one {self._latest.decode()}"
            self._verdict.add([Problem("clock", position, seq, what)])
        self._latest = max(self._latest, one.latest)
        if 0 <= self._first_new < one.last_carried[0]:
            what = "an unmarked event of before the chain stands behind its beginning"
            self._verdict.add([Problem("carried", *one.last_carried, what)])
        if self._first_new < 0:
            self._first_new = one.first_new

    def _nodes_above(self, low: int, made: Sequence[tuple[int, bytes]]) -> None:
        """Compare the nodes above segments, which only their order gives."""
        for level, value in made:
            if level < KEPT_LEVEL:
                continue
            number = low >> level
            rows = self._reader.ask("SELECT hash FROM audit_node WHERE level = ? AND number = ?", [level, number])
            if not rows or bytes(rows[0][0]) != value:
                what = f"the hash of the subtree {level}/{number} is not that of the leaves below it"
                self._verdict.add([Problem("node", number << level, -1, what)])

    def _conclude(self, heads: Heads) -> None:
        verdict, terms = self._verdict, self._terms
        verdict.add(heads.problems)
        whole = verdict.end == verdict.size
        verdict.add(compare(heads, verdict.size, self._roots, self._chains))
        verdict.heads, verdict.anchored = len(heads.stored), len(heads.anchored)
        verdict.add(self._twice())
        if not verdict.archived:  # else a bundle may hold the event that tells of it
            verdict.add(erasure_problems(self._reader))
        if whole:
            verdict.add(unsealed(self._reader, self._clusters, self._foreign, terms.unsealed_alarm_s))
        else:
            verdict.skipped["unsealed"] = "only a part was verified"
        if terms.origin_keys is None:
            verdict.skipped["mark"] = "the keys that mark events were not given"
        if not terms.heads:
            verdict.skipped["anchor"] = "no place of anchored heads was given"
        if terms.timestamps is None:
            verdict.skipped["timestamp"] = "no certificate of a time-stamping authority was given"
        else:
            verdict.add(terms.timestamps(self._reader, heads.stored))
        if verdict.first or not whole:
            verdict.skipped["replay"] = "only a part was verified: an event that stands elsewhere too is not seen"

    def _twice(self) -> list[Problem]:
        """Return events whose id another one has: a true event written into the log again."""
        ordered = np.sort(np.frombuffer(self._ids, dtype=np.uint64))
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        problems = []
        for one in twice[:_LISTED].tolist():
            words = f'%"id":"{one:016x}%'
            rows = self._reader.ask(
                "SELECT s.position, e.seq, e.body FROM audit_event e JOIN audit_seal s ON s.seq = e.seq "
                "WHERE e.body LIKE ? ORDER BY s.position",
                [words],
            )
            seen: set[str] = set()
            for at, seq, body in rows:  # half an id may be two events' by chance, a whole one is not
                whole = _id_of(str(body))
                if whole in seen:
                    problems.append(Problem("replay", int(at), int(seq), "a copy of an earlier event"))
                seen.add(whole)
        return problems


def _id_of(body: str) -> str:
    """Return an event's id; of a body that somebody made unreadable all of it."""
    try:
        return str(json.loads(body)["id"])
    except (ValueError, KeyError, TypeError):
        return body


class _Peaks:
    """The whole subtrees of the log so far: (level, hash), largest first."""

    def __init__(self, peaks: list[tuple[int, bytes]]) -> None:
        self._peaks = peaks

    @property
    def hashes(self) -> list[bytes]:
        """Their hashes."""
        return [value for _, value in self._peaks]

    def append(self, level: int, value: bytes) -> list[tuple[int, bytes]]:
        """Add a subtree to the right; return those that became whole above it."""
        made = []
        while self._peaks and self._peaks[-1][0] == level:
            value = tree.node_hash(self._peaks.pop()[1], value)
            level += 1
            made.append((level, value))
        self._peaks.append((level, value))
        return made


# --- processes ---------------------------------------------------------------------------------------------

_CHECK: list[SegmentCheck] = []  # of this process


def _begin(source: Source, origin_keys: Mapping[str, bytes] | None, tolerance_s: float) -> None:
    _CHECK[:] = [_segment_check(open_reader(source), origin_keys, tolerance_s)]


def _check(task: Task) -> Checked:
    return _CHECK[0].check(task)


def _segment_check(reader: Reader, origin_keys: Mapping[str, bytes] | None, tolerance_s: float) -> SegmentCheck:
    return SegmentCheck(reader, Marks(origin_keys) if origin_keys is not None else None, tolerance_s)


@contextmanager
def _workers(source: Source, terms: Terms, tasks: int) -> Iterator[Callable[[Iterable[Task]], Iterable[Checked]]]:
    """Give what checks tasks, in their order: in processes, or here when there is little to do."""
    count = min(terms.processes or cpu_count() or 1, tasks)
    about = (source, terms.origin_keys, terms.clock_tolerance_s)
    if count < 2 or tasks * SEGMENT <= _POOL_FROM:
        reader = open_reader(source)
        try:
            checking = _segment_check(reader, terms.origin_keys, terms.clock_tolerance_s)
            yield lambda found: map(checking.check, found)
        finally:
            reader.close()
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin, initargs=about) as pool:
        yield lambda found: pool.map(_check, found)


def positions_between(reader: Reader, since: datetime | None, until: datetime | None) -> tuple[int, int | None]:
    """Return the first position, and one past the last, of events of an interval of time."""
    words, values = [], []
    for word, at in ((">=", since), ("<", until)):
        if at is not None:
            words.append(f"e.occurred_at {word} ?")
            values.append(at.strftime("%Y-%m-%d %H:%M:%S.%f"))
    if not words:
        return 0, None
    rows = reader.ask(
        "SELECT min(s.position), max(s.position) FROM audit_event e JOIN audit_seal s "  # noqa: S608 two fixed conditions
        f"ON s.seq = e.seq WHERE {' AND '.join(words)}",
        values,
    )
    low, high = rows[0]
    return (0, 0) if low is None else (int(low), int(high) + 1)
