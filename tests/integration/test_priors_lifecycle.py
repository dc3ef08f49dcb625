"""The lifecycle of priors on both databases: searched once, fetched by one node, kept a prior only while we fetch."""

import threading
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError
from db import lifecycle
from db.lifecycle import NewInstance, priors
from db.lifecycle.prior_values import FetchedPrior, FoundPrior, PriorJob
from db.models import Reading, Study
from db.prior_models import Prior, PriorSearch, PriorState, SearchState
from db.types import ReadingState, utcnow
from db.uow import unit_of_work
from tests.db_support import DRAFT, SENDER, header, received, tags

Sessions = sessionmaker[Session]
EARLIER = "1.2.826.0.9"
FOUND = FoundPrior(EARLIER, "pacs", "c-get", "20220102", "CT", "CT chest", 2)


def searched(sessions: Sessions, *found: FoundPrior) -> UUID:
    """A Study that is being received, whose search found these; return its id."""
    study_id = received(sessions).study_id
    now = utcnow()
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.begin_searches(uow, now) == 1
        job = priors.claim_search(uow, now, lease_s=60, max_attempts=3)
        assert job is not None
        priors.searched(uow, job.search_id, found, now, candidates=len(found), sources=["pacs"], reason="")
    return study_id


def claimed(sessions: Sessions, *, after_s: float = 0.0) -> PriorJob | None:
    with unit_of_work(sessions, SENDER) as uow:
        return priors.claim_prior(uow, utcnow() + timedelta(seconds=after_s), lease_s=60, max_attempts=3)


def arrives(sessions: Sessions, number: int, retrieval: int, sha256: str = "") -> None:
    """One Instance of the earlier Study comes, by a retrieval of ours or (0) from others."""
    head = header(number, EARLIER)
    new = NewInstance(
        head, f"{number}.dcm", sha256 or f"{number:064x}", 10, "PACS", "FIRSTREAD", 0.0, retrieval=retrieval
    )
    with unit_of_work(sessions, SENDER) as uow:
        lifecycle.receive_instances(uow, [new])


def study(sessions: Sessions, uid: str = EARLIER) -> Study:
    with sessions() as session:
        return session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()


def prior(sessions: Sessions) -> Prior:
    with sessions() as session:
        return session.scalars(select(Prior)).one()


def test_a_study_is_searched_for_once(sessions: Sessions) -> None:
    study_id = searched(sessions, FOUND)
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.begin_searches(uow, utcnow()) == 0
        assert priors.claim_search(uow, utcnow(), lease_s=60, max_attempts=3) is None
    assert tags(sessions, study_id=study_id)[-1] == "prior:searched"


def test_a_search_that_a_node_left_comes_back_after_its_lease(sessions: Sessions) -> None:
    received(sessions)
    now = utcnow()
    with unit_of_work(sessions, SENDER) as uow:
        priors.begin_searches(uow, now)
        assert priors.claim_search(uow, now, lease_s=60, max_attempts=3) is not None
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.claim_search(uow, now + timedelta(seconds=59), lease_s=60, max_attempts=3) is None
        assert priors.claim_search(uow, now + timedelta(seconds=61), lease_s=60, max_attempts=3) is not None


def test_a_study_waits_while_priors_may_come_and_not_longer(sessions: Sessions) -> None:
    study_id = received(sessions).study_id

    def pending() -> bool:
        with sessions() as session:
            return priors.search_pending(session, study_id, utcnow())

    assert not pending()  # nobody searches here
    now = utcnow()
    with unit_of_work(sessions, SENDER) as uow:
        priors.begin_searches(uow, now)
    assert pending()
    with unit_of_work(sessions, SENDER) as uow:
        job = priors.claim_search(uow, now, lease_s=60, max_attempts=3)
        assert job is not None
        priors.searched(uow, job.search_id, [FOUND], now, candidates=1, sources=["pacs"], reason="")
    assert pending()
    work = claimed(sessions)
    assert work is not None
    assert pending()
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.prior_failed(uow, work.prior_id, "away", base_s=9, max_attempts=2) is PriorState.FOUND
    assert pending()
    assert claimed(sessions) is None
    assert claimed(sessions, after_s=10) is not None
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.prior_failed(uow, work.prior_id, "away", base_s=9, max_attempts=2) is PriorState.FAILED
    assert not pending()


def test_what_our_retrieval_brings_is_a_prior_and_stays_one(sessions: Sessions) -> None:
    searched(sessions, FOUND)
    work = claimed(sessions)
    assert work is not None
    arrives(sessions, 1, work.message_id)
    arrives(sessions, 2, work.message_id)
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.prior_fetched(uow, work.prior_id, FetchedPrior()) is PriorState.HERE
    arrives(sessions, 3, work.message_id)  # late, of an attempt that was given up
    assert study(sessions).is_prior
    assert prior(sessions).held_id == study(sessions).id


@pytest.mark.parametrize("retrieval", [0, 7])
@pytest.mark.parametrize("number", [1, 9])
def test_what_others_send_of_a_prior_is_to_be_read(sessions: Sessions, retrieval: int, number: int) -> None:
    searched(sessions, FOUND)
    work = claimed(sessions)
    assert work is not None
    arrives(sessions, 1, work.message_id)
    key = study(sessions).id
    with sessions() as session:
        reading = session.scalars(select(Reading).where(Reading.study_id == key)).one()
    with unit_of_work(sessions, SENDER) as uow:
        lifecycle.complete(uow, reading.id, DRAFT)
    arrives(sessions, number, retrieval if retrieval != work.message_id else 8)  # the same bytes, or new ones
    assert not study(sessions).is_prior
    with sessions() as session:
        standing = select(Reading.state).where(Reading.study_id == key, Reading.superseded.is_(False))
        assert session.scalars(standing).one() is ReadingState.RECEIVING
    arrives(sessions, 5, work.message_id)  # and our retrieval does not take it back
    assert not study(sessions).is_prior


def test_a_prior_is_never_queued_whatever_the_rules_say(sessions: Sessions) -> None:
    searched(sessions, FOUND)
    work = claimed(sessions)
    assert work is not None
    arrives(sessions, 1, work.message_id)
    key = study(sessions).id
    with sessions() as session:
        reading = session.scalars(select(Reading).where(Reading.study_id == key)).one()
    with unit_of_work(sessions, SENDER) as uow:
        assert lifecycle.complete(uow, reading.id, DRAFT) is ReadingState.IGNORED
    with unit_of_work(sessions, SENDER) as uow:
        assert priors.begin_searches(uow, utcnow()) == 0


def test_two_nodes_claim_a_prior_once(sessions: Sessions) -> None:
    searched(sessions, FOUND)
    jobs: list[PriorJob | None] = []
    errors: list[Exception] = []
    together = threading.Barrier(4)

    def claim() -> None:
        together.wait()
        try:
            jobs.append(claimed(sessions))
        except LifecycleError as exc:
            errors.append(exc)

    nodes = [threading.Thread(target=claim) for _ in range(4)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert len([job for job in jobs if job is not None]) == 1
    assert prior(sessions).attempts == 1


def test_only_who_fetches_may_say_what_came_of_it(sessions: Sessions) -> None:
    searched(sessions, FOUND)
    key = prior(sessions).id
    with pytest.raises(LifecycleError, match="not being fetched"), unit_of_work(sessions, SENDER) as uow:
        priors.prior_failed(uow, key, "x", base_s=1, max_attempts=2)
    assert claimed(sessions) is not None
    with pytest.raises(LifecycleError, match="nothing of prior"), unit_of_work(sessions, SENDER) as uow:
        priors.prior_fetched(uow, key, FetchedPrior())


def test_a_refused_prior_keeps_no_text(sessions: Sessions) -> None:
    searched(sessions, FOUND)
    work = claimed(sessions)
    assert work is not None
    arrives(sessions, 1, work.message_id)
    with unit_of_work(sessions, SENDER) as uow:
        outcome = FetchedPrior(documents=[{"kind": "sr"}], refused="the sex differs")
        assert priors.prior_fetched(uow, work.prior_id, outcome) is PriorState.REFUSED
    kept = prior(sessions)
    assert (kept.documents, kept.reason) == ([], "the sex differs")
    assert tags(sessions, object_type="prior") == ["prior:fetching", "prior:refused"]


def test_a_search_for_a_study_that_names_two_patients_is_skipped(sessions: Sessions) -> None:
    received(sessions, images=1)
    received_two = header(2, patient_id="P-2")
    new = NewInstance(received_two, "x.dcm", "f" * 64, 10, "CT", "FIRSTREAD", 0.0)
    with unit_of_work(sessions, SENDER) as uow:
        lifecycle.receive_instances(uow, [new])
        priors.begin_searches(uow, utcnow())
    with sessions() as session:
        search = session.scalars(select(PriorSearch)).one()
    assert search.state is SearchState.SKIPPED
