"""One whole installation for the end-to-end tests: real processes, real ports, the demonstration models."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from audit.keys import SealKeys
from config.review_settings import ReviewSettings
from config.settings import Destination, DicomSettings, Hl7Settings, Settings, WebSettings, WorkerSettings
from db.engine import make_engine, make_sessions
from firstread.children import Family
from firstread.ports import free_port, wait_for_port
from firstread.prepare import prepare
from firstread.up import ensure_model, system, with_demo_archive
from tests.e2e.receivers import Ehr, Ris
from tests.orthanc import Orthanc, dicomweb_plugin, running_orthanc
from worker.vlm.demo_build import build_demo


@dataclass
class Receivers:
    """Those outside who get results: a RIS, an EHR, and an archive that takes STOW-RS."""

    ris: Ris
    ehr: Ehr
    vna: Orthanc

    def destinations(self) -> tuple[Destination, ...]:
        """How the installation knows them."""
        return (
            Destination(name="ris", protocol="mllp", host="127.0.0.1", port=self.ris.port, application="RIS", pdf=True),
            Destination(name="ehr", protocol="fhir", url=self.ehr.url),
            Destination(
                name="vna",
                protocol="stow-rs",
                url=self.vna.dicomweb_url,
                count=True,
                report="basic-text",
                presentation_states=True,
                secondary_captures=True,
                pdf=True,
            ),
        )


@dataclass
class Installation:
    """A running installation and how to reach it."""

    settings: Settings
    archive: Destination
    family: Family
    passwords: dict[str, str]
    sessions: sessionmaker[Session]
    receivers: "Receivers | None" = None

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.settings.web.port}"

    def child(self, name: str):
        return next(child for child in self.family.children if child.name == name)


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model, built by the first worker that needs it, for all of them; nobody writes to it."""
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    with (run / "demo-vlm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_demo(run / "demo-vlm")


def start_installation(
    data_dir: Path, demo_model: Path, *, receivers: Receivers | None = None, **worker: float
) -> Installation:
    """Start node, worker, sweeper, dashboard and archive on free ports over an empty data folder."""
    settings = Settings(
        data_dir=data_dir,
        destinations=receivers.destinations() if receivers else (),
        hl7=Hl7Settings(port=free_port()) if receivers else Hl7Settings(),
        dicom=DicomSettings(port=free_port(), quiet_s=2.0),
        web=WebSettings(port=free_port()),
        review=ReviewSettings(hold_s=1.0),
        worker=WorkerSettings(**worker) if worker else WorkerSettings(),
        models={"vlm": demo_model},
    )
    SealKeys(settings.key_dir, create=True).current()  # as `firstread audit keys`
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
    return Installation(settings, archive, family, passwords, sessions, receivers)


@pytest.fixture(scope="package")  # its processes do not run on beside the other tests
def installation(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[Installation]:
    """An installation shared by the tests that leave it working."""
    ris, ehr = Ris().start(), Ehr().start()
    with running_orthanc(tmp_path_factory.mktemp("vna"), Plugins=[dicomweb_plugin()]) as vna:
        receivers = Receivers(ris, ehr, vna)
        running = start_installation(tmp_path_factory.mktemp("firstread"), demo_model, receivers=receivers)
        try:
            yield running
        finally:
            running.family.stop()
            ris.stop()
            ehr.stop()
