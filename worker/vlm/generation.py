"""Greedy decoding by our own loop: nothing a checkpoint's ``generation_config.json`` says can turn sampling on.

The published 13B asks for temperature 0.9 there. A medical draft must be the same twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from config.errors import GenerationBudgetError, ModelError, ModelOutputError, ModelPackageError, RepetitionError
from worker.vlm.front_end import Element
from worker.vlm.kv_cache import Kept, LayerTensors, RoomyCache, side_by_side
from worker.vlm.templates import Template

LINE_TOKENS = 8
"""Longest n-gram that may be a line of a list, such as ``- no fracture``."""

LINE_REPEATS = 28
"""A list may say one line for each of 18 findings or 24 vertebrae: only more than that is endless."""

SENTENCE_TOKENS = 64
"""Longest n-gram looked for."""

SENTENCE_REPEATS = 6
"""Nobody writes the same words, longer than a line, six times running."""


class RepetitionWatch:
    """Tells when an answer has become the same n-gram again and again.

    Endless means: the tail is one n-gram, word for word, `LINE_REPEATS` times for up to `LINE_TOKENS` tokens,
    `SENTENCE_REPEATS` times for longer ones up to `SENTENCE_TOKENS`. Lines that differ in one token, such as
    the name of a finding, are no repetition.
    """

    def __init__(self) -> None:
        """Start with an empty answer."""
        self._tokens: list[int] = []
        self._run = [0] * (SENTENCE_TOKENS + 1)

    def repeats(self, token: int) -> bool:
        """Take the next token; whether the answer now repeats itself without end."""
        self._tokens.append(token)
        for length in range(1, min(SENTENCE_TOKENS, len(self._tokens) - 1) + 1):
            same = self._tokens[-1 - length] == token
            self._run[length] = self._run[length] + 1 if same else 0
        lines, sentences = self._run[1 : LINE_TOKENS + 1], self._run[LINE_TOKENS + 1 :]
        if any(run >= length * (LINE_REPEATS - 1) for length, run in enumerate(lines, 1)):
            return True
        # equal lines are also periodic in any number of lines: a sentence is what no shorter period explains
        return any(
            run >= length * (SENTENCE_REPEATS - 1) > max(lines) for length, run in enumerate(sentences, LINE_TOKENS + 1)
        )


@dataclass
class Answering:
    """One conversation while it is answered.

    Attributes:
        elements: what was read, and each token written as soon as it is read back.
        cache: keys and values of ``elements``; None once the answer is finished.
        last: ``(1, width)`` hidden state the next token follows from.
        produced: token ids written, the stop token included.
        error: why there is no answer.
        kept: keys and values of the finished conversation, for its next round: it has one even when the model did
            not stop, with an answer put in its place.
    """

    elements: list[Element]
    cache: RoomyCache | None
    last: torch.Tensor
    produced: list[int] = field(default_factory=list)
    error: ModelError | None = None
    kept: Sequence[LayerTensors] = ()
    watch: RepetitionWatch = field(default_factory=RepetitionWatch)

    def known(self) -> Kept:
        """Return what later prompts of the same batch may begin with."""
        layers = self.cache.layers if self.cache is not None else ()
        return Kept(tuple(self.elements), [(layer.keys, layer.values) for layer in layers])

    def take(self, token: int, stop_ids: frozenset[int], max_new_tokens: int) -> bool:
        """Append one token; whether the answer goes on."""
        self.produced.append(token)
        if token in stop_ids:
            return False
        if self.watch.repeats(token):
            self.error = RepetitionError(f"the model repeats itself after {len(self.produced)} tokens")
        elif len(self.produced) >= max_new_tokens:
            self.error = GenerationBudgetError(f"the model did not stop within {max_new_tokens} tokens")
        return self.error is None


def finite(values: torch.Tensor) -> torch.Tensor:
    """Return ``values``, states or logits.

    Raises:
        ModelOutputError: one of them is no number.
    """
    if not bool(torch.isfinite(values).all()):
        raise ModelOutputError("the model gave states or logits that are no finite numbers")
    return values


def decode(
    llm: Any, answers: Sequence[Answering], *, stop_ids: frozenset[int], max_new_tokens: int, keep: bool
) -> None:
    """Write all answers together, greedily; a finished one leaves the batch.

    Each is padded on the left and sees only itself, at its own positions, so it equals the answer it would get
    alone up to rounding: the order in which a matrix product adds depends on how many rows it has.

    Args:
        llm: LlamaForCausalLM.
        answers: with their prompts read; ``produced``, ``error`` and ``kept`` are filled in.
        stop_ids: tokens that end an answer.
        max_new_tokens: budget of each answer.
        keep: fill in ``kept``.
    """
    active = list(answers)
    cache, padding = _gather(active, max_new_tokens)
    last = torch.cat([answer.last for answer in active])
    while True:
        going = _next_tokens(llm, active, last, stop_ids, max_new_tokens)
        for row, answer in enumerate(active):
            if keep and row not in going and not isinstance(answer.error, ModelOutputError):
                answer.kept = cache.columns(row, padding[row])
        if not going:
            return
        if len(going) < len(active):
            active, padding = [active[row] for row in going], [padding[row] for row in going]
            cache = cache.select(going, max_new_tokens - len(active[0].produced))
        last = _read_back(llm, active, cache, padding)


def _gather(active: Sequence[Answering], room: int) -> tuple[RoomyCache, list[int]]:
    caches = [answer.cache for answer in active if answer.cache is not None]
    for answer in active:
        answer.cache = None
    return (caches[0], [0]) if len(caches) == 1 else side_by_side(caches, room=room)


def _next_tokens(
    llm: Any, active: Sequence[Answering], last: torch.Tensor, stop_ids: frozenset[int], max_new_tokens: int
) -> list[int]:
    """Give each row its most probable token; returns the rows that go on."""
    logits = llm.lm_head(last)
    sound = torch.isfinite(logits).all(-1).tolist()
    going = []
    for row, (answer, token) in enumerate(zip(active, logits.argmax(-1).tolist(), strict=True)):
        if not sound[row]:
            answer.error = ModelOutputError("the model gave states or logits that are no finite numbers")
        elif answer.take(token, stop_ids, max_new_tokens):
            going.append(row)
    return going


def _read_back(llm: Any, active: Sequence[Answering], cache: RoomyCache, padding: Sequence[int]) -> torch.Tensor:
    """Let every row read the token it just wrote; returns ``(rows, width)`` hidden states."""
    embed = llm.get_input_embeddings()
    device = embed.weight.device
    embedded = embed(torch.tensor([[answer.produced[-1]] for answer in active], device=device))
    for answer in active:
        answer.elements.append(answer.produced[-1])
    used = cache.get_seq_length()
    mask = None
    if any(padding):
        hidden = torch.arange(used + 1)[None] < torch.tensor(padding)[:, None]
        lowest = torch.finfo(embedded.dtype).min
        mask = torch.zeros(hidden.shape, dtype=embedded.dtype).masked_fill(hidden, lowest)[:, None, None].to(device)
    positions = torch.tensor([[used - pad] for pad in padding], device=device)
    states = llm.model(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    result: torch.Tensor = states[:, -1]
    return result


def packed_attention(trunk: int, lengths: Sequence[int], *, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mask and positions for branches packed after a shared trunk.

    Every branch sees the whole trunk and, causally, itself; positions of each continue the trunk's.

    Args:
        trunk: tokens already in the cache.
        lengths: tokens of each branch, in packing order.
        dtype: of the additive mask.

    Returns:
        ``(1, 1, packed, trunk + packed)`` additive mask and ``(1, packed)`` positions.
    """
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    step = torch.cat([torch.arange(length) for length in lengths])
    sees = (owner[:, None] == owner[None, :]) & (step[:, None] >= step[None, :])
    sees = torch.cat([torch.ones(len(owner), trunk, dtype=torch.bool), sees], dim=1)
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    return mask[None, None], (trunk + step)[None]


def stop_ids(model: str, layout: Template, tokenizer: Any, settings: Any) -> frozenset[int]:
    """Return the ids that end an answer: the template's and those of the checkpoint's generation settings.

    The published 8B names only ``<|end_of_text|>`` there, and ends most answers with ``<|eot_id|>``.

    Raises:
        ModelPackageError: the tokenizer has no such token; ``model`` names the package.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in layout.stop_tokens if token not in vocabulary]
    if missing:
        raise ModelPackageError(
            f"{model}: template {layout.name} ends answers with {missing[0]}, which the tokenizer does not have"
        )
    eos = settings.eos_token_id
    ids = [*(vocabulary[token] for token in layout.stop_tokens), *(eos if isinstance(eos, list) else [eos])]
    return frozenset(int(token) for token in ids if token is not None)
