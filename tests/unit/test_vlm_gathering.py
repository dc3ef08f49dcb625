"""Readings that run side by side share one batch, and nobody gets another one's answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from config.errors import GenerationBudgetError, ModelOutputError
from tests.fakes import VLM_CARD
from worker.vlm.backends import Answer, Conversation, Generation
from worker.vlm.gathering import GatheringVlm
from worker.vlm.templates import Message


@dataclass
class EchoVlm:
    """Answers each conversation with its own last words; remembers how many came at once."""

    card = VLM_CARD
    runtime = {"dtype": "none"}  # noqa: RUF012
    batches: list[int] = field(default_factory=list)

    def generate_batch(self, conversations, *, max_new_tokens):
        self.batches.append(len(conversations))
        if any(one.messages[-1].text == "break" for one in conversations):
            raise ModelOutputError("no number")
        return [
            GenerationBudgetError("did not stop") if one.messages[-1].text == "endless"
            else Generation(one.messages[-1].text, 1, True)
            for one in conversations
        ]  # fmt: skip

    def answer_each(self, messages, images, questions):
        return [Answer("yes", 1.0, True) for _ in questions]


def ask(vlm, words, started=None):
    with vlm.reading():
        if started is not None:
            started.wait(5)
        return vlm.generate([Message("user", words)], [], max_new_tokens=8).text


def test_readings_side_by_side_are_answered_in_one_batch_each_with_its_own():
    inner = EchoVlm()
    vlm = GatheringVlm(inner, wait_s=5)
    started = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: ask(vlm, f"study {n}", started), range(8)))
    assert said == [f"study {n}" for n in range(8)]
    assert inner.batches == [8]


def test_a_reading_alone_does_not_wait():
    inner = EchoVlm()
    assert ask(GatheringVlm(inner, wait_s=60), "alone") == "alone"


def test_a_reading_does_not_wait_for_one_that_never_asks():
    inner = EchoVlm()
    vlm = GatheringVlm(inner, wait_s=0.05)
    with vlm.reading():
        assert ask(vlm, "impatient") == "impatient"


def test_several_conversations_of_one_study_come_back_in_order():
    vlm = GatheringVlm(EchoVlm())
    asked = [Conversation((Message("user", word),)) for word in ("a", "endless", "c")]
    with vlm.reading():
        said = vlm.generate_batch(asked, max_new_tokens=8)
    assert [type(one).__name__ if isinstance(one, Exception) else one.text for one in said] == [
        "a", "GenerationBudgetError", "c",
    ]  # fmt: skip


def test_what_breaks_the_batch_reaches_everybody_in_it_and_the_next_one_works():
    vlm = GatheringVlm(EchoVlm(), wait_s=5)
    started = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(ask, vlm, word, started) for word in ("break", "fine")]
    for one in both:
        with pytest.raises(ModelOutputError):
            one.result()
    assert ask(vlm, "again") == "again"


def test_budgets_are_not_mixed():
    inner = EchoVlm()
    vlm = GatheringVlm(inner, wait_s=0.3)
    with ThreadPoolExecutor(2) as pool, vlm.reading(), vlm.reading():
        one = pool.submit(vlm.generate, [Message("user", "short")], [], max_new_tokens=8)
        other = pool.submit(vlm.generate, [Message("user", "long")], [], max_new_tokens=64)
        assert (one.result().text, other.result().text) == ("short", "long")
    assert sorted(inner.batches) == [1, 1]


def test_yes_or_no_passes_through():
    assert GatheringVlm(EchoVlm()).answer_each([], [], ["a", "b"])[1].text == "yes"
