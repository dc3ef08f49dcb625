"""The tables of allowed moves: every pair of states, for every machine."""

import ast
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

import db
from config.errors import LifecycleError
from db.engine import make_engine, make_sessions
from db.lifecycle.moves import move_delivery, move_reading, move_report
from db.lifecycle.tables import DELIVERY_MOVES, READING_MOVES, REPORT_MOVES
from db.models import AuditEvent, Base, Delivery, OutboxMessage, Reading, Study
from db.report_models import Report
from db.types import DeliveryState, ReadingState, ReportState
from db.uow import Actor, UnitOfWork

# written down from the design, not from the tables under test
READING = """
RECEIVING COMPLETE; COMPLETE QUEUED; COMPLETE IGNORED; COMPLETE HELD; QUEUED RUNNING; RUNNING DRAFTED; RUNNING NO_DRAFT;
RUNNING RETRYING; RUNNING FAILED; RETRYING RUNNING; RETRYING QUEUED; RUNNING QUEUED; QUEUED NO_DRAFT; RETRYING NO_DRAFT;
HELD QUEUED; IGNORED QUEUED; FAILED QUEUED; NO_DRAFT QUEUED; QUEUED HELD; RETRYING HELD; RUNNING HELD
"""
REPORT = """
UNREAD DRAFTED; DRAFTED IN_REVIEW; IN_REVIEW PRELIMINARY; IN_REVIEW FINAL; IN_REVIEW REJECTED; PRELIMINARY IN_REVIEW;
UNREAD IN_REVIEW; PRELIMINARY FINAL; FINAL ADDENDED; FINAL CORRECTED; REJECTED IN_REVIEW; ADDENDED ADDENDED;
ADDENDED CORRECTED; CORRECTED ADDENDED; CORRECTED CORRECTED;
DRAFTED UNREAD; IN_REVIEW UNREAD; REJECTED UNREAD
"""
DELIVERY = """
PENDING SENDING; SENDING DELIVERED; SENDING PENDING; SENDING FAILED; SENDING WITHDRAWN; PENDING WITHDRAWN;
FAILED PENDING; DELIVERED PENDING; PENDING HELD; HELD PENDING; HELD WITHDRAWN
"""


def _pairs(text: str) -> set[tuple[str, str]]:
    return {(a, b) for a, b in (pair.split() for pair in text.split(";"))}


@pytest.fixture(scope="module")
def migrated(_migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = shutil.copy(_migrated_file, tmp_path_factory.mktemp("tables"))
    engine = make_engine(f"sqlite:///{path}")
    with engine.begin() as connection:  # the tables of moves alone, without the database's own guards
        for name in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    yield engine
    engine.dispose()


@pytest.fixture
def uow(migrated: Engine) -> Iterator[UnitOfWork]:
    with make_sessions(migrated)() as session:
        yield UnitOfWork(session, Actor("test", "process"))


def _study(session: Session) -> Study:
    study = Study(id=uuid4(), study_instance_uid="1.2.3", patient_id="")
    session.add(study)
    session.flush()
    return study


def _move(uow: UnitOfWork, kind: type[Base], now: Any, to: Any) -> Any:
    study = _study(uow.session)
    if kind is Delivery:
        delivery = Delivery(id=uuid4(), result_object_id=uuid4(), destination="pacs", state=now)
        move_delivery(uow, delivery, to, study_id=study.id)
        return delivery
    if kind is Reading:
        reading = Reading(id=uuid4(), study_id=study.id, revision=1, state=now)
        uow.session.add(reading)
        uow.session.flush()
        move_reading(uow, reading, to, reason="why")
        return reading
    report = Report(id=uuid4(), study_id=study.id, state=now)
    uow.session.add(report)
    move_report(uow, report, to)
    return report


MACHINES = [
    (Reading, ReadingState, READING, READING_MOVES),
    (Report, ReportState, REPORT, REPORT_MOVES),
    (Delivery, DeliveryState, DELIVERY, DELIVERY_MOVES),
]
WALK = [
    pytest.param(kind, now, to, (now.value, to.value) in _pairs(text), id=f"{kind.__name__}-{now}-{to}")
    for kind, states, text, _ in MACHINES
    for now, to in product(states, repeat=2)
]


@pytest.mark.requirement("REQ-AUDIT-2")
@pytest.mark.parametrize(("kind", "now", "to", "allowed"), WALK)
def test_a_state_changes_only_as_the_design_lists_and_writes_one_event(uow, kind, now, to, allowed):
    if not allowed:
        with pytest.raises(LifecycleError, match=rf"from {now.value} to {to.value}\b"):
            _move(uow, kind, now, to)
        uow.session.flush()
        assert uow.session.scalars(select(AuditEvent)).all() == []
        assert uow.session.scalars(select(OutboxMessage)).all() == []
        return
    row = _move(uow, kind, now, to)
    uow.session.flush()
    assert row.state is to
    event = uow.session.scalars(select(AuditEvent)).one()
    table = next(table for machine, _, _, table in MACHINES if machine is kind)
    assert event.tag == table[now, to].value
    assert (event.detail["from"], event.detail["to"]) == (now.value, to.value)
    sent = [message.task for message in uow.session.scalars(select(OutboxMessage))]
    assert sent == (["firstread.read_study"] if to is ReadingState.QUEUED else [])


@pytest.mark.requirement("REQ-SIGN-4")
def test_nothing_leaves_final_but_an_addendum_or_a_correction():
    amended = {ReportState.ADDENDED, ReportState.CORRECTED}
    for signed in (ReportState.FINAL, *amended):
        assert {to for now, to in REPORT_MOVES if now is signed} == amended


@pytest.mark.requirement("REQ-SIGN-1")
def test_only_the_move_functions_assign_a_state():
    folder = Path(db.__file__).parent
    assigns = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Attribute) and target.attr == "state" for target in targets):
                assigns.add(path.relative_to(folder).as_posix())
    assert assigns == {"lifecycle/moves.py", "lifecycle/workitem_events.py"}  # by READING_MOVES …, WORKITEM_MOVES


def test_every_tag_is_a_subject_and_an_action():
    from db.audit import AuditTag

    assert all(tag.value.count(":") == 1 and tag.value == tag.value.lower() for tag in AuditTag)
