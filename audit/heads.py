"""Signed tree heads: C2SP checkpoints (tlog-checkpoint) in signed notes, with what this log says beside.

firstread.example/audit          the log's name
1000                             how many events it had
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=   root of the tree over them
chain 7sEbnO0b...                the chain's last value
at 2026-11-23T04:05:06.000007Z   this system's clock
after 900                        how many events the head before had; 0 for the first
key bmV3IGtleQ...                only where a new key takes over: its public half

— firstread.example/audit 4RcY...   one signature by each key
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from audit.keys import PublicKey, SealKey
from config.errors import BrokenSealError

_ED25519 = b"\x01"  # signature type of signed notes
_HASH_BYTES = 32
_ID_BYTES = 4


@dataclass(frozen=True)
class Head:
    """What the whole log was when it had ``size`` events."""

    origin: str
    size: int
    root: bytes
    chain: bytes
    at: datetime
    after: int = 0  # size of the head before
    successor: PublicKey | None = None  # the key that signs from now on
    signed_by: tuple[str, ...] = ()  # names of the known keys whose signatures hold
    note: str = ""  # the signed text, once there is one

    @property
    def text(self) -> str:
        """The text that is signed."""
        at = self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lines = [self.origin, str(self.size), _said(self.root), f"chain {_said(self.chain)}", f"at {at}"]
        lines.append(f"after {self.after}")
        lines += [f"key {_said(self.successor.raw)}"] if self.successor else []
        return "".join(f"{line}\n" for line in lines)


def sign(head: Head, keys: Sequence[SealKey]) -> str:
    """Return the signed note of a head, with one signature by each key."""
    text = head.text
    signatures = [
        f"\N{EM DASH} {head.origin} {_said(key_id(head.origin, key.public) + key.sign(text.encode('utf-8')))}\n"
        for key in keys
    ]
    return f"{text}\n{''.join(signatures)}"


def key_id(origin: str, key: PublicKey) -> bytes:
    """Return the four bytes that stand for a key in a signature line."""
    return sha256(origin.encode("utf-8") + b"\n" + _ED25519 + key.raw).digest()[:_ID_BYTES]


def open_note(text: str, public_keys: Mapping[str, PublicKey]) -> Head:
    """Return the head that a note holds, once a known key's signature on it was checked.

    Signatures of keys that are not known say nothing and are passed over.

    Raises:
        BrokenSealError: no head, no signature of a known key, or a false one.
    """
    names, body = signers(text, public_keys)
    return Head(**(vars(_read(body)) | {"signed_by": tuple(names), "note": text}))


def signers(text: str, public_keys: Mapping[str, PublicKey]) -> tuple[list[str], str]:
    """Return the names of the known keys that signed a note, one at least, and the text they signed.

    Raises:
        BrokenSealError: no signature of a known key, or a false one.
    """
    body, gap, lines = text.partition("\n\n")
    if not gap:
        raise BrokenSealError("it has no signature")
    signed = f"{body}\n"
    origin = body.partition("\n")[0]
    names = []
    for line in lines.splitlines():
        key = _signer(line, origin, public_keys)
        if key is None:
            continue
        if not key.has_signed(signed.encode("utf-8"), _bytes(line.split(" ")[-1])[_ID_BYTES:]):
            raise BrokenSealError(f"it has a false signature of key {key.name}")
        names.append(key.name)
    if not names:
        raise BrokenSealError("it is not signed by a known key")
    return names, signed


def _signer(line: str, origin: str, public_keys: Mapping[str, PublicKey]) -> PublicKey | None:
    dash, _, rest = line.partition(" ")
    name, _, signature = rest.partition(" ")
    if dash != "\N{EM DASH}" or not signature:
        raise BrokenSealError("a head has a line that is no signature")
    if name != origin:
        return None  # a witness's
    shown = _bytes(signature)[:_ID_BYTES]
    return next((key for key in public_keys.values() if key_id(origin, key) == shown), None)


def _read(text: str) -> Head:
    """Return what a head's text says; what it says beyond is passed over, as the format asks."""
    try:
        origin, size, root, *more = text.splitlines()
        said = dict(line.split(" ", 1) for line in more if " " in line)
        at = datetime.strptime(said["at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        successor = PublicKey(_bytes(said["key"])) if "key" in said else None
        head = Head(origin, int(size), _bytes(root), _bytes(said["chain"]), at, int(said.get("after", "0")), successor)
    except (ValueError, KeyError) as exc:
        raise BrokenSealError("that is no head of an audit log") from exc
    keys = [successor.raw] if successor else []
    if any(len(value) != _HASH_BYTES for value in (head.root, head.chain, *keys)):
        raise BrokenSealError("a hash in a head has not 32 bytes")
    return head


def _said(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BrokenSealError("a head holds something that is not Base64") from exc
