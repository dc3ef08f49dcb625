"""The synthetic hospital, played over real associations, and what became of it."""

import time
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db import queries
from db.engine import make_engine, make_sessions
from db.models import Reading, ResultObject
from db.queries import ReadingDetail
from db.types import Presence, ReadingState
from dicom_node.send import send_folder
from firstread.ports import free_port, wait_for_port
from firstread.prepare import prepare
from firstread.up import ensure_model, system, with_demo_archive
from phantoms.hospital import SyntheticStudy, play_hospital

log = structlog.get_logger()

ENDED = frozenset(
    {ReadingState.DRAFTED, ReadingState.NO_DRAFT, ReadingState.FAILED, ReadingState.HELD, ReadingState.IGNORED}
)
CALLING_AE = "SYN_SCANNER"


@dataclass(frozen=True)
class Sent:
    """One synthetic Study and the moment its last C-STORE was answered (seconds, monotonic and UTC)."""

    study: SyntheticStudy
    at: float


def send_hospital(settings: Settings, *, seed: int) -> list[Sent]:
    """Write the hospital's studies and send each over C-STORE associations to the node.

    Raises:
        AppError: an instance was not accepted.
    """
    folder = settings.data_dir.resolve() / "synthetic" / f"hospital-{seed}"
    sent: list[Sent] = []
    for study in play_hospital(folder, seed=seed):
        summary = send_folder(
            study.folder,
            host=settings.dicom.host,
            port=settings.dicom.port,
            called_ae=settings.dicom.ae_title,
            calling_ae=CALLING_AE,
        )
        stored = summary.counts.get("stored", 0)
        if stored != len(study.files):
            raise AppError(f"{stored} of {len(study.files)} synthetic instances were accepted: {summary.reasons()}")
        sent.append(Sent(study, time.time()))
    return sent


def play_once(settings: Settings, *, seed: int, timeout_s: float) -> tuple[list[dict[str, Any]], bool]:
    """Run the system on free ports, play the hospital, wait for every Study, stop.

    Returns:
        One row per Study, and whether each reached the state it should.
    """
    settings = settings.model_copy(
        update={
            "dicom": settings.dicom.model_copy(
                update={"port": free_port(), "quiet_s": min(settings.dicom.quiet_s, 4.0)}
            ),
            "web": settings.web.model_copy(update={"port": free_port()}),
        }
    )
    prepare(settings)
    ensure_model(settings)
    settings, archive = with_demo_archive(settings)
    family = system(settings, archive)
    family.start()
    try:
        wait_for_port(settings.dicom.host, settings.dicom.port, timeout_s=60)
        sent = send_hospital(settings, seed=seed)
        sessions = make_sessions(make_engine(settings.database))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not _all_ended(sessions, sent):
            family.watch()
            time.sleep(0.5)
        rows = [_row(sessions, settings, one) for one in sent]
    finally:
        family.stop()
    return rows, all(row["state"] == row["expected_state"] for row in rows)


@dataclass(frozen=True)
class Outcome:
    """What the newest Reading of one Study came to."""

    reading: Reading
    detail: ReadingDetail
    objects: list[ResultObject]


def outcome(session: Session, study_uid: str) -> Outcome | None:
    """Return what became of a Study, None before its first Instance is known."""
    found = queries.find_studies(session, study_instance_uid=study_uid)
    study = queries.study_detail(session, found[0].id) if found else None
    if study is None or not study.readings:
        return None
    detail = queries.reading_detail(session, study.readings[0].id)
    return None if detail is None else Outcome(study.readings[0], detail, study.objects)


def _all_ended(sessions: sessionmaker[Session], sent: list[Sent]) -> bool:
    with sessions() as session:
        found = [outcome(session, one.study.study_uid) for one in sent]
    return all(one is not None and one.reading.state in ENDED for one in found)


def _row(sessions: sessionmaker[Session], settings: Settings, one: Sent) -> dict[str, Any]:
    """Return what became of one Study, beside what is true of its phantom."""
    row: dict[str, Any] = {
        "study_uid": one.study.study_uid,
        "modality": one.study.modality,
        "state": "NOT_RECEIVED",
        "expected_state": one.study.expected,
        "reason": "",
        "seconds_to_draft": None,
        "findings": [],
        "marks": [],
        "objects": [],
        "truth_findings": sorted(one.study.truth.findings),
    }
    with sessions() as session:
        found = outcome(session, one.study.study_uid)
    if found is None:
        return row
    finished = found.reading.finished_at
    draft = found.detail.draft
    return row | {
        "state": str(found.reading.state),
        "reason": found.reading.reason,
        "seconds_to_draft": round(finished.timestamp() - one.at, 1) if finished else None,
        "findings": [f.label for f in found.detail.findings if f.presence is Presence.PRESENT],
        "marks": [mark["text"] for mark in draft.marks] if draft else [],
        "objects": [
            {
                "kind": o.kind,
                "sop_instance_uid": o.sop_instance_uid,
                "on_disk": (settings.results_dir / o.path).is_file(),
            }
            for o in found.objects
        ],
    }
