"""Loaded Experts share one budget; short of memory, a run goes back one step at a time and says so."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import structlog
import torch
from celery.exceptions import SoftTimeLimitExceeded

from config.errors import ConfigurationError, ExpertError, InputTooLargeError, ModelPackageError
from tests.experts_fakes import FakeSource, box, ct_card, ct_study
from worker.experts.memory import MemoryBudget, is_out_of_memory
from worker.experts.registry import ExpertRegistry


def registry(*sources, **changes):
    return ExpertRegistry(sources, **({"memory_mb": 250, "accepted_licences": ["Apache-2.0"]} | changes))


def sources(*names, memory_mb=100.0):
    return [FakeSource(ct_card(name), memory_mb=memory_mb) for name in names]


def test_the_least_recently_used_expert_makes_room():
    held = registry(*sources("A", "B", "C"))
    for name in ("A", "B", "A", "C"):
        held.get(name).run(ct_study(), "")
    assert held.warm() == ("A", "C")


def test_an_unloaded_expert_gives_its_memory_back():
    a, b, c = sources("A", "B", "C")
    budget = MemoryBudget("cpu", 250)
    with budget.lease(a) as expert:
        weights = weakref.ref(expert.weights)
    del expert
    for source in (b, c):
        with budget.lease(source):
            pass
    assert weights() is None


def test_an_expert_made_of_cycles_gives_its_memory_back_at_once():
    (a,) = sources("A")
    budget = MemoryBudget("cpu", 250)
    with budget.lease(a) as expert:
        expert.itself = expert
        weights = weakref.ref(expert.weights)
    del expert
    gc.disable()
    try:
        assert budget.unload_idle() == ("A",)
        assert weights() is None
    finally:
        gc.enable()


def test_what_the_vision_language_model_holds_counts():
    held = registry(*sources("A", "B"), reserved_mb=100)
    for name in ("A", "B"):
        held.get(name).run(ct_study(), "")
    assert held.warm() == ("B",)  # 100 + 100 + 100 do not fit into 250


def test_reserving_more_unloads_idle_experts():
    held = registry(*sources("A", "B"))
    for name in ("A", "B"):
        held.get(name).run(ct_study(), "")
    held.reserve(120)
    assert held.warm() == ("B",)


def test_an_expert_that_no_longer_fits_beside_the_model_is_refused_and_nothing_changes():
    held = registry(*sources("A", "B"))
    with pytest.raises(ConfigurationError, match="A needs 100 MB, the budget is 250 MB, of which the vision-language"):
        held.reserve(151)
    for name in ("A", "B"):
        held.get(name).run(ct_study(), "")
    assert held.warm() == ("A", "B")


def test_an_expert_larger_than_what_is_left_is_refused_at_once():
    with pytest.raises(ConfigurationError, match=r"A needs 100 MB, the budget is 250 MB, of which .* holds 200 MB"):
        registry(*sources("A"), reserved_mb=200)


def test_an_expert_in_use_is_never_unloaded_and_others_wait_for_it():
    a, b = sources("A", "B", memory_mb=200)
    budget = MemoryBudget("cpu", 250)
    got_in, order = threading.Event(), []

    def other():
        with budget.lease(b):
            order.append("B in")
            got_in.set()

    with budget.lease(a):
        thread = threading.Thread(target=other)
        thread.start()
        assert not got_in.wait(0.2)
        assert budget.unload_idle() == ()
        assert budget.warm() == ("A",)
        order.append("A out")
    thread.join(5)
    assert order == ["A out", "B in"]
    assert budget.warm() == ("B",)


@pytest.mark.parametrize(("reserved_mb", "outcome"), [(0, "in"), (220, "refused")])
def test_a_run_that_waits_hears_of_a_new_reservation(reserved_mb, outcome):
    a, b = sources("A", "B")
    budget = MemoryBudget("cpu", 300, reserved_mb=150)
    waiting, outcomes = threading.Event(), []

    def other():
        waiting.set()
        try:
            with budget.lease(b):
                outcomes.append("in")
        except ConfigurationError:
            outcomes.append("refused")

    with budget.lease(a):
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(5)
        thread.join(0.1)
        assert outcomes == []
        budget.reserve(reserved_mb)
        thread.join(5)
    assert outcomes == [outcome]


def test_the_vision_language_model_may_have_the_room_of_idle_experts():
    held = registry(*sources("A", "B"))
    for name in ("A", "B"):
        held.get(name).run(ct_study(), "")
    assert held.unload_idle() == ("A", "B")
    assert held.warm() == ()


def test_many_threads_never_hold_more_than_the_budget():
    held, lock, seen = [], threading.Lock(), []

    def working(card, study, argument):
        with lock:
            held.append(card.name)
            seen.append(len(set(held)))
        threading.Event().wait(0.002)
        with lock:
            held.remove(card.name)
        return box(card, study, argument)

    made = [FakeSource(ct_card(name), working) for name in "ABCDE"]
    shared = registry(*made)
    study = ct_study()
    threads = [
        threading.Thread(target=lambda n=n: [shared.get("ABCDE"[(n * k) % 5]).run(study, "") for k in range(4)])
        for n in range(1, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 24
    assert max(seen) <= 2
    assert len(shared.warm()) <= 2


# --- a package activated at run time -----------------------------------------------------------------------


def test_a_replaced_package_is_used_from_the_next_run_on():
    old = FakeSource(ct_card("A", version="1"))
    new = FakeSource(ct_card("A", version="2"))
    held = registry(old)
    assert held.get("A").run(ct_study(), "").card.version == "1"
    held.replace([new])
    assert held.warm() == ()
    assert [card.version for card in held.cards()] == ["2"]
    assert held.get("A").run(ct_study(), "").card.version == "2"


@pytest.mark.requirement("REQ-MODEL-4")
def test_a_run_under_way_ends_on_the_weights_it_began_with():
    began, go_on = threading.Event(), threading.Event()

    def slow(card, study, argument):
        began.set()
        assert go_on.wait(5)
        return box(card, study, argument)

    held = registry(FakeSource(ct_card("A", version="1"), slow))
    results = []
    thread = threading.Thread(target=lambda: results.append(held.get("A").run(ct_study(), "")))
    thread.start()
    assert began.wait(5)
    held.replace([FakeSource(ct_card("A", version="2"))])
    assert held.warm() == ("A",)  # still in use, and still counted
    go_on.set()
    thread.join(5)
    assert results[0].card.version == "1"
    assert held.warm() == ()


def test_the_same_source_stays_warm_and_a_retired_one_is_gone():
    a, b = sources("A", "B")
    held = registry(a, b)
    for name in ("A", "B"):
        held.get(name).run(ct_study(), "")
    held.replace([a])
    assert held.warm() == ("A",)
    with pytest.raises(ModelPackageError, match="no expert B; available: A"):
        held.get("B")
    held.get("A").run(ct_study(), "")
    assert a.loads == ["cpu"]


def test_a_refused_replacement_changes_nothing():
    (a,) = sources("A")
    held = registry(a)
    with pytest.raises(ModelPackageError, match="licence MIT is not accepted"):
        held.replace([FakeSource(ct_card("B", licence="MIT"))])
    assert [card.name for card in held.cards()] == ["A"]
    held.replace([FakeSource(ct_card("B", licence="MIT"))], accepted_licences=["MIT"])
    assert [card.name for card in held.cards()] == ["B"]


# --- out of memory -----------------------------------------------------------------------------------------


class Short:
    """Raises the error the first ``times`` times it runs."""

    def __init__(self, times, error):
        self.times, self.error = times, error

    def __call__(self, card, study, argument):
        if self.times:
            self.times -= 1
            raise self.error
        return box(card, study, argument)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_first_step_unloads_the_others_and_runs_again(error):
    (other,) = sources("OTHER")
    short = FakeSource(ct_card("A"), Short(1, error))
    held = registry(other, short, device="cuda:0")
    held.get("OTHER").run(ct_study(), "")
    with structlog.testing.capture_logs() as lines:
        result = held.get("A").run(ct_study(), "")
    assert result.notes == ("A was short of memory; it ran again after unloading OTHER.",)
    assert held.warm() == ("A",)
    assert short.loads == ["cuda:0"]
    fallback = [(line["expert"], line["step"]) for line in lines if line["event"] == "expert.memory.short"]
    assert fallback == [("A", "unloaded")]


def test_second_step_runs_on_the_cpu_and_says_so():
    short = FakeSource(ct_card("A"), by_device=lambda device: box if device == "cpu" else Short(99, MemoryError()))
    held = registry(short, device="cuda:0")
    with structlog.testing.capture_logs() as lines:
        result = held.get("A").run(ct_study(), "")
    assert result.notes == ("A was short of memory on cuda:0; it ran on the CPU instead.",)
    assert short.loads == ["cuda:0", "cpu"]
    assert [line["step"] for line in lines if line["event"] == "expert.memory.short"] == ["unloaded", "cpu"]
    assert held.warm() == ()  # neither the copy that failed nor the one on the CPU is kept


def test_memory_that_is_short_while_loading_goes_the_same_way():
    def by_device(device):
        if device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return box

    result = registry(FakeSource(ct_card("A"), by_device=by_device), device="cuda").get("A").run(ct_study(), "")
    assert "ran on the CPU" in result.notes[0]


def test_short_of_memory_everywhere_is_not_assessed():
    short = FakeSource(ct_card("A"), Short(99, MemoryError()))
    with pytest.raises(ExpertError, match="A: not assessed: out of memory"):
        registry(short, device="cuda").get("A").run(ct_study(), "")
    assert short.loads == ["cuda", "cpu"]


def test_on_the_cpu_there_is_one_step_only():
    short = FakeSource(ct_card("A"), Short(99, MemoryError()))
    with pytest.raises(ExpertError, match="out of memory"):
        registry(short).get("A").run(ct_study(), "")
    assert short.loads == ["cpu"]


def test_what_the_failed_run_held_is_free_before_the_next_one():
    alive = []

    class Holder:
        pass

    def hungry(card, study, argument):
        alive.append(sum(reference() is not None for reference in references))
        held = Holder()
        references.append(weakref.ref(held))
        raise MemoryError

    references: list[weakref.ref] = []
    with pytest.raises(ExpertError):
        registry(FakeSource(ct_card("A"), hungry), device="cuda").get("A").run(ct_study(), "")
    assert alive == [0, 0, 0]


def test_notes_of_the_expert_itself_are_kept():
    def noting(card, study, argument):
        if calls.append(1) or len(calls) == 1:
            raise MemoryError
        return replace(box(card, study, argument), notes=("The volume was read in slabs.",))

    calls: list[int] = []
    result = registry(FakeSource(ct_card("A"), noting)).get("A").run(ct_study(), "")
    assert result.notes[0] == "The volume was read in slabs."
    assert result.notes[1] == "A was short of memory; it ran again after releasing unused memory."


# --- whatever an Expert does -------------------------------------------------------------------------------


class TheirOwnError(Exception):
    """What somebody else's package may raise."""


@pytest.mark.parametrize("error", [ValueError("patient DOE^JANE"), KeyError("x"), TheirOwnError("x"), OSError("x")])
def test_an_expert_that_raises_anything_has_failed_and_nothing_it_said_is_repeated(error):
    with pytest.raises(ExpertError, match=f"A failed: {type(error).__name__}$"):
        registry(FakeSource(ct_card("A"), Short(1, error))).get("A").run(ct_study(), "")


@pytest.mark.parametrize("error", [InputTooLargeError("too large"), ModelPackageError("altered")])
def test_errors_of_ours_pass_as_they_are(error):
    source = FakeSource(ct_card("A"), Short(1, error))
    with pytest.raises(type(error), match=str(error)):
        registry(source, device="cuda").get("A").run(ct_study(), "")
    assert source.loads == ["cuda"]


def test_the_time_limit_of_the_task_is_no_failure_of_the_expert():
    with pytest.raises(SoftTimeLimitExceeded):
        registry(FakeSource(ct_card("A"), Short(1, SoftTimeLimitExceeded()))).get("A").run(ct_study(), "")


def test_a_result_that_breaks_the_contract_is_refused_in_every_run():
    def wrong(card, study, argument):
        good = box(card, study, argument)
        return replace(good, labels=good.labels[:-1])

    with pytest.raises(ExpertError, match="A broke its contract"):
        registry(FakeSource(ct_card("A"), wrong)).get("A").run(ct_study(), "")


def test_other_errors_are_not_taken_for_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(torch.OutOfMemoryError())
