"""What the drafting pipeline needs from a vision-language model, whatever runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.vlm.prompts import Style
from worker.vlm.templates import Message


@dataclass(frozen=True)
class Generation:
    """One answer of the model.

    Attributes:
        text: the answer, stripped, without control tokens.
        token_count: tokens generated, the stop token included.
        stopped: the model ended the answer itself. A backend raises instead of returning False.
    """

    text: str
    token_count: int
    stopped: bool


@dataclass(frozen=True)
class Answer:
    """The model's choice between yes and no for one question.

    Attributes:
        text: ``"yes"`` or ``"no"``.
        margin: log-probability of the chosen word minus that of the other, ≥ 0. Not calibrated.
        is_free_choice: the chosen word was also the most probable of all tokens.
    """

    text: str
    margin: float
    is_free_choice: bool


@dataclass(frozen=True)
class VlmCard:
    """What a vision-language model package promises; goes into every Draft's provenance.

    Attributes:
        name, version, licence, base: identity of the weights; ``base`` is the language model they grew from.
        template: conversation template.
        style: wording of prompts.
        published_cards: the exact card text of the published checkpoints is used.
        weights_sha256: hex digest by file name.
        intended_use: one sentence for people.
        modalities: prompt words it was made for, for example ``("CXR", "CT", "MRI")``.
        demonstration: True for models trained on phantoms only.
    """

    name: str
    version: str
    licence: str
    base: str
    template: str
    style: Style
    published_cards: bool
    weights_sha256: dict[str, str]
    intended_use: str
    modalities: tuple[str, ...]
    demonstration: bool


class VisionLanguageModel(Protocol):
    """A model that reads images and text and writes text."""

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        ...

    def generate(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], *, max_new_tokens: int
    ) -> Generation:
        """Answer a conversation, greedily: the same input gives the same answer.

        Args:
            messages: the conversation so far; the last one is a user message.
            images: one ``(rows, columns, 3)`` uint8 picture per ``<image>``, in order over all messages.
            max_new_tokens: budget of the answer.

        Raises:
            ModelError: pictures and placeholders do not match.
            GenerationBudgetError: the prompt does not fit, or the model did not stop within its budget.
        """
        ...

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """Answer each question with yes or no; every question sees the conversation, none sees another one.

        Args:
            messages: the conversation so far; each question continues the last message, a user message.
            images: as for `generate`.
            questions: texts, one answer each.

        Raises:
            ModelError: pictures and placeholders do not match.
            GenerationBudgetError: the prompt does not fit.
        """
        ...
