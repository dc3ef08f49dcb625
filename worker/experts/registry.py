"""The registry of Experts: what is really available, checked by hash, kept warm within a memory budget."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, Self

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import ConfigurationError, ModelPackageError
from worker.experts.base import Expert, ModelCard
from worker.experts.packages import IntendedUse, ModelPackage, open_package

log = structlog.get_logger()

ENTRY_POINT_GROUP = "firstread.experts"


class ExpertSource(Protocol):
    """Where one Expert comes from; what a ``firstread.experts`` entry point's callable returns."""

    @property
    def card(self) -> ModelCard:
        """The promise, readable without loading weights."""
        ...

    @property
    def intended_use(self) -> IntendedUse:
        """What it may be used on."""
        ...

    @property
    def memory_mb(self) -> float:
        """Memory it holds while loaded and running."""
        ...

    def load(self, device: str) -> Expert:
        """Build the Expert on ``device``; checks every file first."""
        ...


@dataclass(frozen=True)
class PackageSource:
    """An Expert that lives in a model package."""

    package: ModelPackage

    @property
    def card(self) -> ModelCard:
        """The promise of the manifest."""
        return self.package.card

    @property
    def intended_use(self) -> IntendedUse:
        """The manifest's intended use."""
        return self.package.manifest.intended_use

    @property
    def memory_mb(self) -> float:
        """The manifest's memory budget."""
        return self.package.manifest.budget.memory_mb

    def load(self, device: str) -> Expert:
        """Check every hash and build the Expert.

        Raises:
            ModelPackageError: files or weights are not what the manifest says.
        """
        self.package.verify()
        return _build(self.package, device)


def _build(package: ModelPackage, device: str) -> Expert:
    # torch, monai and torchxrayvision take seconds to import: only the class that is needed is.
    match package.manifest.kind:
        case "torchxrayvision":
            from worker.experts.cxr import ChestXrayExpert

            return ChestXrayExpert.load(package, device=device)
        case "vista3d":
            from worker.experts.vista3d import Vista3dExpert

            return Vista3dExpert.load(package, device=device)
        case "brats":
            from worker.experts.brats import BratsExpert

            return BratsExpert.load(package, device=device)


class ModelsFile(BaseModel):
    """``config/models.yaml``: which packages this site uses.

    Attributes:
        experts: package folders, absolute or relative to the file.
        accepted_licences: licences of weights the site has accepted; a package with another is refused.
        memory_mb: how much memory loaded Experts may hold together.
        device: torch device they run on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: tuple[str, ...] = ()
    accepted_licences: tuple[str, ...] = ()
    memory_mb: float = Field(default=8192, gt=0)
    device: str = "cpu"


class ExpertRegistry:
    """Experts by name. Opening checks every package; loading checks its hashes again.

    Experts are loaded on first use and unloaded, least recently used first, when the budget is
    full. One process, any number of threads.
    """

    def __init__(
        self,
        sources: Iterable[ExpertSource],
        *,
        memory_mb: float,
        accepted_licences: Iterable[str],
        device: str = "cpu",
    ) -> None:
        """Take the sources; none is loaded yet.

        Raises:
            ConfigurationError: two sources of one name, or one larger than the whole budget.
            ModelPackageError: a licence nobody accepted.
        """
        self._sources: dict[str, ExpertSource] = {}
        self._loaded: OrderedDict[str, Expert] = OrderedDict()
        self._memory_mb = memory_mb
        self._device = device
        self._lock = threading.Lock()
        accepted = frozenset(accepted_licences)
        for source in sources:
            self._add(source, accepted)

    @classmethod
    def open(cls, models_file: Path, *, plugins: bool = True) -> Self:
        """Open the packages ``models_file`` lists and the installed plug-ins, checking every hash.

        Args:
            models_file: ``config/models.yaml``.
            plugins: whether installed ``firstread.experts`` entry points join.

        Raises:
            ConfigurationError: the file is missing or is no models file.
            ModelPackageError: a package has missing, altered or surplus files, or no accepted licence.
        """
        listed = read_models_file(models_file)
        packages = [open_package(models_file.parent / folder) for folder in listed.experts]
        for package in packages:
            package.verify()
        sources: list[ExpertSource] = [PackageSource(package) for package in packages]
        if plugins:
            sources += installed_sources()
        return cls(
            sources,
            memory_mb=listed.memory_mb,
            accepted_licences=listed.accepted_licences,
            device=listed.device,
        )

    def cards(self) -> tuple[ModelCard, ...]:
        """Return the ModelCards of every available Expert, in configuration order."""
        return tuple(source.card for source in self._sources.values())

    def intended_use(self, name: str) -> IntendedUse:
        """Return what the Expert ``name`` may be used on.

        Raises:
            ModelPackageError: no such Expert.
        """
        return self._source(name).intended_use

    def get(self, name: str) -> Expert:
        """Return the Expert ``name``, loaded and warm.

        Raises:
            ModelPackageError: no such Expert, or its files are not what the manifest says.
        """
        source = self._source(name)
        with self._lock:
            if name not in self._loaded:
                self._make_room(source.memory_mb)
                self._loaded[name] = source.load(self._device)
                log.info("expert.loaded", expert=name)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def warm(self) -> tuple[str, ...]:
        """Return the names of loaded Experts, least recently used first."""
        with self._lock:
            return tuple(self._loaded)

    def _source(self, name: str) -> ExpertSource:
        if name not in self._sources:
            raise ModelPackageError(f"no expert {name}; available: {', '.join(self._sources) or 'none'}")
        return self._sources[name]

    def _add(self, source: ExpertSource, accepted: frozenset[str]) -> None:
        card = source.card
        if card.name in self._sources:
            raise ConfigurationError(f"expert {card.name} is configured twice")
        if card.licence not in accepted:
            raise ModelPackageError(f"expert {card.name}: licence {card.licence} is not accepted by this site")
        if source.memory_mb > self._memory_mb:
            raise ConfigurationError(
                f"expert {card.name} needs {source.memory_mb:g} MB, the budget is {self._memory_mb:g} MB"
            )
        self._sources[card.name] = source

    def _make_room(self, needed_mb: float) -> None:
        used = {name: self._sources[name].memory_mb for name in self._loaded}
        while used and sum(used.values()) + needed_mb > self._memory_mb:
            oldest = next(iter(self._loaded))
            del self._loaded[oldest], used[oldest]
            log.info("expert.unloaded", expert=oldest)


def read_models_file(path: Path) -> ModelsFile:
    """Read ``config/models.yaml``.

    Raises:
        ConfigurationError: it is missing or is no models file.
    """
    try:
        content: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelsFile.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as exc:
        raise ConfigurationError(f"{path.name} is no models file: {exc}") from exc


def installed_sources() -> list[ExpertSource]:
    """Return what the installed ``firstread.experts`` entry points offer, by entry point name."""
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return [point.load()() for point in found]
