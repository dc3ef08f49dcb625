"""Instance Availability Notification as SCP against a real SCU (PS3.4 Annex R)."""

import pytest
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid
from pynetdicom.sop_class import InstanceAvailabilityNotification

from db.expectation_models import Expectation, ExpectedInstance
from db.models import AuditEvent, Reading, Study
from db.types import ReadingState
from tests.completeness_support import changed, later, notice, notify, peer, rules, sweep
from tests.node_support import ct_slice, node_settings, rows, running_node, store

RULES = rules()


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path, dicom={"quiet_s": 10}), sqlite_sessions) as node:
        yield node


@pytest.fixture
def slices():
    study, series = generate_uid(), generate_uid()
    return [ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(1, 4)]


def uids(slices):
    return [str(one.SOPInstanceUID) for one in slices]


@pytest.mark.parametrize("first", ["notification", "images"])
def test_a_study_goes_on_when_all_that_the_archive_has_is_here(node, slices, first):
    if first == "notification":
        assert notify(node.port, notice(slices[0].StudyInstanceUID, uids(slices))).Status == 0x0000
    for one in slices:
        assert sweep(node, RULES, later(0)) == 0
        store(node.port, one)
    if first == "images":
        assert sweep(node, RULES, later(0)) == 0
        notify(node.port, notice(slices[0].StudyInstanceUID, uids(slices), availability="NEARLINE"))
    assert sweep(node, RULES, later(0)) == 1
    (reading,) = rows(node.sessions, Reading)
    assert (reading.state, reading.rule_trace[-1]["expected_by"]) == (ReadingState.QUEUED, "ian")
    said = [event for event in rows(node.sessions, AuditEvent) if event.tag == "study:expected"]
    assert {event.actor for event in said} >= {"ARCHIVE"}
    assert said[-1].detail["said_by"] == "ARCHIVE"


def test_what_nobody_can_send_is_not_waited_for(node, slices):
    study = slices[0].StudyInstanceUID
    notify(node.port, notice(study, uids(slices)))
    for one in slices[:2]:
        store(node.port, one)
    assert sweep(node, RULES, later(11)) == 0
    assert notify(node.port, notice(study, uids(slices[2:]), availability="UNAVAILABLE")).Status == 0x0000
    assert {one.sop_instance_uid for one in rows(node.sessions, ExpectedInstance)} == set(uids(slices[:2]))
    assert sweep(node, RULES, later(0)) == 1


def test_notifications_add_up(node, slices):
    study = slices[0].StudyInstanceUID
    for one in slices:
        notify(node.port, notice(study, uids([one])))
    store(node.port, slices[0])
    assert rows(node.sessions, Study)[0].expected_instances == 3
    assert sweep(node, RULES, later(11)) == 0


def test_a_notification_twice_is_a_duplicate_and_one_without_uid_gets_ours(node, slices):
    said = notice(slices[0].StudyInstanceUID, uids(slices))
    uid = str(generate_uid())
    assert [notify(node.port, said, uid).Status for _ in range(2)] == [0x0000, 0x0111]
    with peer(node.port, InstanceAvailabilityNotification) as assoc:
        response, _ = assoc.send_n_create(said, InstanceAvailabilityNotification)
    assert response.Status == 0x0000
    said_by_uid = {one.object_uid for one in rows(node.sessions, Expectation)}
    assert len(said_by_uid) == 2
    assert uid in said_by_uid
    assert all(UID(one).is_valid for one in said_by_uid)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("where", "keyword", "value", "status"),
    [
        ("top", "StudyInstanceUID", None, 0x0120),
        ("top", "StudyInstanceUID", "", 0x0121),
        ("top", "StudyInstanceUID", "Doe^Jane", 0x0106),
        ("top", "ReferencedSeriesSequence", None, 0x0120),
        ("top", "ReferencedSeriesSequence", Sequence([]), 0x0121),
        ("series", "ReferencedSOPSequence", None, 0x0120),
        ("series", "SeriesInstanceUID", None, 0x0120),
        ("reference", "ReferencedSOPInstanceUID", None, 0x0120),
        ("reference", "ReferencedSOPInstanceUID", "1..2", 0x0106),
        ("reference", "RetrieveAETitle", None, 0x0120),
        ("reference", "InstanceAvailability", None, 0x0120),
        ("reference", "InstanceAvailability", "SOMEWHERE", 0x0106),
    ],
)
def test_a_notification_that_says_too_little_is_refused_by_name(node, where, keyword, value, status):
    said = notice("1.2.3", ["1.2.3.4"])
    series = said.ReferencedSeriesSequence[0]
    item = {"top": said, "series": series, "reference": series.ReferencedSOPSequence[0]}[where]
    changed(item, {keyword: value})
    response = notify(node.port, said)
    assert response.Status == status
    assert keyword in response.ErrorComment
    assert "Doe" not in response.ErrorComment
    assert rows(node.sessions, Expectation) == []
