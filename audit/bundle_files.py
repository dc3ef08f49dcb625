"""The files of audit bundles: opened and verified, read event by event, thinned when the time of a class is over."""

import base64
import heapq
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from audit import offline_verifier
from audit.heads import key_id
from audit.keys import SealKey, SealKeys
from config.errors import ConfigurationError, RefusedInputError
from db.audit_record import canonical, instant
from db.lifecycle.audit_archives import ArchivedEvent
from db.types import utcnow

DISPOSAL = "/disposal"  # after the log's name, in the signature of a disposal
YEAR = timedelta(days=365.25)
_FILE_TIME = (1980, 1, 1, 0, 0, 0)  # the same files make the same bundle


@dataclass(frozen=True)
class Bundle:
    """A bundle that verified, as its signed manifest describes it."""

    path: Path
    origin: str
    first: int  # position of its first event
    end: int  # ... and one past the last
    newest: datetime  # the latest instant of its events, which retention counts from
    classes: Mapping[str, int]  # events of each retention class
    disposed: tuple[str, ...]  # classes whose texts are gone
    manifest: str  # the signed note


def open_bundle(path: Path, keys: SealKeys) -> Bundle:
    """Verify a bundle with every public key there is, and return what it is.

    Raises:
        RefusedInputError: it is no bundle, or something in it does not hold.
    """
    public = [key.raw for key in keys.public().values()]
    try:
        result = offline_verifier.verify_bundle(path, public)
        with zipfile.ZipFile(path) as bundle:
            note = bundle.read("manifest.note").decode("utf-8")
    except (offline_verifier.BrokenError, offline_verifier.UnreadableError) as exc:
        raise RefusedInputError(f"the bundle {path.name} does not verify: {exc}") from exc
    origin, line = note.split("\n")[:2]
    said = json.loads(line)
    newest = datetime.fromisoformat(said["newest"])
    name = origin.rpartition("/")[0]
    return Bundle(path, name, result.first, result.end, newest, said["classes"], result.disposed, note)


def bundle_events(bundle: Bundle) -> Iterator[ArchivedEvent]:
    """Yield the events whose text is in the bundle, in the order of positions."""
    with zipfile.ZipFile(bundle.path) as files:
        parts = [_events(files, name) for name in bundle.classes if name not in bundle.disposed]
        yield from heapq.merge(*parts, key=lambda event: event.position)


def _events(files: zipfile.ZipFile, name: str) -> Iterator[ArchivedEvent]:
    with files.open(f"events-{name}.tsv") as lines:
        for line in lines:
            position, seq, at, mark, body = line.decode("utf-8").rstrip("\n").split("\t", 4)
            yield ArchivedEvent(int(position), int(seq), at, mark, body, datetime.fromisoformat(at).astimezone(UTC))


def studies_of(bundle: Bundle, classes: Sequence[str]) -> set[UUID]:
    """Return the ids of the studies that the events of some classes are about."""
    with zipfile.ZipFile(bundle.path) as files:
        bodies = (json.loads(event.body) for name in classes for event in _events(files, name))
        return {UUID(body["study_id"]) for body in bodies if "study_id" in body}


def expired(bundle: Bundle, keep_years: Mapping[str, float], now: datetime) -> list[str]:
    """Return the classes of a bundle whose time is over, and whose texts are still there.

    The time counts from the newest event of the bundle, so that no event is kept too short.
    """
    present = [name for name, count in bundle.classes.items() if count and name not in bundle.disposed]
    return [name for name in present if bundle.newest + keep_years[name] * YEAR < now]


def dispose(bundle: Bundle, classes: Sequence[str], keys: SealKeys) -> Bundle:
    """Take the texts of ``classes`` out of a bundle, which says so by a signed statement and still verifies.

    Raises:
        RefusedInputError: what is left does not verify.
        ConfigurationError: the folder cannot be written.
    """
    gone = sorted({*bundle.disposed, *classes})
    said = {"bundle": json.loads(bundle.manifest.split("\n")[1])["bundle"], "classes": gone, "at": instant(utcnow())}
    draft = bundle.path.with_name(f"{bundle.path.name}.part")
    try:
        with TemporaryDirectory(prefix=".bundle-", dir=bundle.path.parent) as work:
            with zipfile.ZipFile(bundle.path) as files:
                kept = [name for name in files.namelist() if name not in {f"events-{one}.tsv" for one in gone}]
                files.extractall(work, kept)  # names that were verified: they are in the signed manifest
            note = signed_line(f"{bundle.origin}{DISPOSAL}", canonical(said).decode(), keys.current())
            Path(work, "disposed.note").write_text(note, encoding="utf-8")
            zip_files(Path(work), draft)
        open_bundle(draft, keys)
        put_in_place(draft, bundle.path)
    except OSError as exc:
        raise ConfigurationError(f"the archive folder {bundle.path.parent} cannot be written") from exc
    return open_bundle(bundle.path, keys)


def signed_line(origin: str, text: str, key: SealKey) -> str:
    """Return a signed note (C2SP) of one line of text below its origin."""
    body = f"{origin}\n{text}\n"
    blob = base64.b64encode(key_id(origin, key.public) + key.sign(body.encode())).decode("ascii")
    return f"{body}\n\N{EM DASH} {origin} {blob}\n"


def zip_files(work: Path, path: Path) -> None:
    """Write the files of a folder into a ZIP that is on the disk when this returns."""
    with path.open("wb") as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as bundle:
            for file in sorted(work.iterdir()):
                entry = zipfile.ZipInfo(file.name, _FILE_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                with file.open("rb") as source, bundle.open(entry, "w", force_zip64=True) as to:
                    shutil.copyfileobj(source, to, 1 << 20)
        raw.flush()
        os.fsync(raw.fileno())


def put_in_place(draft: Path, path: Path) -> None:
    """Give a finished file its name, and flush its folder."""
    draft.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
