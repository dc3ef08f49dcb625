"""Any image-text-to-text model of transformers with a chat template, from a sealed folder.

The model's own processor prepares pictures and text, its own template renders the turns, its own end tokens
stop an answer. No code from the folder is ever run. What its generation config says about sampling or
penalties is not used: answers are greedy, so that the same input gives the same answer.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import structlog
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from config.errors import (
    GenerationBudgetError,
    GpuBusyError,
    ModelError,
    ModelOutputError,
    ModelPackageError,
    RepetitionError,
)
from worker.vlm import answers, chat
from worker.vlm.backends import Answer, Conversation, Generation, VlmCard
from worker.vlm.checkpoint import Quantization, libraries, natural_dtype, place
from worker.vlm.generation import RepetitionWatch
from worker.vlm.hf_package import chat_template, context_tokens, load_model, load_processor, stop_ids
from worker.vlm.package import VlmManifest, verify_vlm_package
from worker.vlm.prompts import Style
from worker.vlm.templates import Message

log = structlog.get_logger()

BATCH = 8
"""Conversations run at once."""


T = TypeVar("T")


@dataclass(frozen=True)
class _Asked:
    """A conversation as the processor takes it."""

    prompt: str
    pictures: tuple[Image.Image, ...]


class TransformersVlm:
    """A loaded image-text-to-text model; greedy, no state between calls.

    Safe to call from several threads: one computes at a time.
    """

    def __init__(
        self, manifest: VlmManifest, processor: Any, model: Any, *, runtime: Mapping[str, str] | None = None
    ) -> None:
        """Assemble loaded parts; use `load` for a package folder.

        Args:
            manifest: the package's promise.
            processor: the model's processor, with a chat template.
            model: decoder-only image-text-to-text model, in evaluation mode.
            runtime: what `load` knows of how it computes.

        Raises:
            ModelPackageError: the chat template is missing or has no place for images, or no token ends an answer.
        """
        self.manifest = manifest
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.model = model
        self.context_tokens = context_tokens(model, self.tokenizer)
        self._runtime = dict(runtime or {})
        self._lock = threading.Lock()
        self._stop_ids = stop_ids(model, self.tokenizer)
        # generate() fills whatever a call leaves open from this one: sampling, penalties, forced tokens
        self.model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=sorted(self._stop_ids), pad_token_id=self._padding()
        )
        layout = chat_template(processor, manifest.name)
        # Where a template knows of reasoning, it is left out: an answer begins with the answer.
        self._template_options = {"enable_thinking": False} if "enable_thinking" in layout else {}
        tokens = chat.control_tokens(self.tokenizer, layout)
        self._control = chat.control_pattern(tokens)
        self._control_ids = frozenset(self.tokenizer.convert_tokens_to_ids(list(tokens)))
        self._check_template()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        quantization: Quantization = "none",
        device_map: str = "",
        style: Style | None = None,
    ) -> Self:
        """Load a package folder as ``save_pretrained`` writes it, after checking every file's SHA-256.

        Args:
            folder: model, processor and tokenizer files beside the manifest.
            device: torch device.
            dtype: None takes bfloat16 where the hardware multiplies in it, else float32.
            quantization: how bitsandbytes stores the weights.
            device_map: ``"auto"`` spreads the model over all devices; ``""`` keeps it on ``device``.
            style: wording of prompts; None takes the package's.

        Raises:
            ModelPackageError: files or tensors are missing, altered or surplus, or it is no such model.
            ConfigurationError: quantization is asked for and bitsandbytes cannot work here.
        """
        manifest = verify_vlm_package(folder)
        if style:
            manifest = manifest.model_copy(update={"style": style})
        dtype = dtype or natural_dtype(device)
        placing = place(device, dtype, quantization, device_map)
        processor, model = load_processor(folder), load_model(folder, dtype, placing)
        runtime = libraries(quantization, device_map)
        return cls(manifest, processor, model if placing else model.to(device), runtime=runtime)

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        return self.manifest.card()

    @property
    def runtime(self) -> Mapping[str, str]:
        """How it computes; for the provenance record."""
        return {
            "architecture": type(self.model).__name__,
            "processor": type(self.processor).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "attention": str(self.model.config._attn_implementation),
            "weights_mb": f"{self.model.get_memory_footprint() / 1e6:.1f}",
            "torch_threads": str(torch.get_num_threads()),
            "yes_no_request": answers.ONE_WORD.strip(),
            **self._runtime,
        }

    def generate(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], *, max_new_tokens: int
    ) -> Generation:
        """See `worker.vlm.backends.VisionLanguageModel.generate`."""
        conversation = Conversation(tuple(messages), tuple(images))
        (answer,) = self.generate_batch([conversation], max_new_tokens=max_new_tokens)
        if isinstance(answer, ModelError):
            raise answer
        return answer

    def generate_batch(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int
    ) -> list[Generation | ModelError]:
        """See `worker.vlm.backends.VisionLanguageModel.generate_batch`."""
        outcomes: dict[int, Generation | ModelError] = {}
        asked: dict[int, _Asked] = {}
        with self._lock:
            for index, conversation in enumerate(conversations):
                try:
                    asked[index] = self._ask(conversation)
                except ModelError as exc:
                    outcomes[index] = exc
            for indices in _batches(asked):
                batch = [asked[index] for index in indices]
                outcomes |= dict(zip(indices, self._run(partial(self._answer, max_new_tokens), batch), strict=True))
        return [outcomes[index] for index in range(len(conversations))]

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """See `worker.vlm.backends.VisionLanguageModel.answer_each`.

        The questions run as conversations of their own, several at once. Each asks for one word, which this
        model was not trained to answer with.
        """
        talks = [chat.with_question(messages, question + answers.ONE_WORD) for question in questions]
        with self._lock:
            asked = {index: self._ask(Conversation(talk, tuple(images))) for index, talk in enumerate(talks)}
            batches = [[asked[index] for index in indices] for indices in _batches(asked)]
            return [answer for batch in batches for answer in self._run(self._choose, batch)]

    def _run(self, work: Callable[[Sequence[_Asked]], list[T]], batch: Sequence[_Asked]) -> list[T]:
        """Run a batch; one that does not fit the device's memory is run by halves.

        Raises:
            GpuBusyError: not even one conversation fits.
        """
        try:
            with torch.inference_mode():
                return work(batch)
        except torch.OutOfMemoryError as exc:
            if len(batch) == 1:
                raise GpuBusyError("no memory for one conversation") from exc
        torch.cuda.empty_cache()
        half = len(batch) // 2
        log.warning("batch.halved", count=half)
        return self._run(work, batch[:half]) + self._run(work, batch[half:])

    def _answer(self, max_new_tokens: int, batch: Sequence[_Asked]) -> list[Generation | ModelError]:
        """Answer one batch; what does not fit the context is left out of the run."""
        inputs, lengths = self._inputs(batch)
        fits = [length + max_new_tokens <= self.context_tokens for length in lengths]
        if not all(fits):
            fitting = [one for one, does in zip(batch, fits, strict=True) if does]
            rest = iter(self._answer(max_new_tokens, fitting) if fitting else ())
            return [
                next(rest) if does else self._does_not_fit(length + max_new_tokens)
                for does, length in zip(fits, lengths, strict=True)
            ]
        guard = _FiniteLogits(min(self._stop_ids))
        halt = _EndlessRepetition(len(batch), self._stop_ids)
        produced = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([guard]),
            stopping_criteria=StoppingCriteriaList([halt]),
        )
        rows = produced[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            ModelOutputError("the model gave logits that are no numbers")
            if row in guard.broken
            else self._generation(ids, one.prompt, repeated=row in halt.repeated)
            for row, (one, ids) in enumerate(zip(batch, rows, strict=True))
        ]

    def _choose(self, batch: Sequence[_Asked]) -> list[Answer]:
        """Return yes or no by the first token each answer would begin with."""
        inputs, lengths = self._inputs(batch)
        if max(lengths) + 1 > self.context_tokens:
            raise self._does_not_fit(max(lengths) + 1)
        step = self.model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
        yes, no = answers.word_ids(self.tokenizer, "yes"), answers.word_ids(self.tokenizer, "no")
        return [answers.choice(row, yes, no) for row in step.logits[0]]

    def _generation(self, ids: list[int], prompt: str, *, repeated: bool) -> Generation | ModelError:
        end = next((place for place, token in enumerate(ids) if token in self._stop_ids), None)
        if repeated:
            return RepetitionError("the model repeated itself without end")
        if end is None:
            return GenerationBudgetError(f"the model did not stop within {len(ids)} tokens")
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        return Generation(text, token_count=end + 1, stopped=True, token_ids=tuple(ids[: end + 1]), prompt=prompt)

    def _ask(self, conversation: Conversation) -> _Asked:
        """Return the conversation with its rendered prompt, in which the model's own mark stands for each picture.

        Raises:
            ModelError: pictures and placeholders do not match, or the text of a message reached the model's
                control tokens, for example through its tokenizer's normalisation.
        """
        chat.check_places(conversation)
        turns = [(message.role, chat.content_parts(message, self._control)) for message in conversation.messages]
        prompt = self._render(turns)
        blank = self._render([(role, [part and "x" for part in parts]) for role, parts in turns])
        if self._controls_in(prompt) != self._controls_in(blank):
            raise ModelError("text of the conversation turned into control tokens of the model")
        return _Asked(prompt, tuple(Image.fromarray(picture) for picture in conversation.images))

    def _render(self, turns: Sequence[tuple[str, Sequence[str | None]]]) -> str:
        messages = [
            {
                "role": role,
                "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts],
            }
            for role, parts in turns
        ]
        try:
            options = self._template_options
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, **options))
        except (TemplateError, ValueError, TypeError, KeyError) as exc:
            raise ModelError(f"the chat template refused the conversation: {type(exc).__name__}") from exc

    def _controls_in(self, prompt: str) -> Counter[int]:
        ids = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        return Counter(token for token in ids if token in self._control_ids)

    def _inputs(self, batch: Sequence[_Asked]) -> tuple[Any, list[int]]:
        """Return what the model takes, padded on the left, on its device, in its dtype; and the prompts' lengths."""
        bos = self.tokenizer.bos_token
        inputs = self.processor(
            text=[one.prompt for one in batch],
            images=[list(one.pictures) for one in batch] if batch[0].pictures else None,
            padding=True,
            padding_side="left",
            add_special_tokens=not (bos and batch[0].prompt.startswith(bos)),
            return_tensors="pt",
        )
        lengths = [int(length) for length in inputs["attention_mask"].sum(1)]
        return inputs.to(self.model.device, dtype=self.model.dtype), lengths

    def _does_not_fit(self, tokens: int) -> GenerationBudgetError:
        return GenerationBudgetError(f"{tokens} tokens do not fit the context of {self.context_tokens}")

    def _padding(self) -> int:
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = min(self._stop_ids)
        return int(self.tokenizer.pad_token_id)

    def _check_template(self) -> None:
        """Render one image: a template for plain strings would drop it, or print the list it came in."""
        try:
            with_image, without = (self._render([("user", parts)]) for parts in ([None, "probe"], ["probe"]))
        except ModelError as exc:
            raise ModelPackageError(f"{self.manifest.name}: {exc}") from exc
        if with_image == without or "probe" not in with_image or "'type'" in with_image:
            raise ModelPackageError(f"{self.manifest.name}: the chat template has no place for images")


class _FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Ends an answer whose logits are not numbers and remembers which one it was."""

    def __init__(self, stop_id: int) -> None:
        self.broken: set[int] = set()
        self._stop_id = stop_id

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # minus infinity is how some models rule out their image tokens
        rows = (scores.isnan() | scores.isposinf()).any(-1)
        if bool(rows.any()):
            self.broken |= set(rows.nonzero()[:, 0].tolist())
            scores = scores.masked_fill(rows[:, None], 0.0)
            scores[rows, self._stop_id] = 1.0
        return scores


class _EndlessRepetition(StoppingCriteria):  # type: ignore[misc]
    """Ends an answer that repeats itself and remembers which one it was."""

    def __init__(self, rows: int, stops: frozenset[int]) -> None:
        self.repeated: set[int] = set()
        self._watches = {row: RepetitionWatch() for row in range(rows)}
        self._stops = stops

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_: Any) -> torch.Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if token in self._stops:
                self._watches.pop(row, None)  # what follows in this row is padding
            elif row in self._watches and self._watches[row].repeats(token):
                self.repeated.add(row)
        return torch.tensor([row in self.repeated for row in range(len(input_ids))], device=input_ids.device)


def _batches(asked: Mapping[int, _Asked]) -> Iterator[list[int]]:
    """Yield keys of conversations to run together; those without pictures go by themselves."""
    for has_pictures in (True, False):
        chosen = [index for index, one in asked.items() if bool(one.pictures) == has_pictures]
        for start in range(0, len(chosen), BATCH):
            yield chosen[start : start + BATCH]
