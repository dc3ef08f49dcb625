"""Rejection notes (IHE IOCM): what was sent and no longer stands is taken back where it went.

Why the note says what it says: a wrong side is a matter of patient safety (113037), which asks an archive to show the
objects to nobody; everything else is one of quality (113001).
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Literal

import structlog
from pydicom import Dataset, dcmread
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, RefusedInputError
from config.results import ResultKind, wants
from config.settings import Settings
from db.lifecycle import NewObject
from db.lifecycle.rejecting import Undone, kept_note, take_back, undone
from db.lifecycle.standing import Fallen
from db.queries import instance_paths
from db.uow import Actor, unit_of_work
from publishing.facts import UNREADABLE, first_readable
from publishing.store import keep_object
from reports.key_images import build_rejection_note
from reports.values import DraftIdentity, Equipment, InstanceReference

log = structlog.get_logger()
NODE = Actor("node", "process")
Reason = Literal["quality", "patient_safety"]
_UNSAFE = ("wrong side", "wrong location")
_TEXTS = {
    Fallen.REFUSED: "The reader rejected the AI draft that this belongs to",
    Fallen.SUPERSEDED: "Images arrived after this AI draft was made: it speaks of fewer images than there are.",
    Fallen.FINDING: "It shows a finding of the AI that the reader of the signed report rejected.",
}


def note_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Make and owe every rejection note that is due; return how many.

    One note for each Study, reason and set of objects, owed to exactly the destinations that hold these. Its UIDs,
    time and bytes follow from what it takes back, so that making it again after a crash makes the same one.
    """
    del now  # what is due does not depend on the clock
    names = {one.name for one in settings.destinations if wants(one, ResultKind.REJECTION_NOTE)}
    if not names:
        return 0
    with sessions() as db:
        found = undone(db, names)
    return sum(_note(sessions, settings, taken) for taken in _groups(found))


def reason_of(one: Undone) -> Reason:
    """Return the coded reason for taking one object back."""
    said = [reason.lower() for reason in one.reasons]
    return "patient_safety" if any(words in reason for reason in said for words in _UNSAFE) else "quality"


def text_of(one: Undone) -> str:
    """Return why one object is taken back, for people; of a rejected draft with the reader's kind of reason."""
    text = _TEXTS[one.why]
    if one.why is not Fallen.REFUSED:
        return text
    kinds = sorted({reason.partition(":")[0] for reason in one.reasons if reason})
    return f"{text}: {', '.join(kinds)}." if kinds else f"{text}."


def _groups(found: Sequence[Undone]) -> list[list[Undone]]:
    """Return what goes into one note each: same Study and reason, and destinations that hold the same objects."""
    held: dict[tuple[object, ...], list[Undone]] = defaultdict(list)
    for one in found:
        held[one.study_id, one.why, text_of(one), reason_of(one), one.destination].append(one)
    notes: dict[tuple[object, ...], list[Undone]] = defaultdict(list)
    for key, taken in held.items():
        notes[*key[:-1], frozenset(one.sop_instance_uid for one in taken)] += taken
    return list(notes.values())


def _note(sessions: sessionmaker[Session], settings: Settings, taken: Sequence[Undone]) -> int:
    try:
        holders = sorted({one.destination for one in taken})
        with sessions() as db:
            uid = identity_of(taken).sop_instance_uid("rejection_note")
            note = kept_note(db, uid, holders) or _written(build_note(db, taken, settings), taken, settings)
        with unit_of_work(sessions, NODE) as uow:
            take_back(uow, note, taken)
    except LifecycleError:
        return 0  # somebody else was faster, or it is being sent again: it is looked at once more
    except AppError as exc:
        log.error("rejection_note.failed", error=type(exc).__name__, study_id=str(taken[0].study_id))  # noqa: TRY400
        return 0
    return 1


def build_note(db: Session, taken: Sequence[Undone], settings: Settings) -> Dataset:
    """Return the note over some objects of one Study, the same for the same objects.

    Raises:
        RefusedInputError: one of the objects cannot be read.
    """
    first = taken[0]
    paths = {one.sop_instance_uid: settings.results_dir / one.path for one in taken}
    try:
        rejected = [InstanceReference.of(dcmread(paths[uid], stop_before_pixels=True)) for uid in sorted(paths)]
    except UNREADABLE as exc:
        raise RefusedInputError("a result that no longer stands cannot be read") from exc
    images = (settings.instances_dir / one.path for one in instance_paths(db, first.study_id))
    return build_rejection_note(
        rejected,
        first_readable([*images, *paths.values()]),
        identity=identity_of(taken),
        equipment=Equipment(software_versions=(version("firstread"),), institution=settings.organization),
        reason=reason_of(first),
        text=text_of(first),
    )


def identity_of(taken: Sequence[Undone]) -> DraftIdentity:
    """Return what fixes the UIDs and the time of the note that takes these objects back."""
    uids = sorted({one.sop_instance_uid for one in taken})
    digest = hashlib.sha256("\n".join([reason_of(taken[0]), *uids]).encode()).hexdigest()
    return DraftIdentity(taken[0].study_instance_uid, "rejection note", digest, max(one.since for one in taken))


def _written(ds: Dataset, taken: Sequence[Undone], settings: Settings) -> NewObject:
    path = f"{taken[0].study_id}/notes/{ds.SOPInstanceUID}.dcm"
    holders = {one.destination for one in taken}
    return keep_object(
        ds,
        ResultKind.REJECTION_NOTE,
        path,
        results_dir=settings.results_dir,
        destinations=[one for one in settings.destinations if one.name in holders],
        is_signed=True,
    )
