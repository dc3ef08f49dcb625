"""When a Study is whole: quiet time per source, routing, late images."""

from datetime import timedelta

import pytest

from config.routing import RuleBook, Rules
from db.models import OutboxMessage, Reading, Study
from db.types import ReadingState, utcnow
from dicom_node.completion import Completion
from tests.node_support import ct_slice, node_settings, rows, running_node, store

RULES = Rules.model_validate(
    {
        "rules": [
            {
                "name": "ct-chest",
                "when": {"modality": ["CT"], "body_part": "CHEST"},
                "profile": "ct",
                "priority": "URGENT",
            },
            {"name": "outside", "when": {"modality": ["MR"]}, "action": "hold", "reason": "ask the physicist"},
        ]
    }
)


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"quiet_s": 60, "peers": [{"ae_title": "MODALITY", "quiet_s": 5}]})
    with running_node(settings, sqlite_sessions) as node:
        yield node


def sweep(node, now):
    return Completion(node.sessions, RuleBook(RULES)).sweep(now)


def later(seconds):
    return utcnow() + timedelta(seconds=seconds)


def test_a_study_is_complete_after_the_quiet_time_of_its_source_and_not_before(node):
    store(node.port, ct_slice())
    assert sweep(node, later(3)) == 0
    assert rows(node.sessions, Reading)[0].state is ReadingState.RECEIVING
    assert sweep(node, later(6)) == 1
    (reading,) = rows(node.sessions, Reading)
    assert (reading.state, reading.profile, reading.priority) == (ReadingState.QUEUED, "ct", "URGENT")
    assert (reading.rule, reading.rule_trace[0]["matched"]) == ("ct-chest", True)
    (message,) = rows(node.sessions, OutboxMessage)
    assert message.arguments == {"reading_id": str(reading.id)}
    assert sweep(node, later(60)) == 0
    assert len(rows(node.sessions, OutboxMessage)) == 1


def test_unmatched_studies_are_ignored_with_the_trace_and_held_ones_wait(node):
    store(node.port, ct_slice(Modality="US"))
    store(node.port, ct_slice(Modality="MR"))
    assert sweep(node, later(6)) == 2
    by_state = {reading.state: reading for reading in rows(node.sessions, Reading)}
    assert set(by_state) == {ReadingState.IGNORED, ReadingState.HELD}
    assert len(by_state[ReadingState.IGNORED].rule_trace) == 3
    assert by_state[ReadingState.HELD].reason == "ask the physicist"


def test_late_images_reopen_the_study_as_a_new_revision(node):
    first = ct_slice()
    store(node.port, first)
    sweep(node, later(6))
    store(node.port, first)  # a duplicate is not late
    assert rows(node.sessions, Study)[0].revision == 1
    store(node.port, ct_slice(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID))
    assert rows(node.sessions, Study)[0].revision == 2
    states = {reading.revision: reading.state for reading in rows(node.sessions, Reading)}
    assert states[2] is ReadingState.RECEIVING
    assert sweep(node, later(6)) == 1
    states = {reading.revision: reading.state for reading in rows(node.sessions, Reading)}
    assert states[2] is ReadingState.QUEUED


def test_images_of_two_patients_in_one_study_are_held(node):
    first = ct_slice()
    store(node.port, first)
    store(node.port, ct_slice(StudyInstanceUID=first.StudyInstanceUID, PatientID="P-2"))
    sweep(node, later(6))
    (reading,) = rows(node.sessions, Reading)
    assert reading.state is ReadingState.HELD
    assert "Patient ID" in reading.reason
