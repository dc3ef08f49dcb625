"""From a conversation and its pictures to what the decoder reads: pixels, token ids, a prompt that fits.

Source of every rule: Project-MONAI/VLM and the VILA revision it pins.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from PIL import Image

from config.errors import GenerationBudgetError, ModelError
from worker.vlm.package import BosRule
from worker.vlm.templates import IMAGE, Message, Template, render

log = structlog.get_logger()

IMAGE_ID = -200
"""Stands for one image among token ids until its rows are spliced in."""

Element = int | bytes
"""One piece of a prompt: a token id, or the digest of a picture, which stands for all its rows."""

Picture = NDArray[np.uint8]


def picture_tensor(picture: Picture, side: int, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return ``(3, side, side)`` float32: bicubic squash without regard to aspect, then normalisation.

    PIL resizes on purpose: the default image processor of transformers resamples differently.

    Args:
        picture: ``(rows, columns, 3)`` uint8.
        side: image size of the tower.
        mean, std: three values each, on the 0…1 scale.
    """
    squashed = Image.fromarray(picture).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    scaled = np.asarray(squashed, dtype=np.float32) / 255.0
    normalised = (scaled - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1), dtype=np.float32))


def picture_digest(picture: Picture) -> bytes:
    """Return what identifies a picture by content: equal shape and pixels, equal digest."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).digest()


def tokenise(prompt: str, tokenizer: Any, *, bos_rule: BosRule = "published") -> list[int]:
    """Return token ids of ``prompt`` with `IMAGE_ID` for every ``<image>``.

    Each piece between images is tokenised alone, special tokens on. When the first id of the first piece is
    BOS, it is kept once, and ``"published"`` drops the first id of *every* piece: that removes the BOS a Llama-2
    tokenizer puts before each piece, and for tokenizers that add none it removes the first real token after an
    image, which in training was always the newline. ``"lossless"`` drops that id only where it is BOS.
    """
    pieces = [list(tokenizer(piece).input_ids) for piece in prompt.split(IMAGE)]
    bos = tokenizer.bos_token_id
    starts_with_bos = bos is not None and bool(pieces[0]) and pieces[0][0] == bos
    ids: list[int] = [bos] if starts_with_bos else []
    for number, piece in enumerate(pieces):
        if number:
            ids.append(IMAGE_ID)
        drop = starts_with_bos and (bos_rule == "published" or number == 0 or piece[:1] == [bos])
        ids.extend(piece[1:] if drop else piece)
    return ids


def name_pictures(ids: Sequence[int], digests: Sequence[bytes]) -> list[Element]:
    """Return ``ids`` with the digest of the n-th picture in the n-th image's place.

    Raises:
        ModelError: another number of pictures than places.
    """
    places = sum(1 for token in ids if token == IMAGE_ID)
    if places != len(digests):
        raise ModelError(f"{len(digests)} pictures for {places} places in the prompt")
    remaining = iter(digests)
    return [next(remaining) if token == IMAGE_ID else token for token in ids]


def shorten(
    messages: Sequence[Message], images: Sequence[Picture], fits: Callable[[Sequence[Message]], bool]
) -> tuple[list[Message], list[Picture], int]:
    """Drop the oldest exchanges of a conversation until it fits; returns what is left and how many were dropped.

    The reference cuts the newest text off at the right, the opening of the answer with it. Here the first user
    message (model cards, images) and the last one always stay. An exchange is an answer and the user message it
    led to, so that a Trigger leaves together with its feedback and the overlay in it.

    Args:
        messages: user and assistant in turn, a user message at both ends.
        images: one per ``<image>``, in order over all messages.
        fits: whether these messages, with their answer, fit the context.
    """
    left, pictures, dropped = list(messages), list(images), 0
    while not fits(left):
        end = next((number for number in range(1, len(left) - 1) if left[number].role == "user"), None)
        if end is None:
            break
        start = left[0].text.count(IMAGE)
        gone = sum(message.text.count(IMAGE) for message in left[1 : end + 1])
        del left[1 : end + 1], pictures[start : start + gone]
        dropped += 1
    return left, pictures, dropped


def common_prefix(prompts: Sequence[Sequence[Element]]) -> int:
    """Return how many leading elements all prompts share, leaving at least one to each."""
    limit = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    return next((i for i in range(limit) if any(p[i] != first[i] for p in prompts)), limit)


def positions(elements: Iterable[Element], rows_per_image: int) -> int:
    """Return how many positions of the decoder these elements take."""
    return sum(rows_per_image if element == IMAGE_ID or isinstance(element, bytes) else 1 for element in elements)


@dataclass(frozen=True)
class Prompt:
    """A conversation ready to be read.

    Attributes:
        text: fully rendered.
        elements: token ids and pictures.
        pictures: by digest.
        dropped: exchanges left out to make it fit.
    """

    text: str
    elements: list[Element]
    pictures: Mapping[bytes, Picture]
    dropped: int


class PromptWriter:
    """Turns conversations into prompts as one checkpoint reads them."""

    def __init__(
        self, tokenizer: Any, layout: Template, *, bos_rule: BosRule, context_tokens: int, rows_per_image: int
    ) -> None:
        """Take the checkpoint's wording and sizes."""
        self._tokenizer = tokenizer
        self._template = layout
        self._bos_rule: BosRule = bos_rule
        self._context_tokens = context_tokens
        self._rows_per_image = rows_per_image

    def prompts(
        self, messages: Sequence[Message], images: Sequence[Picture], endings: Sequence[tuple[str, int]]
    ) -> list[Prompt]:
        """Return a prompt per (end of the last message, tokens that follow), shortened until all of them fit.

        Raises:
            ModelError: pictures and placeholders do not match.
            GenerationBudgetError: nothing is left to drop.
        """
        left, pictures, dropped = shorten(
            messages, images, lambda some: self._longest(some, endings) <= self._context_tokens
        )
        if dropped:
            log.warning("prompt.shortened", count=dropped)
        if (tokens := self._longest(left, endings)) > self._context_tokens:
            raise GenerationBudgetError(f"{tokens} tokens do not fit the context of {self._context_tokens}")
        digests = [picture_digest(picture) for picture in pictures]
        named = dict(zip(digests, pictures, strict=True))
        texts = [self._render(left, ending) for ending, _ in endings]
        return [Prompt(text, name_pictures(self._ids(text), digests), named, dropped) for text in texts]

    def answer_ids(self, answer: str) -> list[int]:
        """Return the token ids of an answer and of the token that ends it."""
        text = answer + self._template.stop_tokens[0]
        return [int(token) for token in self._tokenizer(text, add_special_tokens=False).input_ids]

    def _longest(self, messages: Sequence[Message], endings: Sequence[tuple[str, int]]) -> int:
        return max(
            positions(self._ids(self._render(messages, ending)), self._rows_per_image) + more
            for ending, more in endings
        )

    def _render(self, messages: Sequence[Message], ending: str) -> str:
        return render(self._template, [*messages[:-1], Message("user", messages[-1].text + ending)])

    def _ids(self, text: str) -> list[int]:
        return tokenise(text, self._tokenizer, bos_rule=self._bos_rule)
