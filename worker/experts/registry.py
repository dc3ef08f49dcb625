"""The registry of Experts: what is really available, checked by hash, kept warm within a memory budget."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from config.errors import ConfigurationError, ExpertError, ModelPackageError, PeerUnavailableError
from worker.experts.base import Expert, ModelCard
from worker.experts.contract import check_card
from worker.experts.memory import GuardedExpert, MemoryBudget
from worker.experts.packages import IntendedUse, open_package
from worker.experts.sources import (
    ExpertSource,
    PackageSource,
    RemoteEntry,
    installed_sources,
    origin,
    read_models_file,
)

log = structlog.get_logger()

_ASK_AGAIN_S = 60.0  # a machine that is down is not asked at every Study


@dataclass(frozen=True)
class Unavailable:
    """A configured Expert that cannot be offered now, and why."""

    entry: RemoteEntry
    why: str


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
        reserved_mb: float = 0.0,
        remotes: Iterable[RemoteEntry] = (),
    ) -> None:
        """Take the sources, none is loaded yet, and ask the remotes for their cards.

        Args:
            sources: packages and plug-ins.
            memory_mb: what ``device`` gives to all models together.
            accepted_licences: licences of weights the site has accepted.
            device: torch device of the Experts.
            reserved_mb: what the vision-language model holds of ``memory_mb``.
            remotes: Experts on other machines; one that does not answer is listed as unavailable.

        Raises:
            ConfigurationError: two sources of one name, or one larger than the whole budget.
            ModelPackageError: a licence nobody accepted, or a card no Trigger could name.
        """
        self._budget = MemoryBudget(device, memory_mb, reserved_mb=reserved_mb)
        self._accepted = frozenset(accepted_licences)
        self._lock = threading.Lock()
        self._unavailable = tuple(Unavailable(entry, "was not asked yet") for entry in remotes)
        self._sources = self._checked(sources, self._unavailable)
        self._asked = 0.0
        self._ask_unavailable()

    @classmethod
    def open(cls, models_file: Path, *, plugins: bool = True, remotes: bool = True, reserved_mb: float = 0.0) -> Self:
        """Open the packages ``models_file`` lists, the installed plug-ins and the remotes, checking every hash.

        Args:
            models_file: ``config/models.yaml``.
            plugins: whether installed ``firstread.experts`` entry points join.
            remotes: whether Experts on other machines join.
            reserved_mb: what the vision-language model holds of the device's memory.

        Raises:
            ConfigurationError: the file is missing or is no models file.
            ModelPackageError: a package has missing, altered or surplus files, or no accepted licence;
                a plug-in is broken.
        """
        listed = read_models_file(models_file)
        return cls(
            package_sources([models_file.parent / folder for folder in listed.experts], plugins=plugins),
            memory_mb=listed.memory_mb,
            accepted_licences=listed.accepted_licences,
            device=listed.device,
            reserved_mb=reserved_mb,
            remotes=listed.remotes if remotes else (),
        )

    def cards(self) -> tuple[ModelCard, ...]:
        """Return the ModelCards of every available Expert, in configuration order."""
        return tuple(source.card for source in self._sources.values())

    def sources(self) -> tuple[ExpertSource, ...]:
        """Return where every available Expert comes from, in configuration order."""
        return tuple(self._sources.values())

    def unavailable(self) -> tuple[Unavailable, ...]:
        """Return the remotes that are not offered because they did not answer."""
        return self._unavailable

    def intended_use(self, name: str) -> IntendedUse:
        """Return what the Expert ``name`` may be used on.

        Raises:
            ExpertError: it runs on another machine that did not answer.
            ModelPackageError: no such Expert.
        """
        return self._source(name).intended_use

    def get(self, name: str) -> Expert:
        """Return the Expert ``name``; it loads when it runs and stays warm while there is room.

        Its ``run`` checks what it returns and falls back when memory is short, see `GuardedExpert`.

        Raises:
            ExpertError: it runs on another machine that did not answer: not assessed, and why.
            ModelPackageError: no such Expert.
        """
        return GuardedExpert(self._source(name), self._budget)

    def warm(self) -> tuple[str, ...]:
        """Return the names of loaded Experts, least recently used first."""
        return self._budget.warm()

    def unload_idle(self) -> tuple[str, ...]:
        """Unload every Expert no run uses, for a vision-language model that needs the room; return their names."""
        return self._budget.unload_idle()

    def reserve(self, reserved_mb: float) -> None:
        """Set what the vision-language model holds of the device's memory.

        Raises:
            ConfigurationError: an Expert no longer fits beside it.
        """
        with self._lock:
            before = self._budget.reserved_mb
            self._budget.reserve(reserved_mb)
            try:
                for source in self._sources.values():
                    self._budget.require_fits(source)
            except ConfigurationError:
                self._budget.reserve(before)
                raise

    def replace(self, sources: Iterable[ExpertSource], *, accepted_licences: Iterable[str] | None = None) -> None:
        """Offer these packages and plug-ins from now on; remotes stay. Nothing changes when one is refused.

        An Expert whose source is equal to what was there stays warm; a run that is under way ends on the
        weights it began with.

        Args:
            sources: packages and plug-ins, as for the constructor.
            accepted_licences: the licences accepted by now; as before when None.

        Raises:
            ConfigurationError, ModelPackageError: as for the constructor.
        """
        with self._lock:
            before, accepted = self._sources, self._accepted
            remote = [source for source in before.values() if is_remote(source)]
            if accepted_licences is not None:
                self._accepted = frozenset(accepted_licences)
            try:
                found = self._checked([*sources, *remote], self._unavailable)
            except (ConfigurationError, ModelPackageError):
                self._accepted = accepted
                raise
            # an equal source keeps its loaded weights
            self._sources = {name: old if (old := before.get(name)) == new else new for name, new in found.items()}
            for name, old in before.items():
                if self._sources.get(name) is not old:
                    self._budget.retire(old)

    def ask_unavailable(self, *, after_s: float = _ASK_AGAIN_S) -> None:
        """Ask remotes again that did not answer ``after_s`` ago or earlier; one that does is offered from now on."""
        with self._lock:
            if not self._unavailable or time.monotonic() - self._asked < after_s:
                return
            try:
                self._ask_unavailable()
            except (ConfigurationError, ModelPackageError) as exc:
                # what would refuse a start is no reason to fail a Study that never knew this Expert
                log.warning("expert.refused", error=exc)

    def _ask_unavailable(self) -> None:
        from worker.experts.remote import RemoteSource

        self._asked = time.monotonic()
        answered: list[ExpertSource] = []
        silent: list[Unavailable] = []
        for entry in (one.entry for one in self._unavailable):
            try:
                answered.append(RemoteSource.open(entry))
            except PeerUnavailableError as exc:
                log.warning("expert.unavailable", expert=entry.name, error=exc)
                silent.append(Unavailable(entry, str(exc)))
        self._sources = self._checked([*self._sources.values(), *answered], silent)
        self._unavailable = tuple(silent)

    def _source(self, name: str) -> ExpertSource:
        absent = next((one for one in self._unavailable if one.entry.name == name), None)
        if absent is not None:
            raise ExpertError(f"{name} is unavailable: {absent.why}")
        if name not in self._sources:
            raise ModelPackageError(f"no expert {name}; available: {', '.join(self._sources) or 'none'}")
        return self._sources[name]

    def _checked(self, sources: Iterable[ExpertSource], unavailable: Iterable[Unavailable]) -> dict[str, ExpertSource]:
        """Return the sources by name, each one that this site may use and a Trigger can name."""
        found: dict[str, ExpertSource] = {}
        # a name is taken by a remote that is down, too
        taken: dict[str, str] = {}
        for absent in unavailable:
            _take(taken, absent.entry.name, f"remote {absent.entry.url}")
        for source in sources:
            card = source.card
            check_card(card)
            _take(taken, card.name, origin(source))
            if card.licence not in self._accepted:
                raise ModelPackageError(f"expert {card.name}: licence {card.licence} is not accepted by this site")
            self._budget.require_fits(source)
            found[card.name] = source
        return found


def _take(taken: dict[str, str], name: str, where: str) -> None:
    if name in taken:
        raise ConfigurationError(f"expert {name} is configured twice: {taken[name]} and {where}")
    taken[name] = where


def package_sources(folders: Iterable[Path], *, plugins: bool = True) -> list[ExpertSource]:
    """Return the packages in ``folders``, every file checked, and the installed plug-ins.

    Raises:
        ModelPackageError: a package has missing, altered or surplus files, or a plug-in is broken.
    """
    packages = [open_package(folder) for folder in folders]
    for package in packages:
        package.verify()
    return [*(PackageSource(package) for package in packages), *(installed_sources() if plugins else ())]


def is_remote(source: ExpertSource) -> bool:
    """Return whether an Expert runs on another machine."""
    from worker.experts.remote import RemoteSource

    return isinstance(source, RemoteSource)
