"""The count of an archive, asked of a real one by C-FIND while a Study is being received."""

from datetime import timedelta

import pytest
from pydicom.uid import generate_uid

from db.expectation_models import Expectation
from db.lifecycle.expectations import Countable
from db.models import AuditEvent, Study
from db.types import utcnow
from dicom_node.expected import ask_counts, is_due
from tests.completeness_support import later, rules, sweep
from tests.node_support import ct_slice, node_settings, rows, running_node, store
from tests.orthanc import running_orthanc

RULES = rules()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("archive")) as orthanc:
        yield orthanc


def settings_of(folder, port, *, asks=True, ae_title="PACS"):
    sources = [
        {"name": "web", "method": "dicomweb", "url": "http://127.0.0.1:9/dicom-web"},
        {"name": "pacs", "ae_title": ae_title, "host": "127.0.0.1", "port": port},
    ]
    priors = {"sources": sources, "expected_count": asks}
    return node_settings(folder, dicom={"quiet_s": 10}, priors=priors)


def slices(count):
    study, series = generate_uid(), generate_uid()
    return [ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(count)]


def test_a_study_waits_for_what_the_archive_still_has(tmp_path, sqlite_sessions, archive):
    settings = settings_of(tmp_path, archive.dicom_port)
    images = slices(3)
    archive.upload(*images)
    with running_node(settings, sqlite_sessions) as node:
        store(node.port, images[0])
        assert ask_counts(node.sessions, settings, utcnow()) == 1
        (study,) = rows(node.sessions, Study)
        assert (study.expected_instances, study.expected_by) == (3, "c-find")
        (said,) = [one for one in rows(node.sessions, AuditEvent) if one.tag == "study:expected"]
        assert (said.study_id, said.actor) == (study.id, "node")
        assert said.detail == {"instances": 3, "by": "c-find", "state": "COMPLETED", "said_by": "pacs"}
        assert sweep(node, RULES, later(11)) == 0
        for one in images[1:]:
            store(node.port, one)
        assert sweep(node, RULES, later(5)) == 0, "a count alone does not hurry"
        assert sweep(node, RULES, later(11)) == 1


def test_the_archive_is_asked_again_when_the_images_stop_coming(tmp_path, sqlite_sessions, archive):
    settings = settings_of(tmp_path, archive.dicom_port)
    images = slices(3)
    archive.upload(images[0])
    with running_node(settings, sqlite_sessions) as node:
        store(node.port, images[0])
        assert ask_counts(node.sessions, settings, utcnow()) == 1
        assert ask_counts(node.sessions, settings, utcnow()) == 0, "not all the time"
        archive.upload(*images[1:])  # the modality sent it more meanwhile, and us one
        store(node.port, images[1])
        assert ask_counts(node.sessions, settings, later(1)) == 0
        assert ask_counts(node.sessions, settings, later(6)) == 1
        assert rows(node.sessions, Study)[0].expected_instances == 3
        assert sweep(node, RULES, later(11)) == 0


def test_a_study_the_archive_does_not_know_is_complete_by_silence(tmp_path, sqlite_sessions, archive):
    settings = settings_of(tmp_path, archive.dicom_port)
    with running_node(settings, sqlite_sessions) as node:
        store(node.port, ct_slice())
        assert ask_counts(node.sessions, settings, utcnow()) == 0
        (asked,) = rows(node.sessions, Expectation)
        assert (asked.instances, asked.state) == (None, "ASKED")
        assert rows(node.sessions, Study)[0].expected_by == ""
        assert sweep(node, RULES, later(11)) == 1


@pytest.mark.parametrize(("ae_title", "port"), [("NOBODY", None), ("PACS", 1)])
def test_an_archive_that_does_not_answer_changes_nothing(tmp_path, sqlite_sessions, archive, ae_title, port):
    settings = settings_of(tmp_path, port or archive.dicom_port, ae_title=ae_title)
    with running_node(settings, sqlite_sessions) as node:
        for _ in range(3):
            store(node.port, ct_slice())
        assert ask_counts(node.sessions, settings, utcnow()) == 0
        assert [one.attempts for one in rows(node.sessions, Expectation)] == [0, 0, 0]
        assert ask_counts(node.sessions, settings, later(6)) == 0
        assert [one.attempts for one in rows(node.sessions, Expectation)] == [1, 1, 1], "ever more rarely"
        assert sweep(node, RULES, later(11)) == 3


def test_nobody_is_asked_unless_the_settings_say_so(tmp_path, sqlite_sessions, archive):
    settings = settings_of(tmp_path, archive.dicom_port, asks=False)
    with running_node(settings, sqlite_sessions) as node:
        store(node.port, ct_slice())
        assert ask_counts(node.sessions, settings, utcnow()) == 0
        assert rows(node.sessions, Expectation) == []


def test_an_archive_is_asked_ever_more_rarely():
    start = utcnow()

    def one(asked_s, attempts):
        asked_at = None if asked_s is None else start + timedelta(seconds=asked_s)
        return Countable("1.2.3", start, 10.0, 3, 4, attempts, asked_at)

    def due(countable, seconds):
        return is_due(countable, start + timedelta(seconds=seconds))

    assert due(one(None, 0), 0)
    assert not due(one(-1, 0), 4.9)
    assert due(one(-1, 0), 5)
    for attempts, pause in ((0, 5), (1, 10), (2, 20), (6, 300), (4000, 300)):
        assert not due(one(6, attempts), 6 + pause - 0.1)
        assert due(one(6, attempts), 6 + pause + 0.1)
