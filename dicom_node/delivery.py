"""Deliver what is owed, by whatever protocol its destination has: claim, send in order, record each answer."""

import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from urllib.parse import urlsplit

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, PeerUnavailableError
from config.results import SENDING_ORDER
from config.settings import Destination, Settings
from db import lifecycle
from db.lifecycle import DeliveryJob, deliveries
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node.outcome import MAX_ATTEMPTS, ONCE, IsWanted, Outcome
from dicom_node.sop_classes import suits
from dicom_node.transports import TRANSPORTS

log = structlog.get_logger()
LEASE_S = 30.0  # renewed while the sender lives, so that what a killed one had claimed is soon sent by another
RETRY_BASE_S = 15.0
_BATCH = 64
_DESTINATIONS_AT_ONCE = 8
_SENDER = Actor("node", "process")
_ORDER = {kind.value: rank for rank, kind in enumerate(SENDING_ORDER)}


def deliver_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Send every Delivery that is due; return how many were accepted by their destination.

    Destinations are served side by side, each by the transport of its protocol, its objects in the order of
    ``SENDING_ORDER``: what is referred to goes before what refers to it. An object that is refused holds up no
    other. A refusal or an unreachable peer postpones with doubled delays and jitter, until the attempts are used up;
    those are one or two where waiting cures nothing (`dicom_node.outcome`).

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


def _rank(job: DeliveryJob) -> tuple[str, str, int, str]:
    """Order by destination and Study, and within a Study so that nothing points at what is not there."""
    return job.destination, str(job.study_id), _ORDER.get(job.kind, len(_ORDER)), job.sop_instance_uid


def _deliver(
    sessions: sessionmaker[Session], settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob]
) -> int:
    waiting = {job.delivery_id: job for job in jobs}

    def is_wanted(job: DeliveryJob) -> bool:
        wanted = _renew(sessions, job)
        if not wanted:
            del waiting[job.delivery_id]
        return wanted

    accepted = 0
    try:
        for outcome in _outcomes(settings, destination, jobs, is_wanted):
            accepted += _record(sessions, waiting.pop(outcome.job.delivery_id), outcome, destination)
    except PeerUnavailableError as exc:
        _fail_all(sessions, waiting.values(), str(exc))
    return accepted


def _outcomes(
    settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob], is_wanted: IsWanted
) -> Iterator[Outcome]:
    fitting = [job for job in jobs if suits(destination, job.kind)]
    for job in jobs:
        if job not in fitting:  # the settings changed since it was owed
            yield Outcome(job, False, f"{job.kind} is not sent by {destination.protocol}", ONCE)
    if fitting:
        yield from TRANSPORTS[destination.protocol](settings, destination, fitting, is_wanted)


def _renew(sessions: sessionmaker[Session], job: DeliveryJob) -> bool:
    """Return whether an object claimed a while ago is still to be sent, and by us."""
    try:
        with unit_of_work(sessions, _SENDER) as uow:
            return deliveries.renew_delivery(uow, job, utcnow(), lease_s=LEASE_S)
    except LifecycleError:
        log.warning("delivery.overtaken", delivery_id=job.delivery_id)
        return False


def _record(sessions: sessionmaker[Session], job: DeliveryJob, outcome: Outcome, destination: Destination) -> bool:
    if not outcome.accepted:
        _fail(sessions, outcome)
        return False
    try:
        with unit_of_work(sessions, _SENDER) as uow:
            answer = {**_peer(destination), "said": outcome.said}
            lifecycle.delivered(uow, job.delivery_id, is_counted=destination.count, answer=answer)
    except LifecycleError:
        # its lease had run out and another sender took it; that one records the answer to the same object
        log.warning("delivery.overtaken", delivery_id=job.delivery_id)
        return False
    log.info("delivery.accepted", delivery_id=job.delivery_id, destination=job.destination, study_id=job.study_id)
    return True


def _peer(destination: Destination) -> dict[str, str]:
    """Return whom the record names as the receiver; of an address only the host, for the rest may hold a secret."""
    host = destination.host or urlsplit(destination.url).hostname or ""
    said = {"protocol": destination.protocol, "ae_title": destination.ae_title, "host": host}
    return {name: value for name, value in said.items() if value}


def _fail_all(sessions: sessionmaker[Session], jobs: Iterable[DeliveryJob], error: str) -> None:
    for job in jobs:
        _fail(sessions, Outcome(job, False, error))


def _fail(sessions: sessionmaker[Session], outcome: Outcome) -> None:
    base_s = RETRY_BASE_S * random.uniform(0.75, 1.25)  # so that many objects do not come back at one moment
    job = outcome.job
    try:
        with unit_of_work(sessions, _SENDER) as uow:
            state = lifecycle.delivery_failed(
                uow,
                job.delivery_id,
                outcome.error,
                base_s=base_s,
                max_attempts=min(outcome.attempts, MAX_ATTEMPTS),
                attempt=job.attempts,
                at_least_s=outcome.wait_s,
            )
    except AppError as exc:
        log.warning("delivery.not_recorded", delivery_id=job.delivery_id, error=exc)
        return
    log.warning("delivery.postponed", delivery_id=job.delivery_id, destination=job.destination, state=state)
