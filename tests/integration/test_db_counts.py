"""Counts, order of messages and tests of destinations in the database, on both engines."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from config.errors import LifecycleError
from db import lifecycle
from db.delivery_models import DestinationTest
from db.lifecycle import counts, deliveries, destination_tests
from db.lifecycle.counts import CountPatience
from db.lifecycle.destination_tests import StepSeen
from db.models import Delivery
from db.queries.destinations import count_alarms, destination_states
from db.types import CountState, DeliveryState, utcnow
from db.uow import unit_of_work
from tests.db_support import SENDER, Journey, Sessions, an_object, received, tags
from tests.node_support import rows

PATIENCE = CountPatience(wait_s=100, max_attempts=2, max_missed=1)
LATER = timedelta(minutes=1)


def journey(sessions: Sessions, study: str = "1.2.826.0.1", **changes: object) -> Journey:
    return received(sessions, study, images=1).queued().running().drafted(**changes)


def claim(sessions: Sessions, **after: float):
    with unit_of_work(sessions, SENDER) as uow:
        return lifecycle.claim_delivery(uow, utcnow() + timedelta(**after), lease_s=60)


def send_all(sessions: Sessions) -> None:
    while job := claim(sessions, seconds=1):
        with unit_of_work(sessions, SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id, is_counted=True)


def order(sessions: Sessions, after=LATER, destination: str = "pacs"):
    with unit_of_work(sessions, SENDER) as uow:
        return counts.order_count(uow, destination, utcnow() + after, PATIENCE)


def test_a_study_is_asked_about_once_by_one_asker_and_again_when_that_one_died(sessions):
    journey(sessions)
    journey(sessions, "1.2.826.0.2")
    send_all(sessions)
    assert order(sessions, timedelta()) is None  # not yet
    assert order(sessions, destination="other") is None
    with ThreadPoolExecutor(4) as pool:
        asked = [one for one in pool.map(lambda _: order(sessions), range(4)) if one is not None]
    while one := order(sessions):  # on PostgreSQL all four may have wanted the same Study
        asked.append(one)
    assert sorted(one.study_instance_uid for one in asked) == ["1.2.826.0.1", "1.2.826.0.2"]
    assert [len(one.objects) for one in asked] == [2, 2]
    again = order(sessions, timedelta(minutes=1, seconds=101))
    assert again is not None  # nobody answered for it


def test_an_answer_that_comes_twice_changes_nothing(sessions):
    journey(sessions)
    send_all(sessions)
    asked = order(sessions)
    held = {one.sop_instance_uid for one in asked.objects}
    for expected in (2, 0):
        with unit_of_work(sessions, SENDER) as uow:
            assert counts.take_count(uow, asked, held, PATIENCE).held == expected
    assert {one.counted for one in rows(sessions, Delivery)} == {CountState.HELD}


def test_missing_objects_are_owed_again_up_to_the_bound_then_the_alarm(sessions):
    journey(sessions, objects=[an_object("SEG")])
    for counted, state in (
        (CountState.NOT_ASKED, DeliveryState.PENDING),
        (CountState.ALARM, DeliveryState.DELIVERED),
    ):
        send_all(sessions)
        asked = order(sessions)
        with unit_of_work(sessions, SENDER) as uow:
            counts.take_count(uow, asked, set(), PATIENCE)
        (delivery,) = rows(sessions, Delivery)
        assert (delivery.counted, delivery.state) == (counted, state)
    with sessions() as session:
        assert [one.delivery.id for one in count_alarms(session)] == [delivery.id]
        assert destination_states(session)["pacs"].alarms == 1
    assert tags(sessions, object_id="pacs") == ["delivery:counted"] * 2


def test_a_message_waits_for_earlier_ones_of_its_study_and_destination_only(sessions):
    one, other = journey(sessions, objects=[]), journey(sessions, "1.2.826.0.2", objects=[])
    made = {}
    for name, study, destination in (
        ("first", one, "ris"), ("second", one, "ris"), ("elsewhere", one, "ehr"), ("other study", other, "ris"),
    ):  # fmt: skip
        new = an_object("REPORT_ORU", sop_class_uid="", destinations=(destination,))
        with unit_of_work(sessions, SENDER) as uow:
            deliveries.owe(uow, new, study.study_id)
        made[new.sop_instance_uid] = name
    jobs = []
    while job := claim(sessions, seconds=1):
        jobs.append(job)
    assert sorted(made[job.sop_instance_uid] for job in jobs) == ["elsewhere", "first", "other study"]
    (first,) = [job for job in jobs if made[job.sop_instance_uid] == "first"]
    with unit_of_work(sessions, SENDER) as uow:
        for job in jobs:
            if job is not first:
                lifecycle.delivered(uow, job.delivery_id)
        lifecycle.delivery_failed(uow, first.delivery_id, "no", base_s=1000, max_attempts=9, at_least_s=2000)
    assert claim(sessions, seconds=1500) is None  # put off, not given up: the second still waits
    again = claim(sessions, seconds=2001)
    assert made[again.sop_instance_uid] == "first"
    with unit_of_work(sessions, SENDER) as uow:
        lifecycle.delivered(uow, again.delivery_id)
    assert made[claim(sessions, seconds=1).sop_instance_uid] == "second"


def test_a_test_is_done_once_by_one_node_and_again_when_that_one_died(sessions):
    with unit_of_work(sessions, SENDER) as uow:
        key = destination_tests.ask_test(uow, "pacs")
        assert destination_tests.ask_test(uow, "pacs") == key

    def take(**after: float):
        with unit_of_work(sessions, SENDER) as uow:
            return destination_tests.claim_test(uow, utcnow() + timedelta(**after), lease_s=60)

    assert take().test_id == key
    assert take() is None
    assert take(seconds=61).test_id == key
    steps = [StepSeen("TCP", True, "connected", 1.5), StepSeen("C-ECHO", False, "no answer")]
    with unit_of_work(sessions, SENDER) as uow:
        destination_tests.finish_test(uow, key, steps)
    with pytest.raises(LifecycleError, match="done already"), unit_of_work(sessions, SENDER) as uow:
        destination_tests.finish_test(uow, key, steps)
    (row,) = rows(sessions, DestinationTest)
    assert (row.is_good, [step["name"] for step in row.steps]) == (False, ["TCP", "C-ECHO"])
    with unit_of_work(sessions, SENDER) as uow:
        second = destination_tests.ask_test(uow, "pacs")
    assert take().test_id == second
    with unit_of_work(sessions, SENDER) as uow:
        destination_tests.finish_test(uow, second, steps[:1])
    (row,) = rows(sessions, DestinationTest)  # only the newest is kept; the audit log has both
    assert (row.id, row.is_good) == (second, True)
    assert tags(sessions, object_id="pacs") == ["destination:tested"] * 2
