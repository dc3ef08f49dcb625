"""Memory of one device: Experts kept warm within a budget, and what happens when memory runs out all the same."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from config.errors import AppError, ConfigurationError, ExpertError
from worker.experts.base import Expert, ExpertInput, ExpertResult, ModelCard
from worker.experts.contract import check_result
from worker.experts.sources import ExpertSource

log = structlog.get_logger()

_cpu_turn = threading.Lock()  # a fallback needs the host's memory: one at a time


@dataclass(eq=False)
class _Warm:
    """A loaded Expert, and how many runs use it now."""

    source: ExpertSource
    expert: Expert
    users: int = 0
    retired: bool = False


class MemoryBudget:
    """Loaded Experts of one device beside the vision-language model, least recently used first out.

    An Expert in use is never unloaded: a run that finds no room waits until another one ends. Any number
    of threads.
    """

    def __init__(self, device: str, memory_mb: float, *, reserved_mb: float = 0.0) -> None:
        """Start empty.

        Args:
            device: torch device of the Experts.
            memory_mb: what the device gives to all models together.
            reserved_mb: what the vision-language model holds of it.
        """
        self.device = device
        self._memory_mb = memory_mb
        self.reserved_mb = reserved_mb
        self._warm: list[_Warm] = []
        self._changed = threading.Condition()

    def require_fits(self, source: ExpertSource) -> None:
        """Refuse an Expert that would not fit even alone.

        Raises:
            ConfigurationError: it needs more than the budget leaves beside the vision-language model.
        """
        if source.memory_mb > self._memory_mb - self.reserved_mb:
            held = f", of which the vision-language model holds {self.reserved_mb:g} MB" if self.reserved_mb else ""
            raise ConfigurationError(
                f"expert {source.card.name} needs {source.memory_mb:g} MB, the budget is {self._memory_mb:g} MB{held}"
            )

    def reserve(self, reserved_mb: float) -> None:
        """Set what the vision-language model holds; idle Experts that no longer fit are unloaded."""
        with self._changed:
            self.reserved_mb = reserved_mb
            while self._used_mb() > self._memory_mb and self._unload_oldest():
                pass
            self._changed.notify_all()

    @contextmanager
    def lease(self, source: ExpertSource) -> Iterator[Expert]:
        """Lend the Expert of ``source``, loaded; it stays loaded until the lease ends, and after that while it fits.

        Raises:
            ConfigurationError: it does not fit even alone.
            ModelPackageError: its files are not what the manifest says.
        """
        warm = self._take(source)
        try:
            yield warm.expert
        finally:
            self._give_back(warm)

    def unload_idle(self, *, keep: ExpertSource | None = None) -> tuple[str, ...]:
        """Unload every Expert no run uses, except that of ``keep``, and return their names."""
        with self._changed:
            return self._unload(lambda warm: warm.users == 0 and warm.source is not keep)

    def retire(self, source: ExpertSource) -> None:
        """Unload the Expert of ``source`` now, or as soon as the runs that use it have ended."""
        with self._changed:
            for warm in self._warm:
                warm.retired = warm.retired or warm.source is source
            self._unload(lambda warm: warm.retired and warm.users == 0)

    def warm(self) -> tuple[str, ...]:
        """Return the names of loaded Experts, least recently used first."""
        with self._changed:
            return tuple(warm.source.card.name for warm in self._warm)

    def _take(self, source: ExpertSource) -> _Warm:
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready(source))
            warm = self._find(source)
            if warm is None:
                warm = _Warm(source, source.load(self.device))
                log.info("expert.loaded", expert=source.card.name)
            else:
                self._warm.remove(warm)
            self._warm.append(warm)
            warm.users += 1
            return warm

    def _is_ready(self, source: ExpertSource) -> bool:
        """Return whether the Expert is loaded or has room now; one that never will is refused, also while it waits."""
        self.require_fits(source)
        return self._find(source) is not None or self._make_room(source.memory_mb)

    def _give_back(self, warm: _Warm) -> None:
        with self._changed:
            warm.users -= 1
            self._unload(lambda one: one.retired and one.users == 0)
            self._changed.notify_all()

    def _find(self, source: ExpertSource) -> _Warm | None:
        return next((warm for warm in self._warm if warm.source is source and not warm.retired), None)

    def _used_mb(self) -> float:
        return self.reserved_mb + sum(warm.source.memory_mb for warm in self._warm)

    def _make_room(self, needed_mb: float) -> bool:
        """Unload idle Experts until ``needed_mb`` fit; nothing at all when that would not be enough."""
        idle_mb = sum(warm.source.memory_mb for warm in self._warm if warm.users == 0)
        if self._used_mb() - idle_mb + needed_mb > self._memory_mb:
            return False
        while self._used_mb() + needed_mb > self._memory_mb:
            self._unload_oldest()
        return True

    def _unload_oldest(self) -> bool:
        oldest = next((warm.source for warm in self._warm if warm.users == 0), None)
        return oldest is not None and bool(self._unload(lambda warm: warm.source is oldest and warm.users == 0))

    def _unload(self, doomed: Callable[[_Warm], bool]) -> tuple[str, ...]:
        names = tuple(warm.source.card.name for warm in self._warm if doomed(warm))
        self._warm = [warm for warm in self._warm if not doomed(warm)]
        if names:
            release_memory()
        for name in names:
            log.info("expert.unloaded", expert=name)
        return names


@dataclass(frozen=True)
class GuardedExpert:
    """An Expert as the pipeline sees it: loaded when it runs, held to its contract, one step less when memory is short.

    Short of memory it unloads the other idle Experts and runs again; then it runs on the CPU; then it is
    listed as not assessed. What was done is in the notes of the result.
    """

    source: ExpertSource
    budget: MemoryBudget

    @property
    def card(self) -> ModelCard:
        """What this Expert promises."""
        return self.source.card

    def run(self, study: ExpertInput, argument: str) -> ExpertResult:
        """Answer one Trigger.

        Raises:
            ExpertError: it failed, broke its contract, or memory was short on every device.
            ModelPackageError: its files, or the other machine's model, are not what was opened.
        """
        result = self._attempt(study, argument)
        if result is not None:
            return result
        name, device = self.card.name, self.budget.device
        self._fell_back("unloaded")
        freed = self.budget.unload_idle(keep=self.source)
        release_memory()
        others = f"unloading {' and '.join(freed)}" if freed else "releasing unused memory"
        note = f"{name} was short of memory; it ran again after {others}."
        result = self._attempt(study, argument)
        if result is None and device != "cpu":
            self._fell_back("cpu")
            self.budget.unload_idle()
            note = f"{name} was short of memory on {device}; it ran on the CPU instead."
            with _cpu_turn:
                result = self._attempt(study, argument, device="cpu")
        if result is None:
            raise ExpertError(f"{name}: not assessed: out of memory")
        return replace(result, notes=(*result.notes, note))

    def _fell_back(self, step: str) -> None:
        log.warning("expert.memory.short", expert=self.card.name, step=step)

    def _attempt(self, study: ExpertInput, argument: str, *, device: str = "") -> ExpertResult | None:
        """Return the checked result, None when memory ran out; the error is gone then, and what its frames held."""
        name = self.card.name
        try:
            if device:
                result = self.source.load(device).run(study, argument)
            else:
                with self.budget.lease(self.source) as expert:
                    result = expert.run(study, argument)
            check_result(self.card, study, result)
        except (AppError, SoftTimeLimitExceeded):
            raise
        # an Expert may be anybody's code: whatever it raises, its part is "not assessed" and the rest is drafted
        except Exception as exc:
            if is_out_of_memory(exc):
                return None
            log.warning("expert.failed", expert=name, error=type(exc).__name__)
            raise ExpertError(f"{name} failed: {type(exc).__name__}") from exc
        return result


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether an error says that no memory was left, on any device."""
    if isinstance(exc, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(exc, RuntimeError):
        return False
    # torch's allocator on the CPU has no class of its own
    return isinstance(exc, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(exc)


def release_memory() -> None:
    """Give memory of objects nobody refers to back, on the host and on the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
