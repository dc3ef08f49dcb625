"""The Merkle tree over the audit log: hashes, proofs and how they are checked (RFC 6962 section 2.1, RFC 9162 2.1.3-5).

Knows no database and no file: leaves and subtrees are given.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
NO_CHAIN = bytes(32)  # the chain value before the first event
Subtree = Callable[[int, int], bytes]  # (level, number) -> hash of the whole subtree of 2^level leaves


def preimage(seq: int, at: str, body: bytes) -> bytes:
    """Return what is hashed of one event: number, instant (RFC 3339, microseconds, Z), new line, canonical body."""
    return b"%d %s\n%s" % (seq, at.encode("ascii", "replace"), body)


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256 of 0x00 and ``data``."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256 of 0x01 and its two children."""
    return sha256(b"\x01" + left + right).digest()


def chain_hash(before: bytes, leaf: bytes) -> bytes:
    """Return the chain's next value."""
    return sha256(before + leaf).digest()


def next_level(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the parents of neighbouring pairs; a last one without a neighbour is left out."""
    pairs = iter(hashes)
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes; over none, the hash of nothing."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root


def fold(peaks: Sequence[bytes]) -> bytes:
    """Return the root of a tree from the roots of its whole subtrees, largest first."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


class Frontier:
    """The right edge of a growing tree: its size and the whole subtrees it is made of."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Begin with ``size`` leaves, whose whole subtrees have the roots ``peaks``, largest first.

        Raises:
            ValueError: ``size`` leaves have another number of whole subtrees.
        """
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf hash; return the inner nodes that are whole by it: (level, number, hash)."""
        made = []
        at, level, top = self.size, 0, leaf
        while at & 1:
            top = sha256(b"\x01" + self.peaks.pop() + top).digest()
            at >>= 1
            level += 1
            made.append((level, at, top))
        self.peaks.append(top)
        self.size += 1
        return made

    @property
    def root(self) -> bytes:
        """The root hash of the tree as it is."""
        return fold(self.peaks)


def peaks_of(size: int) -> list[tuple[int, int]]:
    """Return the whole subtrees that ``size`` leaves are made of: (level, number), largest first."""
    found, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            found.append((level, start >> level))
            start += 1 << level
    return found


def root_at(size: int, subtree: Subtree) -> bytes:
    """Return the root that the tree had with ``size`` leaves."""
    return fold([subtree(level, number) for level, number in peaks_of(size)])


# --- proofs ------------------------------------------------------------------------------------------------


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the audit path of leaf ``index`` in the tree of ``size`` leaves (RFC 9162 section 2.1.3.1).

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range(middle, high, subtree))
            high = middle
        else:
            path.append(_range(low, middle, subtree))
            low = middle
    return path[::-1]


def consistency_path(old: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the proof that the tree of ``size`` leaves only appended to that of ``old`` (RFC 9162 section 2.1.4.1).

    Raises:
        ValueError: ``old`` is not between 1 and ``size``.
    """
    if not 0 < old <= size:
        raise ValueError(f"no proof leads from {old} leaves to {size}")
    path: list[bytes] = []
    low, high, whole = 0, size, True
    while high != old:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range(middle, high, subtree))
            high = middle
        else:
            path.append(_range(low, middle, subtree))
            low, whole = middle, False
    return ([] if whole else [_range(low, high, subtree)]) + path[::-1]


def _range(low: int, high: int, subtree: Subtree) -> bytes:
    """Return the hash over leaves ``low`` to ``high``; ``low`` is a multiple of the smallest power of two around."""
    start, peaks = low, []
    for level in range((high - low).bit_length() - 1, -1, -1):
        if (high - low) >> level & 1:
            peaks.append(subtree(level, start >> level))
            start += 1 << level
    return fold(peaks)


def _split(width: int) -> int:
    return 1 << (width - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether ``path`` shows leaf hash ``leaf`` at ``index`` under ``root`` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    number, last, got = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            got = node_hash(step, got)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            got = node_hash(got, step)
        number, last = number >> 1, last >> 1
    return last == 0 and got == root


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether ``path`` shows that the newer tree only appended to the older (RFC 9162 section 2.1.4.2)."""
    if not 0 < old_size <= size:
        return False
    if old_size == size:
        return not path and old_root == root
    steps = list(path) if old_size & (old_size - 1) else [old_root, *path]
    if not steps:
        return False
    number, last = old_size - 1, size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    return _replay(steps, number, last) == (old_root, root)


def _replay(steps: Sequence[bytes], number: int, last: int) -> tuple[bytes, bytes] | None:
    """Return the old and the new root that the steps of a consistency proof lead to; None when they do not fit."""
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return None
        if number & 1 or number == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            new = node_hash(new, step)
        number, last = number >> 1, last >> 1
    return (old, new) if last == 0 else None
