"""Earlier Studies of the same patient: searched, found, fetched, here or refused. Never drafted.

What arrives is a prior only when a retrieval of ours brought it. A Study that others send to us is one to read,
whatever we fetched of it before: a retrieval can never hide a Study that is still being acquired.
"""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from config.errors import LifecycleError
from db.audit import AuditTag
from db.lifecycle.arrivals import instances_told
from db.lifecycle.late import reopen
from db.lifecycle.moves import locked, move_prior, move_search
from db.lifecycle.prior_values import FetchedPrior, FoundPrior, PriorJob, SearchJob
from db.lifecycle.self_tests import is_self_test
from db.models import Instance, Reading, Study
from db.prior_models import Prior, PriorSearch, PriorState, SearchState
from db.types import ReadingState, utcnow
from db.uow import UnitOfWork

_MAX_DELAY_S = 3600.0
NO_PATIENT_ID = "the study has no Patient ID"
LEFT = "the node stopped every time it tried"
WILDCARDS = "the Patient ID holds characters that an archive takes for wildcards"
SELF_TEST = "a self-test of this system"
IDENTITY_CONFLICT = "images of this study name more than one Patient ID"


def is_fetched(connection: Connection, study_instance_uid: str, retrieval: int) -> bool:
    """Return whether the retrieval of ours with this Message ID fetches this Study; never for 0.

    Every attempt has the same Message ID, so the late arrivals of one that was given up still belong to it.
    """
    if not retrieval:
        return False
    asked = exists().where(
        Prior.study_instance_uid == study_instance_uid, Prior.message_id == retrieval, Prior.attempts > 0
    )
    return bool(connection.scalar(select(asked)))


def retrieval_of(session: Session, study_instance_uid: str) -> int:
    """Return the Message ID under which a Study is being fetched; 0 when it is not.

    For files that were left by a process that died before it acknowledged them: when they came from others after
    all, these send them again.
    """
    going_on = Prior.state.in_((PriorState.FOUND, PriorState.FETCHING))
    query = select(Prior.message_id).where(Prior.study_instance_uid == study_instance_uid, going_on, Prior.attempts > 0)
    return session.scalars(query.limit(1)).first() or 0


def take_for_reading(uow: UnitOfWork, study_id: UUID) -> int:
    """Stop taking a Study for a prior, since others send it to us; return its revision, which is being received."""
    study = locked(uow, Study, study_id)
    study.is_prior = False
    standing = select(Reading.state).where(Reading.study_id == study_id, Reading.superseded.is_(False))
    if uow.session.scalars(standing).one() is ReadingState.RECEIVING:
        return study.revision
    return reopen(uow, study_id)


def search_pending(session: Session, study_id: UUID, now: datetime) -> bool:
    """Return whether priors of a Study may still come: it is searched, or one is on its way.

    What failed and waits for another attempt is pending too; whoever waits must have a limit.
    """
    del now
    state = session.scalar(select(PriorSearch.state).where(PriorSearch.study_id == study_id))
    if state is not SearchState.DONE:
        return state is SearchState.WAITING
    coming = Prior.state.in_((PriorState.FOUND, PriorState.FETCHING))
    return bool(session.scalar(select(exists().where(Prior.study_id == study_id, coming))))


def begin_searches(uow: UnitOfWork, now: datetime) -> int:
    """Note every Study that is being received to be read and has not been searched for; return how many."""
    searched = exists().where(PriorSearch.study_id == Study.id)
    new = uow.session.scalars(
        select(Study)
        .join(Reading, Reading.study_id == Study.id)
        .where(
            Reading.state == ReadingState.RECEIVING,
            Reading.superseded.is_(False),
            Study.is_prior.is_(False),
            ~searched,
        )
    ).all()
    for study in new:
        why = _why_not(study) or (SELF_TEST if is_self_test(uow.session, study.id) else "")
        state = SearchState.SKIPPED if why else SearchState.WAITING
        uow.session.add(PriorSearch(study_id=study.id, state=state, reason=why, next_attempt_at=now))
    uow.session.flush()
    return len(new)


def _why_not(study: Study) -> str:
    if study.identity_conflict:
        return IDENTITY_CONFLICT
    if not study.patient_id.strip():
        return NO_PATIENT_ID
    return WILDCARDS if set("*?\\") & set(study.patient_id) else ""


def claim_search(uow: UnitOfWork, now: datetime, *, lease_s: float, max_attempts: int) -> SearchJob | None:
    """Take the search that waits longest, or whose node stopped answering; None when there is none."""
    search = uow.session.scalar(
        select(PriorSearch)
        .where(
            PriorSearch.state == SearchState.WAITING,
            PriorSearch.next_attempt_at <= now,
            or_(PriorSearch.lease_until.is_(None), PriorSearch.lease_until < now),
        )
        .order_by(PriorSearch.next_attempt_at, PriorSearch.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if search is None:
        return None
    if search.attempts >= max_attempts:  # each of them left it: something about it stops a node
        search_failed(uow, search.id, LEFT, base_s=0, max_attempts=max_attempts)
        return claim_search(uow, now, lease_s=lease_s, max_attempts=max_attempts)
    search.attempts += 1
    search.lease_until = now + timedelta(seconds=lease_s)
    return SearchJob.of(search.id, uow.session.get_one(Study, search.study_id))


def searched(
    uow: UnitOfWork,
    search_id: UUID,
    found: Sequence[FoundPrior],
    now: datetime,
    *,
    candidates: int,
    sources: Sequence[str],
    reason: str,
) -> None:
    """Keep the priors that were chosen, the first of them to be compared first.

    Args:
        uow: the unit of work.
        search_id: the search.
        found: chosen; those that are here to be read already are not fetched.
        now: from when on they may be fetched.
        candidates: how many there were to choose from.
        sources: archives that were asked.
        reason: who did not answer, or why candidates were left out; empty when there is nothing to say.

    Raises:
        LifecycleError: another node did this meanwhile.
    """
    search = _waiting(uow, search_id)
    for position, one in enumerate(found, start=1):
        identity = {"message_id": random.randrange(1, 65536), "position": position, "next_attempt_at": now}
        uow.session.add(Prior(study_id=search.study_id, **identity, **vars(one)))
    search.reason, search.candidates = reason[:400], candidates
    search.finished_at, search.lease_until = utcnow(), None
    detail = {
        "candidates": candidates,
        "chosen": [one.study_instance_uid for one in found],
        "sources": list(sources),
        "reason": search.reason,
    }
    move_search(uow, search, SearchState.DONE, detail=detail)


def search_failed(uow: UnitOfWork, search_id: UUID, reason: str, *, base_s: float, max_attempts: int) -> None:
    """Postpone a search no archive answered by ``base_s`` doubled per attempt, or give it up.

    Raises:
        LifecycleError: another node did this meanwhile.
    """
    search = _waiting(uow, search_id)
    search.reason, search.lease_until = reason[:400], None
    detail = {"reason": search.reason, "attempts": search.attempts}
    if search.attempts >= max_attempts:
        search.finished_at = utcnow()
        move_search(uow, search, SearchState.FAILED, detail=detail)
    else:
        search.next_attempt_at = _next_attempt(search.attempts, base_s)
        uow.audit(AuditTag.PRIOR_SEARCHED, outcome="failure", study_id=search.study_id, detail=detail)


def claim_prior(uow: UnitOfWork, now: datetime, *, lease_s: float, max_attempts: int) -> PriorJob | None:
    """Take the next prior to fetch, newest search first come; None when there is none.

    A Study that is being fetched for another one already is left until that ends.
    """
    other = aliased(Prior)
    elsewhere = exists().where(
        other.study_instance_uid == Prior.study_instance_uid,
        other.id != Prior.id,
        other.state == PriorState.FETCHING,
        other.lease_until >= now,
    )
    due = and_(Prior.state == PriorState.FOUND, Prior.next_attempt_at <= now)
    lost = and_(Prior.state == PriorState.FETCHING, Prior.lease_until < now)
    prior = uow.session.scalar(
        select(Prior)
        .where(or_(due, lost), ~elsewhere)
        .order_by(Prior.next_attempt_at, Prior.position, Prior.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if prior is None:
        return None
    if prior.state is PriorState.FOUND:
        move_prior(uow, prior, PriorState.FETCHING, detail={"source": prior.source, "method": prior.method})
    elif prior.attempts >= max_attempts:
        prior_failed(uow, prior.id, LEFT, base_s=0, max_attempts=max_attempts)
        return claim_prior(uow, now, lease_s=lease_s, max_attempts=max_attempts)
    prior.attempts += 1
    prior.lease_until = now + timedelta(seconds=lease_s)
    current = uow.session.get_one(Study, prior.study_id)
    return PriorJob.of(prior, current, held(uow.session, prior.study_instance_uid))


def held(session: Session, study_instance_uid: str) -> Study | None:
    """Return what we have of a Study, or None."""
    return session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))


def prior_fetched(uow: UnitOfWork, prior_id: UUID, fetched: FetchedPrior) -> PriorState:
    """Keep what came of an earlier Study and whether it is this patient's; return HERE or REFUSED.

    Raises:
        LifecycleError: it was not being fetched, or nothing of it is here.
    """
    prior = _fetching(uow, prior_id)
    study = held(uow.session, prior.study_instance_uid)
    if study is None:
        raise LifecycleError(f"nothing of prior {prior_id} is here")
    prior.held_id = study.id
    prior.finished_at, prior.lease_until = utcnow(), None
    prior.note = "; ".join(part for part in (prior.note, fetched.note) if part)[:400]
    prior.documents = [] if fetched.refused else [dict(one) for one in fetched.documents]
    here = uow.session.scalars(select(Instance).where(Instance.study_id == study.id))
    detail = {"source": prior.source, "method": prior.method, **instances_told(here), "note": prior.note}
    to = PriorState.REFUSED if fetched.refused else PriorState.HERE
    move_prior(uow, prior, to, reason=fetched.refused, detail=detail)
    return to


def prior_failed(uow: UnitOfWork, prior_id: UUID, reason: str, *, base_s: float, max_attempts: int) -> PriorState:
    """Postpone a retrieval by ``base_s`` doubled per attempt (an hour at most), or give up; return the new state.

    What came so far stays.

    Raises:
        LifecycleError: it was not being fetched.
    """
    prior = _fetching(uow, prior_id)
    prior.lease_until = None
    to = PriorState.FAILED if prior.attempts >= max_attempts else PriorState.FOUND
    if to is PriorState.FAILED:
        prior.finished_at = utcnow()
    else:
        prior.next_attempt_at = _next_attempt(prior.attempts, base_s)
    move_prior(uow, prior, to, reason=reason, detail={"attempts": prior.attempts})
    return to


def held_instances(session: Session, study_instance_uid: str) -> frozenset[str]:
    """Return the SOP Instance UIDs we hold of a Study; what retention deleted is not among them."""
    query = select(Instance.sop_instance_uid).join(Study, Study.id == Instance.study_id)
    kept = query.where(Study.study_instance_uid == study_instance_uid, Instance.deleted_at.is_(None))
    return frozenset(session.scalars(kept))


def _waiting(uow: UnitOfWork, search_id: UUID) -> PriorSearch:
    search = locked(uow, PriorSearch, search_id)
    if search.state is not SearchState.WAITING:
        raise LifecycleError(f"search {search_id} is {search.state.value}")
    return search


def _fetching(uow: UnitOfWork, prior_id: UUID) -> Prior:
    prior = locked(uow, Prior, prior_id)
    if prior.state is not PriorState.FETCHING:
        raise LifecycleError(f"prior {prior_id} is {prior.state.value}, not being fetched")
    return prior


def _next_attempt(attempts: int, base_s: float) -> datetime:
    return utcnow() + timedelta(seconds=min(base_s * 2 ** min(attempts - 1, 30), _MAX_DELAY_S))
