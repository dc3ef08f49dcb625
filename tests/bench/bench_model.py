"""What reuse and batching save a VILA-M3 decoder, in one run on the CPU: ``make bench-model``.

A middle-size model with random weights (`mid_size`) reads prompts of the trained length: system prompt, the
1373-character cards, an image and a question; then the feedback of an Expert with its overlay image. It runs in
float32, where every optimisation must give the same tokens as none.

(a) The second round of a conversation, for each of the three Experts: with what the first round left, against our own
code encoding everything again, and against the peer. The bars are on the question a draft asks there, yes or no from
the next token's probabilities; what a written answer gains on CT is shown beside it. CT gains least: one image before,
one overlay to encode.
(b) The first turns of eight studies, with eight pictures: together against one by one. The bar is on an answer
of the length of the trained Trigger sentence, which is what a first turn is. One by one means each alone with
nothing kept; what one by one gains from the kept cards is shown beside it.

The peer is what the published demonstration does: ``LlamaForCausalLM.generate`` from ``inputs_embeds``, every
picture and every token encoded again for every turn.
"""

import gc
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.mid_size import CARDS, TRIGGER, TrainedRounds, Unstopped, build, studies, trained_rounds
from worker.vlm.answers import choice, word_ids
from worker.vlm.backends import Conversation, Generation
from worker.vlm.front_end import picture_tensor, tokenise
from worker.vlm.templates import TEMPLATES, render

REPEATS = 3
STUDIES = 8
LONG = 64
WRITTEN = (2, LONG)

Tokens = list[tuple[int, ...]]


def main() -> int:
    """Run both comparisons and print the bars; 1 when one is short."""
    logging.disable(logging.WARNING)
    reusing = build(kv_cache_mb=4096)
    parts = (reusing.tokenizer, reusing.llm, reusing.tower, reusing.projector)
    plain = build(kv_cache_mb=0, parts=parts)
    tokens = len(reusing.tokenizer(CARDS).input_ids)
    _say(f"decoder {_millions(reusing.llm)}, tower {_millions(reusing.tower)}, cards {tokens} tokens, float32")
    _say(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    bars = [*_rounds(reusing, plain), *_batches(reusing, plain)]
    _say(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    for name, value, target in bars:
        _say(f"bar {name} {value:.2f} {target:g} {'ok' if value >= target else 'short'}")
    return int(any(value < target for _, value, target in bars))


def _rounds(reusing: Unstopped, plain: Unstopped) -> list[tuple[str, float, float]]:
    bars = []
    for one in trained_rounds():
        timed = _interleaved(
            {
                "reuse": partial(_after_first, reusing, one, _decide),
                "everything again": lambda one=one: lambda: _decide(plain, one.second),
                "peer": lambda one=one: lambda: _peer_decides(plain, one.second),
            }
        )
        own, peer = timed["everything again"] / timed["reuse"], timed["peer"] / timed["reuse"]
        _say(f"(a) second round of {one.name}, yes or no: {_seconds(timed)}")
        _say(f"    {own:.2f}x against everything again, {peer:.2f}x against the peer")
        bars.append((f"second_round_{one.name}_against_encoding_again", own, 3.0))
        bars.append((f"second_round_{one.name}_against_peer", peer, 3.0))
    for length in WRITTEN:
        _written(reusing, plain, length)
    return bars


def _written(reusing: Unstopped, plain: Unstopped, length: int) -> None:
    """Say what a second round of CT gains whose answer is written token by token."""
    one = trained_rounds()[0]
    timed = _interleaved(
        {
            "reuse": partial(_after_first, reusing, one, lambda model, talk: _generate(model, [talk], length)),
            "everything again": lambda: lambda: _generate(plain, [one.second], length),
            "peer": lambda: lambda: [_peer(plain, one.second, length)],
        },
        1,
    )
    own, peer = timed["everything again"] / timed["reuse"], timed["peer"] / timed["reuse"]
    _say(f"(a) second round of {one.name}, {length} tokens written: {_seconds(timed)}")
    _say(f"    {own:.2f}x against everything again, {peer:.2f}x against the peer")


def _after_first(
    model: Unstopped, rounds: TrainedRounds, ask: Callable[[Unstopped, Conversation], Tokens]
) -> Callable[[], Tokens]:
    """Return the second round to run, with what the first one left in place."""
    model.recall(rounds.first, rounds.answer)
    return lambda: ask(model, rounds.second)


def _decide(model: Unstopped, conversation: Conversation) -> Tokens:
    """Answer yes or no as a draft does: from the probabilities of the next token."""
    (answer,) = model.answer_each(conversation.messages, conversation.images, [""])
    return [(int(answer.text == "yes"),)]


def _peer_decides(model: Unstopped, conversation: Conversation) -> Tokens:
    """The same decision by one stock forward pass over everything."""
    with torch.inference_mode():
        logits = model.llm(inputs_embeds=_peer_embeddings(model, conversation), logits_to_keep=1).logits[0, -1]
    yes, no = (word_ids(model.tokenizer, word) for word in ("yes", "no"))
    return [(int(choice(logits, yes, no).text == "yes"),)]


def _batches(reusing: Unstopped, plain: Unstopped) -> list[tuple[str, float, float]]:
    turns = studies(STUDIES)
    trigger = len(reusing.tokenizer(TRIGGER).input_ids) + 1

    def together(length: int) -> Callable[[], Callable[[], Tokens]]:
        def start() -> Callable[[], Tokens]:
            reusing.forget()
            return lambda: _generate(reusing, turns, length)

        return start

    def one_by_one(model: Unstopped, length: int) -> Callable[[], Callable[[], Tokens]]:
        def start() -> Callable[[], Tokens]:
            model.forget()
            return lambda: [answer for turn in turns for answer in _generate(model, [turn], length)]

        return start

    bars = []
    for length, repeats in ((trigger, REPEATS), (LONG, 1)):
        timed = _interleaved(
            {
                "together": together(length),
                "one by one": one_by_one(plain, length),
                "one by one, cards kept": one_by_one(reusing, length),
            },
            repeats,
        )
        speed = {name: STUDIES * length / seconds for name, seconds in timed.items()}
        ratio = speed["together"] / speed["one by one"]
        _say(f"(b) {STUDIES} first turns of {length} tokens: " + _seconds(timed))
        _say("    " + ", ".join(f"{name} {value:.1f} tokens/s" for name, value in speed.items()))
        _say(f"    {ratio:.2f}x; against one by one with the cards kept")
        _say(f"    {speed['together'] / speed['one by one, cards kept']:.2f}x")
        if length == trigger:
            bars.append(("batch_of_8_against_one_by_one", ratio, 2.0))
    return bars


def _interleaved(variants: dict[str, Callable[[], Callable[[], Tokens]]], repeats: int = REPEATS) -> dict[str, float]:
    """Return the median seconds of each variant, run in turns; all must write the same tokens."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    written: Tokens | None = None
    for _ in range(repeats):
        for name, start in variants.items():
            run = start()
            gc.collect()
            began = time.perf_counter()
            tokens = run()
            seconds[name].append(time.perf_counter() - began)
            written = written or tokens
            if tokens != written:
                raise SystemExit(f"{name} wrote other tokens")
    return {name: statistics.median(values) for name, values in seconds.items()}


def _generate(model: Unstopped, conversations: Sequence[Conversation], length: int) -> Tokens:
    made = model.generate_batch(conversations, max_new_tokens=length)
    if any(not isinstance(one, Generation) for one in made):
        raise SystemExit(f"no answer: {made}")
    return [one.token_ids for one in made if isinstance(one, Generation)]


def _peer(model: Unstopped, conversation: Conversation, length: int) -> tuple[int, ...]:
    """Answer as the published demonstration does; its own preprocessing is ours, so that the tokens compare."""
    with torch.inference_mode():
        embeddings = _peer_embeddings(model, conversation)
        made = model.llm.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            do_sample=False,
            max_new_tokens=length,
            min_new_tokens=length,
            eos_token_id=None,
            pad_token_id=0,
        )
    return tuple(made[0].tolist())


def _peer_embeddings(model: Unstopped, conversation: Conversation) -> torch.Tensor:
    """Encode every picture and every token, as the published demonstration does at each turn."""
    prompt = render(TEMPLATES["llama_3"], conversation.messages)
    ids = torch.tensor([tokenise(prompt, model.tokenizer)])
    side = model.tower.config.image_size
    pixels = torch.stack([picture_tensor(p, side, (0.5,) * 3, (0.5,) * 3) for p in conversation.images])
    with torch.inference_mode():
        rows = iter(model.projector(model.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]))
        embed = model.llm.get_input_embeddings()
        parts = [next(rows)[None] if token < 0 else embed(ids[:, [i]]) for i, token in enumerate(ids[0].tolist())]
        return torch.cat(parts, dim=1)


def _millions(module: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.0f} million parameters"


def _seconds(timed: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in timed.items())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
