"""A disk that fills: refused before it is full, freed oldest first, received again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom.association import Association
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.routing import RoutingVerdict
from config.settings import Settings
from db import lifecycle
from db.engine import make_engine, make_sessions, migrate
from db.models import Instance, PeerAssociation, Reading, Study
from db.types import ReadingState, utcnow
from db.uow import unit_of_work
from dicom_node.scp import RunningNode
from instances.retention import delete_due, free_bytes
from tests.db_support import SWEEPER
from tests.node_support import associate, ct_slice, encoded, node_settings, running_node, store_bytes

Sessions = sessionmaker[Session]
MIB = 1024**2
IGNORE = RoutingVerdict("ignore", rule="none", reason="no rule")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def site(folder: Path, database: Path, **changes: object) -> tuple[Settings, Sessions]:
    """A node whose instances lie on ``folder`` and whose database lies elsewhere."""
    url = f"sqlite:///{database / 'firstread.db'}"
    migrate(url)
    settings = node_settings(folder, database_url=url, **changes)
    return settings, make_sessions(make_engine(url))


def send(assoc: Association, study: str, size: int) -> int | None:
    """Send one image of ``size`` bytes; return the status."""
    ds = ct_slice(StudyInstanceUID=study, SeriesInstanceUID=f"{study[:60]}.1", Rows=512, Columns=size // 1024)
    ds.PixelData = os.urandom(size)
    return store_bytes(assoc, encoded(ds), sop_class=ds.SOPClassUID, sop_instance=ds.SOPInstanceUID)[0]


def ignore_all(sessions: Sessions) -> None:
    """Let every Study that is being received end without a draft."""
    with sessions() as session:
        waiting = session.scalars(select(Reading.id).where(Reading.state == ReadingState.RECEIVING)).all()
    for reading_id in waiting:
        with unit_of_work(sessions, SWEEPER) as uow:
            lifecycle.complete(uow, reading_id, IGNORE)


def fill(node: RunningNode, settings: Settings, *, down_to: int) -> list[str]:
    """Send Studies of two images until less than ``down_to`` is free; return their UIDs, oldest first."""
    sent: list[str] = []
    assoc = associate(node.port)
    while free_bytes(settings) >= down_to:
        sent.append(str(generate_uid()))
        for _ in range(2):
            assert send(assoc, sent[-1], 2 * MIB) == 0x0000
    assoc.release()
    return sent


def test_a_disk_that_fills_is_refused_in_two_steps_and_freed_oldest_first(small_disk: Path, tmp_path: Path) -> None:
    settings, sessions = site(
        small_disk,
        tmp_path,
        dicom={"min_free_bytes": 8 * MIB, "receivers": 0},
        retention={"refuse_free_bytes": 16 * MIB, "wanted_free_bytes": 32 * MIB, "unreported": True},
    )
    with running_node(settings, sessions) as node:
        early = associate(node.port)
        assert early.is_established
        sent = fill(node, settings, down_to=16 * MIB)

        late = associate(node.port)
        assert late.is_rejected
        assert (late.acceptor.primitive.result, late.acceptor.primitive.result_source) == (2, 3)
        while (status := send(early, sent[-1], 2 * MIB)) == 0x0000:
            assert free_bytes(settings) > 4 * MIB
        assert status == 0xA700
        assert free_bytes(settings) > 4 * MIB
        early.release()

        assert delete_due(sessions, settings, utcnow()) == 0  # nothing may go while all are being received
        ignore_all(sessions)
        assert delete_due(sessions, settings, utcnow()) >= 4
        assert free_bytes(settings) >= 32 * MIB
        with sessions() as session:
            gone = dict(session.execute(select(Study.study_instance_uid, Study.pixels_deleted_at)).all())
            held = session.scalars(select(Instance).where(Instance.deleted_at.is_(None))).all()
            refused = session.scalars(select(PeerAssociation.rejected).where(PeerAssociation.rejected != "")).all()
        kept = [uid for uid in sent if gone[uid] is None]
        assert kept == sent[-len(kept) :]
        assert 0 < len(kept) < len(sent)
        assert all((settings.instances_dir / one.path).is_file() for one in held)
        assert refused == ["the instance store is nearly full"]

        again = associate(node.port)
        assert send(again, str(generate_uid()), MIB) == 0x0000
        again.release()


def test_thresholds_above_what_is_free_refuse_the_same_way(tmp_path: Path) -> None:
    settings, sessions = site(
        tmp_path, tmp_path, dicom={"min_free_bytes": 0, "receivers": 0}, retention={"refuse_free_bytes": 1 << 60}
    )
    with running_node(settings, sessions) as node:
        refused = associate(node.port)
        assert refused.is_rejected
        assert (refused.acceptor.primitive.result, refused.acceptor.primitive.diagnostic) == (2, 1)
        echo = associate(node.port, sop_class="1.2.840.10008.1.1")
        assert echo.is_established
        assert echo.send_c_echo().Status == 0x0000
        echo.release()
    settings, sessions = site(
        tmp_path, tmp_path, dicom={"min_free_bytes": 1 << 60, "receivers": 0}, retention={"refuse_free_bytes": 0}
    )
    with running_node(settings, sessions) as node:
        assoc = associate(node.port)
        assert assoc.is_established
        assert send(assoc, str(generate_uid()), 4096) == 0xA700
        assoc.release()
