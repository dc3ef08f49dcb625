"""Expert-guided fine-tuning of the demonstration model: LoRA on the decoder, projector and tower in full.

Base weights stay bfloat16 and frozen; what is trained is float32. Every batch runs the tokens its conversations
share (system prompt and model cards) once and hands their keys and values to all of them. Progress is kept on
disk, so training can be stopped and resumed.
"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
import torch
from torch.nn import functional
from transformers import AutoTokenizer, DynamicCache, LlamaForCausalLM

from training.balance import draw_kind
from training.conversations import (
    EXPERT_OF,
    Conversation,
    Offer,
    direct_conversation,
    feedback_conversation,
    training_cards,
    trigger_conversation,
)
from training.lora import add_adapters
from training.packing import Batch, Packed, Packer, collate
from training.patients import MODALITIES, Patient
from training.tower import IMAGE_SIDE, TOWER, augmented, new_tower
from worker.vlm.cards import print_cards
from worker.vlm.projector import Projector
from worker.vlm.templates import template
from worker.vlm.vila_m3 import picture_tensor

log = structlog.get_logger()

TEMPLATE: Final = "hermes-2"
BOS_RULE: Final = "published"
ROWS_PER_IMAGE: Final = 25
_RATES: Final = {"lora": 6e-4, "projector": 8e-4, "tower": 1.5e-4}


@dataclass
class Student:
    """The model in training.

    Attributes:
        tokenizer: of the base model.
        llm: decoder with LoRA layers.
        tower, projector: trained in full.
    """

    tokenizer: Any
    llm: Any
    tower: Any
    projector: Projector

    def groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return what is trained, by learning rate."""
        return {
            "lora": [p for name, p in self.llm.named_parameters() if "lora_" in name],
            "projector": list(self.projector.parameters()),
            "tower": list(self.tower.parameters()),
        }

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the trained tensors: LoRA by module name, projector, tower."""
        lora = {name: p.detach() for name, p in self.llm.named_parameters() if "lora_" in name}
        return {"lora": lora, "projector": self.projector.state_dict(), "tower": self.tower.state_dict()}

    def load_state(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        """Take trained tensors."""
        parameters = dict(self.llm.named_parameters())
        with torch.no_grad():
            for name, tensor in state["lora"].items():
                parameters[name].copy_(tensor)
        self.projector.load_state_dict(state["projector"])
        self.tower.load_state_dict(state["tower"])


def new_student(base: Path, *, seed: int) -> Student:
    """Return base decoder with fresh LoRA, fresh projector and fresh tower.

    Args:
        base: folder of the base language model, as `worker.vlm.base_wheel` writes it.
        seed: of all new weights.
    """
    torch.manual_seed(seed)
    llm: Any = LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
    add_adapters(llm)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    return Student(tokenizer, llm, new_tower(seed), Projector(TOWER.hidden_size, llm.config.hidden_size))


@dataclass
class Course:
    """What the conversations of a run are drawn from."""

    patients: dict[str, list[Patient]]
    packer: Packer
    rng: np.random.Generator
    batch: int = 4
    pool: int = 4
    waiting: list[list[Packed]] = field(default_factory=list)

    def next_batch(self) -> list[Packed]:
        """Return conversations of similar length that share one offer of Experts."""
        if not self.waiting:
            cards = training_cards(self.rng)
            offer = Offer(print_cards(cards), frozenset(card.name for card in cards))
            packed = [self.packer.pack(self._draw(offer)) for _ in range(self.batch * self.pool)]
            packed.sort(key=lambda item: item.length(ROWS_PER_IMAGE))
            groups = [packed[i : i + self.batch] for i in range(0, len(packed), self.batch)]
            self.waiting = [groups[i] for i in self.rng.permutation(len(groups))]
        return self.waiting.pop()

    def _draw(self, offer: Offer) -> Conversation:
        modality, form = draw_kind(self.rng, offer.experts, EXPERT_OF).split()
        choices = self.patients[modality]
        patient = choices[int(self.rng.integers(len(choices)))]
        make = {"trigger": trigger_conversation, "feedback": feedback_conversation, "direct": direct_conversation}
        return make[form](self.rng, patient, offer, held_out=False)


def batch_logits(student: Student, batch: Batch, pixels: torch.Tensor) -> torch.Tensor:
    """Return ``(targets, vocabulary)`` logits for every token the batch asks for."""
    llm = student.llm
    embed = llm.get_input_embeddings()
    cache = DynamicCache(config=llm.config)
    with torch.no_grad():  # the prefix is read-only: its gradient would cost a seventh of each step
        llm.model(inputs_embeds=embed(torch.tensor([batch.prefix])), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(batch.ids.shape[0])
    with torch.autocast("cpu", torch.bfloat16):
        tokens = student.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        rows = student.projector(tokens)
    embeddings = embed(batch.ids).clone()
    places = batch.image_places
    embeddings[places[:, 0], places[:, 1]] = rows.reshape(-1, rows.shape[-1]).to(embeddings.dtype)
    mask = torch.zeros(batch.mask.shape, dtype=embeddings.dtype)
    mask.masked_fill_(~batch.mask, torch.finfo(embeddings.dtype).min)
    hidden = llm.model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=batch.positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    before = hidden[batch.targets[:, 0], batch.targets[:, 1] - 1]
    logits: torch.Tensor = llm.lm_head(before)
    return logits.float()


def batch_pixels(rng: np.random.Generator | None, packed: Sequence[Packed]) -> torch.Tensor:
    """Return the pictures of a batch, normalised; augmented when ``rng`` is given."""
    pictures = [picture for item in packed for picture in item.conversation.images]
    if rng is not None:
        pictures = [augmented(rng, picture) for picture in pictures]
    return torch.stack([picture_tensor(picture, IMAGE_SIDE, (0.5,) * 3, (0.5,) * 3) for picture in pictures])


def right_answers(logits: torch.Tensor, wanted: torch.Tensor, batch: Batch) -> dict[str, list[bool]]:
    """Return by key whether each answer would have been written right, token for token."""
    groups, keys = batch.groups
    right = torch.ones(len(keys), dtype=torch.bool)
    right[groups[logits.argmax(-1) != wanted]] = False
    tally: dict[str, list[bool]] = defaultdict(list)
    for index in sorted(set(groups.tolist())):
        tally[keys[index]].append(bool(right[index]))
    return tally


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        folder: checkpoint and log go here; a checkpoint found there is resumed.
        seconds: wall time of the whole run, all parts together; the learning rate ends with it.
        seed: of conversations and new weights.
        keep_every_s: seconds between checkpoints.
    """

    folder: Path
    seconds: float
    seed: int = 20261122
    keep_every_s: float = 120.0


def finetune(student: Student, course: Course, run: Run) -> dict[str, float]:
    """Train until the run's time is used up; returns the last means. Progress lies in ``run.folder``."""
    groups = student.groups()
    optimiser = torch.optim.AdamW(
        [{"params": p, "lr": _RATES[name], "name": name} for name, p in groups.items()], weight_decay=0.0
    )
    step, spent = _resume(student, optimiser, run)
    started, kept = time.monotonic() - spent, time.monotonic()
    tally: dict[str, list[float]] = defaultdict(list)
    while (spent := time.monotonic() - started) < run.seconds:
        _set_rates(optimiser, step, spent / run.seconds)
        _step(student, course, optimiser, tally)
        step += 1
        if step % 10 == 0:
            _report(run, step, spent, tally)
        if time.monotonic() - kept > run.keep_every_s:
            _keep(student, optimiser, run, step, spent)
            kept = time.monotonic()
    _keep(student, optimiser, run, step, spent)
    return {key: float(np.mean(values)) for key, values in tally.items()}


def _step(student: Student, course: Course, optimiser: Any, tally: dict[str, list[float]]) -> None:
    packed = course.next_batch()
    batch = collate(packed, ROWS_PER_IMAGE)
    wanted = batch.ids[batch.targets[:, 0], batch.targets[:, 1]]
    logits = batch_logits(student, batch, batch_pixels(course.rng, packed))
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    loss = (losses * batch.weights).sum() / batch.weights.sum()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    tally["loss"].append(float(loss.detach()))
    tally["tokens"].append(float(batch.ids.numel() + len(batch.prefix)))
    for key, right in right_answers(logits.detach(), wanted, batch).items():
        tally[key] += [float(value) for value in right]


def _set_rates(optimiser: Any, step: int, part: float) -> None:
    factor = min(1.0, (step + 1) / 30) * (0.05 + 0.95 * (0.5 + 0.5 * float(np.cos(np.pi * min(part, 1.0)))))
    for group in optimiser.param_groups:
        group["lr"] = _RATES[group["name"]] * factor


def _report(run: Run, step: int, spent: float, tally: dict[str, list[float]]) -> None:
    means = {key: round(float(np.mean(values)), 4) for key, values in sorted(tally.items())}
    line = {"step": step, "seconds": round(spent), **means}
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    log.info("vlm.trained", step=step, seconds=round(spent), loss=means["loss"])
    tally.clear()


def _keep(student: Student, optimiser: Any, run: Run, step: int, spent: float) -> None:
    part = run.folder / "checkpoint.part"
    torch.save({"state": student.state(), "optimiser": optimiser.state_dict(), "step": step, "spent": spent}, part)
    part.replace(run.folder / "checkpoint.pt")


def _resume(student: Student, optimiser: Any, run: Run) -> tuple[int, float]:
    run.folder.mkdir(parents=True, exist_ok=True)
    kept = run.folder / "checkpoint.pt"
    if not kept.exists():
        return 0, 0.0
    content = torch.load(kept, weights_only=True)
    student.load_state(content["state"])
    optimiser.load_state_dict(content["optimiser"])
    return int(content["step"]), float(content["spent"])


def new_course(student: Student, patients: Sequence[Patient], *, seed: int) -> Course:
    """Return a course over ``patients``; every modality must be among them."""
    by_modality: dict[str, list[Patient]] = {
        modality: [p for p in patients if p.modality == modality] for modality in MODALITIES
    }
    packer = Packer(student.tokenizer, template(TEMPLATE), bos_rule=BOS_RULE)
    return Course(by_modality, packer, np.random.default_rng(seed))
