"""Heads and anchors against the log: signatures, roots, which came after which, and what left this system."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from audit.checks.segment import Problem
from audit.heads import Head, open_note, signers
from audit.keys import PublicKey, by_name
from audit.reading import Reader
from config.errors import BrokenSealError, ConfigurationError

# a head in a line of a syslog receiver's file, which writes new lines as #012
_SENT = re.compile(r"[^\s\ufeff]+?#012[0-9]+#012[A-Za-z0-9+/]{43}=#012.*")


@dataclass
class Heads:
    """The heads that are to hold against the log, once its roots are known."""

    stored: list[Head] = field(default_factory=list)
    anchored: list[tuple[str, Head]] = field(default_factory=list)  # where it was found, and what it says
    problems: list[Problem] = field(default_factory=list)

    def sizes(self, size: int) -> list[int]:
        """Return the sizes whose roots are wanted, of a log of ``size`` events."""
        heads = [*self.stored, *(head for _, head in self.anchored)]
        return sorted({head.size for head in heads if 0 < head.size <= size})


def read_heads(reader: Reader, keys: Mapping[str, PublicKey], places: Sequence[Path], tolerance: timedelta) -> Heads:
    """Return the heads in the database and in ``places``; what is wrong with them by themselves is noted.

    Raises:
        ConfigurationError: a place cannot be read.
    """
    found = Heads()
    trusted = dict(keys)
    rows = reader.ask("SELECT size, root, chain, note FROM audit_head ORDER BY size")
    retired: set[str] = set()
    for size, root, chain, note in rows:
        head = _opened(found, "head", int(size), str(note), trusted)
        if head is None:
            continue
        if (head.size, head.root, head.chain) != (size, bytes(root), bytes(chain)):
            _note(found, "head", int(size), "its row says something else than the note that is signed")
        _follows(found, head, tolerance)
        if retired and set(head.signed_by) <= retired:
            _note(found, "head", head.size, "it is signed by a key that was replaced before")
        if head.successor is not None:
            retired |= {name for name in head.signed_by if name != head.successor.name}
            trusted |= by_name(head.successor)
        found.stored.append(head)
    for place, note in _anchored(places):
        head = _opened(found, "anchor", -1, note, trusted, place)
        if head is not None:
            found.anchored.append((place, head))
    return found


def _opened(
    found: Heads, check: str, size: int, note: str, keys: Mapping[str, PublicKey], place: str = ""
) -> Head | None:
    try:
        return open_note(note, keys)
    except BrokenSealError as exc:
        _note(found, check, size, f"{place}: {exc}" if place else str(exc))
        return None


def _follows(found: Heads, head: Head, tolerance: timedelta) -> None:
    before = found.stored[-1] if found.stored else None
    if head.after != (before.size if before else 0):
        _note(found, "head", head.size, f"the head of {head.after} events that it came after is not there")
    if before is not None and head.at < before.at - tolerance:
        _note(found, "clock", head.size, f"the head says {head.at.isoformat()}, the one before {before.at.isoformat()}")


def _note(found: Heads, check: str, size: int, what: str) -> None:
    found.problems.append(Problem(check, size - 1 if size > 0 else -1, -1, what))


def _anchored(places: Sequence[Path]) -> Iterable[tuple[str, str]]:
    """Yield (where, note) of every head in folders of files of heads, and in files with lines of syslog."""
    for place in places:
        try:
            files = sorted(place.glob("head-*.txt")) if place.is_dir() else [place]
            texts = [(file.name, file.read_text("utf-8", errors="replace")) for file in files]
        except OSError as exc:
            raise ConfigurationError(f"the anchored heads in {place} cannot be read") from exc
        for name, text in texts:
            lines = [line.replace("#012", "\n") for line in _SENT.findall(text)]
            yield from ((name, note) for note in lines or [text])


def compare(found: Heads, size: int, roots: Mapping[int, bytes], chains: Mapping[int, bytes]) -> list[Problem]:
    """Return the heads that do not hold against a log of ``size`` events, by the roots and chain values it has."""
    problems = []
    known = {head.size: head for head in found.stored}
    for check, place, head in [
        *(("head", "", head) for head in found.stored),
        *(("anchor", f"{place}: ", head) for place, head in found.anchored),
    ]:
        if head.size > size:
            what = f"a head of {head.size} events is signed, the log has {size}: its end is gone"
            problems.append(Problem(check, size, -1, f"{place}{what}"))
        elif head.size in roots and (head.root, head.chain) != (roots[head.size], chains[head.size]):
            what = f"the log's first {head.size} events are not those that were signed"
            problems.append(Problem(check, head.size - 1, -1, f"{place}{what}"))
        elif check == "anchor" and head.size not in known:
            problems.append(
                Problem(check, head.size - 1, -1, f"{place}the head of {head.size} events is not in the log")
            )
    return problems


def archives(reader: Reader, keys: Mapping[str, PublicKey]) -> tuple[list[tuple[int, int]], list[Problem]]:
    """Return the intervals of positions whose events a bundle holds by a signed manifest, and rows without one."""
    held, problems = [], []
    for first, end, manifest in reader.ask("SELECT first_position, end_position, manifest FROM audit_archive"):
        try:
            _, text = signers(str(manifest), keys)
            holds = json.loads(text.split("\n")[1])["bundle"] == f"audit-{first:012d}-{end:012d}.zip"
        except (BrokenSealError, ValueError, LookupError, TypeError):
            holds = False
        if holds:
            held.append((int(first), int(end)))
        else:
            problems.append(Problem("archive", int(first), -1, "its manifest is not one that was signed"))
    return held, problems
