"""The usual case of reception, on the driver's own cursor: the same rows as the long way, or nothing at all."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select, text

from config.errors import TransientError
from db import lifecycle
from db.engine import make_engine, make_sessions
from db.lifecycle import InstanceHeader, NewInstance, Received
from db.models import Instance, Study
from db.uow import driver_transaction, unit_of_work
from tests.db_support import SCANNER, Sessions, header, received, tags

STUDY = "1.2.826.0.1"


def news(*heads: InstanceHeader, **changes: Any) -> list[NewInstance]:
    made = []
    for head in heads:
        sha256 = hashlib.sha256(head.sop_instance_uid.encode()).hexdigest()
        new = NewInstance(head, f"{head.sop_instance_uid}.dcm", sha256, 100, "SCANNER", "FIRSTREAD", 0.0)
        made.append(replace(new, **changes))
    return made


def long_way(sessions: Sessions, group: list[NewInstance]) -> list[Any]:
    with unit_of_work(sessions, SCANNER) as uow:
        return lifecycle.receive_instances(uow, group)


def kept(sessions: Sessions) -> dict[str, dict[str, Any]]:
    with sessions() as session:
        found = session.execute(select(Instance.__table__)).mappings().all()
    return {row["sop_instance_uid"]: dict(row) for row in found}


def test_it_writes_the_same_row_as_the_long_way_and_no_event(sessions):
    received(sessions, images=1)
    association = uuid4()
    group = news(header(2), header(3), association_id=association, quiet_s=45.0, calling_ae="CT1\0" + "x" * 20)
    before = tags(sessions)
    (outcome,) = lifecycle.receive_more(sessions, group[:1])
    (longer,) = long_way(sessions, group[1:])
    rows = kept(sessions)
    quick, slow = (rows[new.header.sop_instance_uid] for new in group)
    assert outcome == Received(quick["study_id"], quick["id"], is_new=True, revision=longer.revision)
    differing = {"id", "sop_instance_uid", "path", "sha256", "received_at", "instance_number"}
    assert {k: v for k, v in quick.items() if k not in differing} == {
        k: v for k, v in slow.items() if k not in differing
    }
    assert (quick["association_id"], quick["calling_ae"]) == (association, "CT1" + "x" * 13)
    assert quick["received_at"] < slow["received_at"]
    assert tags(sessions) == before


def test_it_counts_and_keeps_the_longest_quiet_time(sessions):
    first, second = received(sessions, images=1), received(sessions, "1.2.7", images=1)
    group = news(header(2), quiet_s=20.0) + news(header(3), quiet_s=5.0) + news(header(2, "1.2.7"), quiet_s=7.0)
    then = first.study().last_received_at
    assert [o.is_new for o in lifecycle.receive_more(sessions, group)] == [True] * 3
    assert (first.study().instance_count, second.study().instance_count) == (3, 2)
    assert (first.study().quiet_s, second.study().quiet_s) == (20.0, 7.0)
    assert lifecycle.receive_more(sessions, news(header(4), quiet_s=1.0))
    assert first.study().quiet_s == 20.0
    assert first.study().last_received_at > then


UNUSUAL: dict[str, Callable[[], list[NewInstance]]] = {
    "another study": lambda: news(header(1, "1.2.9")),
    "another series": lambda: news(header(3, series_instance_uid="1.2.9.9")),
    "another patient": lambda: news(header(3, patient_id="P-2")),
    "held": lambda: news(header(1)),
    "held with other bytes": lambda: news(header(1), sha256="f" * 64),
    "twice in the group": lambda: news(header(3), header(3)),
    "held elsewhere": lambda: news(header(3, sop_instance_uid=header(1).sop_instance_uid)),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_one_that_is_not_usual_leaves_the_whole_group_to_the_long_way(sessions, case):
    journey = received(sessions, images=2)
    before = kept(sessions), tags(sessions), journey.study().instance_count, journey.study().last_received_at
    assert lifecycle.receive_more(sessions, [*news(header(5)), *UNUSUAL[case]()]) is None
    assert (kept(sessions), tags(sessions), journey.study().instance_count, journey.study().last_received_at) == before
    outcomes = long_way(sessions, [*news(header(5)), *UNUSUAL[case]()])
    assert isinstance(outcomes[0], Received)
    assert outcomes[0].is_new


def test_images_of_a_study_that_is_complete_take_the_long_way(sessions):
    journey = received(sessions, images=2).queued()
    assert lifecycle.receive_more(sessions, news(header(3))) is None
    assert journey.study().revision == 1


def test_images_of_a_prior_take_the_long_way(sessions):
    journey = received(sessions, images=1)
    with sessions() as session:
        session.execute(select(Study)).scalar_one().is_prior = True
        session.commit()
    assert lifecycle.receive_more(sessions, news(header(2))) is None
    assert journey.study().instance_count == 1


def test_two_senders_of_one_study_at_once_lose_nothing(sessions):
    journey = received(sessions, images=1)
    barrier = Barrier(2)

    def send(first: int) -> int:
        barrier.wait()
        groups = [news(*(header(n) for n in range(start, start + 3))) for start in range(first, first + 30, 3)]
        return sum(len(lifecycle.receive_more(sessions, group) or ()) for group in groups)

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(send, [10, 100])) == 60
    assert journey.study().instance_count == 61
    assert len(kept(sessions)) == 61


@pytest.mark.postgres
def test_a_study_that_completes_meanwhile_is_seen_after_the_lock(postgres_url):
    """The Study is locked by whoever completes it; what waits for the lock has to see what was done."""
    engine = make_engine(postgres_url)
    sessions = make_sessions(engine)
    journey = received(sessions, images=1)
    with engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute(text("SELECT id FROM study FOR UPDATE"))
        waiting = pool.submit(lifecycle.receive_more, sessions, news(header(2)))
        other.execute(text("UPDATE reading SET state = 'COMPLETE'"))
        assert not waiting.done()
        other.commit()
        assert waiting.result(20) is None
    assert journey.study().instance_count == 1
    engine.dispose()


def test_a_database_that_cannot_be_used_has_its_name(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(TransientError), driver_transaction(engine) as cursor:
        cursor.execute("ATTACH DATABASE '/nowhere/at/all.db' AS x")


def test_postgresql_that_is_gone_has_its_name():
    gone: Engine = make_engine("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(TransientError), driver_transaction(gone):
        pass


def test_an_error_rolls_back_and_the_connection_stays_usable(sessions, engine):
    received(sessions, images=1)

    def fail() -> None:
        with driver_transaction(engine) as cursor:
            cursor.execute("UPDATE study SET instance_count = 99")
            raise ValueError("a defect")

    for _ in range(20):  # more often than the pool has connections
        with pytest.raises(ValueError, match="a defect"):
            fail()
    with sessions() as session:
        assert session.scalars(select(Study.instance_count)).all() == [1]
