"""Pixel data on the disk: gone with their rows' consent only, whatever moment a process dies at."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session, sessionmaker

from config.routing import RoutingVerdict
from config.settings import Settings
from db import lifecycle
from db.engine import make_engine, make_sessions
from db.models import AuditEvent, Instance, Reading, Study
from db.types import utcnow
from db.uow import Actor, unit_of_work
from instances.arrival import Announced
from instances.inbox import Inbox, make_inbox
from instances.reconcile import reconcile
from instances.retention import delete_due, finish_interrupted, free_bytes, plan
from tests.db_support import SWEEPER, receiving
from tests.node_support import ct_slice, encoded, migrated_sessions, node_settings

Sessions = sessionmaker[Session]
IGNORE = RoutingVerdict("ignore", rule="none", reason="no rule")
TWO_DAYS = {"keep_days": 2, "unreported": True}
_STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def arrive(inbox: Inbox, ds: Dataset) -> None:
    """One Instance by the door every Instance comes through."""
    announced = Announced(ExplicitVRLittleEndian, ds.SOPClassUID, ds.SOPInstanceUID, "MODALITY", "FIRSTREAD")
    with inbox.open(announced) as arrival:
        arrival.write(memoryview(encoded(ds)))
        arrival.finish()
        inbox.keep(arrival)


def a_study(sessions: Sessions, settings: Settings, *, days: float, series: int = 2, images: int = 2) -> list[Dataset]:
    """A Study that no rule drafts, ``days`` old, with its files."""
    inbox = make_inbox(sessions, settings)
    inbox.prepare()
    uid = generate_uid()
    sent = [
        ct_slice(StudyInstanceUID=uid, SeriesInstanceUID=series_uid)
        for series_uid in (generate_uid() for _ in range(series))
        for _ in range(images)
    ]
    for ds in sent:
        arrive(inbox, ds)
    with sessions() as session:
        study_id = session.scalars(select(Study.id).where(Study.study_instance_uid == uid)).one()
    with unit_of_work(sessions, SWEEPER) as uow:
        lifecycle.complete(uow, receiving(sessions, study_id), IGNORE)
    with sessions() as session:
        session.execute(
            update(Study).where(Study.id == study_id).values(last_received_at=utcnow() - timedelta(days=days))
        )
        session.commit()
    return sent


def files(settings: Settings) -> set[str]:
    """Every Instance file under its name."""
    root = settings.instances_dir
    return {path.relative_to(root).as_posix() for path in root.glob("[0-9]*/**/*.dcm")}


def path_of(ds: Dataset) -> str:
    return f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"


def claimed(sessions: Sessions) -> set[str]:
    """The paths that rows say are there."""
    with sessions() as session:
        return set(session.scalars(select(Instance.path).where(Instance.deleted_at.is_(None))))


def deletions(sessions: Sessions) -> list[AuditEvent]:
    with sessions() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.tag == "study:pixels_deleted")))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Sessions, Settings]]:
    """A database and a store whose retention takes what is two days old."""
    settings = node_settings(tmp_path, retention=TWO_DAYS)
    sessions = migrated_sessions(settings)
    yield sessions, settings
    sessions.kw["bind"].dispose()


def test_what_is_old_goes_with_its_folders_and_the_rest_stays(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    old = a_study(sessions, settings, days=3)
    young = a_study(sessions, settings, days=1)
    assert [(due.study.files, due.why) for due in plan(sessions, settings, utcnow())] == [(4, "older than 2 days")]
    assert delete_due(sessions, settings, utcnow()) == 4
    assert files(settings) == claimed(sessions) == {path_of(ds) for ds in young}
    assert not (settings.instances_dir / old[0].StudyInstanceUID).exists()
    assert not list((settings.instances_dir / ".deleted").iterdir())
    (done,) = deletions(sessions)
    assert done.detail["files"] == 4
    assert done.detail["bytes"] > 4 * 512
    assert (done.detail["missing"], done.detail["why"]) == (0, "older than 2 days")
    assert delete_due(sessions, settings, utcnow()) == 0
    assert len(deletions(sessions)) == 1


@pytest.mark.requirement("REQ-KEEP-1")
def test_nothing_goes_by_default(tmp_path: Path) -> None:
    settings = node_settings(tmp_path)
    sessions = migrated_sessions(settings)
    sent = a_study(sessions, settings, days=9999)
    assert plan(sessions, settings, utcnow() + timedelta(days=9999)) == []
    assert delete_due(sessions, settings, utcnow() + timedelta(days=9999)) == 0
    assert files(settings) == {path_of(ds) for ds in sent}


def test_below_the_watermark_the_oldest_go_whatever_their_age(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, retention={"wanted_free_bytes": 1 << 60, "unreported": True})
    sessions = migrated_sessions(settings)
    a_study(sessions, settings, days=0.1, series=1)
    a_study(sessions, settings, days=5, series=1)
    assert [round((utcnow() - due.study.last_received_at).days) for due in plan(sessions, settings, utcnow())] == [5, 0]
    assert delete_due(sessions, settings, utcnow(), most=1) == 2
    with sessions() as session:
        gone = session.execute(select(Study.last_received_at, Study.pixels_deleted_at)).all()
    assert sorted((at < utcnow() - timedelta(days=1), deleted is not None) for at, deleted in gone) == [
        (False, False),
        (True, True),
    ]
    (done,) = deletions(sessions)
    assert done.detail["why"] == f"less than {1 << 60} bytes were free"


def test_above_the_watermark_nothing_goes(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, retention={"wanted_free_bytes": 1, "unreported": True})
    sessions = migrated_sessions(settings)
    a_study(sessions, settings, days=5)
    assert plan(sessions, settings, utcnow()) == []
    assert delete_due(sessions, settings, utcnow()) == 0


def test_a_plan_takes_as_many_as_are_needed(tmp_path: Path) -> None:
    plain = node_settings(tmp_path)
    sessions = migrated_sessions(plain)
    for days in (1, 2, 3):
        a_study(sessions, plain, days=days, series=1, images=1)
    # half of one Study's bytes are missing: others may write to this disk meanwhile, but not a gigabyte less
    with sessions() as session:
        session.execute(update(Instance).values(size_bytes=1 << 40))
        session.commit()
    settings = node_settings(
        tmp_path, retention={"wanted_free_bytes": free_bytes(plain) + (3 << 39), "unreported": True}
    )
    assert [
        due.study.last_received_at < utcnow() - timedelta(days=1.5) for due in plan(sessions, settings, utcnow())
    ] == [
        True,
        True,
    ]


def test_a_file_that_somebody_removed_before_is_counted_as_missing(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    sent = a_study(sessions, settings, days=3)
    (settings.instances_dir / path_of(sent[0])).unlink()
    assert delete_due(sessions, settings, utcnow()) == 3
    (done,) = deletions(sessions)
    assert (done.detail["files"], done.detail["missing"]) == (3, 1)
    assert claimed(sessions) == set()


def test_quarantined_evidence_and_strange_files_are_never_touched(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    sent = a_study(sessions, settings, days=3)
    inbox = make_inbox(sessions, settings)
    evidence = settings.instances_dir.parent / "quarantine" / "evidence.dcm"
    evidence.write_bytes(b"evidence")
    beside = settings.instances_dir / sent[0].StudyInstanceUID / "note.txt"
    beside.write_bytes(b"not ours")
    assert delete_due(sessions, settings, utcnow()) == 4
    assert evidence.read_bytes() == b"evidence"
    assert beside.read_bytes() == b"not ours"
    assert reconcile(inbox, called_ae="FIRSTREAD").orphans_indexed == 0


def test_what_comes_again_after_deletion_is_on_the_disk_again(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    sent = a_study(sessions, settings, days=3)
    delete_due(sessions, settings, utcnow())
    inbox = make_inbox(sessions, settings)
    inbox.prepare()
    arrive(inbox, sent[1])
    assert files(settings) == claimed(sessions) == {path_of(sent[1])}
    assert delete_due(sessions, settings, utcnow()) == 0


def test_a_file_placed_for_a_deleted_row_before_a_kill_is_taken_back_at_start(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    sent = a_study(sessions, settings, days=3)
    spare = settings.instances_dir.parent / "spare"
    shutil.copytree(settings.instances_dir / sent[0].StudyInstanceUID, spare)
    delete_due(sessions, settings, utcnow())
    shutil.move(spare, settings.instances_dir / sent[0].StudyInstanceUID)
    assert reconcile(make_inbox(sessions, settings), called_ae="FIRSTREAD").orphans_indexed == 4
    assert files(settings) == claimed(sessions) == {path_of(ds) for ds in sent}


def _die_at(step: int, settings: Settings, now: datetime) -> bool:
    """Run retention in a child that is killed at its ``step``-th change; return whether it died of it."""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def count(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

        engine = make_engine(settings.database)
        event.listen(engine, "commit", count)
        sys.addaudithook(lambda name, _: count() if name in _STEPS else None)
        delete_due(make_sessions(engine), settings, now)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.requirement("REQ-KEEP-3")
def test_killed_at_any_step_no_file_is_without_its_row_and_no_row_without_its_file(
    site: tuple[Sessions, Settings], tmp_path: Path
) -> None:
    sessions, settings = site
    sent = {path_of(ds) for ds in a_study(sessions, settings, days=3)}
    with sessions() as session:
        session.connection().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    now = utcnow()
    outcomes: list[bool] = []
    while True:
        folder = tmp_path / f"at-{len(outcomes) + 1}"
        folder.mkdir()
        shutil.copytree(settings.instances_dir, folder / "instances")
        shutil.copy(settings.data_dir / "firstread.db", folder)
        copy = node_settings(folder, retention=TWO_DAYS)
        if not _die_at(len(outcomes) + 1, copy, now):
            break
        again = make_sessions(make_engine(copy.database))
        inbox = make_inbox(again, copy)
        inbox.prepare()
        found = reconcile(inbox, called_ae="FIRSTREAD")
        assert (found.orphans_indexed, found.orphans_quarantined) == (0, 0)
        assert files(copy) == claimed(again)
        assert files(copy) in (sent, set())
        outcomes.append(not files(copy))
        assert len(deletions(again)) == outcomes[-1]
        delete_due(again, copy, now)
        assert files(copy) == claimed(again) == set()
        assert len(deletions(again)) == 1
        assert not list((copy.instances_dir / ".deleted").iterdir())
    assert outcomes == sorted(outcomes)  # once it is decided, it stays so
    assert outcomes.count(False) > 8  # four files, their folders, the commit
    assert outcomes.count(True) > 4


def test_a_kill_while_another_process_deletes_takes_nothing_from_it(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    sent = a_study(sessions, settings, days=3)
    with sessions() as session:
        study_id = session.scalars(select(Study.id)).one()
    aside = settings.instances_dir / ".deleted" / str(study_id)
    for ds in sent[:2]:
        target = aside / path_of(ds)
        target.parent.mkdir(parents=True, exist_ok=True)
        (settings.instances_dir / path_of(ds)).rename(target)
    assert finish_interrupted(sessions, settings.instances_dir) == 1
    assert files(settings) == {path_of(ds) for ds in sent}


def test_a_reading_that_begins_meanwhile_keeps_the_files(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    sent = a_study(sessions, settings, days=3)
    with unit_of_work(sessions, Actor("jdoe", "person")) as uow:
        reading_id = uow.session.scalars(select(Reading.id)).one()
        lifecycle.process_again(uow, reading_id, profile="ct")
    assert delete_due(sessions, settings, utcnow()) == 0
    assert files(settings) == {path_of(ds) for ds in sent}
