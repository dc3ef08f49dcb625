"""The outbox: a message exists if and only if its change does, and reaches the broker at least once."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock

import pytest
from sqlalchemy import select

from db.engine import make_engine, make_sessions
from db.models import OutboxMessage
from db.outbox import purge, relay
from db.types import utcnow
from db.uow import unit_of_work
from tests.db_support import SWEEPER, Sessions, messages


class BrokerDownError(Exception):
    pass


def _enqueue(sessions: Sessions, count: int) -> list[str]:
    ids = [f"{number:04d}" for number in range(count)]
    with unit_of_work(sessions, SWEEPER) as uow:
        for reading_id in ids:
            uow.enqueue("firstread.read_study", reading_id=reading_id)
            uow.session.flush()
    return ids


def test_messages_are_published_in_order_and_once(sessions):
    ids = _enqueue(sessions, 5)
    sent: list[tuple[str, dict]] = []
    assert relay(sessions, lambda task, arguments: sent.append((task, arguments)), limit=3) == 3
    assert relay(sessions, lambda task, arguments: sent.append((task, arguments)), limit=3) == 2
    assert relay(sessions, lambda task, arguments: sent.append((task, arguments))) == 0
    assert sent == [("firstread.read_study", {"reading_id": key}) for key in ids]


@pytest.mark.requirement("REQ-FAIL-7")
def test_a_change_that_is_rolled_back_sends_nothing(sessions):
    def change() -> None:
        with unit_of_work(sessions, SWEEPER) as uow:
            uow.enqueue("firstread.read_study", reading_id="x")
            uow.session.flush()
            raise BrokerDownError

    with pytest.raises(BrokerDownError):
        change()
    assert messages(sessions) == []


@pytest.mark.requirement("REQ-FAIL-7")
def test_a_broker_that_fails_loses_nothing(sessions):
    ids = _enqueue(sessions, 4)
    sent: list[str] = []

    def publish(_: str, arguments: dict) -> None:
        if len(sent) == 2:
            raise BrokerDownError
        sent.append(arguments["reading_id"])

    with pytest.raises(BrokerDownError):
        relay(sessions, publish)
    assert sent == ids[:2]
    assert messages(sessions) == [{"reading_id": key} for key in ids[2:]]
    assert relay(sessions, lambda _, arguments: sent.append(arguments["reading_id"])) == 2
    assert sent == ids


def test_a_relay_that_dies_before_it_marks_publishes_again(sessions):
    ids = _enqueue(sessions, 1)
    sent: list[str] = []

    def publish(_: str, arguments: dict) -> None:
        sent.append(arguments["reading_id"])
        raise KeyboardInterrupt  # after the broker took it, before it was marked

    with pytest.raises(KeyboardInterrupt):
        relay(sessions, publish)
    assert relay(sessions, lambda _, arguments: sent.append(arguments["reading_id"])) == 1
    assert sent == ids * 2


def test_two_relays_at_once_deliver_every_message(sessions):
    ids = _enqueue(sessions, 120)
    sent: list[str] = []
    lock = Lock()
    barrier = Barrier(2)

    def publish(_: str, arguments: dict) -> None:
        with lock:
            sent.append(arguments["reading_id"])

    def run(_: int) -> int:
        barrier.wait()
        return sum(relay(sessions, publish, limit=10) for _ in range(30))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(run, range(2))) >= len(ids)
    assert set(sent) == set(ids)
    assert messages(sessions) == []


@pytest.mark.postgres
def test_on_postgresql_a_slow_relay_blocks_nobody_and_nothing_is_sent_twice(postgres_url):
    engine = make_engine(postgres_url)
    sessions = make_sessions(engine)
    ids = _enqueue(sessions, 4)
    sent: list[str] = []
    holding, go_on = Event(), Event()

    def slowly(_: str, arguments: dict) -> None:
        sent.append(arguments["reading_id"])
        holding.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(relay, sessions, slowly, 2)
        assert holding.wait(60)
        # the first two rows are locked: the second relay skips them and does not wait
        assert relay(sessions, lambda _, arguments: sent.append(arguments["reading_id"]), limit=10) == 2
        assert not slow.done()
        go_on.set()
        assert slow.result(60) == 2
    assert sorted(sent) == ids
    engine.dispose()


def test_a_slow_broker_does_not_hold_up_reception(sqlite_sessions):
    """SQLite has one writer: the relay must not hold its lock while it talks to the broker."""
    _enqueue(sqlite_sessions, 1)
    seconds: list[float] = []

    def publish(_task: str, _arguments: dict) -> None:
        start = time.monotonic()
        with unit_of_work(sqlite_sessions, SWEEPER) as uow:
            uow.enqueue("firstread.read_study", reading_id="y")
        seconds.append(time.monotonic() - start)

    assert relay(sqlite_sessions, publish, limit=1) == 1
    assert seconds[0] < 25  # the busy timeout is 30 s
    assert messages(sqlite_sessions) == [{"reading_id": "y"}]


def test_published_messages_are_purged_waiting_ones_are_not(sessions):
    _enqueue(sessions, 3)
    relay(sessions, lambda *_: None, limit=2)
    with unit_of_work(sessions, SWEEPER) as uow:
        assert purge(uow, utcnow()) == 2
    with sessions() as session:
        assert len(session.scalars(select(OutboxMessage)).all()) == 1
