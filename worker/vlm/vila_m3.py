"""VILA-M3 on stock transformers classes: SigLIP tower, ``mlp_downsample`` projector, Llama decoder.

One image goes through: PIL bicubic squash to the tower's size → patches → ``hidden_states[-2]`` (no post
layernorm, every token kept) → 2×2 neighbours concatenated, column-major → LayerNorm, Linear, GELU, Linear →
rows spliced in where the prompt says ``<image>``. Source: Project-MONAI/VLM and the VILA revision it pins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from transformers import DynamicCache

from config.errors import GenerationBudgetError, ModelError
from worker.vlm.backends import Answer, Generation, VlmCard
from worker.vlm.checkpoint import load_parts
from worker.vlm.package import BosRule, VlmManifest, verify_vlm_package
from worker.vlm.projector import Projector
from worker.vlm.templates import IMAGE, Message, render, template

IMAGE_ID = -200
"""Stands for one image among token ids until its rows are spliced in."""

_KEPT_OPENINGS = 4


def picture_tensor(picture: NDArray[np.uint8], side: int, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
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


class VilaM3:
    """A loaded VILA-M3 checkpoint; one conversation at a time, greedy, no state between calls."""

    def __init__(
        self,
        manifest: VlmManifest,
        parts: tuple[Any, Any, Any, Projector],
        *,
        context_tokens: int,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        """Assemble loaded parts; use `load` for a checkpoint folder.

        Args:
            manifest: the package's promise.
            parts: tokenizer, LlamaForCausalLM, SiglipVisionModel, projector; on one device, one dtype.
            context_tokens: longest prompt plus answer.
            image_mean, image_std: normalisation of the picture.
        """
        self.manifest = manifest
        self.tokenizer, self.llm, self.tower, self.projector = parts
        self.context_tokens = context_tokens
        self._normalisation = (image_mean, image_std)
        self._template = template(manifest.template)
        self._stop_ids = self._stops()
        self._openings: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> Self:
        """Load a checkpoint folder in the published layout, after checking every file's SHA-256.

        Args:
            folder: see `worker.vlm.package`.
            device: torch device.
            dtype: None takes bfloat16 where the hardware multiplies in it, else float32.

        Raises:
            ModelPackageError: files or tensors are missing, altered or surplus.
        """
        manifest = verify_vlm_package(folder)
        parts, settings = load_parts(folder, device=device, dtype=dtype)
        return cls(manifest, parts, **settings)

    @property
    def card(self) -> VlmCard:
        """The package's promise."""
        return self.manifest.card()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = self.llm.device
        return device

    def generate(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], *, max_new_tokens: int
    ) -> Generation:
        """See `worker.vlm.backends.VisionLanguageModel.generate`."""
        ids = self._ids(messages)
        with torch.inference_mode():
            rows = self._image_rows(images)
            self._check_fits(self._length(ids, rows) + max_new_tokens)
            produced = self._greedy(*self._prefill(ids, rows), max_new_tokens)
        text = self.tokenizer.decode(produced[:-1], skip_special_tokens=True).strip()
        return Generation(text=text, token_count=len(produced), stopped=True)

    def answer_each(
        self, messages: Sequence[Message], images: Sequence[NDArray[np.uint8]], questions: Sequence[str]
    ) -> list[Answer]:
        """See `worker.vlm.backends.VisionLanguageModel.answer_each`.

        The tokens all prompts share are run once; the rest of every prompt runs in one packed sequence, each
        question seeing the shared part and itself. The result equals asking one by one.
        """
        if not questions:
            return []
        with torch.inference_mode():
            hidden, ends = self._run_branches(messages, images, [(question, None) for question in questions])
            logits = self.llm.lm_head(hidden[ends - 1]).float()
        return [self._choice(row) for row in logits]

    def would_write(
        self,
        messages: Sequence[Message],
        images: Sequence[NDArray[np.uint8]],
        pairs: Sequence[tuple[str, str]],
    ) -> list[bool]:
        """Return for each (question, answer) whether `generate` would write exactly that answer.

        Greedy generation writes a text exactly when each of its tokens, and then the stop token, is the most
        probable one after those before it; that takes one pass instead of one per token.
        """
        with torch.inference_mode():
            hidden, ends = self._run_branches(messages, images, list(pairs))
            best = self.llm.lm_head(hidden).argmax(-1)
        written = []
        for end, (_, answer) in zip(ends.tolist(), pairs, strict=True):
            wanted = self._answer_ids(answer)
            written.append(best[end - len(wanted) - 1 : end - 1].tolist() == wanted)
        return written

    def _run_branches(
        self,
        messages: Sequence[Message],
        images: Sequence[NDArray[np.uint8]],
        pairs: Sequence[tuple[str, str | None]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(packed, width)`` hidden states of all branches and where each branch ends."""
        head, last = list(messages[:-1]), messages[-1]
        prompts = [self._ids([*head, Message("user", last.text + question)]) for question, _ in pairs]
        shared = common_prefix(prompts)
        branches = [
            prompt[shared:] + (self._answer_ids(answer) if answer is not None else [])
            for prompt, (_, answer) in zip(prompts, pairs, strict=True)
        ]
        if any(IMAGE_ID in branch for branch in branches):
            raise ModelError("an image stands after the questions begin to differ")
        rows = self._image_rows(images)
        trunk = prompts[0][:shared]
        self._check_fits(self._length(trunk, rows) + max(map(len, branches)))
        cache, _ = self._prefill(trunk, rows)
        lengths = [len(branch) for branch in branches]
        embeddings = self._embed([token for branch in branches for token in branch])
        mask, positions = packed_attention(cache.get_seq_length(), lengths, dtype=embeddings.dtype)
        hidden = self.llm.model(
            inputs_embeds=embeddings,
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[0], torch.tensor(lengths, device=self.device).cumsum(0)

    def _prefill(self, ids: Sequence[int], rows: torch.Tensor) -> tuple[DynamicCache, torch.Tensor]:
        """Run a prompt; returns its keys and values and the last hidden state ``(1, width)``.

        What stands before the first image (system prompt, model cards) is the same in every conversation of a
        Study, so its keys and values are kept for the next one.
        """
        opening = ids.index(IMAGE_ID) if IMAGE_ID in ids else 0
        cache = self._opening_cache(tuple(ids[:opening])) if opening else DynamicCache(config=self.llm.config)
        embeddings = self._splice(ids[opening:], rows)
        hidden = self.llm.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state
        return cache, hidden[:, -1]

    def _opening_cache(self, opening: tuple[int, ...]) -> DynamicCache:
        if opening not in self._openings:
            fresh = DynamicCache(config=self.llm.config)
            self.llm.model(inputs_embeds=self._embed(opening), past_key_values=fresh, use_cache=True)
            if len(self._openings) >= _KEPT_OPENINGS:
                self._openings.pop(next(iter(self._openings)))
            self._openings[opening] = [(layer.keys, layer.values) for layer in fresh.layers]
        # Growing a cache makes new tensors, so the kept ones stay as they are.
        return DynamicCache(ddp_cache_data=self._openings[opening])

    def _choice(self, logits: torch.Tensor) -> Answer:
        scores = functional.log_softmax(logits, dim=-1)
        yes = float(torch.logsumexp(scores[self._word_ids("yes")], 0))
        no = float(torch.logsumexp(scores[self._word_ids("no")], 0))
        text = "yes" if yes > no else "no"
        best = int(scores.argmax())
        return Answer(text=text, margin=abs(yes - no), is_free_choice=best in self._word_ids(text))

    def _word_ids(self, word: str) -> list[int]:
        """Return the ids a one-token answer ``word`` may have: lower or title case, with or without a space."""
        ids = set()
        for form in (word, word.title(), f" {word}", f" {word.title()}"):
            tokens = self.tokenizer(form, add_special_tokens=False).input_ids
            if len(tokens) == 1:
                ids.add(int(tokens[0]))
        if not ids:
            raise ModelError(f"the tokenizer has no single token for {word!r}")
        return sorted(ids)

    def _greedy(self, cache: DynamicCache, last: torch.Tensor, max_new_tokens: int) -> list[int]:
        produced: list[int] = []
        for _ in range(max_new_tokens):
            token = int(self.llm.lm_head(last).argmax())
            produced.append(token)
            if token in self._stop_ids:
                return produced
            hidden = self.llm.model(inputs_embeds=self._embed([token]), past_key_values=cache, use_cache=True)
            last = hidden.last_hidden_state[:, -1]
        raise GenerationBudgetError(f"the model did not stop within {max_new_tokens} tokens")

    def _answer_ids(self, answer: str) -> list[int]:
        text = answer + self._template.stop_tokens[0]
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False).input_ids]

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        prompt = render(self._template, messages)
        return tokenise(prompt, self.tokenizer, bos_rule=self.manifest.bos_rule)

    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        tokens = torch.tensor([list(ids)], dtype=torch.long, device=self.device)
        embedded: torch.Tensor = self.llm.get_input_embeddings()(tokens)
        return embedded

    def _image_rows(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Return ``(images, tokens per image, text width)`` projector rows."""
        if not images:
            return torch.empty((0, 0, 0))
        mean, std = self._normalisation
        side = int(self.tower.config.image_size)
        pixels = torch.stack([picture_tensor(picture, side, mean, std) for picture in images])
        return self.encode(pixels.to(self.device, self.llm.dtype))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return projector rows of ``(images, 3, side, side)`` normalised pixels."""
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        rows: torch.Tensor = self.projector(states[-2])
        return rows

    def _splice(self, ids: Sequence[int], rows: torch.Tensor) -> torch.Tensor:
        places = [index for index, token in enumerate(ids) if token == IMAGE_ID]
        if len(places) != rows.shape[0]:
            raise ModelError(f"{rows.shape[0]} pictures for {len(places)} places in the prompt")
        parts, start = [], 0
        for number, place in enumerate(places):
            parts += [self._embed(ids[start:place]), rows[number : number + 1]]
            start = place + 1
        parts.append(self._embed(ids[start:]))
        return torch.cat(parts, dim=1)

    def _length(self, ids: Sequence[int], rows: torch.Tensor) -> int:
        """Return how many positions a prompt takes once its images are in."""
        images = sum(1 for token in ids if token == IMAGE_ID)
        return len(ids) + images * (max(1, rows.shape[1]) - 1)

    def _check_fits(self, tokens: int) -> None:
        if tokens > self.context_tokens:
            raise GenerationBudgetError(f"{tokens} tokens do not fit the context of {self.context_tokens}")

    def _stops(self) -> frozenset[int]:
        ids = {self.tokenizer.convert_tokens_to_ids(token) for token in self._template.stop_tokens}
        eos = self.llm.generation_config.eos_token_id
        ids |= set(eos) if isinstance(eos, list) else {eos}
        return frozenset(int(token) for token in ids if token is not None)


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


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many leading ids all prompts share, leaving at least one id to each."""
    limit = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    return next((i for i in range(limit) if any(p[i] != first[i] for p in prompts)), limit)
