"""The drill: everything is killed at random while a modality sends, and nothing is lost or doubled."""

import hashlib
import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from config.settings import Destination, DicomSettings, Settings, WorkerSettings
from db.engine import make_engine, make_sessions
from db.models import Delivery, Instance, Quarantined, Reading, ResultObject, Study
from db.report_models import Draft
from db.types import CommitmentState, DeliveryState, ReadingState
from firstread.ports import free_port, wait_for_port
from firstread.prepare import prepare
from firstread.up import system
from instances.part10 import dataset_digest, split_file
from phantoms.hospital import play_hospital
from tests.e2e.test_journey import eventually
from tests.node_support import associate, ct_slice, encoded, store_bytes
from tests.orthanc import running_orthanc
from tests.postgres import PostgresServer, find_binaries

pytestmark = [pytest.mark.models, pytest.mark.postgres, pytest.mark.timeout(900)]

SEED = 20261122
DRILL_S = 45.0
SENDERS = 4
SLICES = 400  # in two studies that no routing rule drafts
DRAFTED = frozenset({"cxr-normal", "cxr-effusion-cardiomegaly"})


@dataclass
class Outgoing:
    """One Instance of the modality: its bytes, and whether somebody said it is stored."""

    sop_class: str
    sop_instance: str
    syntax: str
    data: bytes
    acknowledged: bool = False
    tries: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class Modality:
    """Sends until each Instance was acknowledged once, as a modality's own queue does."""

    port: int
    waiting: list[Outgoing]
    statuses: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        while item := self._next():
            try:
                self._send_some(item)
            except (OSError, RuntimeError, AttributeError) as exc:
                self._note(type(exc).__name__)
            if not item.acknowledged:
                self._back(item)

    def _next(self) -> Outgoing | None:
        with self.lock:
            return self.waiting.pop(0) if self.waiting else None

    def _back(self, item: Outgoing) -> None:
        with self.lock:
            self.waiting.append(item)
        time.sleep(0.2)

    def _note(self, what: str) -> None:
        with self.lock:
            self.statuses[what] += 1

    def _send_some(self, first: Outgoing) -> None:
        assoc = associate(self.port, sop_class=first.sop_class, syntaxes=(first.syntax,), calling_ae="DRILL_CT")
        assoc.dimse_timeout = 20
        item: Outgoing | None = first
        while item is not None and assoc.is_established:
            item.tries += 1
            status, _ = store_bytes(assoc, item.data, sop_class=item.sop_class, sop_instance=item.sop_instance)
            self._note(f"{status:04X}" if status is not None else "no answer")
            item.acknowledged = status == 0x0000
            if not item.acknowledged:
                break
            following = self._next()
            if following is not None and (following.sop_class, following.syntax) != (first.sop_class, first.syntax):
                self._back(following)
                following = None
            item = following
        if item is not None and item is not first and not item.acknowledged:
            self._back(item)
        if assoc.is_established:
            assoc.release()


def slices(count: int) -> list[Outgoing]:
    """Slices of two knees, which no rule drafts."""
    studies = [(generate_uid(), generate_uid()) for _ in range(2)]
    items = []
    for number in range(count):
        study, series = studies[number % 2]
        ds = ct_slice(
            StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number, BodyPartExamined="KNEE",
            PatientID=f"DRILL-{number % 2}", PixelData=os.urandom(65536), Rows=128, Columns=256,
        )  # fmt: skip
        items.append(Outgoing(str(ds.SOPClassUID), str(ds.SOPInstanceUID), ExplicitVRLittleEndian, encoded(ds)))
    return items


def radiographs(folder: Path) -> tuple[list[Outgoing], set[str]]:
    """Chest radiographs that have to be drafted, and their Study Instance UIDs."""
    items, studies = [], set()
    for seed in (11, 12):
        for study in play_hospital(folder / str(seed), seed=seed, only=DRAFTED):
            studies.add(str(study.study_uid))
            for path in study.files:
                content = path.read_bytes()
                meta, offset = split_file(content)
                items.append(
                    Outgoing(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, content[offset:])
                )
    return items, studies


class Killer:
    """SIGKILLs node, receivers, worker, sweeper or the database, at random moments in a fixed order."""

    def __init__(self, family, server: PostgresServer) -> None:
        self.family = family
        self.server = server
        self.random = random.Random(SEED)
        self.killed: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        targets = [self._database, self._receiver, self._node, self._worker, self._sweeper]
        self.random.shuffle(targets)
        while time.monotonic() < end:
            self._rest(self.random.uniform(1.0, 3.5))
            target = targets.pop(0)
            targets.append(target)
            target()

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.family.watch()
            time.sleep(0.2)

    def _child(self, name: str) -> psutil.Process | None:
        child = next(child for child in self.family.children if child.name == name)
        if child.process is None or child.process.poll() is not None:
            return None
        return psutil.Process(child.process.pid)

    def _kill(self, name: str) -> None:
        process = self._child(name)
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                self.killed[name] += 1

    def _node(self) -> None:
        self._kill("node")

    def _sweeper(self) -> None:
        self._kill("sweeper")

    def _worker(self) -> None:
        process = self._child("worker")
        if process is not None:
            for one in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            self.killed["worker"] += 1

    def _receiver(self) -> None:
        for _ in range(40):  # a node that was killed a moment ago has none yet
            listening = self._receivers()
            if listening:
                with suppress(psutil.NoSuchProcess):
                    self.random.choice(listening).kill()
                    self.killed["receiver"] += 1
                return
            self._rest(0.5)

    def _receivers(self) -> list[psutil.Process]:
        process = self._child("node")
        try:
            return [one for one in process.children(recursive=True) if _listens(one)] if process else []
        except psutil.NoSuchProcess:
            return []

    def _database(self) -> None:
        self.server.kill()
        self.killed["database"] += 1
        self._rest(0.7)
        self.server.start()


def _listens(process: psutil.Process) -> bool:
    try:
        return any(c.status == psutil.CONN_LISTEN for c in process.net_connections(kind="tcp"))
    except psutil.Error:
        return False


def rows(sessions: sessionmaker[Session], query):
    with sessions() as session:
        return session.execute(query).all()


@pytest.fixture
def durable_server():
    binaries = find_binaries()
    if binaries is None:
        reason = "PostgreSQL server binaries are not installed (apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with PostgresServer(binaries, durable=True) as server:
        server.create("drill")
        yield server


@pytest.mark.requirement("REQ-RECV-1")
def test_what_was_acknowledged_is_kept_drafted_once_and_delivered_once_whatever_is_killed(
    tmp_path, demo_model, durable_server
):
    port = free_port()
    with running_orthanc(tmp_path / "pacs") as pacs:
        pacs.register("firstread", "FIRSTREAD", port)
        settings = Settings(
            data_dir=tmp_path / "data",
            database_url=durable_server.url("drill"),
            dicom=DicomSettings(port=port, quiet_s=8.0, receivers=2, min_free_bytes=0),
            worker=WorkerSettings(lease_s=8.0, heartbeat_s=2.0, max_attempts=50),
            models={"vlm": demo_model},
            destinations=(
                Destination(
                    name="pacs", ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.dicom_port, drafts=True,
                    commitment=True,
                ),
            ),
        )  # fmt: skip
        films, film_studies = radiographs(tmp_path / "hospital")
        sent = slices(SLICES)
        for number, film in enumerate(films):
            sent.insert((number + 1) * len(sent) // (len(films) + 1), film)
        prepare(settings)
        family = system(settings, None, web=False, log_dir=tmp_path / "logs")
        family.start()
        try:
            wait_for_port("127.0.0.1", port, timeout_s=90)
            modality = Modality(port, list(sent))
            threads = [threading.Thread(target=modality.run, daemon=True) for _ in range(SENDERS)]
            for thread in threads:
                thread.start()
            killer = Killer(family, durable_server)
            killer.run(DRILL_S)
            sessions = make_sessions(make_engine(settings.database))
            eventually(lambda: family.watch() or not any(t.is_alive() for t in threads), 180, "everything is sent")
            assert all(item.acknowledged for item in sent)
            assert all(killer.killed[name] for name in ("node", "receiver", "worker", "sweeper", "database")), (
                killer.killed
            )
            eventually(lambda: family.watch() or _ended(sessions, film_studies), 300, "every study has ended")
            eventually(lambda: family.watch() or _delivered(sessions), 180, "every result is delivered and committed")
            _everything_acknowledged_is_kept(settings, sessions, sent)
            _drafted_exactly_once(sessions, film_studies)
            _at_the_pacs_exactly_once(sessions, pacs)
        finally:
            family.stop()
    assert list((settings.instances_dir / ".incoming").glob("*.part")) == []


def _ended(sessions, film_studies) -> bool:
    with suppress(Exception):
        states = rows(
            sessions, select(Study.study_instance_uid, Reading.state).join(Reading, Reading.study_id == Study.id)
        )
        films = [state for uid, state in states if uid in film_studies]
        others = [state for uid, state in states if uid not in film_studies]
        return films.count(ReadingState.DRAFTED) >= len(film_studies) and all(s is ReadingState.IGNORED for s in others)
    return False


def _delivered(sessions) -> bool:
    with suppress(Exception):
        found = rows(sessions, select(Delivery.state, Delivery.commitment))
        return bool(found) and all(
            state in {DeliveryState.DELIVERED, DeliveryState.WITHDRAWN}
            and (state is DeliveryState.WITHDRAWN or commitment is CommitmentState.COMMITTED)
            for state, commitment in found
        )
    return False


def _everything_acknowledged_is_kept(settings, sessions, sent) -> None:
    kept = {
        uid: (sha, path)
        for uid, sha, path in rows(sessions, select(Instance.sop_instance_uid, Instance.sha256, Instance.path))
    }
    assert set(kept) == {item.sop_instance for item in sent}
    for item in sent:
        sha256, path = kept[item.sop_instance]
        assert sha256 == item.sha256
        assert dataset_digest(settings.instances_dir / path) == item.sha256
    assert rows(sessions, select(Quarantined.id)) == []


def _drafted_exactly_once(sessions, film_studies) -> None:
    drafts = Counter(
        uid
        for uid, _ in rows(sessions, select(Study.study_instance_uid, Draft.id).join(Draft, Draft.study_id == Study.id))
    )
    assert drafts == dict.fromkeys(film_studies, 1)


def _at_the_pacs_exactly_once(sessions, pacs) -> None:
    owed = {uid for (uid,) in rows(sessions, select(ResultObject.sop_instance_uid))}
    assert pacs.instances() == sorted(owed)
    assert len(owed) >= 4
