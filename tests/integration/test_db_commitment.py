"""Storage commitment in the database, on both engines: one asker, one reporter, nothing lost when either dies."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from config.errors import LifecycleError
from db import lifecycle
from db.commitment_models import CommitmentRequest, RequestState
from db.lifecycle import commitment_requests as requests
from db.lifecycle import commitments
from db.lifecycle.commitment_requests import CommitmentAsked
from db.lifecycle.commitments import CommitmentAnswer, Patience
from db.lifecycle.deliveries import hold_deliveries, renew_delivery
from db.models import Delivery, Reading
from db.queries import problems
from db.types import CommitmentState, DeliveryState, utcnow
from db.uow import unit_of_work
from tests.db_support import SCANNER, SENDER, Journey, Sessions, an_object, delivery_states, received, tags

PATIENCE = Patience(wait_s=100.0, max_attempts=3)
CT = "1.2.840.10008.5.1.4.1.1.2"
PAIRS = [(CT, "1.2.1"), (CT, "1.2.2")]


def ask(sessions: Sessions, pairs=PAIRS, *, transaction="1.9.1", peer="SCANNER", after_s: float = 0.0):
    asked = CommitmentAsked(transaction, pairs, peer, "FIRSTREAD", "192.0.2.1")
    with unit_of_work(sessions, SCANNER) as uow:
        return requests.request_commitment(uow, asked, not_before=utcnow() + timedelta(seconds=after_s))


def claim(sessions: Sessions, *, after_s: float = 1.0, lease_s: float = 60.0, request_id=None):
    with unit_of_work(sessions, SENDER) as uow:
        return requests.claim_report(uow, utcnow() + timedelta(seconds=after_s), lease_s=lease_s, request_id=request_id)


def test_a_request_is_answered_by_one_reporter_and_by_another_when_that_one_died(sessions):
    key = ask(sessions)
    first = claim(sessions, lease_s=500)
    assert (first.request_id, first.references, first.attempts) == (key, tuple(PAIRS), 1)
    assert claim(sessions) is None
    assert claim(sessions, request_id=key) is None
    second = claim(sessions, after_s=502)
    assert (second.request_id, second.attempts) == (key, 2)
    for late in (requests.reported, lambda uow, job: requests.compared(uow, job, {}, {})):
        with pytest.raises(LifecycleError, match="somebody else"), unit_of_work(sessions, SENDER) as uow:
            late(uow, first)
    with pytest.raises(LifecycleError), unit_of_work(sessions, SENDER) as uow:
        requests.report_failed(uow, first, "late", base_s=1, max_attempts=1)
    with unit_of_work(sessions, SENDER) as uow:
        requests.compared(uow, second, {"1.2.2": 0x0112}, {})
        requests.reported(uow, second)
    assert tags(sessions, object_type="commitment") == ["commitment:requested", "commitment:reported"]


def test_what_was_compared_is_told_as_it_was_however_often(sessions):
    ask(sessions)
    job = claim(sessions)
    assert job.failures is None
    with unit_of_work(sessions, SENDER) as uow:
        requests.compared(uow, job, {"1.2.2": 0x0112}, {})
    with unit_of_work(sessions, SENDER) as uow:
        assert requests.report_failed(uow, job, "away", base_s=10, max_attempts=5) is RequestState.WAITING
    again = claim(sessions, after_s=11)
    assert again.failures == {"1.2.2": 0x0112}
    with unit_of_work(sessions, SENDER) as uow:
        requests.reported(uow, again)
    ask(sessions)  # the same again: the files are read anew
    assert claim(sessions).failures is None


def test_nothing_compared_is_not_everything_committed(sessions):
    ask(sessions)
    job = claim(sessions)
    with unit_of_work(sessions, SENDER) as uow:
        requests.compared(uow, job, {}, {})
    assert claim(sessions, after_s=100).failures == {}


def test_one_transaction_of_a_peer_is_one_set_of_references(sessions):
    first = ask(sessions)
    assert ask(sessions, list(reversed(PAIRS))) == first
    other = ask(sessions, PAIRS[:1])
    assert other != first
    assert ask(sessions, PAIRS[:1]) == other
    stranger = ask(sessions, PAIRS[:1], peer="OTHER")
    with sessions() as session:
        reuse = {row.id: row.is_reuse for row in session.scalars(select(CommitmentRequest))}
    assert reuse == {first: False, other: True, stranger: False}


def test_a_peer_that_is_away_holds_up_nobody_else_and_is_told_everything_when_it_is_back(sessions):
    mine = [ask(sessions, transaction=f"1.9.{number}") for number in range(3)]
    theirs = ask(sessions, peer="OTHER", transaction="1.8.1")
    job = claim(sessions, request_id=mine[0])
    with unit_of_work(sessions, SENDER) as uow:
        requests.report_failed(uow, job, "no connection", base_s=100, max_attempts=5, is_away=True)
    assert claim(sessions, lease_s=1000).request_id == theirs
    assert claim(sessions, after_s=99) is None
    job = claim(sessions, request_id=mine[0])
    with unit_of_work(sessions, SENDER) as uow:
        requests.reported(uow, job)
    assert {claim(sessions).request_id, claim(sessions).request_id} == set(mine[1:])


def test_a_request_that_was_given_up_is_a_problem_of_a_person(sessions):
    ask(sessions)
    job = claim(sessions)
    with unit_of_work(sessions, SENDER) as uow:
        assert requests.report_failed(uow, job, "away", base_s=1, max_attempts=1) is RequestState.FAILED
    with sessions() as session:
        (untold,) = problems(session).untold
    assert (untold.calling_ae, untold.last_error) == ("SCANNER", "away")


@pytest.fixture
def journey(sessions) -> Journey:
    objects = [an_object("SEG"), an_object("FINDINGS_SR")]
    journey = received(sessions).queued().running().drafted(objects=objects)
    deliver(sessions)
    return journey


def deliver(sessions: Sessions) -> None:
    while True:
        with unit_of_work(sessions, SENDER) as uow:
            job = lifecycle.claim_delivery(uow, utcnow() + timedelta(days=30), lease_s=60)
            if job is None:
                return
            lifecycle.delivered(uow, job.delivery_id)


def order(sessions: Sessions, *, after_s: float = 10.0, at_most: int = 100):
    with unit_of_work(sessions, SENDER) as uow:
        now = utcnow() + timedelta(seconds=after_s)
        return commitments.order_commitment(uow, "pacs", now, PATIENCE, at_most=at_most)


def answer(sessions: Sessions, transaction: str, committed=(), failed=None, names=("pacs",)):
    told = CommitmentAnswer(transaction, set(committed), failed or {})
    with unit_of_work(sessions, SENDER) as uow:
        return commitments.take_answer(uow, told, set(names), PATIENCE, resend_s=60)


def test_two_askers_at_once_never_ask_for_the_same_object(sessions):
    objects = [an_object("SEG") for _ in range(12)]
    received(sessions).queued().running().drafted(objects=objects)
    deliver(sessions)
    with ThreadPoolExecutor(4) as pool:
        orders = [o for o in pool.map(lambda _: order(sessions, at_most=3), range(8)) if o]
    asked = [instance for one in orders for _, instance in one.references]
    assert len(asked) == len(set(asked))
    assert order(sessions) is None or len(asked) < 12
    while len(asked) < 12:  # who found rows locked came away with less
        asked += [instance for _, instance in order(sessions).references]
    assert sorted(asked) == sorted(made.sop_instance_uid for made in objects)
    with sessions() as session:
        assert set(session.scalars(select(Delivery.commitment_attempts))) == {1}


def test_what_was_delivered_before_anybody_asked_for_commitment_is_asked_for_too(journey, sessions):
    with unit_of_work(sessions, SENDER) as uow:
        uow.session.execute(update(Delivery).values(commitment_due_at=None))
    assert len(order(sessions, after_s=0).references) == 2


def test_an_answer_counts_for_the_destination_that_was_asked(journey, sessions):
    asked = order(sessions)
    assert answer(sessions, asked.transaction_uid, asked.references, names=("other",)) is None
    assert answer(sessions, "", asked.references) is None
    taken = answer(sessions, asked.transaction_uid, asked.references)
    assert (taken.committed, taken.refused, taken.unmentioned) == (2, 0, 0)
    again = answer(sessions, asked.transaction_uid, asked.references)
    assert (again.committed, again.refused, again.unmentioned) == (0, 0, 0)
    assert tags(sessions, tag="delivery:committed") == ["delivery:committed"] * 2


def test_a_late_yes_to_an_earlier_question_counts_and_a_late_no_does_not(journey, sessions):
    first = order(sessions)
    second = order(sessions, after_s=200)
    one, other = first.references
    late = answer(sessions, first.transaction_uid, [one], {other[1]: 0x0112})
    assert (late.committed, late.refused) == (1, 0)
    now = answer(sessions, second.transaction_uid, [], {one[1]: 0x0112, other[1]: 0x0112})
    assert (now.committed, now.refused) == (0, 1)
    deliver(sessions)  # it was lost, and goes there again: what was promised before that means nothing
    with unit_of_work(sessions, SENDER) as uow:
        uow.session.execute(update(Delivery).values(delivered_at=utcnow() + timedelta(seconds=300)))
    third = order(sessions, after_s=400)
    assert third.references == (other,)
    assert answer(sessions, first.transaction_uid, [other]).committed == 0
    assert answer(sessions, third.transaction_uid, [other]).committed == 1


def test_an_object_refused_again_and_again_waits_longer_each_time_and_then_calls_a_person(sessions):
    received(sessions).queued().running().drafted(objects=[an_object("SEG")])
    pauses = []
    for attempt in range(1, PATIENCE.max_attempts + 1):
        deliver(sessions)
        asked = order(sessions)
        ((_, instance),) = asked.references
        assert answer(sessions, asked.transaction_uid, failed={instance: 0x0110}).refused == 1
        with sessions() as session:
            row = session.scalars(select(Delivery)).one()
        if attempt < PATIENCE.max_attempts:
            assert (row.state, row.commitment) == (DeliveryState.PENDING, CommitmentState.REFUSED)
            pauses.append(round((row.next_attempt_at - utcnow()).total_seconds()))
    assert pauses == [0, 60]
    assert (row.state, row.commitment) == (DeliveryState.DELIVERED, CommitmentState.ALARM)
    with sessions() as session:
        (alarm,) = problems(session).uncommitted
    assert alarm.delivery.last_error == "not committed: 0x0110 processing failure"
    assert order(sessions, after_s=1e7) is None


def test_a_delivered_object_goes_back_only_after_an_alarm(journey, sessions):
    with sessions() as session:
        key = session.scalars(select(Delivery.id)).first()
    with pytest.raises(LifecycleError, match="was delivered"), unit_of_work(sessions, SENDER) as uow:
        lifecycle.resubmit(uow, key)
    assert delivery_states(sessions) == ["DELIVERED", "DELIVERED"]


def test_a_sender_that_lost_its_lease_neither_sends_nor_decides(sessions):
    received(sessions).queued().running().drafted(objects=[an_object("SEG")])
    with unit_of_work(sessions, SENDER) as uow:
        first = lifecycle.claim_delivery(uow, utcnow(), lease_s=10)
    with unit_of_work(sessions, SENDER) as uow:
        assert renew_delivery(uow, first, utcnow() + timedelta(seconds=9), lease_s=10)
    with unit_of_work(sessions, SENDER) as uow:
        assert lifecycle.claim_delivery(uow, utcnow() + timedelta(seconds=15), lease_s=10) is None
    with unit_of_work(sessions, SENDER) as uow:
        second = lifecycle.claim_delivery(uow, utcnow() + timedelta(seconds=25), lease_s=10)
    assert second.attempts == 2
    with unit_of_work(sessions, SENDER) as uow:  # the first is slow, not dead: it must not hold what the second has
        hold_deliveries(uow, [first], utcnow() + timedelta(seconds=900), lease_s=10)
        assert uow.session.get(Delivery, first.delivery_id).lease_until == second.lease_until
        hold_deliveries(uow, [second], utcnow() + timedelta(seconds=900), lease_s=10)
    with unit_of_work(sessions, SENDER) as uow:
        assert lifecycle.claim_delivery(uow, utcnow() + timedelta(seconds=905), lease_s=10) is None
    with pytest.raises(LifecycleError, match="somebody else"), unit_of_work(sessions, SENDER) as uow:
        renew_delivery(uow, first, utcnow(), lease_s=10)
    with pytest.raises(LifecycleError, match="somebody else"), unit_of_work(sessions, SENDER) as uow:
        lifecycle.delivery_failed(uow, first.delivery_id, "x", base_s=1, max_attempts=9, attempt=first.attempts)
    assert delivery_states(sessions) == ["SENDING"]


def test_a_draft_that_fell_while_its_object_waited_to_be_sent_is_withdrawn_at_the_last_moment(sessions):
    received(sessions).queued().running().drafted(objects=[an_object("DRAFT_SR")])
    with unit_of_work(sessions, SENDER) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        uow.session.execute(update(Reading).values(superseded=True))
    with unit_of_work(sessions, SENDER) as uow:
        assert not renew_delivery(uow, job, utcnow(), lease_s=60)
    assert delivery_states(sessions) == ["WITHDRAWN"]
