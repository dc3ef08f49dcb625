"""Asking for another draft of a Study whose images are gone ends with that reason."""

from pathlib import Path

from sqlalchemy import select

from db import lifecycle
from db.lifecycle import retention
from db.lifecycle.retention import Terms
from db.models import Reading
from db.types import ReadingState, utcnow
from db.uow import Actor, unit_of_work
from instances.retention import delete_due
from tests.integration.test_retention_files import TWO_DAYS, a_study
from tests.node_support import migrated_sessions, node_settings
from worker.pipeline import StudyPipeline
from worker.reader import Reader


def test_a_study_whose_images_are_gone_ends_in_no_draft_with_the_day(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, retention=TWO_DAYS)
    sessions = migrated_sessions(settings)
    a_study(sessions, settings, days=3)
    assert delete_due(sessions, settings, utcnow()) == 4
    with sessions() as session:
        reading_id = session.scalars(select(Reading.id)).one()
    with unit_of_work(sessions, Actor("jdoe", "person")) as uow:
        lifecycle.process_again(uow, reading_id, profile="ct-torso")
    Reader(sessions, settings, StudyPipeline(sessions, settings)).read(reading_id)
    with sessions() as session:
        reading = session.get_one(Reading, reading_id)
        assert retention.kept_because(session, reading.study_id, Terms(unreported=True)) == []
    assert reading.state is ReadingState.NO_DRAFT
    assert reading.reason == f"4 of 4 images were deleted by retention on {utcnow():%Y-%m-%d}"
