"""One whole installation for the end-to-end tests: real processes, real ports, the demonstration models."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Destination, DicomSettings, Settings, WebSettings, WorkerSettings
from db.engine import make_engine, make_sessions
from firstread.children import Family
from firstread.ports import free_port, wait_for_port
from firstread.prepare import prepare
from firstread.up import ensure_model, system, with_demo_archive
from worker.vlm.demo_build import build_demo


@dataclass
class Installation:
    """A running installation and how to reach it."""

    settings: Settings
    archive: Destination
    family: Family
    passwords: dict[str, str]
    sessions: sessionmaker[Session]

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.settings.web.port}"

    def child(self, name: str):
        return next(child for child in self.family.children if child.name == name)


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model, built once for all tests of a session."""
    folder = tmp_path_factory.mktemp("models") / "demo-vlm"
    build_demo(folder)
    return folder


def start_installation(data_dir: Path, demo_model: Path, **worker: float) -> Installation:
    """Start node, worker, sweeper, dashboard and archive on free ports over an empty data folder."""
    settings = Settings(
        data_dir=data_dir,
        dicom=DicomSettings(port=free_port(), quiet_s=2.0),
        web=WebSettings(port=free_port()),
        worker=WorkerSettings(**worker) if worker else WorkerSettings(),
        models={"vlm": demo_model},
    )
    users = prepare(settings)
    ensure_model(settings)
    settings, archive = with_demo_archive(settings)
    family = system(settings, archive)
    family.start()
    wait_for_port("127.0.0.1", settings.dicom.port, timeout_s=90)
    wait_for_port("127.0.0.1", settings.web.port, timeout_s=90)
    wait_for_port("127.0.0.1", archive.port, timeout_s=90)
    passwords = {role: password for _, role, password in users}
    sessions = make_sessions(make_engine(settings.database))
    return Installation(settings, archive, family, passwords, sessions)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[Installation]:
    """An installation shared by the tests that leave it working."""
    running = start_installation(tmp_path_factory.mktemp("firstread"), demo_model)
    try:
        yield running
    finally:
        running.family.stop()
