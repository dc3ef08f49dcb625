"""A worker process says again and again that it is there, which models it has, and which of them are loaded."""

import os
import socket
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import delete
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError
from config.settings import Settings
from db.lifecycle import model_switching
from db.package_models import Package
from db.running_models import WorkerPresence
from db.types import utcnow
from db.uow import Actor, unit_of_work
from worker.experts.packages import open_package
from worker.experts.sources import read_models_file
from worker.profiles import PROFILES
from worker.store.active import drafting, models_dir, vlm_folder
from worker.store.folders import ModelStore, faults
from worker.vlm.package import open_vlm_package

log = structlog.get_logger()
PAUSE_S = 15.0
_FORGET = timedelta(days=1)
_ACTOR = Actor("worker", "process")


def process_name() -> str:
    """Return what this process is called in leases and on the pages."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}"


class Presence:
    """What one worker process says of itself; ``warm`` names the models it holds at that moment."""

    def __init__(
        self, sessions: sessionmaker[Session], settings: Settings, warm: Callable[[], Collection[str]]
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._warm = warm
        self._started_at = utcnow()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, in a thread that ends with the process."""
        threading.Thread(target=self._repeat, name="presence", daemon=True).start()

    def stop(self) -> None:
        """Take the row back: this process ends in order."""
        self._stopped.set()
        try:
            with unit_of_work(self._sessions, _ACTOR) as uow:
                uow.session.execute(delete(WorkerPresence).where(WorkerPresence.owner == process_name()))
        except AppError as exc:
            log.warning("presence.not_taken_back", error=exc)

    def _repeat(self) -> None:
        while True:
            try:
                self.tell(utcnow())
                verify_switches(self._sessions, self._settings)
            except Exception as exc:  # noqa: BLE001 the thread's edge: the worker reads on, and is asked for again
                log.warning("presence.not_told", error=type(exc).__name__)
            if self._stopped.wait(PAUSE_S):
                return

    def tell(self, now: datetime) -> None:
        """Write the row of this process, and forget those of processes that ended long ago."""
        models = describe(self._sessions, self._settings, frozenset(self._warm()))
        with unit_of_work(self._sessions, _ACTOR) as uow:
            row = uow.session.get(WorkerPresence, process_name())
            if row is None:
                row = WorkerPresence(owner=process_name(), started_at=self._started_at, seen_at=now, models=[])
                uow.session.add(row)
            row.seen_at, row.models = now, models
            uow.session.execute(delete(WorkerPresence).where(WorkerPresence.seen_at < now - _FORGET))


def describe(sessions: sessionmaker[Session], settings: Settings, warm: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return cards of the models in force and of the pipeline profiles, from manifests; no weights are read.

    A model that cannot be opened is listed with its fault: its Studies fail until it is mended.
    """
    with sessions() as session:
        now = drafting(session)
    store = ModelStore(models_dir(settings))
    taken = {one.name for one in now.experts}
    found = [_tried("vlm", "vision-language model", lambda: _vlm(vlm_folder(settings, now), warm))]
    listed = read_models_file(settings.models.registry)
    for folder in (settings.models.registry.parent / name for name in listed.experts):
        card = _tried("expert", folder.name, lambda folder=folder: _expert(folder, warm))  # type: ignore[misc]
        if card["name"] not in taken:
            found.append(card)
    found += [
        _tried("expert", one.name, lambda one=one: _expert(store.path(one.folder), warm))  # type: ignore[misc]
        for one in now.experts
    ]
    return [*found, *(_profile(name) for name in sorted(PROFILES))]


def verify_switches(sessions: sessionmaker[Session], settings: Settings) -> int:
    """Compare the files of packages that people propose to activate, and end old proposals; return how many."""
    with unit_of_work(sessions, _ACTOR) as uow:
        model_switching.expire_switches(uow, utcnow())
        waiting = model_switching.to_verify(uow)
    for switch_id, package in waiting:
        found = _compared(settings, package)  # minutes for large weights; no transaction is open
        with unit_of_work(sessions, _ACTOR) as uow:
            model_switching.verified(uow, switch_id, found)
    return len(waiting)


def _compared(settings: Settings, package: Package) -> list[str]:
    try:
        return faults(ModelStore(models_dir(settings)).path(package.folder), package.manifest_sha256)
    except OSError as exc:
        return [f"its folder cannot be read: {exc.strerror or type(exc).__name__}"]


def _tried(role: str, name: str, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return look()
    except (AppError, OSError) as exc:
        words = str(exc) if isinstance(exc, AppError) else f"its folder cannot be read: {exc.strerror}"
        return {"role": role, "name": name, "version": "", "fault": words, "is_warm": False}


def _vlm(folder: Path, warm: Collection[str]) -> dict[str, Any]:
    card = open_vlm_package(folder).card()
    return {
        "role": "vlm",
        "name": card.name,
        "version": card.version,
        "revision": card.revision,
        "licence": card.licence,
        "intended_use": card.intended_use,
        "demonstration": card.demonstration,
        "research_only": card.research_only,
        "weights_sha256": dict(card.weights_sha256),
        "size_bytes": _size(folder),
        "memory_mb": 0,
        "is_warm": card.name in warm,
    }


def _expert(folder: Path, warm: Collection[str]) -> dict[str, Any]:
    package = open_package(folder)
    card, manifest = package.card, package.manifest
    return {
        "role": "expert",
        "name": card.name,
        "version": card.version,
        "revision": "",
        "licence": card.licence,
        "intended_use": manifest.intended_use.statement,
        "demonstration": card.demonstration,
        "research_only": card.research_only,
        "weights_sha256": dict(card.weights_sha256),
        "size_bytes": _size(folder),
        "memory_mb": manifest.budget.memory_mb,
        "is_warm": card.name in warm,
    }


def _profile(name: str) -> dict[str, Any]:
    one = PROFILES[name]
    return {
        "role": "profile",
        "name": name,
        "modalities": sorted(one.modalities),
        "expert": one.expert,
        "minimum_age_years": one.minimum_age_years,
        "minimum_slices": one.minimum_slices,
        "maximum_slice_mm": one.maximum_slice_mm,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
