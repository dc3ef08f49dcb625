"""Yes or no, from a model's probabilities for its next token, or from the first word it wrote."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from config.errors import ModelError, ModelOutputError
from worker.vlm.backends import Answer

ONE_WORD = "\nAnswer with one word: yes or no."
"""Follows a question to a model that was not trained on VILA-M3's conversations."""

_FIRST_WORD = re.compile(r"[\s\"'*`(]*(yes|no)[\"'*`)]*(?:[.,;:!\n]|\s*$)", re.IGNORECASE)


def word_ids(tokenizer: Any, word: str) -> list[int]:
    """Return the ids a one-token answer ``word`` may have: lower or title case, with or without a space.

    Raises:
        ModelError: the tokenizer has no single token for it.
    """
    ids = set()
    for form in (word, word.title(), f" {word}", f" {word.title()}"):
        tokens = tokenizer(form, add_special_tokens=False).input_ids
        if len(tokens) == 1:
            ids.add(int(tokens[0]))
    if not ids:
        raise ModelError(f"the tokenizer has no single token for {word!r}")
    return sorted(ids)


def choice(logits: torch.Tensor, yes: Sequence[int], no: Sequence[int]) -> Answer:
    """Return the choice between yes and no in ``(vocabulary,)`` logits of the next token.

    Raises:
        ModelOutputError: logits that are no numbers.
    """
    scores = functional.log_softmax(logits.float(), dim=-1)
    if bool(scores.isnan().any()):
        raise ModelOutputError("the model gave logits that are no numbers")
    weight = {"yes": float(scores[list(yes)].logsumexp(0)), "no": float(scores[list(no)].logsumexp(0))}
    text = "yes" if weight["yes"] > weight["no"] else "no"
    wanted = yes if text == "yes" else no
    return Answer(text, abs(weight["yes"] - weight["no"]), is_free_choice=int(scores.argmax()) in wanted)


def choice_among(top: Mapping[str, float]) -> Answer | None:
    """Return the choice among the most probable next tokens, text → log-probability; None without yes and no.

    A word that is not among them is no more probable than the last of them, which stands in for it.
    """
    weight = {word: _log_sum([p for token, p in top.items() if _word(token) == word]) for word in ("yes", "no")}
    if max(weight.values()) == -math.inf:
        return None
    floor = min(top.values())
    text = "yes" if weight["yes"] > weight["no"] else "no"
    other = "no" if text == "yes" else "yes"
    margin = weight[text] - max(weight[other], floor)
    best = max(top, key=lambda token: top[token])
    return Answer(text, max(margin, 0.0), is_free_choice=_word(best) == text)


def first_word(text: str) -> Answer:
    """Return the yes or no that is an answer, or its beginning before a punctuation mark.

    How sure the model was is not known, so the margin is 0. ``No doubt there is`` is no answer.

    Raises:
        ModelOutputError: it begins with neither.
    """
    match = _FIRST_WORD.match(text)
    if match is None:
        raise ModelOutputError("the model answered neither yes nor no")
    return Answer(match.group(1).lower(), 0.0, is_free_choice=True)


def _word(token: str) -> str:
    return token.strip().lower()


def _log_sum(values: Sequence[float]) -> float:
    if not values:
        return -math.inf
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values)) if top > -math.inf else top
