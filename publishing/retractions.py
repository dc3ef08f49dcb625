"""Messages of drafts that no longer stand are taken back where they were delivered: from a RIS, from an EHR.

Each is made from the message that was sent, never from the draft: it repeats identifiers and nothing that was said.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, RefusedInputError
from config.results import RETRACTIONS, ResultKind
from config.settings import Settings
from db.lifecycle.retracting import Kept, Retractable, retract, retractable
from db.lifecycle.standing import Fallen
from db.uow import Actor, unit_of_work
from publishing.store import keep_message
from reports.fhir.retraction import retract_bundle, updates
from reports.hl7_retraction import retract_oru
from reports.values import DraftIdentity

log = structlog.get_logger()
NODE = Actor("node", "process")
_WHY: Mapping[Fallen, str] = {
    Fallen.REFUSED: "A reader rejected it.",
    Fallen.SUPERSEDED: "Later images, or a correction of the patient, made it outdated.",
}


def retract_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Make and owe every message that is due to take another back; return how many were taken back.

    What its time, identity and bytes follow from is what it takes back, and what arrived after that: made again after
    a crash, it is the same.
    """
    del now  # what is due does not depend on the clock
    names = {one.name for one in settings.destinations if not one.takes_objects}
    if not names:
        return 0
    with sessions() as db:
        found = retractable(db, names)
    return sum(_retract(sessions, settings, one) for one in found)


def _retract(sessions: sessionmaker[Session], settings: Settings, one: Retractable) -> int:
    undone = one.undone
    try:
        content = build_retraction(one, settings)
        made = None
        if content is not None:
            kind, uid = RETRACTIONS[one.kind], retraction_uid(one)
            ending = "hl7" if kind is ResultKind.RETRACTION_ORU else "json"
            path = f"{undone.study_id}/notes/{uid}.{ending}"
            made = keep_message(
                content, kind, path, results_dir=settings.results_dir, uid=uid, destinations=[undone.destination]
            )
        with unit_of_work(sessions, NODE) as uow:
            retract(uow, one, made)
    except LifecycleError:
        return 0  # somebody else was faster, or another message was made: it is looked at once more
    except AppError as exc:
        log.error("retraction.failed", error=type(exc).__name__, study_id=str(undone.study_id))  # noqa: TRY400
        return 0
    return int(made is not None)


def retraction_uid(one: Retractable) -> str:
    """Return the identity of the message that takes this one back from its destination."""
    undone = one.undone
    digest = hashlib.sha256(undone.sop_instance_uid.encode()).hexdigest()
    identity = DraftIdentity(undone.study_instance_uid, "retraction", digest, undone.since)
    return identity.other_uid(RETRACTIONS[one.kind], undone.destination)


def build_retraction(one: Retractable, settings: Settings) -> bytes | None:
    """Return the message that takes one back; None when the messages that followed replaced all of it.

    A RIS replaces a report as a whole, so there any follower does. A FHIR server keeps every resource for itself:
    the findings of this draft stay until they are taken back, whatever became of the report.

    Raises:
        RefusedInputError: a message that was sent cannot be read, or is not the one that was kept.
    """
    try:
        return _oru(one, settings) if one.kind is ResultKind.DRAFT_ORU else _bundle(one, settings)
    except (ValueError, LookupError, TypeError, StopIteration) as exc:
        raise RefusedInputError("a message that was sent is none of those that are made now") from exc


def _oru(one: Retractable, settings: Settings) -> bytes | None:
    if one.followers:
        return None
    undone, sent = one.undone, _read(one.message, settings)
    return retract_oru(sent, undone.destination, uid=retraction_uid(one), at=undone.since, why=_WHY[undone.why])


def _bundle(one: Retractable, settings: Settings) -> bytes | None:
    undone = one.undone
    replaced = [updates(json.loads(_read(kept, settings))) for kept in one.followers]
    bundle = retract_bundle(
        json.loads(_read(one.message, settings)),
        uid=retraction_uid(one),
        at=undone.since,
        why=_WHY[undone.why],
        replaced=set().union(*replaced),
    )
    return None if bundle is None else json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()


def _read(kept: Kept, settings: Settings) -> bytes:
    try:
        content = (settings.results_dir / kept.path).read_bytes()
    except OSError as exc:
        raise RefusedInputError("a message that was sent cannot be read") from exc
    if hashlib.sha256(content).hexdigest() != kept.sha256:
        raise RefusedInputError("a message that was sent is not the one that was kept")
    return content
