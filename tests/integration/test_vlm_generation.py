"""Reuse, batches, shortening and failures of generation, on random weights in the published 8B layout."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import GenerationBudgetError, GpuBusyError, ModelError, ModelOutputError, RepetitionError
from tests.published_checkpoint import seal_published, write_published
from worker.vlm.backends import Conversation, Generation
from worker.vlm.gathering import GatheringVlm
from worker.vlm.templates import Message
from worker.vlm.vila_m3 import VilaM3

BUDGET = 160
CARDS = "Here is a list of available expert models: " * 4
QUESTIONS = ["Is it yes?", "What no", "Is there a tumor in this image of which one may say something?"]


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (30, 20, 3)).astype(np.uint8)


def first(number: int, question: str = "Does it show a tumor?") -> Conversation:
    return Conversation((Message("user", f"{CARDS}<image>\nThis is a CT image.\n{question}"),), (picture(number),))


def following(before: Conversation, answer: str, number: int) -> Conversation:
    feedback = Message("user", f"The results are <image>\n. The colors describe red: liver. Answer {number}.")
    turns = (*before.messages, Message("assistant", answer), feedback)
    return Conversation(turns, (*before.images, picture(100 + number)))


@pytest.fixture(scope="module", params=["8B", "3B"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that stop at one token in eight: random weights know no stop token."""
    made: Path = tmp_path_factory.mktemp("vlm") / request.param
    write_published(made, request.param)
    path = made / "llm" / "generation_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"eos_token_id": [content["eos_token_id"], *range(3, 400, 8)]}))
    seal_published(made, request.param)
    return made


def load(folder: Path, kv_cache_mb: float = 64) -> VilaM3:
    return VilaM3.load(folder, dtype=torch.float32, kv_cache_mb=kv_cache_mb)


@pytest.fixture
def reusing(folder: Path) -> VilaM3:
    return load(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> VilaM3:
    return load(folder, kv_cache_mb=0)


def one(model: VilaM3, talk: Conversation) -> Generation:
    return model.generate(talk.messages, talk.images, max_new_tokens=BUDGET)


@dataclass
class Work:
    """What the parts of a model were given: decoder (rows, positions) per pass, pictures through the tower."""

    passes: list[tuple[int, int]] = field(default_factory=list)
    pictures: int = 0

    @property
    def read(self) -> int:
        return sum(positions for _, positions in self.passes if positions > 1)


@contextmanager
def watched(model: VilaM3) -> Iterator[Work]:
    work = Work()

    def decoder(_module, _args, kwargs) -> None:
        work.passes.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    def tower(_module, args) -> None:
        work.pictures += len(args[0])

    handles = [
        model.llm.model.register_forward_pre_hook(decoder, with_kwargs=True),
        model.tower.embeddings.register_forward_pre_hook(tower),
    ]
    yield work
    for handle in handles:
        handle.remove()


def test_a_second_round_reads_only_what_is_new_and_answers_the_same(reusing, plain):
    start = first(1)
    answer = one(reusing, start)
    assert answer == one(plain, start)
    after = following(start, answer.text, 1)
    with watched(reusing) as short:
        again = one(reusing, after)
    with watched(plain) as whole:
        assert one(plain, after) == again
    assert (short.pictures, whole.pictures) == (1, 2)
    assert short.read < 196 + 120
    assert whole.read > 2 * 196 + 150
    third = following(after, again.text, 2)
    assert one(reusing, third) == one(plain, third)
    assert one(reusing, after) == again, "the longer conversation left the shorter one's keys as they were"


def test_another_picture_or_word_is_never_taken_for_a_known_one(reusing, plain):
    one(reusing, first(1))
    for talk in (first(2), first(1, "Does it show a lesion?"), Conversation(first(1).messages, (picture(1)[:, ::-1],))):
        assert one(reusing, talk) == one(plain, talk)


def test_yes_and_no_reuse_the_round_before_with_the_same_margins(reusing, plain):
    start = first(3)
    after = following(start, one(reusing, start).text, 3)
    with watched(reusing) as work:
        reused = reusing.answer_each(after.messages, after.images, QUESTIONS)
    assert work.pictures == 1
    assert work.read < 196 + 160
    fresh = plain.answer_each(after.messages, after.images, QUESTIONS)
    assert [answer.text for answer in reused] == [answer.text for answer in fresh]
    assert [a.margin for a in reused] == pytest.approx([a.margin for a in fresh], abs=1e-3)
    with watched(reusing) as work:
        reusing.answer_each(after.messages, after.images, QUESTIONS[::-1])
    assert (work.pictures, work.read < 100) == (0, True), "asked again, the feedback is known too"


def test_would_write_agrees_with_what_generate_writes_with_and_without_reuse(reusing, plain):
    asked = Message("user", "Does it show a tumor?")
    for model in (reusing, plain):
        pairs = [("", "yes"), (" or not?", "no"), ("?", "This looks like a CT image.")]
        written = model.would_write([asked], [], pairs)
        stop = model._template.stop_tokens[0]
        for (ending, answer), claim in zip(pairs, written, strict=True):
            wanted = model.tokenizer(answer + stop, add_special_tokens=False).input_ids
            made = model.generate_batch([Conversation((Message("user", asked.text + ending),))], max_new_tokens=50)[0]
            assert claim == (isinstance(made, Generation) and list(made.token_ids) == wanted)


def test_a_batch_answers_each_as_alone_and_finished_rows_leave(reusing, plain):
    talks = [first(number, question) for number, question in enumerate(["Is it?", *QUESTIONS, "And now? " * 9])]
    alone = [one(plain, talk) for talk in talks]
    assert len({answer.token_count for answer in alone}) > 2, "the answers must differ in length to show anything"
    with watched(reusing) as work:
        assert reusing.generate_batch(talks, max_new_tokens=BUDGET) == alone
    writing = [rows for rows, positions in work.passes if positions == 1]
    lengths = sorted(answer.token_count - 1 for answer in alone)
    assert writing == [sum(length > step for length in lengths) for step in range(lengths[-1])]


def test_what_a_batch_shares_is_read_once_even_when_nothing_is_kept(plain):
    talks = [first(number) for number in range(4)]
    with watched(plain) as work:
        plain.generate_batch(talks, max_new_tokens=BUDGET)
    reads = [positions for _, positions in work.passes if positions > 1]
    assert max(reads[1:]) < reads[0] - 20
    assert len(reads) == 4


def test_second_rounds_of_a_batch_reuse_its_first_rounds(reusing, plain):
    talks = [first(number) for number in range(3)]
    answers = reusing.generate_batch(talks, max_new_tokens=BUDGET)
    nexts = [
        following(talk, answer.text, number) for number, (talk, answer) in enumerate(zip(talks, answers, strict=True))
    ]
    with watched(reusing) as work:
        seconds = reusing.generate_batch(nexts, max_new_tokens=BUDGET)
    assert work.pictures == 3, "the overlays, and no first picture"
    assert all(positions < 196 + 120 for _, positions in work.passes)
    assert seconds == [one(plain, talk) for talk in nexts]


def test_conversations_of_different_rounds_go_together(reusing, plain):
    start = first(5)
    after = following(start, one(plain, start).text, 5)
    talks = [after, first(6), Conversation((Message("user", "No image at all?"),))]
    assert reusing.generate_batch(talks, max_new_tokens=BUDGET) == [one(plain, talk) for talk in talks]


def test_one_failure_leaves_the_other_answers_alone(reusing, plain):
    good = first(7)
    talks = [
        good,
        Conversation(good.messages, ()),
        Conversation((Message("user", "long " * 5000),)),
        Conversation(good.messages, (picture(8),)),
    ]
    made = reusing.generate_batch(talks, max_new_tokens=BUDGET)
    assert made[0] == one(plain, good)
    assert type(made[1]) is ModelError
    assert "0 pictures for 1 places" in str(made[1])
    assert type(made[2]) is GenerationBudgetError
    assert made[3] == one(plain, talks[3])
    assert reusing.generate_batch([], max_new_tokens=5) == []


@pytest.mark.requirement("REQ-FAIL-11")
def test_an_answer_over_its_budget_is_an_error_of_its_own_row(reusing, plain):
    talks = [first(number) for number in range(6)]
    counts = [one(plain, talk).token_count for talk in talks]
    assert min(counts) < max(counts)
    made = reusing.generate_batch(talks, max_new_tokens=max(counts) - 1)
    for count, answer in zip(counts, made, strict=True):
        assert isinstance(answer, GenerationBudgetError if count == max(counts) else Generation)


def test_logits_that_are_no_numbers_fail_their_own_row_only(folder, plain):
    model = load(folder)
    spoilt = first(1, "Zq@~7?")
    sound = one(plain, first(0))
    known = {*sound.token_ids, *model.tokenizer(sound.prompt).input_ids}
    known |= {token for piece in sound.prompt.split("<image>") for token in model.tokenizer(piece).input_ids}
    rare = next(token for token in model.tokenizer("Zq@~7?").input_ids if token not in known)
    with torch.no_grad():
        model.llm.model.embed_tokens.weight[rare] = float("nan")
    made = model.generate_batch([spoilt, first(0)], max_new_tokens=BUDGET)
    assert isinstance(made[0], ModelOutputError)
    assert made[1] == sound
    with pytest.raises(ModelOutputError):
        model.generate(spoilt.messages, spoilt.images, max_new_tokens=BUDGET)
    with pytest.raises(ModelOutputError):
        model.answer_each(spoilt.messages, spoilt.images, ["yes?"])
    with torch.no_grad():
        model.llm.lm_head.weight[5] = float("inf")
    with pytest.raises(ModelOutputError):
        model.generate(first(0).messages, first(0).images, max_new_tokens=BUDGET)


@pytest.mark.requirement("REQ-FAIL-11")
def test_endless_repetition_is_noticed_long_before_the_budget(folder):
    model = load(folder)
    with torch.no_grad():
        model.llm.lm_head.weight.zero_()  # every logit equal: greedy takes token 0 for ever
    with watched(model) as work, pytest.raises(RepetitionError, match="after 28 tokens"):
        model.generate(first(0).messages, first(0).images, max_new_tokens=3000)
    assert len(work.passes) == 28


def test_an_empty_answer_is_an_answer(folder):
    model = load(folder)
    model.llm.generation_config.eos_token_id = 0
    with torch.no_grad():
        model.llm.lm_head.weight.zero_()
    parts = (model.tokenizer, model.llm, model.tower, model.projector)
    made = one(VilaM3(model.manifest, parts, context_tokens=1024), first(0))
    assert (made.text, made.token_ids, made.stopped) == ("", (0,), True)


def test_a_long_conversation_loses_its_oldest_rounds_and_says_so(folder, plain):
    parts = (plain.tokenizer, plain.llm, plain.tower, plain.projector)
    talk = first(0)
    for number in range(1, 4):
        talk = following(talk, f"Let me trigger round {number}.", number)
    small = VilaM3(plain.manifest, parts, context_tokens=950)
    made = one(small, talk)
    dropped = made.dropped_exchanges
    assert dropped >= 1
    assert one(plain, talk).dropped_exchanges == 0
    left = (talk.messages[0], *talk.messages[1 + 2 * dropped :])
    shown = (talk.images[0], *talk.images[1 + dropped :])
    expected = one(plain, Conversation(left, shown))
    assert (made.prompt, made.token_ids) == (expected.prompt, expected.token_ids)
    assert "round 1" not in made.prompt
    tiny = VilaM3(plain.manifest, parts, context_tokens=400)
    with pytest.raises(GenerationBudgetError, match="do not fit the context of 400"):
        one(tiny, talk)


def test_a_question_one_token_too_long_costs_the_oldest_round_only(plain):
    parts = (plain.tokenizer, plain.llm, plain.tower, plain.projector)
    talk = first(0)
    for number in range(1, 4):
        talk = following(talk, f"Let me trigger round {number}.", number)
    with watched(plain) as work:
        (whole,) = plain.answer_each(talk.messages, talk.images, QUESTIONS[:1])
    tokens = sum(positions for _, positions in work.passes)
    fits, short = (VilaM3(plain.manifest, parts, context_tokens=tokens - less) for less in (0, 1))
    assert fits.answer_each(talk.messages, talk.images, QUESTIONS[:1]) == [whole]
    (fewer,) = plain.answer_each(
        [talk.messages[0], *talk.messages[3:]], [talk.images[0], *talk.images[2:]], QUESTIONS[:1]
    )
    (made,) = short.answer_each(talk.messages, talk.images, QUESTIONS[:1])
    assert made.margin == pytest.approx(fewer.margin, abs=1e-3)
    assert abs(made.margin - whole.margin) > 1e-3


def test_the_cache_keeps_to_its_budget(folder, plain):
    model = load(folder, kv_cache_mb=1.0)
    for number in range(6):
        assert one(model, first(number)) == one(plain, first(number))
        assert model._known.size <= 2**20
    assert len(plain._known) == 0
    assert not plain._rows


def test_threads_get_the_answers_they_would_get_alone(reusing, plain):
    talks = [first(number) for number in range(4)]
    made: dict[int, Generation] = {}

    def ask(number: int) -> None:
        made[number] = one(reusing, talks[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made[number] for number in range(4)] == [one(plain, talk) for talk in talks]


def no_memory_for(model: VilaM3, rows: int):
    """The device refuses decoder passes over that many rows or more, as CUDA does."""

    def refuse(_module: torch.nn.Module, _args: Sequence[object], kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["inputs_embeds"].shape[0] >= rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return model.llm.model.register_forward_pre_hook(refuse, with_kwargs=True)


def test_studies_read_side_by_side_share_one_batch_and_get_the_answers_they_would_get_alone(reusing, plain):
    together = GatheringVlm(reusing, wait_s=30)
    talks = [first(number) for number in range(4)]
    started = threading.Barrier(len(talks))

    def read(talk: Conversation) -> Generation:
        with together.reading():
            started.wait(10)
            return one(together, talk)

    with watched(reusing) as work, ThreadPoolExecutor(len(talks)) as pool:
        answers = list(pool.map(read, talks))
    assert answers == [one(plain, talk) for talk in talks]
    # alone every step has one row; an answer that ends at once leaves before the first step
    assert max(rows for rows, positions in work.passes if positions == 1) > 1


def test_a_batch_too_large_for_the_device_is_halved_and_answers_the_same(reusing, plain):
    talks = [first(number) for number in range(5)]
    no_memory_for(reusing, 3)
    assert reusing.generate_batch(talks, max_new_tokens=BUDGET) == [one(plain, talk) for talk in talks]


def test_no_memory_at_all_can_be_tried_again_later(reusing):
    one(reusing, first(0))
    handle = no_memory_for(reusing, 1)
    with pytest.raises(GpuBusyError):
        one(reusing, first(0))
    with pytest.raises(GpuBusyError):
        reusing.answer_each(first(0).messages, first(0).images, QUESTIONS)
    assert len(reusing._known) == 0
    handle.remove()
    assert isinstance(one(reusing, first(0)), Generation)
