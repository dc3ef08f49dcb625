"""Deliveries: owed once, sent by one sender at a time, postponed with patience, given up in sight."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from config.errors import LifecycleError
from db import lifecycle
from db.models import Delivery, ResultObject
from db.types import DeliveryState, utcnow
from db.uow import unit_of_work
from tests.db_support import (
    SENDER,
    SWEEPER,
    Journey,
    Sessions,
    an_object,
    decide_all,
    delivery_states,
    open_review,
    person,
    received,
    sign,
    tags,
)


def _claim(sessions: Sessions, *, after_s: float = 0, lease_s: float = 60):
    with unit_of_work(sessions, SENDER) as uow:
        return lifecycle.claim_delivery(uow, utcnow() + timedelta(seconds=after_s), lease_s=lease_s)


def _fail(sessions: Sessions, key, max_attempts: int = 3) -> DeliveryState:
    with unit_of_work(sessions, SENDER) as uow:
        return lifecycle.delivery_failed(uow, key, "PeerUnavailableError", base_s=1000, max_attempts=max_attempts)


@pytest.fixture
def journey(sessions) -> Journey:
    return received(sessions).queued().running().drafted(objects=[an_object("SEG", path="seg.dcm")])


@pytest.mark.requirement("REQ-DELIV-1")
def test_a_delivery_is_claimed_by_one_sender_and_delivered_once(journey, sessions):
    job = _claim(sessions)
    assert (job.destination, job.path, job.study_id, job.attempts) == ("pacs", "seg.dcm", journey.study_id, 1)
    assert _claim(sessions) is None
    for _ in range(2):  # a second confirmation changes nothing
        with unit_of_work(sessions, SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id)
    assert delivery_states(sessions) == ["DELIVERED"]
    assert tags(sessions, object_type="delivery") == ["delivery:started", "delivery:delivered"]
    assert _claim(sessions, after_s=1e6) is None


def test_a_sender_that_died_is_replaced(journey, sessions):
    first = _claim(sessions, lease_s=3000)
    assert _claim(sessions, after_s=2000) is None
    second = _claim(sessions, after_s=3001)
    assert (second.delivery_id, second.attempts) == (first.delivery_id, 2)


@pytest.mark.requirement("REQ-DELIV-2")
def test_failures_are_postponed_twice_as_long_each_time_then_given_up_in_sight(journey, sessions):
    wait_s = 0.0
    for delay_s in (1000, 2000):
        job = _claim(sessions, after_s=wait_s)
        assert _fail(sessions, job.delivery_id) is DeliveryState.PENDING
        with sessions() as session:
            row = session.get_one(Delivery, job.delivery_id)
        assert abs((row.next_attempt_at - utcnow()).total_seconds() - delay_s) < 400
        assert row.last_error == "PeerUnavailableError"
        assert _claim(sessions, after_s=delay_s - 500) is None
        wait_s = delay_s + 1
    job = _claim(sessions, after_s=wait_s)
    assert _fail(sessions, job.delivery_id) is DeliveryState.FAILED
    assert _claim(sessions, after_s=1e6) is None
    with unit_of_work(sessions, person(sessions)) as uow:
        lifecycle.resubmit(uow, job.delivery_id)
    assert _claim(sessions).attempts == 1


def test_what_is_not_being_sent_can_neither_succeed_nor_fail(journey, sessions):
    with sessions() as session:
        key = session.scalars(select(Delivery.id)).one()
    with pytest.raises(LifecycleError), unit_of_work(sessions, SENDER) as uow:
        lifecycle.delivered(uow, key)
    with pytest.raises(LifecycleError):
        _fail(sessions, key)
    with pytest.raises(LifecycleError), unit_of_work(sessions, SENDER) as uow:
        lifecycle.resubmit(uow, key)
    assert delivery_states(sessions) == ["PENDING"]


def test_the_delay_never_exceeds_an_hour(journey, sessions):
    job = _claim(sessions)
    with unit_of_work(sessions, SWEEPER) as uow:
        uow.session.get_one(Delivery, job.delivery_id).attempts = 500
    assert _fail(sessions, job.delivery_id, max_attempts=1000) is DeliveryState.PENDING
    assert _claim(sessions, after_s=3601) is not None


def test_an_object_of_the_draft_signed_again_is_kept_once_and_owed_to_new_destinations_only(sessions):
    seg = an_object("SEG")
    journey = received(sessions).queued().running().drafted(objects=[seg], destinations=["pacs"])
    reader = person(sessions)
    version = decide_all(journey, reader, open_review(journey, reader))
    sign(journey, reader, version, objects=[seg, an_object()], destinations=["pacs", "vna"])
    with sessions() as session:
        key = session.scalars(
            select(ResultObject.id).where(ResultObject.sop_instance_uid == seg.sop_instance_uid)
        ).one()
        owed = session.scalars(select(Delivery.destination).where(Delivery.result_object_id == key)).all()
    assert sorted(owed) == ["pacs", "vna"]
    assert len(delivery_states(sessions)) == 4


def test_a_signed_object_with_other_bytes_under_a_held_uid_stops_the_signature(journey, sessions):
    with sessions() as session:
        uid = session.scalars(select(ResultObject.sop_instance_uid)).one()
    reader = person(sessions)
    version = decide_all(journey, reader, open_review(journey, reader))
    with pytest.raises(LifecycleError, match="other bytes"):
        sign(journey, reader, version, objects=[an_object(sop_instance_uid=uid)])
    assert journey.report().state.value == "IN_REVIEW"
