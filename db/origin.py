"""The mark on an audit event that says this system made it: an HMAC whose key no database holds.

Whoever can write to the database, but has not the key, can add a row; its mark will be wrong, and
``firstread audit verify`` names it. Sealing comes later (``audit.sealing``) and would seal a forged row as
faithfully as a true one; the mark is what tells them apart.
"""

import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from config.errors import ConfigurationError

CURRENT = "origin.key"
_PATTERN = "origin*.key"  # older keys stay beside, to check what they marked
_BYTES = 32


@dataclass(frozen=True)
class OriginKeys:
    """The key that marks, and every key that ever did, by its name (the first 16 hex digits of its SHA-256)."""

    current: str
    keys: Mapping[str, bytes]

    def mark(self, body: bytes) -> str:
        """Return the mark of an event's canonical body: the key's name, a colon, HMAC-SHA-256 in hex (RFC 2104)."""
        return f"{self.current}:{hmac.digest(self.keys[self.current], body, 'sha256').hex()}"

    def has_marked(self, body: bytes, mark: str) -> bool:
        """Return whether ``mark`` was made over ``body`` with one of these keys."""
        name, _, digest = mark.partition(":")
        key = self.keys.get(name)
        return key is not None and hmac.compare_digest(hmac.digest(key, body, "sha256").hex(), digest)


class _Origin:
    """Where this process has its keys from, and the keys once the first event needed them."""

    folder: Path | None = None
    create = False
    keys: OriginKeys | None = None


def keys_are_in(folder: Path, *, create: bool = False) -> None:
    """Say where this process's keys are; nothing is opened. With ``create`` the first event makes one if need be."""
    _Origin.folder, _Origin.create, _Origin.keys = folder, create, None


def read_keys(folder: Path, *, create: bool = False) -> OriginKeys:
    """Return the origin keys in ``folder``; with ``create`` make the first where there is none.

    Raises:
        ConfigurationError: no key is there, or it cannot be read, or is none.
    """
    try:
        if create and not (folder / CURRENT).exists():
            write_key(folder)
        found = {path: bytes.fromhex(path.read_text("ascii").strip()) for path in sorted(folder.glob(_PATTERN))}
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the audit trail's key in {folder} cannot be read") from exc
    if any(len(key) != _BYTES for key in found.values()):
        raise ConfigurationError(f"a key of the audit trail in {folder} has not {_BYTES} bytes")
    current = found.get(folder / CURRENT)
    if current is None:
        raise ConfigurationError(f"there is no {CURRENT} in {folder}: run firstread audit keys")
    return OriginKeys(key_name(current), {key_name(key): key for key in found.values()})


def write_key(folder: Path) -> None:
    """Write a new ``origin.key`` that only its owner reads; of two processes that do so at once, one wins."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder / f".{CURRENT}.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, folder / CURRENT)
    finally:
        draft.unlink()


def key_name(key: bytes) -> str:
    """Return the name a key goes by in marks."""
    return sha256(key).hexdigest()[:16]


def require_keys() -> None:
    """Do nothing where this process can mark events; what is recorded later must not be done without.

    Raises:
        ConfigurationError: it cannot.
    """
    _keys()


def mark(body: bytes) -> str:
    """Return this process's mark of an event's canonical body.

    Raises:
        ConfigurationError: the process has no key; then it records nothing, and does nothing that must be recorded.
    """
    return _keys().mark(body)


def _keys() -> OriginKeys:
    if _Origin.keys is None:
        if _Origin.folder is None:
            raise ConfigurationError("this process was not told where the audit trail's keys are")
        _Origin.keys = read_keys(_Origin.folder, create=_Origin.create)
    return _Origin.keys
