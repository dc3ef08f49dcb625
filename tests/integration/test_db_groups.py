"""Reception of a group: few statements, and each Instance fares as if it had come alone."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, func, select

from db import lifecycle
from db.lifecycle import InstanceHeader, NewInstance, Received
from db.models import Instance, Reading, Series, Study
from db.report_models import Report
from db.types import ReadingState
from db.uow import unit_of_work
from tests.db_support import SCANNER, Sessions, header, received, tags


def news(*heads: InstanceHeader, **changes: Any) -> list[NewInstance]:
    """What a group of headers brings; each hash follows from its UID unless given."""
    made = []
    for head in heads:
        facts = {
            "path": f"{head.sop_instance_uid}.dcm",
            "sha256": hashlib.sha256(head.sop_instance_uid.encode()).hexdigest(),
            "size_bytes": 100,
            "calling_ae": "SCANNER",
            "called_ae": "FIRSTREAD",
            "quiet_s": 0.0,
        }
        made.append(NewInstance(head, **(facts | changes)))
    return made


def receive_group(sessions: Sessions, group: list[NewInstance]) -> list[str]:
    """Index a group; say of each what became of it."""
    with unit_of_work(sessions, SCANNER) as uow:
        outcomes = lifecycle.receive_instances(uow, group)
    names = {True: "new", False: "held"}
    return [names[o.is_new] if isinstance(o, Received) else type(o).__name__ for o in outcomes]


def test_a_group_of_two_new_studies_is_indexed_at_once(sessions):
    group = news(*(header(n, f"1.2.{s}", series_instance_uid=f"1.2.{s}.{n % 2}") for s in (1, 2) for n in range(1, 6)))
    assert receive_group(sessions, group) == ["new"] * 10
    with sessions() as session:
        assert session.scalars(select(Study.instance_count)).all() == [5, 5]
        assert session.scalar(select(func.count()).select_from(Series)) == 4
        assert session.scalar(select(func.count()).select_from(Reading)) == 2
        assert session.scalar(select(func.count()).select_from(Report)) == 2
    assert tags(sessions) == ["study:received", "study:received"]


def test_a_group_needs_as_many_statements_as_one_instance(sessions, engine):
    receive_group(sessions, news(header(1), header(1, "1.2.7")))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *what: statements.append(what[2]))
    assert receive_group(sessions, news(header(2))) == ["new"]
    alone, statements[:] = len(statements), []
    both = [*(header(n) for n in range(3, 20)), *(header(n, "1.2.7") for n in range(3, 20))]
    assert receive_group(sessions, news(*both)) == ["new"] * 34
    assert len(statements) == alone


@pytest.mark.parametrize("is_usual", [True, False], ids=["receiving", "complete"])
def test_what_is_held_or_conflicts_in_a_group_touches_none_of_the_others(sessions, is_usual):
    journey = received(sessions, images=2)
    if not is_usual:
        journey.queued()
    group = news(header(1), header(3), header(3), header(4))
    group += [replace(news(header(2))[0], sha256="f" * 64), replace(news(header(4))[0], sha256="e" * 64)]
    expected = ["held", "new", "held", "new", "ConflictingInstanceError", "ConflictingInstanceError"]
    assert receive_group(sessions, group) == expected
    assert journey.study().instance_count == 4
    assert journey.study().revision == (1 if is_usual else 2)
    assert tags(sessions).count("instance:duplicate") == 2
    assert tags(sessions).count("study:revised") == (0 if is_usual else 1)


def test_what_is_only_held_or_in_conflict_opens_nothing(sessions):
    journey = received(sessions, images=1).queued()
    elsewhere = header(1, "1.2.99", sop_instance_uid=header(1).sop_instance_uid, patient_id="P-9")
    group = [*news(header(1)), replace(news(elsewhere)[0], sha256="f" * 64)]
    assert receive_group(sessions, group) == ["held", "ConflictingInstanceError"]
    with sessions() as session:
        assert session.scalars(select(Study.study_instance_uid)).all() == ["1.2.826.0.1"]
    assert journey.reading().state is ReadingState.QUEUED


def test_a_group_with_images_of_two_patients_doubts_the_study_once(sessions):
    journey = received(sessions, images=1)
    receive_group(sessions, news(header(2), header(3, patient_id="P-2"), header(4, patient_id="P-3")))
    assert journey.study().identity_conflict
    assert tags(sessions, outcome="failure") == ["study:identity_conflict"]


def test_each_event_of_a_group_is_in_the_name_of_its_sender(sessions):
    receive_group(sessions, news(header(1, "1.2.1"), calling_ae="CT1") + news(header(1, "1.2.2"), calling_ae="MR1"))
    assert tags(sessions, actor="CT1") == tags(sessions, actor="MR1") == ["study:received"]


def test_the_association_is_kept_with_each_instance(sessions):
    first, second = uuid4(), uuid4()
    receive_group(
        sessions, news(header(1), association_id=first) + news(header(2), association_id=second) + news(header(3))
    )
    with sessions() as session:
        found = session.scalars(select(Instance.association_id).order_by(Instance.sop_instance_uid)).all()
    assert found == [first, second, None]


def test_groups_that_meet_in_two_studies_lose_nothing(sessions):
    """Two processes bring the same Studies in opposite orders; each image is new for one of them."""
    barrier = Barrier(2)

    def send(is_first: bool) -> list[str]:
        told = []
        barrier.wait()
        for n in range(1, 11):
            heads = [header(n, "1.2.1"), header(n, "1.2.2")]
            told += receive_group(sessions, news(*(heads if is_first else reversed(heads))))
        return told

    with ThreadPoolExecutor(2) as pool:
        told = [word for words in pool.map(send, [True, False]) for word in words]
    assert sorted(told) == ["held"] * 20 + ["new"] * 20
    with sessions() as session:
        assert session.scalars(select(Study.instance_count)).all() == [10, 10]
