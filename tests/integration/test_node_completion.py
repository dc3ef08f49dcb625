"""When a Study is whole: quiet time per source and called AE, the rules of each, late images."""

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import update

from config.errors import ConfigurationError
from config.routing import RuleBook, Rules, load_rule_book
from db import lifecycle
from db.models import OutboxMessage, Reading, Study
from db.types import ReadingState
from db.uow import Actor, unit_of_work
from dicom_node.completion import Completion
from firstread.sweeper import Sweeper
from tests.completeness_support import begin_step, end_of_step, later, set_step
from tests.node_support import (
    associate,
    audit_tags,
    ct_slice,
    encoded,
    node_settings,
    rows,
    running_node,
    store,
    store_bytes,
)

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


def send(node, ds, *, called_ae):
    assoc = associate(node.port, called_ae=called_ae)
    assert assoc.is_established
    store_bytes(assoc, encoded(ds), sop_class=str(ds.SOPClassUID), sop_instance=str(ds.SOPInstanceUID))
    assoc.release()


def test_each_called_ae_has_its_quiet_time_and_its_rules(tmp_path, sqlite_sessions):
    research = tmp_path / "research.yaml"
    research.write_text("rules: [{name: everything, profile: ct-torso, use: research}]")
    ours = tmp_path / "routing.yaml"
    ours.write_text("rules: [{name: nothing, action: hold, reason: ask the physicist}]")
    profiles = [
        {"ae_title": "RESEARCH", "routing": str(research), "quiet_by_modality": {"CT": 3}},
        {"ae_title": "NIGHT", "quiet_s": 20},
    ]
    settings = node_settings(tmp_path / "site", routing=ours, dicom={"quiet_s": 60, "profiles": profiles})
    with running_node(settings, sqlite_sessions) as node:
        for called_ae in ("RESEARCH", "NIGHT", "FIRSTREAD"):
            send(node, ct_slice(AccessionNumber=called_ae), called_ae=called_ae)
        completion = Completion(node.sessions, load_rule_book(settings))
        assert [completion.sweep(later(seconds)) for seconds in (2, 4, 19, 21, 59, 61)] == [0, 1, 0, 1, 0, 1]
        called = {study.id: study.called_ae for study in rows(node.sessions, Study)}
        found = {called[reading.study_id]: reading for reading in rows(node.sessions, Reading)}
    assert (found["RESEARCH"].state, found["RESEARCH"].rule, found["RESEARCH"].use) == (
        ReadingState.QUEUED,
        "everything",
        "research",
    )
    assert {found[one].state for one in ("NIGHT", "FIRSTREAD")} == {ReadingState.HELD}


def test_a_series_that_comes_in_time_ends_the_wait(tmp_path, sqlite_sessions):
    routing = tmp_path / "routing.yaml"
    routing.write_text(
        "rules: [{name: mr, when: {modality: [MR]}, profile: brain-mr}]\n"
        "completeness:\n"
        "  - name: glioma\n"
        "    when: {modality: [MR], procedure: glioma}\n"
        "    required: [{modality: MR, description: flair, at_least: 2}]\n"
        "    wait_s: 900\n"
        "    then: hold\n"
    )
    settings = node_settings(tmp_path / "site", routing=routing, dicom={"quiet_s": 10})
    study, series = generate_uid(), generate_uid()
    facts = {"StudyInstanceUID": study, "Modality": "MR", "StudyDescription": "MR Glioma", "BodyPartExamined": "BRAIN"}
    with running_node(settings, sqlite_sessions) as node:
        completion = Completion(node.sessions, load_rule_book(settings))
        store(node.port, ct_slice(**facts, SeriesDescription="t1 post"))
        assert completion.sweep(later(600)) == 0
        for _ in range(2):
            assert completion.sweep(later(600)) == 0
            store(node.port, ct_slice(**facts, SeriesInstanceUID=series, SeriesDescription="T2 FLAIR tra"))
        assert completion.sweep(later(5)) == 0
        assert completion.sweep(later(11)) == 1
        (reading,) = rows(node.sessions, Reading)
        assert (reading.state, reading.rule_trace[-1]["rule"]) == (ReadingState.QUEUED, "glioma")


def test_late_images_after_process_now_are_a_new_revision(node):
    first = ct_slice()
    store(node.port, first)
    (study,) = rows(node.sessions, Study)
    with unit_of_work(node.sessions, Actor("reader", "person")) as uow:
        lifecycle.complete_now(uow, study.id)
    assert sweep(node, later(0)) == 1
    store(node.port, ct_slice(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID))
    assert sweep(node, later(0)) == 0
    assert sweep(node, later(6)) == 1
    assert sorted(reading.revision for reading in rows(node.sessions, Reading)) == [1, 2]
    assert audit_tags(node.sessions).count("study:complete_now") == 1


def test_a_study_that_fails_does_not_keep_the_others_waiting(tmp_path, sqlite_sessions):
    routing = tmp_path / "routing.yaml"
    routing.write_text("rules: [{name: all, profile: ct-torso}]")
    settings = node_settings(tmp_path / "site", routing=routing, dicom={"quiet_s": 0.01})
    broken, good = ct_slice(), ct_slice()
    with running_node(settings, sqlite_sessions) as node:
        store(node.port, broken)
        store(node.port, good)
        uid, _ = begin_step(node.port, broken.StudyInstanceUID)
        set_step(node.port, uid, end_of_step([str(broken.SOPInstanceUID)]))
    with sqlite_sessions.begin() as session:
        # a quiet time beyond the calendar, longest silent of all
        query = update(Study).where(Study.study_instance_uid == str(broken.StudyInstanceUID))
        session.execute(query.values(quiet_s=1e300))
    Sweeper(settings, sqlite_sessions).tick()
    states = {reading.study_id: reading.state for reading in rows(sqlite_sessions, Reading)}
    studies = {study.study_instance_uid: study.id for study in rows(sqlite_sessions, Study)}
    assert states[studies[str(good.StudyInstanceUID)]] is ReadingState.QUEUED
    assert states[studies[str(broken.StudyInstanceUID)]] is ReadingState.RECEIVING


def test_rules_of_an_ae_that_nobody_can_work_with_stop_the_sweeper(tmp_path, sqlite_sessions):
    own = tmp_path / "research.yaml"
    own.write_text("rules: [{name: all, profile: no-such-profile}]")
    settings = node_settings(tmp_path, dicom={"profiles": [{"ae_title": "RESEARCH", "routing": str(own)}]})
    with pytest.raises(ConfigurationError, match="no-such-profile"):
        Sweeper(settings, sqlite_sessions)
