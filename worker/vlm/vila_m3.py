"""VILA-M3 on stock transformers classes: SigLIP tower, ``mlp_downsample`` projector, Llama decoder.

One image goes through: PIL bicubic squash to the tower's size → patches → ``hidden_states[-2]`` (no post
layernorm, every token kept) → 2×2 neighbours concatenated, column-major → LayerNorm, Linear, GELU, Linear →
rows spliced in where the prompt says ``<image>``. Source: Project-MONAI/VLM and the VILA revision it pins.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog
import torch

from config.errors import GpuBusyError, ModelError
from worker.vlm.answers import choice, word_ids
from worker.vlm.backends import Answer, Conversation, Generation, VlmCard
from worker.vlm.checkpoint import Quantization, load_parts, weights_mb
from worker.vlm.front_end import (
    IMAGE_ID,
    Element,
    Picture,
    Prompt,
    PromptWriter,
    common_prefix,
    picture_tensor,
    tokenise,
)
from worker.vlm.generation import Answering, decode, finite, packed_attention, stop_ids
from worker.vlm.kv_cache import Kept, PrefixStore, RoomyCache
from worker.vlm.package import VlmManifest, verify_vlm_package
from worker.vlm.projector import Projector
from worker.vlm.prompts import Style
from worker.vlm.templates import Message, template

__all__ = ["IMAGE_ID", "VilaM3", "common_prefix", "picture_tensor", "tokenise"]

log = structlog.get_logger()

_KEPT_PICTURES = 64
Made = TypeVar("Made")


class VilaM3:
    """A loaded VILA-M3 checkpoint. Greedy; what it keeps between calls saves time and changes no answer.

    Safe to call from several threads: one computes at a time. The weights must not change once it has answered.
    """

    def __init__(
        self,
        manifest: VlmManifest,
        parts: tuple[Any, Any, Any, Projector],
        *,
        context_tokens: int,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        style: Style | None = None,
        kv_cache_mb: float = 2048.0,
        runtime: Mapping[str, str] | None = None,
    ) -> None:
        """Assemble loaded parts; use `load` for a checkpoint folder.

        Args:
            manifest: the package's promise.
            parts: tokenizer, LlamaForCausalLM, SiglipVisionModel, projector; one dtype.
            context_tokens: longest prompt plus answer.
            image_mean, image_std: normalisation of the picture.
            style: wording of prompts; None leaves the package's own.
            kv_cache_mb: keys and values kept for later rounds, in MiB; 0 keeps nothing, pictures included.
            runtime: what `load` knows of how it computes.
        """
        self.manifest = manifest
        self.tokenizer, self.llm, self.tower, self.projector = parts
        self.context_tokens = context_tokens
        self._normalisation = (image_mean, image_std)
        self._style = style or manifest.style
        self._template = template(manifest.template)
        self._stop_ids = self._stops()
        self._runtime = dict(runtime or {})
        self._lock = threading.RLock()
        patches = int(self.tower.config.image_size) // int(self.tower.config.patch_size)
        rows_per_image = ((patches + 1) // 2) ** 2
        self._writer = PromptWriter(
            self.tokenizer,
            self._template,
            bos_rule=manifest.bos_rule,
            context_tokens=context_tokens,
            rows_per_image=rows_per_image,
        )
        self._known = PrefixStore(int(kv_cache_mb * 2**20), rows_per_image)
        self._rows: OrderedDict[bytes, torch.Tensor] = OrderedDict()

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
        kv_cache_mb: float = 2048.0,
    ) -> Self:
        """Load a checkpoint folder in the published layout, after checking every file's SHA-256.

        Args:
            folder: see `worker.vlm.package`.
            device: torch device.
            dtype: None takes bfloat16 where the hardware multiplies in it, else float32.
            quantization: how bitsandbytes stores the decoder's weights; tower and projector stay in ``dtype``.
            device_map: ``"auto"`` spreads the decoder over all devices; ``""`` keeps it on ``device``.
            style: wording of prompts; None leaves the package's own.
            kv_cache_mb: keys and values kept for later rounds, in MiB; 0 keeps nothing.

        Raises:
            ModelPackageError: files or tensors are missing, altered or surplus.
            ConfigurationError: quantization is asked for and bitsandbytes cannot work here.
        """
        manifest = verify_vlm_package(folder)
        parts, settings = load_parts(
            folder, device=device, dtype=dtype, quantization=quantization, device_map=device_map
        )
        return cls(manifest, parts, **settings, style=style, kv_cache_mb=kv_cache_mb)

    @property
    def card(self) -> VlmCard:
        """The package's promise, with the style in use."""
        return replace(self.manifest.card(), style=self._style)

    @property
    def runtime(self) -> Mapping[str, str]:
        """How it computes: dtype, device, quantisation, attention kernel, libraries, threads."""
        return {
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": str(self.llm.config._attn_implementation),
            "torch_threads": str(torch.get_num_threads()),
            "kv_cache_mb": f"{self._known.budget_bytes / 2**20:g}",
            "weights_mb": f"{weights_mb(self.llm, self.tower, self.projector):.1f}",
            **self._runtime,
        }

    @property
    def device(self) -> torch.device:
        """Where prompts go in."""
        device: torch.device = self.llm.get_input_embeddings().weight.device
        return device

    def generate(self, messages: Sequence[Message], images: Sequence[Picture], *, max_new_tokens: int) -> Generation:
        """See `worker.vlm.backends.VisionLanguageModel.generate`."""
        (made,) = self.generate_batch([Conversation(tuple(messages), tuple(images))], max_new_tokens=max_new_tokens)
        if isinstance(made, ModelError):
            raise made
        return made

    def generate_batch(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int
    ) -> list[Generation | ModelError]:
        """See `worker.vlm.backends.VisionLanguageModel.generate_batch`.

        Prompts are read one after the other, each from the longest beginning that is known, be it from an
        earlier call or from a conversation before it in this batch; then all answers are written together.

        Raises:
            GpuBusyError: not even one conversation fits the device's memory.
        """
        with self._lock:
            if len(conversations) < 2:
                return self._with_room(lambda: self._answer_batch(conversations, max_new_tokens))
            try:
                return self._answer_batch(conversations, max_new_tokens)
            except torch.OutOfMemoryError:
                self._make_room()
            half = len(conversations) // 2
            log.warning("batch.halved", count=half)
            return [
                answer
                for part in (conversations[:half], conversations[half:])
                for answer in self.generate_batch(part, max_new_tokens=max_new_tokens)
            ]

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[Picture], questions: Sequence[str]
    ) -> list[Answer]:
        """See `worker.vlm.backends.VisionLanguageModel.answer_each`.

        The tokens all prompts share are run once; the rest of every prompt runs in one packed sequence, each
        question seeing the shared part and itself. The result equals asking one by one.
        """
        if not questions:
            return []
        with self._lock, torch.inference_mode():
            pairs = [(question, None) for question in questions]
            hidden, ends = self._with_room(lambda: self._run_branches(messages, images, pairs))
            logits = finite(self.llm.lm_head(hidden[ends - 1]))
            yes, no = word_ids(self.tokenizer, "yes"), word_ids(self.tokenizer, "no")
            return [choice(row, yes, no) for row in logits]

    def would_write(
        self, messages: Sequence[Message], images: Sequence[Picture], pairs: Sequence[tuple[str, str]]
    ) -> list[bool]:
        """Return for each (question, answer) whether `generate` would write exactly that answer.

        Greedy generation writes a text exactly when each of its tokens, and then the stop token, is the most
        probable one after those before it; that takes one pass instead of one per token.
        """
        with self._lock, torch.inference_mode():
            hidden, ends = self._with_room(lambda: self._run_branches(messages, images, pairs))
            best = finite(self.llm.lm_head(hidden)).argmax(-1)
        written = []
        for end, (_, answer) in zip(ends.tolist(), pairs, strict=True):
            wanted = self._writer.answer_ids(answer)
            written.append(best[end - len(wanted) - 1 : end - 1].tolist() == wanted)
        return written

    def _answer_batch(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> list[Generation | ModelError]:
        made: list[tuple[Prompt, Answering] | ModelError] = []
        answers: list[Answering] = []
        with torch.inference_mode():
            for one in conversations:
                try:
                    (prompt,) = self._writer.prompts(one.messages, one.images, [("", max_new_tokens)])
                    answers.append(self._read(prompt, room=max_new_tokens, others=answers))
                    made.append((prompt, answers[-1]))
                except ModelError as exc:
                    made.append(exc)
            if answers:
                keep = self._known.budget_bytes > 0
                decode(self.llm, answers, stop_ids=self._stop_ids, max_new_tokens=max_new_tokens, keep=keep)
        for answer in answers:
            if answer.kept:
                self._known.keep(Kept(tuple(answer.elements), answer.kept))
        return [one if isinstance(one, ModelError) else self._outcome(*one) for one in made]

    def _outcome(self, prompt: Prompt, answer: Answering) -> Generation | ModelError:
        if answer.error is not None:
            return answer.error
        return Generation(
            text=self.tokenizer.decode(answer.produced[:-1], skip_special_tokens=True).strip(),
            token_count=len(answer.produced),
            stopped=True,
            token_ids=tuple(answer.produced),
            prompt=prompt.text,
            dropped_exchanges=prompt.dropped,
        )

    def _run_branches(
        self, messages: Sequence[Message], images: Sequence[Picture], pairs: Sequence[tuple[str, str | None]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(packed, width)`` hidden states of all branches and where each branch ends."""
        answers = [self._writer.answer_ids(answer) if answer is not None else [] for _, answer in pairs]
        endings = [(question, len(answer)) for (question, _), answer in zip(pairs, answers, strict=True)]
        prompts = self._writer.prompts(messages, images, endings)
        if len(prompts) == 1 and not answers[0]:
            # nothing to branch: the last state of the prompt is the answer's, and one pass less is run
            whole = self._read(prompts[0], room=0)
            self._known.keep(whole.known())
            return whole.last, torch.ones(1, dtype=torch.long, device=whole.last.device)
        shared = common_prefix([prompt.elements for prompt in prompts])
        branches = [[*prompt.elements[shared:], *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        tokens = [element for branch in branches for element in branch if isinstance(element, int)]
        lengths = [len(branch) for branch in branches]
        if len(tokens) != sum(lengths):
            raise ModelError("an image stands after the questions begin to differ")
        trunk = self._read(replace(prompts[0], elements=prompts[0].elements[:shared]), room=len(tokens))
        cache = trunk.cache
        assert cache is not None
        if self._known.budget_bytes:
            self._known.keep(Kept(tuple(trunk.elements), cache.columns(0, 0)))
        embeddings = self._embed(tokens)
        mask, positions = packed_attention(cache.get_seq_length(), lengths, dtype=embeddings.dtype)
        hidden = self._forward(cache, embeddings, mask=mask.to(self.device), positions=positions.to(self.device))
        return hidden[0], torch.tensor(lengths, device=hidden.device).cumsum(0)

    def _read(self, prompt: Prompt, *, room: int, others: Sequence[Answering] = ()) -> Answering:
        """Read a prompt from the longest known beginning on.

        Raises:
            ModelOutputError: states that are no numbers; nothing of them is kept, for one spoils all before it.
        """
        layers = int(self.llm.config.num_hidden_layers)
        known, start = self._known.longest(prompt.elements, [other.known() for other in others])
        cache = RoomyCache(layers, room=self._known.positions(prompt.elements[known:]) + room, start=start)
        embeddings = self._splice(prompt.elements[known:], prompt.pictures)
        last = finite(self._forward(cache, embeddings)[:, -1])
        return Answering(list(prompt.elements), cache, last)

    def _forward(
        self,
        cache: RoomyCache,
        embeddings: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        hidden: torch.Tensor = self.llm.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _splice(self, elements: Sequence[Element], pictures: Mapping[bytes, Picture]) -> torch.Tensor:
        """Return ``(1, positions, width)`` embeddings: a row per token, all rows of each picture."""
        parts: list[torch.Tensor] = []
        run: list[int] = []
        for element in elements:
            if isinstance(element, int):
                run.append(element)
                continue
            parts += [self._embed(run), self._picture_rows(element, pictures[element])[None]]
            run = []
        return torch.cat([*parts, self._embed(run)], dim=1)

    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        tokens = torch.tensor([list(ids)], dtype=torch.long, device=self.device)
        embedded: torch.Tensor = self.llm.get_input_embeddings()(tokens)
        return embedded

    def _picture_rows(self, digest: bytes, picture: Picture) -> torch.Tensor:
        """Return ``(rows per image, width)``; each picture goes through the tower alone, so its rows never depend
        on its company, and once.
        """
        if digest in self._rows:
            self._rows.move_to_end(digest)
            return self._rows[digest]
        mean, std = self._normalisation
        pixels = picture_tensor(picture, int(self.tower.config.image_size), mean, std)
        rows = self.encode(pixels[None].to(self.tower.device, self._dtype))[0].to(self.device)
        if self._known.budget_bytes:
            self._rows[digest] = rows
            if len(self._rows) > _KEPT_PICTURES:
                self._rows.popitem(last=False)
        return rows

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return projector rows of ``(images, 3, side, side)`` normalised pixels.

        What goes on is ``hidden_states[-2]``: the last encoder layer and the pooling head would be run for nothing.
        """
        states = self.tower.embeddings(pixels)
        for layer in self.tower.encoder.layers[:-1]:
            states = layer(states, None)
        rows: torch.Tensor = self.projector(states)
        return rows

    def _with_room(self, work: Callable[[], Made]) -> Made:
        """Do ``work``; without memory for it, once more with nothing kept.

        Raises:
            GpuBusyError: there is still no memory.
        """
        try:
            return work()
        except torch.OutOfMemoryError:
            self._make_room()
        try:
            return work()
        except torch.OutOfMemoryError as exc:
            raise GpuBusyError("no memory for one conversation") from exc

    def _make_room(self) -> None:
        """Forget what is kept for later rounds: the device has no memory left."""
        log.warning("cache.dropped", count=len(self._known), bytes=self._known.size)
        self._known.clear()
        self._rows.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.projector.parameters()).dtype
        return dtype

    def _stops(self) -> frozenset[int]:
        """Return the ids that end an answer, see `stop_ids`."""
        return stop_ids(self.manifest.name, self._template, self.tokenizer, self.llm.generation_config)
