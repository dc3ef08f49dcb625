"""The system tries itself: a synthetic study goes to our own port by C-STORE and takes the way of every other study.

Its results are kept and owed to nobody (`db.lifecycle.deliveries`), and no archive is asked about its patient.
"""

import shutil
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError
from config.settings import Peer, Settings
from db.lifecycle import node_tasks
from db.lifecycle.destination_tests import StepSeen
from db.lifecycle.node_tasks import SELF_TEST, AskedTask
from db.peers import add_peer, added_peers, remove_peers
from db.queries.self_tests import progress
from db.running_models import NodeTask
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.peers import known_peers
from dicom_node.send import send_folder
from phantoms.chest_xray import make_chest_xray
from phantoms.dicom import study_uid, write_radiograph
from phantoms.patients import PatientIdentity, make_patient

log = structlog.get_logger()
CALLING_AE = "SELFTEST"
LONGEST = timedelta(minutes=20)
_LEASE_S = 300.0
_SIZE = 1024
_HERE = "127.0.0.1"
_KNOWN_AFTER_S = 2.5  # the door remembers its peers so long
_NODE = Actor("node", "process")


def test_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Send self-tests that people asked for, and end those that came through or took too long; return how many."""
    with unit_of_work(sessions, _NODE) as uow:
        asked = node_tasks.claim_task(uow, now, (SELF_TEST,), lease_s=_LEASE_S)
    if asked is not None:
        _send(sessions, settings, asked)
    return int(asked is not None) + _end(sessions, settings, now)


def _send(sessions: sessionmaker[Session], settings: Settings, asked: AskedTask) -> None:
    patient = self_test_patient(asked, utcnow())
    folder = Path(tempfile.mkdtemp(prefix="firstread-self-test-"))
    try:
        steps = [_write(patient, folder, seed=asked.task_id.int % 10**6)]
        with unit_of_work(sessions, _NODE) as uow:
            node_tasks.start_self_test(uow, asked.task_id, study_uid(patient))
            node_tasks.note_steps(uow, asked.task_id, steps)
        steps.append(_store(sessions, settings, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with unit_of_work(sessions, _NODE) as uow:
        if steps[-1].is_good:
            node_tasks.note_steps(uow, asked.task_id, steps)
        else:
            node_tasks.finish_self_test(uow, asked.task_id, steps)


def self_test_patient(asked: AskedTask, now: datetime) -> PatientIdentity:
    """Return a patient nobody can take for a person, with an accession number of this test's own."""
    local = now.astimezone()
    return replace(
        make_patient(0),
        patient_id=CALLING_AE,
        name="SELFTEST^Do not read",
        accession_number=f"SELFTEST{asked.task_id.int % 10**8:08d}",
        study_date=f"{local:%Y%m%d}",
        study_time=f"{local:%H%M%S}",
        referring_physician="",
    )


def _write(patient: PatientIdentity, folder: Path, *, seed: int) -> StepSeen:
    began = time.monotonic()
    xray = next(
        found
        for number in range(seed, seed + 1000)
        if (found := make_chest_xray(number, findings=frozenset(), size=_SIZE)).view == "PA"
    )
    files = write_radiograph(xray.pixels, patient, folder, pixel_spacing_mm=xray.pixel_spacing_mm)
    note = f"a synthetic chest radiograph without findings, {len(files)} Instance, patient {patient.patient_id}"
    return StepSeen("made", True, note, (time.monotonic() - began) * 1000)


def _store(sessions: sessionmaker[Session], settings: Settings, folder: Path) -> StepSeen:
    """Send the study to our own port; where peers are listed, we are let in for that long, on the record."""
    began = time.monotonic()
    dicom = settings.dicom
    try:
        with sessions() as session:
            is_open = not known_peers(session, settings)
        if not is_open:
            _let_in(sessions)
            time.sleep(_KNOWN_AFTER_S)
        try:
            sent = send_folder(folder, dicom.host, dicom.port, dicom.ae_title, CALLING_AE)
        finally:
            if not is_open:
                with unit_of_work(sessions, _NODE) as uow:
                    remove_peers(uow, CALLING_AE, _HERE)
    except AppError as exc:
        return StepSeen("sent", False, str(exc), (time.monotonic() - began) * 1000)
    stored = sent.counts.get("stored", 0)
    is_good = stored == len(sent.files) > 0
    note = f"C-STORE to {dicom.ae_title} at port {dicom.port}: {stored} of {len(sent.files)} acknowledged"
    if not is_good:
        note += f"; {', '.join(sent.reasons())}"
    return StepSeen("sent", is_good, note, (time.monotonic() - began) * 1000)


def _let_in(sessions: sessionmaker[Session]) -> None:
    with unit_of_work(sessions, _NODE) as uow:
        if not [row for row in added_peers(uow.session, CALLING_AE) if row.host == _HERE]:
            add_peer(uow, Peer(ae_title=CALLING_AE, host=_HERE))


def _end(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """End the self-tests that came to an end of their way, or have waited too long for it."""
    with sessions() as session:
        sent = session.scalars(
            select(NodeTask).where(
                NodeTask.kind == SELF_TEST, NodeTask.finished_at.is_(None), NodeTask.study_instance_uid != ""
            )
        ).all()
        found = [(one.id, progress(session, one, settings.results_dir, now, longest=LONGEST)) for one in sent]
    ended = 0
    for task_id, seen in found:
        if not seen.is_over:
            continue
        try:
            with unit_of_work(sessions, _NODE) as uow:
                node_tasks.finish_self_test(uow, task_id, seen.steps)
            ended += 1
        except LifecycleError:
            log.warning("self_test.overtaken")
    return ended
