"""What a monitor asks: each part is tried, and each is broken for real."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from dashboard.running.health import LONGEST_S
from db.engine import make_engine, make_sessions
from tests.dashboard_support import Site, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    folder = tmp_path / "site"
    (folder / "instances").mkdir(parents=True)
    return make_site(folder, sqlite_url, retention={"refuse_free_bytes": 0}, dicom={"min_free_bytes": 0})


def asked(site: Site) -> tuple[int, dict[str, Any]]:
    answer = site.client().get("/readyz")
    found: dict[str, Any] = answer.get_json()
    return answer.status_code, found["checks"]


def only_fault(site: Site) -> tuple[str, str]:
    """The one check that fails, and its words."""
    status, checks = asked(site)
    assert status == 503
    bad = [(name, one["words"]) for name, one in checks.items() if not one["ok"]]
    assert len(bad) == 1, checks
    return bad[0]


@pytest.mark.requirement("REQ-FAIL-10")
def test_database_disk_and_broker_are_tried(site: Site) -> None:
    status, checks = asked(site)
    assert status == 200
    assert {*checks} == {"database", "disk", "broker"}
    assert {one["ok"] for one in checks.values()} == {True}
    assert "taken back" in checks["database"]["words"]
    assert "flushed" in checks["disk"]["words"]
    assert "sent and taken back" in checks["broker"]["words"]
    assert all(0 < one["milliseconds"] < LONGEST_S * 1000 for one in checks.values())
    assert site.client().get("/livez").text == "ok\n"
    assert list(site.settings.data_dir.glob(".readyz*")) == []


def test_a_folder_that_is_gone(site: Site) -> None:
    shutil.rmtree(site.settings.instances_dir)
    assert only_fault(site) == ("disk", "the folder of images cannot be asked for its free space")
    assert site.client().get("/livez").status_code == 200


def test_a_data_folder_that_cannot_be_written(tmp_path: Path, sqlite_url: str) -> None:
    good = make_site(tmp_path / "good", sqlite_url)
    file = tmp_path / "file"
    file.write_text("no folder")
    settings = good.settings.model_copy(update={"data_dir": file, "broker_url": "memory://"})
    good.app.extensions["firstread.settings"] = settings
    assert only_fault(good) == ("disk", "the data folder cannot be written: Not a directory")


def test_a_broker_folder_that_is_a_file(site: Site) -> None:
    (site.settings.data_dir / "broker").write_text("no folder")
    name, words = only_fault(site)
    assert name == "broker"
    assert words.startswith("it cannot be used: ")
    assert str(site.settings.data_dir) not in words


def test_a_broker_that_nobody_answers_for(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "instances").mkdir()
    site = make_site(tmp_path, sqlite_url, broker_url="amqp://guest:secret@127.0.0.1:9//")
    name, words = only_fault(site)
    assert name == "broker"
    assert "secret" not in words


def test_too_little_space(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "instances").mkdir()
    site = make_site(tmp_path, sqlite_url, retention={"refuse_free_bytes": 10**18})
    name, words = only_fault(site)
    assert name == "disk"
    assert words.endswith("below 1000000000.0 GB nothing is received")


def test_a_database_without_our_tables(site: Site, tmp_path: Path) -> None:
    site.app.extensions["firstread.sessions"] = make_sessions(make_engine(f"sqlite:///{tmp_path / 'empty.db'}"))
    name, words = only_fault(site)
    assert name == "database"
    assert "tables of this release" in words


@pytest.mark.requirement("REQ-FAIL-10")
@pytest.mark.postgres
def test_a_database_that_does_not_answer_is_said_within_its_time(site: Site) -> None:
    url = "postgresql://nobody:secret@127.0.0.1:9/none"
    site.app.extensions["firstread.sessions"] = make_sessions(make_engine(Settings(database_url=url).database))
    name, words = only_fault(site)
    assert name == "database"
    assert "secret" not in words


def test_answers_are_kept_for_two_seconds(site: Site) -> None:
    assert asked(site)[0] == 200
    (site.settings.data_dir / "broker" / "queue").rename(site.settings.data_dir / "elsewhere")
    (site.settings.data_dir / "broker" / "queue").write_text("no folder")
    assert asked(site)[0] == 200
    time.sleep(2.1)
    assert only_fault(site)[0] == "broker"
