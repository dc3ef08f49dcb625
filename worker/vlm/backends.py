"""What the drafting pipeline needs from a vision-language model, whatever runs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from config.errors import ModelError
from worker.vlm.prompts import Style
from worker.vlm.templates import Message


@dataclass(frozen=True)
class Generation:
    """One answer of the model.

    Attributes:
        text: the answer, stripped, without control tokens.
        token_count: tokens generated, the stop token included.
        stopped: the model ended the answer itself. A backend raises instead of returning False.
        token_ids: what was generated, as ids; empty where a backend is not told.
        prompt: the prompt as the model read it, fully rendered; for the provenance record.
        dropped_exchanges: how many of the oldest exchanges were left out so that the prompt fits.
    """

    text: str
    token_count: int
    stopped: bool
    token_ids: tuple[int, ...] = ()
    prompt: str = ""
    dropped_exchanges: int = 0


@dataclass(frozen=True)
class Conversation:
    """One conversation that waits for its next answer.

    Attributes:
        messages: the turns so far; the last one is a user message.
        images: one ``(rows, columns, 3)`` uint8 picture per ``<image>``, in order over all messages.
    """

    messages: tuple[Message, ...]
    images: tuple[NDArray[np.uint8], ...] = ()


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
        research_only: the licence of the weights forbids clinical use.
        backend: what runs it: ``"vila_m3"``, ``"hf"`` or ``"openai"``.
        revision: revision of the repository the weights came from, or ``""``.
        overlay_placeholder: what stands for an Expert's overlay; the picture is shown only for ``<image>``.
        regulatory: what authorities call this version (``udi``, ``clearance``, ``change``); what is known of it.
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
    research_only: bool = False
    backend: str = "vila_m3"
    revision: str = ""
    overlay_placeholder: str = "<image>"
    regulatory: Mapping[str, str] = field(default_factory=dict)


class VisionLanguageModel(Protocol):
    """A model that reads images and text and writes text."""

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        ...

    @property
    def runtime(self) -> Mapping[str, str]:
        """How it computes: dtype, device, quantisation, attention kernel …; for the provenance record."""
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
            ModelOutputError: logits that are no numbers.
            GenerationBudgetError: the prompt does not fit, the model did not stop within its budget, or it
                repeated itself without end.
        """
        ...

    def generate_batch(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int
    ) -> list[Generation | ModelError]:
        """Answer several conversations at once; each answer equals what `generate` gives alone.

        A conversation that fails has its error in its place; the others keep their answers.
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
