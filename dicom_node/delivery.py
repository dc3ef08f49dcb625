"""Deliver what is owed: claim, send in order, record each answer."""

import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby

import structlog
from pydicom.uid import SegmentationStorage
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, PeerUnavailableError, UnreadableDatasetError
from config.settings import Destination, Settings
from db import lifecycle
from db.lifecycle import DeliveryJob, deliveries
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node import scu
from instances.part10 import HEAD_BYTES, split_file

log = structlog.get_logger()
LEASE_S = 30.0  # renewed while the sender lives, so that what a killed one had claimed is soon sent by another
RETRY_BASE_S = 15.0
MAX_ATTEMPTS = 12  # with the hour lifecycle allows at most between two attempts: about five hours
_BATCH = 64
_DESTINATIONS_AT_ONCE = 8
_SENDER = Actor("node", "process")


def deliver_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Send every Delivery that is due; return how many were accepted by their destination.

    One association per destination. Segmentations go before the reports that refer to them. A refusal or
    an unreachable peer postpones with doubled delays and jitter, until the attempts are used up.

    Raises:
        TransientError: the database cannot be used; claimed deliveries come back when their lease ends.
    """
    jobs = _claim(sessions, now)
    if not jobs:
        return 0
    known = {destination.name: destination for destination in settings.destinations}
    owed = {name: list(some) for name, some in groupby(sorted(jobs, key=_rank), key=lambda job: job.destination)}

    def deliver(name: str) -> int:
        if name in known:
            return _deliver(sessions, settings, known[name], owed[name])
        _fail_all(sessions, owed[name], "this destination is not configured")
        return 0

    # side by side: one that does not answer holds up no other
    with _held(sessions, jobs), ThreadPoolExecutor(_DESTINATIONS_AT_ONCE, thread_name_prefix="deliver") as pool:
        return sum(pool.map(deliver, owed))


@contextmanager
def _held(sessions: sessionmaker[Session], jobs: Sequence[DeliveryJob]) -> Iterator[None]:
    """Renew the leases of ``jobs`` from a thread beside the sender, which may wait minutes for one answer."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_S / 3):
            try:
                with unit_of_work(sessions, _SENDER) as uow:
                    deliveries.hold_deliveries(uow, jobs, utcnow(), lease_s=LEASE_S)
            except AppError as exc:
                log.warning("delivery.not_held", error=exc)

    thread = threading.Thread(target=renew, name="hold", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _claim(sessions: sessionmaker[Session], now: datetime) -> list[DeliveryJob]:
    jobs: list[DeliveryJob] = []
    while len(jobs) < _BATCH:
        with unit_of_work(sessions, _SENDER) as uow:
            job = lifecycle.claim_delivery(uow, now, lease_s=LEASE_S)
        if job is None:
            break
        jobs.append(job)
    return jobs


def _rank(job: DeliveryJob) -> tuple[str, str, bool, str]:
    """Order by destination and Study, Segmentations first, so that no report points at nothing."""
    return job.destination, str(job.study_id), job.sop_class_uid != SegmentationStorage, job.sop_instance_uid


def _deliver(
    sessions: sessionmaker[Session], settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob]
) -> int:
    waiting = {}
    for job in jobs:
        try:
            waiting[_outgoing(settings, job)] = job
        except (OSError, UnreadableDatasetError) as exc:
            _fail(sessions, job, f"the object's file cannot be read: {type(exc).__name__}")

    def is_wanted(item: scu.Outgoing) -> bool:
        wanted = _renew(sessions, waiting[item])
        if not wanted:
            del waiting[item]
        return wanted

    accepted = 0
    try:
        for sent in scu.store(scu.address_of(destination, settings), list(waiting), is_wanted=is_wanted):
            accepted += _record(sessions, waiting.pop(sent.item), sent)
    except PeerUnavailableError as exc:
        _fail_all(sessions, waiting.values(), str(exc))
    return accepted


def _renew(sessions: sessionmaker[Session], job: DeliveryJob) -> bool:
    """Return whether an object claimed a while ago is still to be sent, and by us."""
    try:
        with unit_of_work(sessions, _SENDER) as uow:
            return deliveries.renew_delivery(uow, job, utcnow(), lease_s=LEASE_S)
    except LifecycleError:
        log.warning("delivery.overtaken", delivery_id=job.delivery_id)
        return False


def _outgoing(settings: Settings, job: DeliveryJob) -> scu.Outgoing:
    path = settings.results_dir / job.path
    with path.open("rb") as file:
        meta, _ = split_file(file.read(HEAD_BYTES))
    return scu.Outgoing(path, meta.sop_class_uid, meta.transfer_syntax_uid)


def _record(sessions: sessionmaker[Session], job: DeliveryJob, sent: scu.Sent) -> bool:
    if not sent.accepted:
        _fail(sessions, job, sent.error)
        return False
    try:
        with unit_of_work(sessions, _SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id)
    except LifecycleError:
        # its lease had run out and another sender took it; that one records the answer to the same object
        log.warning("delivery.overtaken", delivery_id=job.delivery_id)
        return False
    log.info("delivery.accepted", delivery_id=job.delivery_id, destination=job.destination, study_id=job.study_id)
    return True


def _fail_all(sessions: sessionmaker[Session], jobs: Iterable[DeliveryJob], error: str) -> None:
    for job in jobs:
        _fail(sessions, job, error)


def _fail(sessions: sessionmaker[Session], job: DeliveryJob, error: str) -> None:
    base_s = RETRY_BASE_S * random.uniform(0.75, 1.25)  # so that many objects do not come back at one moment
    try:
        with unit_of_work(sessions, _SENDER) as uow:
            state = lifecycle.delivery_failed(
                uow, job.delivery_id, error, base_s=base_s, max_attempts=MAX_ATTEMPTS, attempt=job.attempts
            )
    except AppError as exc:
        log.warning("delivery.not_recorded", delivery_id=job.delivery_id, error=exc)
        return
    log.warning("delivery.postponed", delivery_id=job.delivery_id, destination=job.destination, state=state)
