"""The models of one worker process: opened when first needed, exchanged when people activate or retire others."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import structlog
import torch
from sqlalchemy.orm import Session, sessionmaker

from config.errors import ModelPackageError
from config.settings import Settings
from db.audit import AuditTag
from db.packages import ActivePackage, list_packages
from db.types import PackageKind, PackageState
from db.uow import Actor, unit_of_work
from worker.experts.memory import release_memory
from worker.experts.packages import open_package
from worker.experts.registry import ExpertRegistry
from worker.experts.sources import ExpertSource, PackageSource, read_models_file
from worker.store.active import Drafting, drafting, expert_offer, models_dir, vlm_folder
from worker.store.folders import ModelStore
from worker.vlm.backends import VisionLanguageModel
from worker.vlm.gathering import GatheringVlm
from worker.vlm.opening import open_vlm
from worker.vlm.package import open_vlm_package

log = structlog.get_logger()

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Models = tuple[VisionLanguageModel, ExpertRegistry]


class ModelsInUse:
    """The vision-language model and the Experts in force, for any number of threads."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        """Open nothing yet: models load with the first Study."""
        self._sessions = sessions
        self._settings = settings
        self._lock = threading.Lock()
        self._now: Drafting | None = None
        self._folder: Path | None = None
        self._vlm: VisionLanguageModel | None = None
        self._experts: ExpertRegistry | None = None

    def current(self) -> Models:
        """Return the models in force at this moment; what was activated since the last Study is opened now.

        Raises:
            ModelPackageError: a package is missing, altered or retired.
            ConfigurationError: the models file cannot be used.
        """
        with self._lock:
            with self._sessions() as session:
                now = drafting(session)
            if now != self._now or self._vlm is None or self._experts is None:
                self._vlm, self._experts = self._opened(now)
                self._now = now
                self._record(self._vlm, self._experts)
            self._experts.ask_unavailable()
            return self._vlm, self._experts

    def recorded(self, models: Sequence[Mapping[str, Any]]) -> Models:
        """Return the models of a provenance record, retired ones too, where their weights are still here.

        Args:
            models: ``models`` of the record, the language model first.

        Raises:
            ModelPackageError: weights of the record are not installed any more.
        """
        vlm, experts = self.current()
        if vlm.card.weights_sha256 != models[0]["weights_sha256"]:
            vlm = self._open_vlm(self._find_vlm(models[0]))
        offered = {card.name: card.weights_sha256 for card in experts.cards()}
        missing = [one for one in models[1:] if offered.get(one["name"]) != one["weights_sha256"]]
        if missing:
            experts = self._experts_with([self._find_expert(one) for one in missing], experts)
        return vlm, experts

    def with_vlm(self, folder: str) -> Models:
        """Return a package of the store in place of the language model in force, beside the Experts in force.

        On a GPU the model in force makes room, and is opened again with the next Study.

        Args:
            folder: of the package, relative to the store.

        Raises:
            ModelPackageError: it is missing, altered or retired.
        """
        with self._sessions() as session:
            package = next((one for one in list_packages(session) if one.folder == folder), None)
        if package is None or package.state is PackageState.RETIRED:
            raise ModelPackageError("this model is not in the store any more, or was retired")
        wanted = ActivePackage(**{name: getattr(package, name) for name in ActivePackage.__dataclass_fields__})
        path = vlm_folder(self._settings, Drafting((wanted,), frozenset()))
        vlm, experts = self.current()
        if path == self._folder:
            return vlm, experts
        if self._device() != "cpu":
            with self._lock:
                self._vlm = None
            del vlm
            release_memory()
        other = self._open_vlm(path)
        self._record(other, experts)
        return other, experts

    def warm(self) -> frozenset[str]:
        """Return the names of the models that are loaded at this moment; never waits for one that is being opened."""
        vlm, experts = self._vlm, self._experts
        return frozenset({*((vlm.card.name,) if vlm else ()), *(experts.warm() if experts else ())})

    def reading(self, vlm: VisionLanguageModel) -> AbstractContextManager[None]:
        """Mark the time in which a Reading uses ``vlm``, where Readings share it."""
        return vlm.reading() if isinstance(vlm, GatheringVlm) else nullcontext()

    def _opened(self, now: Drafting) -> Models:
        folder = vlm_folder(self._settings, now)
        offer = expert_offer(self._settings, now)
        if self._vlm is None or folder != self._folder:
            # two large models do not fit beside each other
            self._vlm = None
            if self._experts is not None:
                self._experts.unload_idle()
            release_memory()
            self._vlm = self._open_vlm(folder)
            self._folder = folder
        listed = read_models_file(self._settings.models.registry)
        reserved_mb = self._held_mb(self._vlm, listed.device)
        if self._experts is None:
            experts = ExpertRegistry(
                offer.sources,
                memory_mb=listed.memory_mb,
                accepted_licences=offer.accepted_licences,
                device=listed.device,
                reserved_mb=reserved_mb,
                remotes=listed.remotes,
            )
            return self._vlm, experts
        # the new Experts are judged beside the new model, not the old ones
        self._experts.reserve(0.0)
        self._experts.replace(offer.sources, accepted_licences=offer.accepted_licences)
        self._experts.reserve(reserved_mb)
        return self._vlm, self._experts

    def _open_vlm(self, folder: Path) -> VisionLanguageModel:
        worker = self._settings.worker
        if worker.torch_threads:
            torch.set_num_threads(worker.torch_threads)
        vlm = open_vlm(
            folder,
            device=self._device(),
            dtype=_DTYPES.get(worker.dtype),
            quantization=worker.quantization,
            device_map=worker.device_map,
            style=self._settings.models.prompt_style or None,
            kv_cache_mb=worker.kv_cache_mb,
        )
        return GatheringVlm(vlm) if worker.together > 1 else vlm

    def _device(self) -> str:
        device = self._settings.worker.device
        if device != "auto":
            return device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _held_mb(self, vlm: VisionLanguageModel, experts_device: str) -> float:
        """Return what the language model takes of the Experts' device, keys and values included."""
        weights_mb = float(vlm.runtime.get("weights_mb", 0.0))
        if not weights_mb or torch.device(self._device()).type != torch.device(experts_device).type:
            return 0.0
        return weights_mb + self._settings.worker.kv_cache_mb

    def _record(self, vlm: VisionLanguageModel, experts: ExpertRegistry) -> None:
        """Say in the audit log which models this process works with from now on."""
        card = vlm.card
        log.info("model.loaded", model=card.name, version=card.version)
        with unit_of_work(self._sessions, Actor("worker", "process")) as uow:
            uow.audit(
                AuditTag.MODEL_LOADED,
                object_type="model",
                object_id=card.name[:64],
                detail={
                    "version": card.version,
                    "weights_sha256": dict(card.weights_sha256),
                    "experts": [f"{one.name} {one.version}" for one in experts.cards()],
                },
            )

    def _find_vlm(self, recorded: Mapping[str, Any]) -> Path:
        folders = [*self._stored(PackageKind.VLM), self._settings.vlm_dir]
        for folder in folders:
            if folder.is_dir() and dict(open_vlm_package(folder).files) == recorded["weights_sha256"]:
                return folder
        raise _not_installed(recorded)

    def _find_expert(self, recorded: Mapping[str, Any]) -> ExpertSource:
        listed = read_models_file(self._settings.models.registry)
        configured = [self._settings.models.registry.parent / name for name in listed.experts]
        for folder in [*self._stored(PackageKind.EXPERT), *configured]:
            package = open_package(folder)
            if dict(package.card.weights_sha256) == recorded["weights_sha256"]:
                package.verify()
                return PackageSource(package)
        raise _not_installed(recorded)

    def _stored(self, kind: PackageKind) -> list[Path]:
        store = ModelStore(models_dir(self._settings))
        with self._sessions() as session:
            return [store.path(one.folder) for one in list_packages(session) if one.kind is kind]

    def _experts_with(self, wanted: Sequence[ExpertSource], current: ExpertRegistry) -> ExpertRegistry:
        """Return a registry of its own in which ``wanted`` take the place of what drafts today."""
        listed = read_models_file(self._settings.models.registry)
        names = {source.card.name for source in wanted}
        sources = [*wanted, *(source for source in current.sources() if source.card.name not in names)]
        return ExpertRegistry(
            sources,
            memory_mb=listed.memory_mb,
            accepted_licences={source.card.licence for source in sources},
            device=listed.device,
        )


def _not_installed(recorded: Mapping[str, Any]) -> ModelPackageError:
    return ModelPackageError(
        f"{recorded['name']} {recorded['version']} is not installed any more, its weights are gone"
    )
