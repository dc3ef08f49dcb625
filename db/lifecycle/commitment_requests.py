"""Storage commitment that a peer asked of us: kept, claimed, compared, told, or given up in sight (PS3.4 Annex J)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Update, and_, or_, select, update

from config.errors import LifecycleError
from db.audit import AuditTag
from db.commitment_models import CommitmentRequest, RequestState
from db.lifecycle.moves import locked, move_request
from db.lifecycle.quarantine import quarantine
from db.models import Instance, Quarantined
from db.types import utcnow
from db.uow import UnitOfWork

MAX_DELAY_S = 3600.0
_ALTERED = "AlteredInstanceError"
_PROCESSING_FAILURE = 0x0110


@dataclass(frozen=True)
class CommitmentAsked:
    """One N-ACTION as it came; ``references`` are pairs of SOP Class and SOP Instance UID, each Instance once."""

    transaction_uid: str
    references: Sequence[tuple[str, str]]
    calling_ae: str
    called_ae: str
    address: str = ""
    association_id: UUID | None = None

    @property
    def sha256(self) -> str:
        """A digest of the references in any order: the same request has the same."""
        lines = sorted(f"{sop_class} {instance}" for sop_class, instance in self.references)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class ReportJob:
    """The right to answer one request until the lease ends; a later claim has a higher ``attempts`` and voids it."""

    request_id: UUID
    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    calling_ae: str
    called_ae: str
    address: str
    is_reuse: bool
    failures: Mapping[str, int] | None
    attempts: int


def request_commitment(uow: UnitOfWork, asked: CommitmentAsked, *, not_before: datetime) -> UUID:
    """Keep a request, to be answered from ``not_before`` on; return its id.

    The Standard gives a Transaction UID to one set of references. The same set again, by the same peer, is the
    same request whose answer did not arrive: it is answered anew. Another set under a Transaction UID that is
    taken is a request that fails as a whole with 0x0131 (PS3.3 C.14.1.1).
    """
    same_name = select(CommitmentRequest).where(
        CommitmentRequest.calling_ae == asked.calling_ae, CommitmentRequest.transaction_uid == asked.transaction_uid
    )
    digest = asked.sha256
    known = uow.session.scalars(same_name.with_for_update(key_share=True)).all()
    same = next((one for one in known if one.instances_sha256 == digest), None)
    if same is not None:
        return _ask_again(uow, same, asked, not_before)
    request = CommitmentRequest(
        id=uuid4(),
        transaction_uid=asked.transaction_uid,
        calling_ae=asked.calling_ae,
        called_ae=asked.called_ae,
        address=asked.address[:64],
        association_id=asked.association_id,
        instances=[list(pair) for pair in asked.references],
        instances_sha256=digest,
        is_reuse=bool(known),
        next_attempt_at=not_before,
    )
    uow.session.add(request)
    _record(uow, request, repeated=False)
    return request.id


def _ask_again(uow: UnitOfWork, request: CommitmentRequest, asked: CommitmentAsked, not_before: datetime) -> UUID:
    request.called_ae = asked.called_ae
    request.address = asked.address[:64]
    request.association_id = asked.association_id
    request.next_attempt_at = not_before
    if request.state is RequestState.WAITING:
        _record(uow, request, repeated=True)
        return request.id
    request.attempts = 0
    request.failures = None
    request.lease_until = None
    move_request(uow, request, RequestState.WAITING, detail={"instances": len(request.instances), "repeated": True})
    return request.id


def _record(uow: UnitOfWork, request: CommitmentRequest, *, repeated: bool) -> None:
    uow.audit(
        AuditTag.COMMITMENT_REQUESTED,
        object_type="commitment",
        object_id=str(request.id),
        detail={
            "transaction": request.transaction_uid,
            "instances": len(request.instances),
            "repeated": repeated,
            "reused": request.is_reuse,
        },
    )


def claim_report(uow: UnitOfWork, now: datetime, *, lease_s: float, request_id: UUID | None = None) -> ReportJob | None:
    """Take the oldest request whose answer is due, or ``request_id`` though it is not; None when there is none.

    A request somebody else is answering is left alone until that lease ends.
    """
    free = or_(CommitmentRequest.lease_until.is_(None), CommitmentRequest.lease_until < now)
    wanted = CommitmentRequest.id == request_id if request_id is not None else CommitmentRequest.next_attempt_at <= now
    request = uow.session.scalar(
        select(CommitmentRequest)
        .where(and_(CommitmentRequest.state == RequestState.WAITING, wanted, free))
        .order_by(CommitmentRequest.next_attempt_at, CommitmentRequest.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if request is None:
        return None
    request.attempts += 1
    request.lease_until = now + timedelta(seconds=lease_s)
    return ReportJob(
        request_id=request.id,
        transaction_uid=request.transaction_uid,
        references=tuple((sop_class, instance) for sop_class, instance in request.instances),
        calling_ae=request.calling_ae,
        called_ae=request.called_ae,
        address=request.address,
        is_reuse=request.is_reuse,
        failures=request.failures,
        attempts=request.attempts,
    )


def renew_report(uow: UnitOfWork, job: ReportJob, *, lease_s: float) -> None:
    """Keep a request for longer: reading thousands of files takes a while.

    Raises:
        LifecycleError: somebody else took it.
    """
    _held(uow, job).lease_until = utcnow() + timedelta(seconds=lease_s)


def compared(uow: UnitOfWork, job: ReportJob, failures: Mapping[str, int], altered: Mapping[str, str]) -> None:
    """Keep what reading the files again gave; it is told as it is, however often telling takes.

    Args:
        uow: the unit of work.
        job: the request, claimed.
        failures: SOP Instance UID → Failure Reason (0008,1197), of those we do not commit to.
        altered: SOP Instance UID → what is wrong with its file; each becomes a matter for a person, once.

    Raises:
        LifecycleError: somebody else took it.
    """
    _held(uow, job).failures = dict(failures)
    for sop_instance_uid, what in altered.items():
        _doubt(uow, sop_instance_uid, what, job.calling_ae)


def _doubt(uow: UnitOfWork, sop_instance_uid: str, what: str, calling_ae: str) -> None:
    told = select(Quarantined.id).where(Quarantined.sop_instance_uid == sop_instance_uid, Quarantined.error == _ALTERED)
    if uow.session.scalar(told) is not None:
        return
    study_id = uow.session.scalar(select(Instance.study_id).where(Instance.sop_instance_uid == sop_instance_uid))
    quarantine(
        uow,
        reason=what,
        error=_ALTERED,
        status=_PROCESSING_FAILURE,
        sop_instance_uid=sop_instance_uid,
        calling_ae=calling_ae,
        study_id=study_id,
    )


def reported(uow: UnitOfWork, job: ReportJob) -> None:
    """Record that the peer took our answer; if it had been away, its other requests are due now.

    Raises:
        LifecycleError: somebody else took the request.
    """
    request = _held(uow, job)
    request.reported_at = utcnow()
    request.lease_until = None
    request.last_error = ""
    failed = len(request.failures or {})
    move_request(
        uow, request, RequestState.REPORTED, detail={"committed": len(request.instances) - failed, "failed": failed}
    )
    if request.attempts > 1:
        later = CommitmentRequest.next_attempt_at > request.reported_at
        uow.session.execute(_others(request).where(later).values(next_attempt_at=request.reported_at))


def report_failed(
    uow: UnitOfWork, job: ReportJob, error: str, *, base_s: float, max_attempts: int, is_away: bool = False
) -> RequestState:
    """Postpone the answer by ``base_s`` doubled per attempt (an hour at most), or give up; return the new state.

    A peer that ``is_away`` is not called for its other requests before then either: each call takes its time, and
    others wait for theirs.

    Raises:
        LifecycleError: somebody else took the request.
    """
    request = _held(uow, job)
    request.last_error = error[:200]
    request.lease_until = None
    delay_s = min(base_s * 2 ** min(request.attempts - 1, 30), MAX_DELAY_S)
    later = utcnow() + timedelta(seconds=delay_s)
    if request.attempts < max_attempts:
        request.next_attempt_at = later
    else:
        move_request(
            uow, request, RequestState.FAILED, detail={"attempts": request.attempts, "reason": request.last_error}
        )
    if is_away:
        sooner = CommitmentRequest.next_attempt_at < later
        uow.session.execute(_others(request).where(sooner).values(next_attempt_at=later))
    return request.state


def _others(request: CommitmentRequest) -> Update:
    """Return the change of what else waits for the same peer and nobody is answering."""
    return (
        update(CommitmentRequest)
        .where(
            CommitmentRequest.calling_ae == request.calling_ae,
            CommitmentRequest.id != request.id,
            CommitmentRequest.state == RequestState.WAITING,
            CommitmentRequest.lease_until.is_(None),
        )
        .execution_options(synchronize_session=False)
    )


def _held(uow: UnitOfWork, job: ReportJob) -> CommitmentRequest:
    request = locked(uow, CommitmentRequest, job.request_id)
    if request.state is not RequestState.WAITING or request.attempts != job.attempts:
        raise LifecycleError("somebody else answers this commitment request")
    return request
