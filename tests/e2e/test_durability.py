"""Work survives a killed worker and a deleted broker folder."""

import shutil
import time

import psutil
import pytest
from sqlalchemy import func, select

from db.models import Reading
from db.report_models import Draft
from db.types import ReadingState
from dicom_node.send import send_folder
from phantoms.hospital import play_hospital
from tests.e2e.conftest import start_installation
from tests.e2e.test_journey import eventually

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


@pytest.mark.requirement("REQ-FAIL-6")
def test_a_killed_worker_and_a_deleted_broker_folder_lose_no_study(tmp_path, demo_model):
    running = start_installation(tmp_path / "data", demo_model, lease_s=6.0, heartbeat_s=1.0)
    try:
        studies = play_hospital(
            tmp_path / "hospital", seed=5, only=frozenset({"cxr-normal", "cxr-effusion-cardiomegaly"})
        )
        settings = running.settings
        send_folder(studies[0].folder, "127.0.0.1", settings.dicom.port, settings.dicom.ae_title, "CT_1")

        def states():
            running.family.watch()
            with running.sessions() as session:
                return list(session.scalars(select(Reading.state)))

        eventually(lambda: ReadingState.RUNNING in states(), 120, "the first reading runs")
        worker = psutil.Process(running.child("worker").process.pid)
        for process in [*worker.children(recursive=True), worker]:
            process.kill()
        shutil.rmtree(settings.data_dir / "broker")
        send_folder(studies[1].folder, "127.0.0.1", settings.dicom.port, settings.dicom.ae_title, "CT_1")
        eventually(lambda: states() == [ReadingState.DRAFTED] * 2, 400, "both studies reach a draft")
        time.sleep(1.0)
        with running.sessions() as session:
            assert session.scalar(select(func.count()).select_from(Draft)) == 2
            first = session.scalars(select(Reading).order_by(Reading.created_at)).first()
            assert first.fencing_token >= 2  # the killed run's token is void
    finally:
        running.family.stop()
