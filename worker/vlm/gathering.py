"""Several Studies at one model: the answers that Readings of one process wait for are generated in one batch.

A decoder reads all its weights for every token it writes; eight answers in one batch read them once. Each
answer equals the one a Study gets alone, up to the arithmetic of the batch (exact in float32).
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from config.errors import ModelError
from worker.vlm.backends import Answer, Conversation, Generation, VisionLanguageModel, VlmCard
from worker.vlm.templates import Message

Said = Generation | ModelError


@dataclass(eq=False)
class _Request:
    """What one Reading waits for: its conversations, then their answers or what broke the whole batch."""

    conversations: Sequence[Conversation]
    max_new_tokens: int
    said: list[Said] = field(default_factory=list)
    broken: BaseException | None = None
    done: bool = False


class GatheringVlm:
    """A `VisionLanguageModel` for threads: waits a moment for the others, then answers everybody at once."""

    def __init__(self, vlm: VisionLanguageModel, *, wait_s: float = 0.5) -> None:
        """Wrap a loaded model.

        Args:
            vlm: the model; only one thread at a time uses it.
            wait_s: how long a Reading waits for others that are being read and have not asked yet.
        """
        self._vlm = vlm
        self._wait_s = wait_s
        self._turn = threading.Condition()
        self._readings = 0
        self._waiting: list[_Request] = []
        self._model = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Mark the time in which a Reading may still ask, so that the others know whom to wait for."""
        with self._turn:
            self._readings += 1
        try:
            yield
        finally:
            with self._turn:
                self._readings -= 1
                self._turn.notify_all()

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        return self._vlm.card

    @property
    def runtime(self) -> Mapping[str, str]:
        """See `worker.vlm.backends.VisionLanguageModel.runtime`."""
        return self._vlm.runtime

    def generate(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], *, max_new_tokens: int
    ) -> Generation:
        """See `worker.vlm.backends.VisionLanguageModel.generate`."""
        said = self.generate_batch([Conversation(tuple(messages), tuple(images))], max_new_tokens=max_new_tokens)[0]
        if isinstance(said, ModelError):
            raise said
        return said

    def generate_batch(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[Said]:
        """See `worker.vlm.backends.VisionLanguageModel.generate_batch`."""
        own = _Request(conversations, max_new_tokens)
        with self._turn:
            self._waiting.append(own)
            self._turn.notify_all()
            self._turn.wait_for(lambda: own.done or len(self._waiting) >= self._readings, timeout=self._wait_s)
            # whoever wakes first takes everybody's request along
            batch = [] if own.done or own not in self._waiting else self._take(max_new_tokens)
        if batch:
            self._answer(batch)
        with self._turn:
            self._turn.wait_for(lambda: own.done)
        if own.broken is not None:
            raise own.broken
        return own.said

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """See `worker.vlm.backends.VisionLanguageModel.answer_each`."""
        with self._model:
            return self._vlm.answer_each(messages, images, questions)

    def _take(self, max_new_tokens: int) -> list[_Request]:
        taken = [one for one in self._waiting if one.max_new_tokens == max_new_tokens]
        self._waiting = [one for one in self._waiting if one.max_new_tokens != max_new_tokens]
        return taken

    def _answer(self, batch: Sequence[_Request]) -> None:
        """Generate for all requests and wake those who wait; what breaks the batch is everybody's error."""
        asked = [one for request in batch for one in request.conversations]
        said: list[Said] = []
        broken: BaseException | None = None
        try:
            with self._model:
                said = self._vlm.generate_batch(asked, max_new_tokens=batch[0].max_new_tokens)
        except BaseException as exc:  # noqa: BLE001 the threads that wait must hear of it, whatever it is
            broken = exc
        answers = iter(said)
        with self._turn:
            for request in batch:
                request.broken = broken
                request.said = [] if broken else [next(answers) for _ in request.conversations]
                request.done = True
            self._turn.notify_all()
