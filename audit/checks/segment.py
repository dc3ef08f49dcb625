"""One segment of the log, hashed again from its events: what a process of the verification does."""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import Any, NamedTuple

from audit import tree
from audit.reading import EventRow, Reader
from db.audit_record import private_digest

LEVEL = 14
SEGMENT = 1 << LEVEL  # positions
_LISTED = 100  # problems of one segment that are named; all are counted
_CLUSTER_GAP = 20_000  # numbers further apart are read by questions of their own
_NO_LEAF = bytes(32)
_CARRIED = b'"v":0}'
_PRIVATE = b'"private":{'


class Problem(NamedTuple):
    """Something that does not hold."""

    check: str
    position: int  # in the chain; -1 of what has no place in it
    seq: int  # number of the event; -1 of what is no event
    what: str


class Task(NamedTuple):
    """A segment to check, and the sizes whose roots are wanted."""

    low: int
    high: int
    sizes: tuple[int, ...]
    parts: tuple[
        tuple[int, int, bool], ...
    ]  # (low, high, whether a bundle holds these events, so that they may be gone)


@dataclass
class Checked:
    """What one segment turned out to be."""

    low: int
    high: int
    problems: list[Problem] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    peaks: list[tuple[int, bytes]] = field(default_factory=list)  # the whole subtrees it consists of: level, hash
    roots: dict[int, bytes] = field(default_factory=dict)  # size -> fold of this segment's part
    chains: dict[int, bytes] = field(default_factory=dict)  # size -> chain value stored there
    ids: bytes = b""  # eight bytes of each event's id
    clusters: list[tuple[int, int]] = field(default_factory=list)  # intervals of numbers that were read
    foreign: list[int] = field(default_factory=list)  # numbers read that are not this segment's
    latest: bytes = b""
    earliest: tuple[bytes, int, int] = (b"\xff", -1, -1)
    first_new: int = -1  # position of the first event that is not carried over
    last_carried: tuple[int, int] = (-1, -1)
    absent: int = 0  # events a bundle holds
    erased: int = 0

    def add(self, check: str, position: int, seq: int, what: str) -> None:
        """Note a problem."""
        self.found[check] = self.found.get(check, 0) + 1
        if len(self.problems) < _LISTED:
            self.problems.append(Problem(check, position, seq, what))


class Marks:
    """The keys that mark events, prepared so that one mark costs two short hashes (RFC 2104)."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Prepare 32-byte keys, by name."""
        self._pads = {
            name: (
                sha256(bytes(b ^ 0x36 for b in key.ljust(64, b"\0"))),
                sha256(bytes(b ^ 0x5C for b in key.ljust(64, b"\0"))),
            )
            for name, key in keys.items()
        }

    def hold(self, body: bytes, mark: str) -> bool:
        """Return whether ``mark`` was made over ``body`` with one of the keys."""
        pads = self._pads.get(mark[:16])
        if pads is None:
            return False
        inner, outer = pads[0].copy(), pads[1].copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.hexdigest() == mark[17:]  # who could measure how long this takes has the log already


class SegmentCheck:
    """Checks segments, one after the other, over one connection."""

    def __init__(self, reader: Reader, marks: Marks | None, tolerance_s: float) -> None:
        """Read with ``reader``; without ``marks`` those are not checked."""
        self._reader = reader
        self._marks = marks
        self._tolerance = timedelta(seconds=tolerance_s)

    def check(self, task: Task) -> Checked:
        """Read a segment and hash it again."""
        result = Checked(task.low, task.high)
        before = self._reader.seals(task.low - 1, task.low) if task.low else []
        seals = self._reader.seals(task.low, task.high)
        pairs = self._pairs(result, seals, task.parts)
        self._places(result, seals)
        self._chain(result, bytes(before[0][4]) if before else tree.NO_CHAIN, seals, task.sizes)
        self._leaves(result, pairs)
        self._tree(result, seals, task.sizes)
        present = [(seal, event) for seal, event in pairs if event is not None]
        self._bodies(result, present)
        self._clock(result, present)
        self._apart(result, present)
        return result

    # --- rows ----------------------------------------------------------------------------------------------

    def _pairs(
        self, result: Checked, seals: Sequence[Any], parts: Sequence[tuple[int, int, bool]]
    ) -> list[tuple[Any, EventRow | None]]:
        """Return each seal with its event."""
        held: dict[int, EventRow] = {}
        for first, last, span in _clusters(seals):
            result.clusters.append((first, last))
            rows = self._reader.events(first, last, span)
            held.update({row[0]: row for row in rows})
        ours = {seal[1] for seal in seals}
        result.foreign = [seq for seq in held if seq not in ours]
        missing = [seal for seal in seals if seal[1] not in held]
        gone = [seal for seal in missing if not any(low <= seal[0] < high and kept for low, high, kept in parts)]
        result.absent = len(missing) - len(gone)
        if gone:  # perhaps only moved to another month
            held.update({row[0]: row for row in self._reader.events_of([seal[1] for seal in gone])})
        for seal in gone:
            if seal[1] not in held:
                result.add("missing", seal[0], seal[1], "the event is gone, its seal is there")
        return [(seal, held.get(seal[1])) for seal in seals]

    def _places(self, result: Checked, seals: Sequence[Any]) -> None:
        if len(seals) == result.high - result.low:
            return  # positions are a key, and ordered: none twice
        held = {seal[0] for seal in seals}
        for position in range(result.low, result.high):
            if position not in held:
                result.add("position", position, -1, "no event has this place in the chain")

    # --- hashes --------------------------------------------------------------------------------------------

    def _chain(self, result: Checked, before: bytes, seals: Sequence[Any], sizes: Sequence[int]) -> None:
        chains = [before, *(bytes(seal[4]) for seal in seals)]
        for seal, (old, new) in zip(seals, pairwise(chains), strict=True):
            if sha256(old + seal[3]).digest() != new:
                result.add("chain", seal[0], seal[1], "its chain value is not made from the one before and its leaf")
        stored = {seal[0] + 1: seal[4] for seal in seals} if sizes else {}
        result.chains = {size: bytes(stored.get(size, b"")) for size in sizes}

    def _leaves(self, result: Checked, pairs: Sequence[tuple[Any, EventRow | None]]) -> None:
        for seal, event in pairs:
            if event is None:
                continue
            seq, at, body, _ = event
            if sha256(b"\x00%d %s\n%s" % (seq, at, body)).digest() != seal[3]:
                result.add("leaf", seal[0], seq, "the event is not what was sealed")

    def _tree(self, result: Checked, seals: Sequence[Any], sizes: Sequence[int]) -> None:
        leaves = [_NO_LEAF] * (result.high - result.low)
        for seal in seals:
            leaves[seal[0] - result.low] = bytes(seal[3])
        levels = [leaves]
        while len(levels[-1]) > 1:
            levels.append(tree.next_level(levels[-1]))
        result.peaks = [(level, levels[level][number]) for level, number in tree.peaks_of(len(leaves))]
        for size in sizes:
            result.roots[size] = tree.fold([levels[level][at] for level, at in tree.peaks_of(size - result.low)])
        made = {
            (level, (result.low >> level) + number): value
            for level in range(8, len(levels))
            for number, value in enumerate(levels[level])
        }
        kept = {(level, number): bytes(value) for level, number, value in self._reader.nodes(result.low, result.high)}
        for (level, number), value in made.items():
            if kept.get((level, number)) != value:
                told = "is missing" if (level, number) not in kept else "is not that of the leaves below it"
                result.add("node", number << level, -1, f"the hash of the subtree {level}/{number} {told}")

    # --- events --------------------------------------------------------------------------------------------

    def _bodies(self, result: Checked, present: Sequence[tuple[Any, EventRow]]) -> None:
        ids = array("Q")
        holds = self._marks.hold if self._marks is not None else _any_mark
        for seal, (seq, at, body, mark) in present:
            if body.endswith(_CARRIED):
                self._carried(result, seal[0], seq)
                continue
            if result.first_new < 0:
                result.first_new = seal[0]
            if not (mark and holds(body, mark)):
                result.add("mark", seal[0], seq, "this system did not make the event, or not so")
            if b'"at":"%s"' % at not in body:
                result.add("instant", seal[0], seq, "its column says another instant than its body")
            end = body.rfind(b'","kind":"')
            try:
                ids.append(int(body[end - 32 : end - 16], 16))
            except ValueError:
                result.add("mark", seal[0], seq, "the event has no id")
        result.ids = ids.tobytes()

    def _carried(self, result: Checked, position: int, seq: int) -> None:
        if result.first_new >= 0:
            result.add("carried", position, seq, "an unmarked event of before the chain stands behind its beginning")
        result.last_carried = (position, seq)

    def _clock(self, result: Checked, present: Sequence[tuple[Any, EventRow]]) -> None:
        latest = b""
        for seal, (seq, at, _, _) in present:
            if at >= latest:
                latest = at
            elif apart(latest, at) > self._tolerance:
                result.add("clock", seal[0], seq, f"it says {at.decode()}, an earlier one {latest.decode()}")
        if present:
            result.earliest = min((at, seal[0], seq) for seal, (seq, at, _, _) in present)
        result.latest = latest

    def _apart(self, result: Checked, present: Sequence[tuple[Any, EventRow]]) -> None:
        """Compare what is kept apart with its digests; what is gone must have been erased by a recorded act."""
        naming = {seq: (seal[0], body) for seal, (seq, _, body, _) in present if _PRIVATE in body}
        gone = dict(naming)
        for first, last in result.clusters:
            for seq, key, content in self._reader.private(first, last):
                if seq in gone and not _digests_hold(gone.pop(seq)[1], key, content):
                    result.add("private", naming[seq][0], seq, "what is kept apart is not what its digest was made of")
        if gone:
            first, last = min(gone), max(gone)
            rows = self._reader.ask("SELECT seq FROM audit_erasure WHERE seq BETWEEN ? AND ?", [first, last])
            erased = {row[0] for row in rows}
            result.erased = len(erased & gone.keys())
            for seq in gone.keys() - erased:
                result.add("private", gone[seq][0], seq, "what is kept apart is gone without a recorded erasure")


def _any_mark(_body: bytes, _mark: str) -> bool:
    """Accept what cannot be checked without the keys; that there is a mark at all can."""
    return True


def apart(later: bytes, earlier: bytes) -> timedelta:
    """Return the time between two instants as they are hashed; none when one of them is no instant."""
    try:
        return datetime.fromisoformat(later.decode("ascii")) - datetime.fromisoformat(earlier.decode("ascii"))
    except (ValueError, TypeError):
        return timedelta(0)


def _clusters(seals: Sequence[Any]) -> list[tuple[int, int, tuple[Any, Any]]]:
    """Return the intervals of numbers to read, with the first and last instant of each."""
    if not seals:
        return []
    ordered = sorted((seal[1], seal[2]) for seal in seals)
    cuts = [0, *(n + 1 for n, (a, b) in enumerate(pairwise(ordered)) if b[0] - a[0] > _CLUSTER_GAP), len(ordered)]
    parts = [ordered[a:b] for a, b in pairwise(cuts)]
    return [(part[0][0], part[-1][0], (min(one[1] for one in part), max(one[1] for one in part))) for part in parts]


def _digests_hold(body: bytes, key: str, content: str) -> bool:
    start = body.rfind(_PRIVATE) + len(_PRIVATE) - 1
    try:
        said = json.loads(body[start : body.index(b"}", start) + 1])
        held = json.loads(content)
        made = {name: private_digest(key, name, value) for name, value in held.items()}
    except (ValueError, AttributeError, TypeError):
        return False
    return bool(said == made)
