"""Which Studies are the system's own self-test: nothing of them is owed, searched for, listed or counted."""

from uuid import UUID

from sqlalchemy import ColumnElement, Select, exists, select
from sqlalchemy.orm import Session

from db.models import Study
from db.running_models import NodeTask

SELF_TEST_LANE = "self_test"  # of their Reports: the worklist shows it nowhere (migration 0024)


def is_self_test(session: Session, study_id: UUID) -> bool:
    """Return whether a Study was made by a self-test of this system."""
    return bool(session.scalar(select(self_tested()).where(Study.id == study_id)))


def self_tested() -> ColumnElement[bool]:
    """Return the condition on ``Study`` that it was made by a self-test of this system."""
    return exists().where(NodeTask.study_instance_uid == Study.study_instance_uid).correlate(Study)


def self_test_studies() -> Select[UUID]:
    """Return the query for the ids of all Studies of self-tests; they are few."""
    return select(Study.id).join(NodeTask, NodeTask.study_instance_uid == Study.study_instance_uid)
