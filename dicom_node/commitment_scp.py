"""Storage commitment we give (PS3.4 Annex J, SCP): a peer asks, the files are read again, the peer is told.

The N-ACTION is answered as soon as the request is stored. Everything else is a duty of the node, with patience:
reading thousands of files holds up nobody, and a node that dies goes on where it was.
"""

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, LifecycleError, PeerUnavailableError, RefusedInputError, UnreadableDatasetError
from config.settings import Settings
from db.lifecycle import commitment_requests
from db.lifecycle.commitment_requests import CommitmentAsked, ReportJob
from db.queries.commitments import HeldInstance, held_instances
from db.types import utcnow
from db.uow import Actor, unit_of_work
from dicom_node import commitment_wire as wire
from dicom_node import scu
from dicom_node.context import NodeContext, tally
from dicom_node.peers import known_peers
from dicom_node.policy import bare_address
from dicom_node.same_association import send_event_report, when_answered
from instances.part10 import dataset_digest

log = structlog.get_logger()
LEASE_S = 180.0  # longer than a peer has for its answer
RETRY_BASE_S = 30.0
MAX_ATTEMPTS = 12  # with an hour at most between two attempts: about six hours
_BATCH = 16
_FILES_AT_ONCE = 100  # between two renewals of the lease
_HERE_S = 60.0  # a peer has this long to take a report on the association it opened
_QUICK_BYTES = 1 << 28  # what is read again while such an association waits
_WELL_KNOWN = (StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
_NODE = Actor("node", "process")

# PS3.7 annex C
_SUCCESS, _PROCESSING_FAILURE, _NO_SUCH_INSTANCE, _INVALID_VALUE = 0x0000, 0x0110, 0x0112, 0x0115
_NO_SUCH_CLASS, _CLASS_INSTANCE_CONFLICT, _NO_SUCH_ACTION = 0x0118, 0x0119, 0x0123
_DUPLICATE_TRANSACTION, _RESOURCE_LIMITATION = 0x0131, 0x0213


def on_action(event: Event, context: NodeContext) -> tuple[int | Dataset, None]:
    """Answer N-ACTION: Success once the request is stored; what we commit to is reported afterwards."""
    calling_ae = str(event.assoc.requestor.primitive.calling_ae_title).strip()
    status, comment = _not_ours(event)
    if status == _SUCCESS:
        try:
            _keep(event, context)
        except RefusedInputError as exc:
            status, comment = _INVALID_VALUE, str(exc)
        except AppError as exc:
            status, comment = _RESOURCE_LIMITATION, "Temporarily unable to take the request"
            log.error("commitment.not_kept", error=exc, calling_ae=calling_ae)  # noqa: TRY400
    if status == _SUCCESS:
        return status, None
    log.warning("commitment.refused", calling_ae=calling_ae, status=f"{status:04X}", error=comment)
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]
    return answer, None


def _not_ours(event: Event) -> tuple[int, str]:
    """Return why a request is not for this service; Success when it is."""
    request = event.request
    if request.RequestedSOPClassUID != StorageCommitmentPushModel:
        return _NO_SUCH_CLASS, "Not the Storage Commitment Push Model"
    if request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
        return _NO_SUCH_INSTANCE, "Not the well-known SOP Instance of PS3.4 J.3.5"
    if request.ActionTypeID != wire.REQUEST_COMMITMENT:
        return _NO_SUCH_ACTION, "Action Type 1 is the only one"
    return _SUCCESS, ""


def _keep(event: Event, context: NodeContext) -> None:
    request = wire.read_request(lambda: event.action_information)
    asked_by = event.assoc.requestor.primitive
    came_on = tally(event.assoc)
    asked = CommitmentAsked(
        transaction_uid=request.transaction_uid,
        references=request.references,
        calling_ae=str(asked_by.calling_ae_title).strip(),
        called_ae=str(asked_by.called_ae_title).strip(),
        address=bare_address(str(event.assoc.requestor.address or "")),
        association_id=came_on.association_id if came_on else None,
    )
    with unit_of_work(context.sessions, Actor(asked.calling_ae, "peer", address=asked.address[:64])) as uow:
        listens = _peer_address(uow.session, context.settings, asked) is not None
        # a peer that does not say where it listens is told on its own association, if that lasts
        here = not listens and _is_quick(uow.session, request.references)
        not_before = utcnow() + timedelta(seconds=_HERE_S if here else 0.0)
        request_id = commitment_requests.request_commitment(uow, asked, not_before=not_before)
    log.info("commitment.requested", calling_ae=asked.calling_ae, count=len(request.references))
    if here:
        when_answered(event.assoc, partial(_answer_here, context, request_id))


def _is_quick(session: Session, references: tuple[wire.Reference, ...]) -> bool:
    held = held_instances(session, [instance for _, instance in references])
    return sum(one.size_bytes for one in held.values()) <= _QUICK_BYTES


def _answer_here(context: NodeContext, request_id: UUID, assoc: Association) -> None:
    """Report on the association a request came on. Its answer, or else the end of the lease, decides what follows."""
    sessions = context.sessions
    with unit_of_work(sessions, _NODE) as uow:
        job = commitment_requests.claim_report(uow, utcnow(), lease_s=_HERE_S, request_id=request_id)
    if job is None:
        return
    event_type, information = _verdict(sessions, context.settings, job)

    def told(status: int) -> None:
        if status == _SUCCESS:
            _reported(sessions, job)
        else:
            _postpone(sessions, job, f"our report was answered 0x{status:04X}")

    if not send_event_report(assoc, event_type, information, _WELL_KNOWN, told):
        _postpone(sessions, job, _unknown_address(job))


def report_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Tell peers what we commit to; return how many took the answer.

    Raises:
        TransientError: the database cannot be used; claimed requests come back when their lease ends.
    """
    taken = 0
    for _ in range(_BATCH):
        with unit_of_work(sessions, _NODE) as uow:
            job = commitment_requests.claim_report(uow, now, lease_s=LEASE_S)
        if job is None:
            break
        taken += _answer(sessions, settings, job)
    return taken


def _answer(sessions: sessionmaker[Session], settings: Settings, job: ReportJob) -> bool:
    """Read the files again, unless that was done, and tell the peer on an association of our own."""
    try:
        event_type, information = _verdict(sessions, settings, job)
        try:
            assoc = _call(sessions, settings, job)
        except PeerUnavailableError as exc:
            _postpone(sessions, job, str(exc), is_away=True)
            return False
        try:
            _tell(assoc, event_type, information)
        except PeerUnavailableError as exc:
            _postpone(sessions, job, str(exc))
            return False
        finally:
            scu.end(assoc)
        _reported(sessions, job)
    except LifecycleError:
        log.warning("commitment.overtaken", calling_ae=job.calling_ae)
        return False
    return True


def _verdict(sessions: sessionmaker[Session], settings: Settings, job: ReportJob) -> tuple[int, Dataset]:
    failed = _compare(sessions, settings, job) if job.failures is None else job.failures
    return wire.write_report(wire.Request(job.transaction_uid, job.references), failed)


def _compare(sessions: sessionmaker[Session], settings: Settings, job: ReportJob) -> dict[str, int]:
    """Return SOP Instance UID → Failure Reason of what we do not commit to, and keep it with the request."""
    failed: dict[str, int] = {}
    altered: dict[str, str] = {}
    if job.is_reuse:
        failed = dict.fromkeys((instance for _, instance in job.references), _DUPLICATE_TRANSACTION)
    else:
        for first in range(0, len(job.references), _FILES_AT_ONCE):
            part = job.references[first : first + _FILES_AT_ONCE]
            for instance, reason, what in _failures(sessions, settings.instances_dir, part):
                failed[instance] = reason
                if what:
                    altered[instance] = what
                    log.error("commitment.instance_altered", calling_ae=job.calling_ae, error=what)
            with unit_of_work(sessions, _NODE) as uow:
                commitment_requests.renew_report(uow, job, lease_s=LEASE_S)
    with unit_of_work(sessions, _NODE) as uow:
        commitment_requests.compared(uow, job, failed, altered)
    return failed


def _failures(
    sessions: sessionmaker[Session], folder: Path, references: tuple[wire.Reference, ...]
) -> Iterator[tuple[str, int, str]]:
    """Yield SOP Instance UID, Failure Reason, and what is wrong with a file that should be as it was received."""
    with sessions() as session:
        held = held_instances(session, [instance for _, instance in references])
    for sop_class, instance in references:
        row = held.get(instance)
        if row is None or row.is_deleted:
            yield instance, _NO_SUCH_INSTANCE, ""
        elif row.sop_class_uid != sop_class:
            yield instance, _CLASS_INSTANCE_CONFLICT, ""
        elif what := _altered(folder, row):
            if _was_deleted(sessions, instance):
                yield instance, _NO_SUCH_INSTANCE, ""
            else:
                yield instance, _PROCESSING_FAILURE, what


def _altered(folder: Path, row: HeldInstance) -> str:
    """Return what is wrong with an Instance's file; empty when its bytes are those that were received."""
    path = folder / row.path
    try:
        _forget_cached(path)
        digest = dataset_digest(path)
    except UnreadableDatasetError:
        return "the kept file is not a DICOM file any more"
    except OSError as exc:
        return f"the kept file cannot be read: {type(exc).__name__}"
    return "" if digest == row.sha256 else "the kept file is not what was received"


def _was_deleted(sessions: sessionmaker[Session], instance: str) -> bool:
    """Return whether retention took the file while we were reading."""
    with sessions() as session:
        row = held_instances(session, [instance]).get(instance)
    return row is None or row.is_deleted


def _forget_cached(path: Path) -> None:
    """Have the next read come from the disk, which is what we commit to, and not from memory."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError, AttributeError):  # not on every system
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _call(sessions: sessionmaker[Session], settings: Settings, job: ReportJob) -> Association:
    """Open an association to the peer, with us as SCP of the service (PS3.4 J.3.3.1.2, PS3.7 D.3.3.4).

    Raises:
        PeerUnavailableError: nobody says where it listens, or it does not take the association.
    """
    with sessions() as session:
        address = _peer_address(session, settings, job)
    if address is None:
        raise PeerUnavailableError(_unknown_address(job))
    # old peers accept the context and say nothing of roles: they are told all the same
    return scu.associate(address, [wire.context()], roles=[build_role(StorageCommitmentPushModel, scp_role=True)])


def _tell(assoc: Association, event_type: int, information: Dataset) -> None:
    """Send N-EVENT-REPORT and return when the peer took it.

    Raises:
        PeerUnavailableError: no presentation context, no answer, or no Success.
    """
    try:
        answer, _ = assoc.send_n_event_report(information, event_type, *_WELL_KNOWN)
    except ValueError as exc:
        raise PeerUnavailableError("the peer does not accept storage commitment reports") from exc
    except RuntimeError as exc:
        raise PeerUnavailableError("the association ended before our report") from exc
    status = scu.status_of(answer)
    if status is None:
        raise PeerUnavailableError("no answer to our report: the association was lost")
    if status != _SUCCESS:
        raise PeerUnavailableError(f"our report was answered 0x{status:04X}")


def _unknown_address(job: ReportJob) -> str:
    """Return what an administrator has to do; the association the request came on was no use, or is over."""
    return f"it is not known where {job.calling_ae} listens: firstread node peers add {job.calling_ae} --port PORT"


def _peer_address(session: Session, settings: Settings, asked: CommitmentAsked | ReportJob) -> scu.Address | None:
    """Return where the peer of a request listens, called under the name it called us by; None when nobody says.

    A peer that may call from a network, or from anywhere, is called where its request came from; of several with
    one AE title, the one at that address.
    """
    named = [peer for peer in known_peers(session, settings) if peer.ae_title == asked.calling_ae and peer.port]
    peer = next((one for one in named if one.host == asked.address), named[0] if named else None)
    if peer is None:
        return None
    is_one_host = peer.host and "/" not in peer.host
    host = peer.host if is_one_host else asked.address
    found = scu.address_of(peer.model_copy(update={"host": host}), settings) if host else None
    return replace(found, calling_ae=asked.called_ae) if found else None


def _reported(sessions: sessionmaker[Session], job: ReportJob) -> None:
    with unit_of_work(sessions, _NODE) as uow:
        commitment_requests.reported(uow, job)
    log.info("commitment.reported", calling_ae=job.calling_ae, count=len(job.references))


def _postpone(sessions: sessionmaker[Session], job: ReportJob, error: str, *, is_away: bool = False) -> None:
    base_s = RETRY_BASE_S * random.uniform(0.75, 1.25)
    try:
        with unit_of_work(sessions, _NODE) as uow:
            state = commitment_requests.report_failed(
                uow, job, error, base_s=base_s, max_attempts=MAX_ATTEMPTS, is_away=is_away
            )
    except AppError as exc:
        log.warning("commitment.not_recorded", error=exc, calling_ae=job.calling_ae)
        return
    log.warning("commitment.not_reported", calling_ae=job.calling_ae, state=state, error=error)
