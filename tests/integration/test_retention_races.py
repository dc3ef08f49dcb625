"""Retention beside everything else that happens to a Study at the same moment, on both engines."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError, TransientError
from config.settings import Settings
from db import lifecycle
from db.lifecycle import retention
from db.models import AuditEvent, Instance, Reading, Study
from db.types import ReadingState, utcnow
from db.uow import Actor, unit_of_work
from instances.inbox import make_inbox
from instances.reconcile import reconcile
from instances.retention import delete_due
from tests.integration.test_retention_files import a_study, arrive, claimed, files
from tests.node_support import node_settings

Sessions = sessionmaker[Session]
SECONDS = 1.2


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """A site whose retention takes everything that may go."""
    return node_settings(tmp_path, database_url=database_url, retention={"keep_days": 1, "unreported": True})


def again_and_again(*acts: Callable[[], object]) -> list[Exception]:
    """Do each act over and over in a thread of its own; return what failed for another reason than being late."""
    until = time.monotonic() + SECONDS
    failed: list[Exception] = []

    def repeat(act: Callable[[], object]) -> None:
        while time.monotonic() < until:
            try:
                act()
            except (LifecycleError, TransientError):
                continue
            except Exception as exc:  # noqa: BLE001 told to the test
                failed.append(exc)
                return

    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_what_comes_again_while_it_is_deleted_is_either_here_or_not(sessions: Sessions, settings: Settings) -> None:
    sent = a_study(sessions, settings, days=3)
    inbox = make_inbox(sessions, settings)

    def resend() -> None:
        for ds in sent:
            arrive(inbox, ds)

    def delete() -> None:
        delete_due(sessions, settings, utcnow() + timedelta(days=9))

    assert again_and_again(resend, delete, delete) == []
    assert files(settings) == claimed(sessions)
    with sessions() as session:
        assert session.query(AuditEvent).filter_by(tag="study:pixels_deleted").count() > 1
        assert session.query(Instance).count() == len(sent)
    found = reconcile(inbox, called_ae="FIRSTREAD")
    assert (found.orphans_indexed, found.orphans_quarantined) == (0, 0)
    resend()
    assert files(settings) == claimed(sessions)
    assert len(files(settings)) == len(sent)


def test_what_a_person_wants_processed_is_not_deleted_under_the_worker(sessions: Sessions, settings: Settings) -> None:
    for _ in range(12):
        a_study(sessions, settings, days=3, series=1, images=1)
    with sessions() as session:
        waiting = session.scalars(select(Reading.id)).all()
    queue = iter(waiting)

    def process() -> None:
        reading_id = next(queue, None)
        if reading_id is not None:
            time.sleep(0.05)  # so that both get their share
            with unit_of_work(sessions, Actor("jdoe", "person")) as uow:
                lifecycle.process_again(uow, reading_id, profile="ct")

    def delete() -> None:
        delete_due(sessions, settings, utcnow(), most=1)

    assert again_and_again(process, delete) == []
    delete_due(sessions, settings, utcnow())  # those that a slow machine did not get to
    assert files(settings) == claimed(sessions)
    with sessions() as session:
        rows = session.execute(
            select(Reading.state, Study.pixels_deleted_at, Study.id).join(Study, Study.id == Reading.study_id)
        ).all()
    # queued after its pixels went is possible, and refused with that reason; queued before, they stay
    queued_and_here = [one for one in rows if one.state is ReadingState.QUEUED and one.pixels_deleted_at is None]
    gone = [one for one in rows if one.pixels_deleted_at is not None]
    assert len(queued_and_here) + len(gone) == len(rows)
    assert gone


@pytest.mark.requirement("REQ-KEEP-2")
def test_a_hold_that_is_placed_wins_over_every_later_look(sessions: Sessions, settings: Settings) -> None:
    for _ in range(6):
        a_study(sessions, settings, days=3, series=1, images=1)
    with sessions() as session:
        (held, *_) = session.scalars(select(Study.id).order_by(Study.last_received_at.desc())).all()
    with unit_of_work(sessions, Actor("cli:jdoe", "person")) as uow:
        retention.place_hold(uow, held, "claim")

    def delete() -> None:
        delete_due(sessions, settings, utcnow())

    assert again_and_again(delete, delete) == []
    with sessions() as session:
        left = session.scalars(select(Study.id).where(Study.pixels_deleted_at.is_(None))).all()
    assert left == [held]
    assert len(files(settings)) == 1
