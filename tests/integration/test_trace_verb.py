"""``firstread trace`` after a real association."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

from config.settings import Settings
from db.models import AuditEvent
from firstread.cli import app
from tests.node_support import associate, ct_slice, encoded, migrated_sessions, node_settings, running_node, store_bytes

Sessions = sessionmaker[Session]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Sessions, Settings]]:
    """An empty site."""
    monkeypatch.setenv("FIRSTREAD_DATA_DIR", str(tmp_path))
    settings = node_settings(tmp_path, dicom={"receivers": 0, "quiet_s": 3600})
    sessions = migrated_sessions(settings)
    yield sessions, settings
    sessions.kw["bind"].dispose()


def firstread(key: str) -> Result:
    return CliRunner().invoke(app, ["trace", key])


def traced_events(sessions: Sessions) -> list[AuditEvent]:
    with sessions() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.tag == "study:traced")))


def test_what_a_modality_sent_and_where_it_was_refused_is_printed(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    study, series = generate_uid(), generate_uid()
    sent = [ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series, AccessionNumber="ACC1") for _ in range(3)]
    with running_node(settings, sessions) as node:
        assert associate(node.port, called_ae="WRONG").is_rejected
        assoc = associate(node.port)
        for ds in sent:
            answer = store_bytes(assoc, encoded(ds), sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)
            assert answer[0] == 0
        other = ct_slice(SOPInstanceUID=sent[0].SOPInstanceUID, StudyInstanceUID=study, SeriesInstanceUID=series)
        assert store_bytes(assoc, encoded(other), sop_class=other.SOPClassUID, sop_instance=other.SOPInstanceUID) == (
            0xC003,
            "Other content is stored under this SOP Instance UID",
        )
        assoc.release()
    run = firstread("ACC1")
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    (one,) = said["studies"]
    (came_on,) = one["associations"]
    assert (came_on["calling_ae"], came_on["called_ae"]) == ("MODALITY", "FIRSTREAD")
    assert (came_on["address"], came_on["ended_how"]) == ("127.0.0.1", "released")
    assert came_on["instances_of_study"] == 3
    assert [refused["called_ae"] for refused in one["refused_associations"]] == ["WRONG"]
    assert [(doubt["status"], doubt["error"]) for doubt in one["quarantined"]] == [("C003", "ConflictingInstanceError")]
    assert one["timer"]["state"] == "running"
    assert 3000 < one["timer"]["seconds_left"] <= 3600
    assert one["readings"][0]["state"] == "RECEIVING"
    assert json.loads(firstread(sent[1].SOPInstanceUID).stdout)["studies"][0]["study_instance_uid"] == study
    events = traced_events(sessions)
    assert [(event.actor_kind, str(event.study_id)) for event in events] == [("person", one["id"])] * 2
    assert "Patient" not in run.stdout
    assert "P-1" not in run.stdout


def test_what_is_not_here_is_exit_1_and_a_patient_id_is_refused(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    with running_node(settings, sessions) as node:
        assoc = associate(node.port)
        ds = ct_slice()
        assert store_bytes(assoc, encoded(ds), sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)[0] == 0
        assoc.release()
        assert associate(node.port, called_ae="WRONG").is_rejected
    missing = firstread("NOSUCH")
    assert missing.exit_code == 1
    said = json.loads(missing.stdout)
    assert said["studies"] == []
    assert [one["rejected"] != "" for one in said["refused_associations"]] == [True]
    assert firstread("1.2.3.4").exit_code == 1
    # what was typed and is no number may be a name, and nothing is ever taken out of the audit log
    assert [(e.outcome, e.object_id) for e in traced_events(sessions)] == [("failure", ""), ("failure", "1.2.3.4")]
    refused = firstread("P-1")
    assert refused.exit_code == 2
    assert "Patient ID" in refused.stdout
    assert firstread(" ").exit_code == 2
