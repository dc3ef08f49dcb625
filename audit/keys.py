"""The keys that sign tree heads: Ed25519, in files outside the database; the public half is what an auditor holds."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from config.errors import ConfigurationError

PRIVATE = "seal.key"
PUBLIC = "seal.pub"
_FORMER = "seal-*.pub"  # what older heads were signed with


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key that signs heads."""

    raw: bytes  # 32 bytes, RFC 8032

    @property
    def name(self) -> str:
        """What the key goes by: the first 16 hex digits of its SHA-256."""
        return sha256(self.raw).hexdigest()[:16]

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` is this key's over ``data``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> bytes:
        """Return the key as a PEM file has it (SubjectPublicKeyInfo)."""
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True)
class SealKey:
    """A key that signs heads."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """The half that checks."""
        return PublicKey(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``, 64 bytes (RFC 8032)."""
        return self.private.sign(data)


@dataclass(frozen=True)
class SealKeys:
    """The folder of a system's keys; each look reads it anew, so that a rotation needs no restart."""

    folder: Path
    create: bool = False  # make the first key where there is none

    def current(self) -> SealKey:
        """Return the key that signs.

        Raises:
            ConfigurationError: there is none, or it cannot be read.
        """
        path = self.folder / PRIVATE
        try:
            if self.create and not path.exists():
                write_seal_key(self.folder)
            return _private(path)
        except FileNotFoundError:
            raise ConfigurationError(f"there is no {PRIVATE} in {self.folder}: run firstread audit keys") from None
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"the key that signs the audit trail, {path}, cannot be read") from exc

    def public(self) -> dict[str, PublicKey]:
        """Return every public key there is, by name, the current one included.

        Raises:
            ConfigurationError: there is none, or one cannot be read.
        """
        paths = [*sorted(self.folder.glob(_FORMER)), self.folder / PUBLIC]
        return by_name(*(read_public_key(path) for path in paths))

    def rotate(self) -> tuple[SealKey, SealKey]:
        """Put a new key in the place of the current one, whose public half stays; return the old and the new.

        Raises:
            ConfigurationError: there is no current key.
        """
        old = self.current()
        (self.folder / f"seal-{old.public.name}.pub").write_bytes(old.public.pem())
        new = SealKey(Ed25519PrivateKey.generate())
        for name, content in _files(new):
            draft = _draft(self.folder, name, content)
            draft.replace(self.folder / name)
        return old, new

    def put_back(self, old: SealKey) -> None:
        """Undo a rotation that could not be recorded."""
        for name, content in _files(old):
            _draft(self.folder, name, content).replace(self.folder / name)
        (self.folder / f"seal-{old.public.name}.pub").unlink(missing_ok=True)


def by_name(*keys: PublicKey) -> dict[str, PublicKey]:
    """Return keys by their names."""
    return {key.name: key for key in keys}


def read_public_key(path: Path) -> PublicKey:
    """Return the public key of a PEM file.

    Raises:
        ConfigurationError: it cannot be read, or is no Ed25519 key.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"the public key {path} cannot be read") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is no Ed25519 key")
    return PublicKey(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def write_seal_key(folder: Path) -> None:
    """Write the first key; of two processes that do so at once, one wins."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in _files(SealKey(Ed25519PrivateKey.generate())):
        draft = _draft(folder, name, content)
        try:
            with suppress(FileExistsError):
                os.link(draft, folder / name)
        finally:
            draft.unlink()
    # whoever lost wrote a public half of no use
    _draft(folder, PUBLIC, _private(folder / PRIVATE).public.pem()).replace(folder / PUBLIC)


def _files(key: SealKey) -> list[tuple[str, bytes]]:
    private = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return [(PRIVATE, private), (PUBLIC, key.public.pem())]


def _draft(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f".{name}.{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if name == PRIVATE else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


def _private(path: Path) -> SealKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path.name} is no Ed25519 key")  # noqa: TRY004 what the file holds, not what it was given
    return SealKey(key)
