"""Any image-text-to-text model of transformers with a chat template, from a sealed folder.

The model's own processor prepares pictures and text, its own template renders the turns, its own end tokens
stop an answer. No code from the folder is ever run. What its generation config says about sampling or
penalties is not used: answers are greedy, so that the same input gives the same answer.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

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

from config.errors import GenerationBudgetError, ModelError, ModelOutputError, ModelPackageError, RepetitionError
from worker.vlm import answers, chat
from worker.vlm.backends import Answer, Conversation, Generation, VlmCard
from worker.vlm.checkpoint import natural_dtype
from worker.vlm.generation import RepetitionWatch
from worker.vlm.hf_package import chat_template, context_tokens, load_model, load_processor, stop_ids
from worker.vlm.package import VlmManifest, verify_vlm_package
from worker.vlm.prompts import Style
from worker.vlm.templates import Message

log = structlog.get_logger()

BATCH = 8
"""Conversations run at once."""


class TransformersVlm:
    """A loaded image-text-to-text model; greedy, no state between calls."""

    def __init__(self, manifest: VlmManifest, processor: Any, model: Any, *, device_map: str = "") -> None:
        """Assemble loaded parts; use `load` for a package folder.

        Args:
            manifest: the package's promise.
            processor: the model's processor, with a chat template.
            model: decoder-only image-text-to-text model, in evaluation mode.
            device_map: how its layers were spread, for the provenance record.

        Raises:
            ModelPackageError: the chat template is missing or has no place for images, or no token ends an answer.
        """
        self.manifest = manifest
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.model = model
        self.context_tokens = context_tokens(model, self.tokenizer)
        self._device_map = device_map
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
        quantization: str = "none",
        device_map: str = "",
        style: Style | None = None,
    ) -> Self:
        """Load a package folder as ``save_pretrained`` writes it, after checking every file's SHA-256.

        Args:
            folder: model, processor and tokenizer files beside the manifest.
            device: torch device.
            dtype: None takes bfloat16 where the hardware multiplies in it, else float32.
            quantization: ``"none"``, ``"8bit"`` or ``"4bit"``, by bitsandbytes.
            device_map: ``"auto"`` spreads the model over all GPUs; ``""`` keeps it on ``device``.
            style: wording of prompts; None takes the package's.

        Raises:
            ModelPackageError: files or tensors are missing, altered or surplus, or it is no such model.
        """
        manifest = verify_vlm_package(folder)
        if style:
            manifest = manifest.model_copy(update={"style": style})
        processor = load_processor(folder)
        placing = {"device_map": device_map or (device if quantization != "none" else None)}
        model = load_model(folder, dtype or natural_dtype(device), placing, quantization)
        return cls(manifest, processor, model if placing["device_map"] else model.to(device), device_map=device_map)

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        return self.manifest.card()

    @property
    def runtime(self) -> Mapping[str, str]:
        """How it computes; for the provenance record."""
        quantization = getattr(self.model.config, "quantization_config", None)
        return {
            "backend": "hf",
            "architecture": type(self.model).__name__,
            "processor": type(self.processor).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self._device_map or str(self.model.device),
            "quantization": str(quantization.quant_method) if quantization else "none",
            "attention": str(self.model.config._attn_implementation),
            "yes_no_request": answers.ONE_WORD.strip(),
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
        prompts: dict[int, str] = {}
        for index, conversation in enumerate(conversations):
            try:
                prompts[index] = self._prompt(conversation)
            except ModelError as exc:
                outcomes[index] = exc
        for batch in _batches(conversations, prompts):
            answered = self._answer(conversations, prompts, batch, max_new_tokens)
            outcomes |= dict(zip(batch, answered, strict=True))
        return [outcomes[index] for index in range(len(conversations))]

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """See `worker.vlm.backends.VisionLanguageModel.answer_each`.

        The questions run as conversations of their own, several at once. Each asks for one word, which this
        model was not trained to answer with.
        """
        yes, no = answers.word_ids(self.tokenizer, "yes"), answers.word_ids(self.tokenizer, "no")
        asked = [chat.with_question(messages, question + answers.ONE_WORD) for question in questions]
        conversations = [Conversation(one, tuple(images)) for one in asked]
        prompts = {index: self._prompt(conversation) for index, conversation in enumerate(conversations)}
        chosen: list[Answer] = []
        for batch in _batches(conversations, prompts):
            inputs = self._inputs([conversations[i] for i in batch], [prompts[i] for i in batch])
            for length in inputs["attention_mask"].sum(1).tolist():
                self._check_fits(length + 1)
            chosen += [answers.choice(row, yes, no) for row in self._next_logits(inputs)]
        return chosen

    def _answer(
        self, conversations: Sequence[Conversation], prompts: Mapping[int, str], batch: Sequence[int], budget: int
    ) -> list[Generation | ModelError]:
        """Answer one batch; what does not fit the context is left out of the run."""
        inputs = self._inputs([conversations[i] for i in batch], [prompts[i] for i in batch])
        lengths = inputs["attention_mask"].sum(1).tolist()
        too_long = {i: n + budget for i, n in zip(batch, lengths, strict=True) if n + budget > self.context_tokens}
        if too_long:
            fitting = [index for index in batch if index not in too_long]
            rest = iter(self._answer(conversations, prompts, fitting, budget) if fitting else ())
            return [self._does_not_fit(too_long[i]) if i in too_long else next(rest) for i in batch]
        guard = _FiniteLogits(min(self._stop_ids))
        halt = _EndlessRepetition(len(batch), self._stop_ids)
        with torch.inference_mode():
            produced = self.model.generate(
                **inputs,
                max_new_tokens=budget,
                logits_processor=LogitsProcessorList([guard]),
                stopping_criteria=StoppingCriteriaList([halt]),
            )
        rows = produced[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            ModelOutputError("the model gave logits that are no numbers")
            if row in guard.broken
            else self._generation(ids, prompts[index], repeated=row in halt.repeated)
            for row, (index, ids) in enumerate(zip(batch, rows, strict=True))
        ]

    def _generation(self, ids: list[int], prompt: str, *, repeated: bool) -> Generation | ModelError:
        end = next((place for place, token in enumerate(ids) if token in self._stop_ids), None)
        if repeated:
            return RepetitionError("the model repeated itself without end")
        if end is None:
            return GenerationBudgetError(f"the model did not stop within {len(ids)} tokens")
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        return Generation(text, token_count=end + 1, stopped=True, token_ids=tuple(ids[: end + 1]), prompt=prompt)

    def _next_logits(self, inputs: Any) -> torch.Tensor:
        """Return ``(batch, vocabulary)`` logits of the first token of each answer."""
        with torch.inference_mode():
            step = self.model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
        logits: torch.Tensor = step.logits[0]
        return logits

    def _prompt(self, conversation: Conversation) -> str:
        """Return the rendered prompt, with one of the model's own image marks per picture.

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
        return prompt

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
        ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return Counter(token for token in ids if token in self._control_ids)

    def _inputs(self, conversations: Sequence[Conversation], prompts: Sequence[str]) -> Any:
        """Return what the model takes, padded on the left, on its device, in its dtype."""
        pictures = [[Image.fromarray(picture) for picture in one.images] for one in conversations]
        bos = self.tokenizer.bos_token
        inputs = self.processor(
            text=list(prompts),
            images=pictures if any(pictures) else None,
            padding=True,
            padding_side="left",
            add_special_tokens=not (bos and prompts[0].startswith(bos)),
            return_tensors="pt",
        )
        return inputs.to(self.model.device, dtype=self.model.dtype)

    def _check_fits(self, tokens: int) -> None:
        if tokens > self.context_tokens:
            raise self._does_not_fit(tokens)

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


def _batches(conversations: Sequence[Conversation], prompts: Mapping[int, str]) -> Iterator[list[int]]:
    """Yield indices of conversations to run together; those without images go by themselves."""
    for has_images in (True, False):
        chosen = [index for index in prompts if bool(conversations[index].images) == has_images]
        for start in range(0, len(chosen), BATCH):
            yield chosen[start : start + BATCH]
