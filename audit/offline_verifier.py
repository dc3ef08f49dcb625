#!/usr/bin/env python3
"""Verify an audit bundle with nothing but Python, the bundle and the public key: no database, no Firstread.

    python3 offline_verifier.py BUNDLE.zip --public-key seal.pub [--public-key older.pub]

Written to be read: one file, the standard library only. It checks, in this order,

1. the manifest's signature (Ed25519, RFC 8032) and the SHA-256 of every file it names;
2. the signatures of the two tree heads the bundle lies between (C2SP signed notes);
3. that the first head's root is the root of the subtrees in `frontier.json` (RFC 6962 section 2.1);
4. that these subtrees and the leaves in `leaves.bin` give the second head's root, and the hash chain its value;
5. that every event in the class files hashes to the leaf at its position, none twice, none missing from its class.

Exit status: 0 all holds, 1 something does not (the first bad record is named), 2 the bundle cannot be read.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

# --- Ed25519, verification only (RFC 8032 section 5.1.7) -----------------------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_1 = pow(2, (_P - 1) // 4, _P)
_SPKI = bytes.fromhex("302a300506032b6570032100")  # what precedes an Ed25519 key in SubjectPublicKeyInfo, RFC 8410
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(factor: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    return result


def _point(encoded: bytes) -> Point | None:
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE = _point(_BASE_Y.to_bytes(32, "little"))


def ed25519_holds(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether ``signature`` (64 bytes) of ``message`` was made with the key of ``public_key`` (32 bytes)."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, r, s = _point(public_key), _point(signature[:32]), int.from_bytes(signature[32:], "little")
    if key is None or r is None or s >= _L or _BASE is None:
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    left, right = _times(s, _BASE), _add(r, _times(int.from_bytes(digest, "little") % _L, key))
    return not (left[0] * right[2] - right[0] * left[2]) % _P and not (left[1] * right[2] - right[1] * left[2]) % _P


def read_public_key(pem: str) -> bytes:
    """Return the 32 bytes of an Ed25519 public key in PEM (``BEGIN PUBLIC KEY``, RFC 8410).

    Raises:
        UnreadableError: it is none.
    """
    text = re.sub(r"-----[A-Z ]+-----|\s", "", pem)
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise UnreadableError("the public key is no PEM") from exc
    if len(der) != 44 or der[:12] != _SPKI:
        raise UnreadableError("the public key is no Ed25519 key")
    return der[12:]


# --- signed notes and tree heads (C2SP signed-note, tlog-checkpoint) -------------------------------------------


class UnreadableError(Exception):
    """The bundle, or a key, is not of the form it must have."""


class BrokenError(Exception):
    """A check failed; the text names the check and the first bad record."""


@dataclass(frozen=True)
class Head:
    """A signed tree head: the number of events, the tree's root, the chain's value, and when it was signed."""

    size: int
    root: bytes
    chain: bytes
    at: str


def opened(note: str, keys: Iterable[bytes]) -> str:
    """Return the text of a signed note that one of ``keys`` has signed.

    Raises:
        BrokenError: no signature of these keys holds.
    """
    text, _, below = note.rpartition("\n\n")
    text += "\n"
    for line in below.splitlines():
        match = re.fullmatch(r"— (\S+) (\S+)", line)
        if match is None:
            continue
        name, blob = match[1], _decoded(match[2])
        for key in keys:
            known = hashlib.sha256(f"{name}\n".encode() + b"\x01" + key).digest()[:4]
            if blob[:4] == known and ed25519_holds(key, text.encode(), blob[4:]):
                return text
    raise BrokenError("signature: no key that was given has signed this")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""  # no signature of anybody


def read_head(note: str, keys: Iterable[bytes]) -> Head:
    """Return the tree head of a checkpoint whose signature holds.

    Raises:
        BrokenError: the signature does not hold.
        UnreadableError: it is no checkpoint.
    """
    lines = opened(note, keys).splitlines()
    more = dict(line.split(" ", 1) for line in lines[3:] if " " in line)
    try:
        return Head(int(lines[1]), base64.b64decode(lines[2]), base64.b64decode(more["chain"]), more.get("at", ""))
    except (IndexError, KeyError, ValueError) as exc:
        raise UnreadableError("a tree head has not the form of a checkpoint") from exc


# --- the tree and the chain (RFC 6962 section 2.1) -------------------------------------------------------------


def leaf_hash(preimage: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + preimage).digest()


class Tree:
    """The complete subtrees of a log, widest first, as events are appended."""

    def __init__(self, subtrees: Iterable[tuple[int, bytes]] = ()) -> None:
        """Begin with ``subtrees``: (level, hash) of each complete one, from the left."""
        self._subtrees = list(subtrees)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return sum(1 << level for level, _ in self._subtrees)

    def append(self, leaf: bytes) -> None:
        """Add one leaf at the right."""
        level = 0
        while self._subtrees and self._subtrees[-1][0] == level:
            leaf = hashlib.sha256(b"\x01" + self._subtrees.pop()[1] + leaf).digest()
            level += 1
        self._subtrees.append((level, leaf))

    def root(self) -> bytes:
        """Return the root; of no leaves the hash of nothing."""
        if not self._subtrees:
            return hashlib.sha256(b"").digest()
        result = self._subtrees[-1][1]
        for _, left in reversed(self._subtrees[:-1]):
            result = hashlib.sha256(b"\x01" + left + result).digest()
        return result


# --- the bundle ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What was verified."""

    first: int  # position of the first event
    end: int  # ... and one past the last
    events: int  # whose text is in the bundle
    disposed: tuple[str, ...]  # classes whose text was disposed of after their time, by a signed statement
    signed_at: str


def verify_bundle(path: Path, keys: Iterable[bytes]) -> Result:
    """Verify the bundle at ``path`` with the public ``keys``.

    Raises:
        BrokenError: a check failed, as said.
        UnreadableError: it is no bundle.
    """
    keys = tuple(keys)
    try:
        with zipfile.ZipFile(path) as bundle:
            return _verify(bundle, keys)
    except (zipfile.BadZipFile, KeyError, OSError, json.JSONDecodeError, UnicodeDecodeError, IndexError) as exc:
        raise UnreadableError(f"the bundle cannot be read: {exc}") from exc


def _verify(bundle: zipfile.ZipFile, keys: tuple[bytes, ...]) -> Result:
    manifest = json.loads(opened(bundle.read("manifest.note").decode(), keys).split("\n", 1)[1])
    disposed = _disposed(bundle, keys, manifest)
    _check_files(bundle, manifest, disposed)
    before, after = (read_head(bundle.read(name).decode(), keys) for name in ("before.note", "after.note"))
    leaves = bundle.read("leaves.bin")
    if len(leaves) != 32 * (after.size - before.size):
        raise BrokenError(f"leaves: {len(leaves) // 32} leaves between heads of {before.size} and {after.size} events")
    _check_tree(json.loads(bundle.read("frontier.json")), leaves, before, after)
    seen = 0
    for name in manifest["classes"]:
        if name not in disposed:
            count = sum(1 for _ in _events(bundle, name, leaves, before.size))
            if count != manifest["classes"][name]:
                raise BrokenError(
                    f"events: class {name} has {count} events, the manifest says {manifest['classes'][name]}"
                )
            seen += count
    if sum(manifest["classes"].values()) != after.size - before.size:
        raise BrokenError("events: the classes together do not hold every event of the interval")
    return Result(before.size, after.size, seen, tuple(disposed), after.at)


def _disposed(bundle: zipfile.ZipFile, keys: tuple[bytes, ...], manifest: dict[str, object]) -> list[str]:
    """Return the classes that a signed statement about this very bundle says were disposed of."""
    if "disposed.note" not in bundle.namelist():
        return []
    said = json.loads(opened(bundle.read("disposed.note").decode(), keys).split("\n", 1)[1])
    if said["bundle"] != manifest["bundle"]:
        raise BrokenError("disposal: the statement is about another bundle")
    return list(said["classes"])


def _check_files(bundle: zipfile.ZipFile, manifest: dict[str, dict[str, str]], disposed: list[str]) -> None:
    gone = {f"events-{name}.tsv" for name in disposed}
    named = [*manifest["files"], "manifest.note", "disposed.note"]
    if len(set(bundle.namelist())) != len(bundle.namelist()) or not set(bundle.namelist()) <= set(named):
        raise BrokenError("manifest: the bundle has files that were not signed")
    for name, expected in manifest["files"].items():
        if name in gone:
            continue
        digest = hashlib.sha256()
        with bundle.open(name) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != expected:
            raise BrokenError(f"manifest: {name} is not the file that was signed")


def _check_tree(frontier: list[list[object]], leaves: bytes, before: Head, after: Head) -> None:
    tree = Tree((int(str(level)), bytes.fromhex(str(digest))) for level, digest in frontier)
    if tree.size != before.size or tree.root() != before.root:
        raise BrokenError("tree: the subtrees before the bundle do not give the first head's root")
    chain = before.chain
    for at in range(0, len(leaves), 32):
        leaf = leaves[at : at + 32]
        tree.append(leaf)
        chain = hashlib.sha256(chain + leaf).digest()
    if tree.root() != after.root:
        raise BrokenError("tree: the leaves do not give the second head's root")
    if chain != after.chain:
        raise BrokenError("chain: the leaves do not give the second head's chain value")


def _events(bundle: zipfile.ZipFile, name: str, leaves: bytes, first: int) -> Iterator[int]:
    """Yield the position of each event of a class whose text hashes to its leaf; positions rise."""
    last = -1
    with bundle.open(f"events-{name}.tsv") as file:
        for line in file:
            position_text, seq, at, _mark, body = line.rstrip(b"\n").split(b"\t", 4)
            position = int(position_text)
            where = (position - first) * 32
            if position <= last:
                raise BrokenError(f"events: position {position} (seq {int(seq)}) is out of order or there twice")
            if where < 0 or leaf_hash(seq + b" " + at + b"\n" + body) != leaves[where : where + 32]:
                raise BrokenError(
                    f"leaf: the event at position {position} (seq {int(seq)}) is not the one that was sealed"
                )
            if json.loads(body)["at"] != at.decode() or not datetime.fromisoformat(at.decode()):
                raise BrokenError(f"time: the event at position {position} (seq {int(seq)}) tells two times")
            last = position
            yield position


def main(arguments: list[str] | None = None) -> int:
    """Verify what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description="Verify an audit bundle offline.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--public-key", type=Path, action="append", required=True, help="PEM; more than one after a rotation"
    )
    asked = parser.parse_args(arguments)
    try:
        keys = [read_public_key(path.read_text("ascii")) for path in asked.public_key]
        result = verify_bundle(asked.bundle, keys)
    except BrokenError as exc:
        print(f"BROKEN  {exc}")  # noqa: T201 it is a script
        return 1
    except (UnreadableError, OSError, ValueError) as exc:
        print(f"CANNOT BE READ  {exc}")  # noqa: T201
        return 2
    print(  # noqa: T201
        f"OK  events {result.first} to {result.end - 1}: {result.events} texts checked, "
        f"head signed {result.signed_at}" + "".join(f"; class {name} disposed of" for name in result.disposed)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
