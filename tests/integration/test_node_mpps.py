"""MPPS as SCP against a real SCU: statuses of PS3.4 Annex F, and what an announced Study waits for."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ImplicitVRLittleEndian, generate_uid
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from db.expectation_models import Expectation, ExpectedInstance
from db.models import AuditEvent, Reading, Study
from db.types import ExpectationState, ReadingState
from tests.completeness_support import (
    begin_step,
    end_of_step,
    later,
    new_step,
    no_database,
    notice,
    notify,
    peer,
    reference,
    rules,
    send_bytes,
    set_step,
    sweep,
)
from tests.node_support import ct_slice, node_settings, rows, running_node, store

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
RULES = rules()


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    settings = node_settings(tmp_path, dicom={"quiet_s": 10})
    with running_node(settings, sqlite_sessions) as node:
        yield node


@pytest.fixture
def slices():
    study, series = generate_uid(), generate_uid()
    return [ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(1, 5)]


def uids(slices):
    return [str(one.SOPInstanceUID) for one in slices]


def begun(node, slices):
    uid, response = begin_step(node.port, slices[0].StudyInstanceUID)
    assert response.Status == 0x0000
    return uid


def reading(node):
    (found,) = rows(node.sessions, Reading)
    return found


def test_a_study_goes_on_as_soon_as_all_that_its_completed_step_names_is_here(node, slices):
    step = begun(node, slices)
    for one in slices[:3]:
        store(node.port, one)
    assert set_step(node.port, step, end_of_step(uids(slices))).Status == 0x0000
    assert sweep(node, RULES, later(0)) == 0
    store(node.port, slices[3])
    assert sweep(node, RULES, later(0)) == 1, "nobody has to wait for silence"
    done = reading(node)
    assert done.state is ReadingState.QUEUED
    verdict = done.rule_trace[-1]
    assert (verdict["cause"], verdict["received"], verdict["expected"], verdict["expected_by"]) == (
        "announced",
        4,
        4,
        "mpps",
    )
    (study,) = rows(node.sessions, Study)
    assert (study.expected_instances, study.expected_by) == (4, "mpps")


def test_the_end_of_a_step_may_come_after_the_last_image(node, slices):
    step = begun(node, slices)
    for one in slices:
        store(node.port, one)
    assert sweep(node, RULES, later(11)) == 0, "the modality still works: silence alone is not the end"
    set_step(node.port, step, end_of_step(uids(slices)))
    assert sweep(node, RULES, later(0)) == 1


@pytest.mark.requirement("REQ-RECV-7")
def test_a_study_whose_announced_images_never_come_goes_on_in_the_end_and_says_what_is_missing(node, slices):
    set_step(node.port, begun(node, slices), end_of_step(uids(slices)))
    for one in slices[:1]:
        store(node.port, one)
    assert sweep(node, RULES, later(11)) == 0
    assert sweep(node, RULES, later(99)) == 0
    assert sweep(node, RULES, later(101)) == 1
    events = [event for event in rows(node.sessions, AuditEvent) if event.tag == "reading:complete"]
    assert events[0].detail["short_of"] == ["3 of 4 Instances announced by MPPS"]
    assert events[0].detail["cause"] == "patience"
    assert "3 of 4" in reading(node).rule_trace[-1]["why"]
    assert reading(node).rule_trace[-1]["matched"] is False


def test_a_discontinued_step_completes_after_the_quiet_time_with_a_note(node, slices):
    step = begun(node, slices)
    store(node.port, slices[0])
    assert set_step(node.port, step, end_of_step(uids(slices), status="DISCONTINUED")).Status == 0x0000
    assert sweep(node, RULES, later(5)) == 0
    assert sweep(node, RULES, later(11)) == 1
    assert "discontinued" in reading(node).rule_trace[-1]["why"]


def test_an_image_nobody_announced_is_followed_by_the_quiet_time(node, slices):
    set_step(node.port, begun(node, slices), end_of_step(uids(slices)))
    for one in slices:
        store(node.port, one)
    store(node.port, ct_slice(StudyInstanceUID=slices[0].StudyInstanceUID))
    assert sweep(node, RULES, later(0)) == 0
    assert sweep(node, RULES, later(11)) == 1


def test_late_images_of_an_announced_study_are_one_new_revision_not_one_each(node, slices):
    set_step(node.port, begun(node, slices), end_of_step(uids(slices)))
    for one in slices:
        store(node.port, one)
    assert sweep(node, RULES, later(0)) == 1
    for _ in range(3):
        store(node.port, ct_slice(StudyInstanceUID=slices[0].StudyInstanceUID))
        assert sweep(node, RULES, later(0)) == 0
    assert sweep(node, RULES, later(11)) == 1
    assert rows(node.sessions, Study)[0].revision == 2


def test_two_steps_of_one_study_are_both_waited_for(node, slices):
    first, second = begun(node, slices), begun(node, slices)
    set_step(node.port, first, end_of_step(uids(slices[:2])))
    for one in slices[:2]:
        store(node.port, one)
    assert sweep(node, RULES, later(11)) == 0, "the second step goes on"
    set_step(node.port, second, end_of_step(uids(slices[1:])))  # the two overlap in one Instance
    assert rows(node.sessions, Study)[0].expected_instances == 4
    for one in slices[2:]:
        store(node.port, one)
    assert sweep(node, RULES, later(0)) == 1


def test_a_step_that_names_nothing_neither_hurries_nor_holds(node, slices):
    step = begun(node, slices)
    store(node.port, slices[0])
    assert set_step(node.port, step, end_of_step([])).Status == 0x0000
    assert sweep(node, RULES, later(5)) == 0
    assert sweep(node, RULES, later(11)) == 1
    assert reading(node).rule_trace[-1]["cause"] == "quiet"


def test_a_step_is_known_when_the_first_image_comes(node, slices):
    set_step(node.port, begun(node, slices), end_of_step(uids(slices)))
    store(node.port, slices[0])
    (study,) = rows(node.sessions, Study)
    assert (study.expected_instances, study.expected_by) == (4, "mpps")
    said = [e for e in rows(node.sessions, AuditEvent) if e.tag == "study:expected"]
    assert said[-1].study_id == study.id
    assert said[-1].detail == {"instances": 4, "by": "mpps", "state": "COMPLETED", "said_by": "MODALITY"}


def test_one_step_for_two_requested_procedures_speaks_of_both_studies(node, slices):
    both = Sequence([Dataset(), Dataset()])
    both[0].StudyInstanceUID, both[1].StudyInstanceUID = slices[0].StudyInstanceUID, generate_uid()
    uid, response = begin_step(node.port, "1.2.3", ScheduledStepAttributesSequence=both)
    assert response.Status == 0x0000
    assert set_step(node.port, uid, end_of_step(uids(slices))).Status == 0x0000
    said = rows(node.sessions, Expectation)
    assert {one.study_instance_uid for one in said} == {str(item.StudyInstanceUID) for item in both}
    assert {(one.state, one.instances) for one in said} == {(ExpectationState.COMPLETED, 4)}


def test_images_named_while_a_step_goes_on_are_replaced_by_what_is_named_at_its_end(node, slices):
    step = begun(node, slices)
    running = end_of_step(uids(slices[:2]), PerformedProcedureStepStatus=None)
    assert set_step(node.port, step, running).Status == 0x0000
    assert len(rows(node.sessions, ExpectedInstance)) == 2
    assert rows(node.sessions, Expectation)[0].state is ExpectationState.IN_PROGRESS
    assert set_step(node.port, step, end_of_step(uids(slices[1:]))).Status == 0x0000
    named = {one.sop_instance_uid for one in rows(node.sessions, ExpectedInstance)}
    assert named == set(uids(slices[1:]))


def test_what_is_not_an_image_counts_too(node, slices):
    step = begun(node, slices)
    end = end_of_step(uids(slices))
    other = str(generate_uid())
    end.PerformedSeriesSequence[0].ReferencedNonImageCompositeSOPInstanceSequence = Sequence([reference(other)])
    set_step(node.port, step, end)
    assert rows(node.sessions, Expectation)[0].instances == 5


def test_a_receiver_process_takes_steps_and_notifications_too(tmp_path, slices):
    with running_node(node_settings(tmp_path, dicom={"quiet_s": 10, "receivers": 1})) as node:
        step = begun(node, slices)
        for one in slices:
            store(node.port, one)
        assert sweep(node, RULES, later(11)) == 0
        assert notify(node.port, notice(slices[0].StudyInstanceUID, uids(slices))).Status == 0x0000
        assert set_step(node.port, step, end_of_step(uids(slices))).Status == 0x0000
        assert sweep(node, RULES, later(0)) == 1


# --- statuses --------------------------------------------------------------------------------


def test_the_same_step_twice_is_a_duplicate(node):
    with peer(node.port, ModalityPerformedProcedureStep) as assoc:
        uid = generate_uid()
        answers = [
            assoc.send_n_create(new_step("1.2.3"), ModalityPerformedProcedureStep, uid)[0].Status for _ in range(2)
        ]
    assert answers == [0x0000, 0x0111]
    assert len(rows(node.sessions, Expectation)) == 1


def test_a_step_nobody_created_is_not_there(node):
    assert set_step(node.port, generate_uid(), end_of_step(["1.2.3"])).Status == 0x0112
    assert rows(node.sessions, Expectation) == []


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_a_step_that_ended_may_no_longer_be_updated(node, slices, status):
    step = begun(node, slices)
    assert set_step(node.port, step, end_of_step(uids(slices), status=status)).Status == 0x0000
    answer = set_step(node.port, step, end_of_step(uids(slices[:1])))
    assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
    assert "no longer" in answer.ErrorComment
    assert len(rows(node.sessions, ExpectedInstance)) == 4


@pytest.mark.parametrize(
    ("changes", "status", "about"),
    [
        ({"Modality": None}, 0x0120, "Modality"),
        ({"PerformedProcedureStepID": None}, 0x0120, "PerformedProcedureStepID"),
        ({"PerformedStationAETitle": ""}, 0x0121, "PerformedStationAETitle"),
        ({"PerformedProcedureStepStartDate": None}, 0x0120, "PerformedProcedureStepStartDate"),
        ({"PerformedProcedureStepStatus": None}, 0x0120, "PerformedProcedureStepStatus"),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106, "PerformedProcedureStepStatus"),
        ({"PerformedProcedureStepStatus": "SCHEDULED"}, 0x0106, "PerformedProcedureStepStatus"),
        ({"ScheduledStepAttributesSequence": None}, 0x0120, "ScheduledStepAttributesSequence"),
        ({"ScheduledStepAttributesSequence": Sequence([])}, 0x0121, "ScheduledStepAttributesSequence"),
        ({"ScheduledStepAttributesSequence": Sequence([Dataset()])}, 0x0120, "StudyInstanceUID"),
    ],
)
def test_a_step_that_lacks_what_it_needs_is_refused_by_name(node, changes, status, about):
    _, response = begin_step(node.port, "1.2.3", **changes)
    assert response.Status == status
    assert about in response.ErrorComment
    assert rows(node.sessions, Expectation) == []


def test_a_study_uid_that_is_none_is_an_invalid_value_and_is_not_repeated(node):
    _, response = begin_step(node.port, "Doe^Jane")
    assert response.Status == 0x0106
    assert "Doe" not in response.ErrorComment


def test_the_end_of_a_step_names_at_least_one_series(node, slices):
    step = begun(node, slices)
    answer = set_step(node.port, step, end_of_step([], PerformedSeriesSequence=None))
    assert (answer.Status, answer.ErrorComment) == (0x0120, "PerformedSeriesSequence is missing")
    assert rows(node.sessions, Expectation)[0].state is ExpectationState.IN_PROGRESS
    nameless = end_of_step(uids(slices))
    del nameless.PerformedSeriesSequence[0].SeriesInstanceUID
    assert set_step(node.port, step, nameless).Status == 0x0120
    wrong = end_of_step(["1..2"])
    assert set_step(node.port, step, wrong).Status == 0x0106
    assert set_step(node.port, step, end_of_step([], PerformedProcedureStepStatus="ENDED")).Status == 0x0106


def test_without_a_database_no_step_is_acknowledged(node, slices):
    step = begun(node, slices)
    with no_database(node.sessions):
        assert begin_step(node.port, "1.2.3")[1].Status == 0x0213
        assert set_step(node.port, step, end_of_step(uids(slices))).Status == 0x0213
        assert notify(node.port, notice("1.2.3", ["1.2.3.4"])).Status == 0x0213
    assert [(one.object_uid, one.state) for one in rows(node.sessions, Expectation)] == [
        (step, ExpectationState.IN_PROGRESS)
    ]
    assert set_step(node.port, step, end_of_step(uids(slices))).Status == 0x0000


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_that_are_no_attribute_list_are_refused_and_nothing_breaks(node, data):
    whole = encode(new_step("1.2.3"), True, True)
    kind = data.draw(st.sampled_from(["cut", "changed", "random"]))
    if kind == "cut":
        sent = whole[: data.draw(st.integers(1, len(whole) - 1))]
    elif kind == "changed":
        at = data.draw(st.integers(0, len(whole) - 1))
        sent = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + 1 :]
    else:
        sent = data.draw(st.binary(min_size=1, max_size=200))
    before = len(rows(node.sessions, Expectation))
    with peer(node.port, ModalityPerformedProcedureStep, syntax=ImplicitVRLittleEndian) as assoc:
        status = send_bytes(assoc, sent, str(generate_uid()))
    assert status in {0x0000, 0x0106, 0x0110, 0x0120, 0x0121}
    assert (status == 0x0000) == (len(rows(node.sessions, Expectation)) > before)


def test_a_step_without_a_uid_gets_one_of_ours(node):
    with peer(node.port, ModalityPerformedProcedureStep) as assoc:
        response, _ = assoc.send_n_create(new_step("1.2.3"), ModalityPerformedProcedureStep)
    assert response.Status == 0x0000
    assert UID(rows(node.sessions, Expectation)[0].object_uid).is_valid


def test_a_class_we_do_not_serve_is_not_accepted(node):
    with peer(node.port, ModalityPerformedProcedureStep) as assoc:
        assert [str(one.abstract_syntax) for one in assoc.accepted_contexts] == [str(ModalityPerformedProcedureStep)]
        with pytest.raises(ValueError, match="No presentation context"):
            assoc.send_n_create(new_step("1.2.3"), CTImageStorage, generate_uid())
