"""How a draft made anew differs from the one that the rules would make: words before each question, or their style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.errors import ModelError, RefusedInputError
from worker.profiles import Profile
from worker.vlm.backends import Answer, Conversation, Generation, VisionLanguageModel, VlmCard
from worker.vlm.prompts import Style
from worker.vlm.templates import Message, plain_text

_STYLES: Mapping[str, Style] = {"trained": "trained", "demo": "demo"}


@dataclass(frozen=True)
class Rewording:
    """What a reader wants to be different.

    Attributes:
        instruction: stands before every question of the draft; text for the model and for nothing else.
        style: wording of the prompts; None for the model's own.
        folder: vision-language model package in the model store; ``""`` for the one in force.
    """

    instruction: str = ""
    style: Style | None = None
    folder: str = ""

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Rewording":
        """Return the rewording of a provenance record; one of a plain draft changes nothing.

        The model is among the models of the record, so that no folder is named.
        """
        said = record.get("redraft") or {}
        return cls(str(said.get("instruction", "")), style_of(str(said.get("style", ""))))

    def profile(self, plain: Profile) -> Profile:
        """Return the profile with the instruction before each of its questions."""
        words = " ".join(plain_text(self.instruction).split())
        if not words:
            return plain
        if words[-1] not in ".!?:":
            words += "."
        return replace(
            plain,
            overview_question=f"{words} {plain.overview_question}",
            lesions=tuple(replace(one, question=f"{words} {one.question}") for one in plain.lesions),
        )

    def model(self, plain: VisionLanguageModel) -> VisionLanguageModel:
        """Return the model with prompts of this style."""
        if self.style is None or plain.card.style == self.style:
            return plain
        return Restyled(plain, self.style)


AS_WRITTEN: Final = Rewording()


def style_of(name: str) -> Style | None:
    """Return the style of this name; None for ``""``.

    Raises:
        RefusedInputError: there is none of this name.
    """
    if name and name not in _STYLES:
        raise RefusedInputError("there is no such wording of the prompts")
    return _STYLES.get(name)


class Restyled:
    """A loaded model whose prompts are worded in another style."""

    def __init__(self, vlm: VisionLanguageModel, style: Style) -> None:
        """Wrap a model; nothing is loaded a second time."""
        self._vlm = vlm
        self._style = style

    @property
    def card(self) -> VlmCard:
        """The package's promise, with the style in use."""
        return replace(self._vlm.card, style=self._style)

    @property
    def runtime(self) -> Mapping[str, str]:
        """How it computes."""
        return self._vlm.runtime

    def generate(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], *, max_new_tokens: int
    ) -> Generation:
        """See `VisionLanguageModel.generate`."""
        return self._vlm.generate(messages, images, max_new_tokens=max_new_tokens)

    def generate_batch(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int
    ) -> list[Generation | ModelError]:
        """See `VisionLanguageModel.generate_batch`."""
        return self._vlm.generate_batch(conversations, max_new_tokens=max_new_tokens)

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """See `VisionLanguageModel.answer_each`."""
        return self._vlm.answer_each(messages, images, questions)
