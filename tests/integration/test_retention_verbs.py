"""``firstread retention`` as an administrator uses it."""

import getpass
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner, Result

from config.settings import Settings
from db.models import AuditEvent, Study
from firstread.cli import app
from tests.integration.test_retention_files import a_study, files
from tests.node_support import migrated_sessions, node_settings

Sessions = sessionmaker[Session]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Sessions, Settings]]:
    """A site whose administrator lets unreported Studies go after two days."""
    for name, value in {
        "DATA_DIR": str(tmp_path),
        "RETENTION__KEEP_DAYS": "2",
        "RETENTION__UNREPORTED": "true",
        "DICOM__MIN_FREE_BYTES": "0",
        "RETENTION__REFUSE_FREE_BYTES": "0",
    }.items():
        monkeypatch.setenv(f"FIRSTREAD_{name}", value)
    settings = node_settings(tmp_path)
    sessions = migrated_sessions(settings)
    yield sessions, settings
    sessions.kw["bind"].dispose()


def firstread(*words: str) -> Result:
    return CliRunner().invoke(app, ["retention", *words], env={"COLUMNS": "250"})


def events(sessions: Sessions, tag: str) -> list[AuditEvent]:
    with sessions() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.tag == tag)))


def test_what_is_planned_is_what_is_deleted_and_by_whom_is_recorded(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    old = a_study(sessions, settings, days=3)
    a_study(sessions, settings, days=1)
    planned = firstread("plan", "--json")
    assert planned.exit_code == 0, planned.output
    (row,) = json.loads(planned.stdout)
    assert (row["study_instance_uid"], row["files"], row["why"]) == (old[0].StudyInstanceUID, 4, "older than 2 days")
    assert len(files(settings)) == 8
    assert row["study_instance_uid"] in firstread("plan").stdout
    assert firstread("run").stdout == "4 files deleted\n"
    assert len(files(settings)) == 4
    (done,) = events(sessions, "study:pixels_deleted")
    assert (done.actor, done.actor_kind) == (f"cli:{getpass.getuser()}", "person")
    assert json.loads(firstread("plan", "--json").stdout) == []


def test_a_held_study_is_neither_planned_nor_deleted_until_the_hold_is_lifted(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    uid = a_study(sessions, settings, days=3)[0].StudyInstanceUID
    assert firstread("hold", uid, "--reason", "claim 12/2026").exit_code == 0
    again = firstread("hold", uid, "--reason", "claim 12/2026")
    assert again.exit_code == 2
    assert "already" in again.stdout
    assert json.loads(firstread("plan", "--json").stdout) == []
    assert firstread("run").stdout == "0 files deleted\n"
    assert len(files(settings)) == 4
    assert firstread("lift", uid, "--reason", "settled").exit_code == 0
    assert firstread("run").stdout == "4 files deleted\n"
    (placed,) = events(sessions, "study:hold_placed")
    assert (placed.actor, placed.detail) == (f"cli:{getpass.getuser()}", {"reason": "claim 12/2026"})
    late = firstread("hold", uid, "--reason", "too late")
    assert "its pixel data were deleted on" in late.stdout


def test_a_hold_covers_every_study_of_an_accession_number_or_none(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    a_study(sessions, settings, days=3)
    a_study(sessions, settings, days=3)
    with sessions() as session:
        for study in session.scalars(select(Study)):
            study.accession_number = "ACC7"
        session.commit()
    assert firstread("hold", "ACC7", "--reason", "claim").exit_code == 0
    with sessions() as session:
        assert list(session.scalars(select(Study.legal_hold))) == [True, True]
    for name in ("NOSUCH", "1.2.3", ""):
        unknown = firstread("hold", name, "--reason", "claim")
        assert unknown.exit_code == 2
        assert "no study has" in unknown.stdout
    assert firstread("lift", "ACC7", "--reason", " ").exit_code == 2


def test_status_says_how_full_it_is_and_what_keeps_what(site: tuple[Sessions, Settings]) -> None:
    sessions, settings = site
    a_study(sessions, settings, days=3)
    held = a_study(sessions, settings, days=3)[0].StudyInstanceUID
    firstread("hold", held, "--reason", "claim")
    said = json.loads(firstread("status", "--json").stdout)
    assert 0 < said["disk"]["free_bytes"] < said["disk"]["total_bytes"]
    assert said["settings"]["keep_days"] == 2
    assert {one["because"]: one["studies"] for one in said["kept"]} == {"legal hold": 1, "": 1}
    assert said["due"]["studies"] == 1
    assert len(said["next"]) == 1
    assert "legal hold" in firstread("status").stdout
