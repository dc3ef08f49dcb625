"""Bundles of archived events, as they are written; ``audit.bundle_files`` reads them.

A bundle is a ZIP of: the two signed heads it lies between (`before.note`, `after.note`), the subtrees before it
(`frontier.json`), every leaf in between (`leaves.bin`), one file of events for each retention class
(`events-CLASS.tsv`: position, seq, instant, mark, canonical body), the signed manifest with the SHA-256 of each, and
the verifier itself. `audit.offline_verifier` checks it with the public key alone. What names a patient is not in a
bundle: it stays in `audit_private`, where it can be erased.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from sqlalchemy.orm import Session

from audit import offline_verifier
from audit.bundle_files import Bundle, open_bundle, put_in_place, signed_line, zip_files
from audit.heads import Head, sign
from audit.keys import SealKey, SealKeys
from audit.tables import tables_of
from audit.tree import peaks_of, root_of
from config.errors import ConfigurationError
from db.audit_classes import RetentionClass, retention_class
from db.audit_models import AuditHead
from db.audit_record import canonical, instant
from db.lifecycle.audit_archives import ArchivedEvent, sealed_events
from db.types import utcnow

ARCHIVE = "/archive"  # after the log's name, in the signatures of manifests
_VERIFIER = Path(offline_verifier.__file__)


def write_bundle(session: Session, before: AuditHead | None, after: AuditHead, folder: Path, keys: SealKeys) -> Bundle:
    """Write the bundle of the events between two heads; it is verified, and on the disk, when this returns.

    Raises:
        RefusedInputError: an event in between is not in the table, or the bundle does not verify: the log is broken.
        ConfigurationError: the folder cannot be written.
    """
    key = keys.current()
    origin = after.note.split("\n", 1)[0]
    first = before.size if before else 0
    name = f"audit-{first:012d}-{after.size:012d}.zip"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".bundle-", dir=folder) as work:
            newest, classes = _write_files(session, Path(work), first, after)
            _write_heads(session, Path(work), before, after, origin, key)
            manifest = _manifest(Path(work), name, classes, newest)
            note = signed_line(f"{origin}{ARCHIVE}", manifest, key)
            Path(work, "manifest.note").write_text(note, encoding="utf-8")
            zip_files(Path(work), folder / f"{name}.part")
        bundle = open_bundle(folder / f"{name}.part", keys)
        put_in_place(folder / f"{name}.part", folder / name)
    except OSError as exc:
        raise ConfigurationError(f"the archive folder {folder} cannot be written") from exc
    return replace(bundle, path=folder / name)


def _write_files(session: Session, work: Path, first: int, after: AuditHead) -> tuple[datetime, dict[str, int]]:
    """Write leaves and events; return the newest instant, and how many events each class has."""
    counts = dict.fromkeys(RetentionClass, 0)
    files: dict[str, IO[bytes]] = {one: (work / f"events-{one}.tsv").open("wb") for one in RetentionClass}
    newest = datetime.min.replace(tzinfo=UTC)
    try:
        with (work / "leaves.bin").open("wb") as leaves:
            for leaf, event in sealed_events(session, first, after.size):
                kind = retention_class(str(json.loads(event.body)["tag"]))
                counts[kind] += 1
                files[kind].write(_line(event))
                leaves.write(leaf)
                newest = max(newest, event.occurred_at)
    finally:
        for file in files.values():
            file.close()
    return newest, {str(kind): count for kind, count in counts.items()}


def _line(event: ArchivedEvent) -> bytes:
    # canonical JSON has no tab and no line feed: RFC 8785 writes them as escapes
    return f"{event.position}\t{event.seq}\t{event.at}\t{event.mark}\t{event.body}\n".encode()


def _write_heads(
    session: Session, work: Path, before: AuditHead | None, after: AuditHead, origin: str, key: SealKey
) -> None:
    beginning = Head(origin=origin, size=0, root=root_of([]), chain=bytes(32), at=after.signed_at)
    first = before.size if before else 0
    (work / "before.note").write_text(before.note if before else sign(beginning, [key]), encoding="utf-8")
    (work / "after.note").write_text(after.note, encoding="utf-8")
    connection = session.connection()
    tables = tables_of(connection.dialect.name, connection.connection.cursor())
    peaks = [[level, tables.subtree(level, number).hex()] for level, number in peaks_of(first)]
    (work / "frontier.json").write_text(json.dumps(peaks), encoding="ascii")
    shutil.copyfile(_VERIFIER, work / "verify.py")


def _manifest(work: Path, name: str, classes: dict[str, int], newest: datetime) -> str:
    digests = {path.name: _sha256(path) for path in sorted(work.iterdir())}
    said = {
        "bundle": name,
        "classes": classes,
        "files": digests,
        "newest": instant(newest),
        "written": instant(utcnow()),
    }
    return canonical(said).decode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
