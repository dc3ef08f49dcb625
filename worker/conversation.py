"""One conversation with the vision-language model: question, Trigger, Expert, feedback.

The model decides which Expert it needs. When it asks for none, for an unknown one, or does not stop,
the profile demands its own Expert all the same and the lapse is marked; an Expert's failure never
becomes text for the model to read.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ExpertError, GenerationBudgetError, TriggerSyntaxError
from worker.checks import Mark
from worker.experts.base import Expert, ExpertInput, ExpertResult, ModelCard
from worker.vlm.backends import VisionLanguageModel
from worker.vlm.cards import print_cards
from worker.vlm.prompts import first_message
from worker.vlm.templates import Message
from worker.vlm.triggers import Trigger, parse_triggers

Picture = NDArray[np.uint8]


@dataclass
class Bench:
    """The models of one Reading, and what was recorded of their work.

    Attributes:
        vlm: the vision-language model.
        cards: ModelCards of the Experts it is told of.
        expert: loads an Expert by name.
        study: arrays the Experts work on.
        modality: the prompt's word for the Study; an Expert of another modality is refused.
        max_new_tokens: budget of one answer.
        results: (expert, argument) → result, so that no Expert runs twice for one question.
        failures: (expert, argument) → reason of an Expert that failed.
        marks, transcript: lapses of the model, and every turn for the provenance record.
    """

    vlm: VisionLanguageModel
    cards: Sequence[ModelCard]
    expert: Callable[[str], Expert]
    study: ExpertInput
    modality: str
    max_new_tokens: int
    results: dict[tuple[str, str], ExpertResult] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    transcript: list[dict[str, Any]] = field(default_factory=list)

    def card(self, name: str) -> ModelCard | None:
        """Return the card of an offered Expert, or None."""
        return next((card for card in self.cards if card.name == name), None)

    def run(self, name: str, argument: str) -> ExpertResult:
        """Run an Expert once per argument.

        Raises:
            ExpertError: it failed, now or before.
        """
        key = (name, argument)
        if key in self.failures:
            raise ExpertError(self.failures[key])
        if key not in self.results:
            try:
                self.results[key] = self.expert(name).run(self.study, argument)
            except ExpertError as exc:
                self.failures[key] = str(exc)
                raise
        return self.results[key]


@dataclass(frozen=True)
class Asked:
    """The first turn of a conversation.

    Attributes:
        messages: the conversation so far: the user's question and what the model wrote.
        pictures: one per ``<image>``.
        trigger: the Expert to run next.
        demanded: the model did not ask for it; the profile did.
    """

    messages: list[Message]
    pictures: list[Picture]
    trigger: Trigger
    demanded: bool


def trigger_text(modality: str, expert: str, argument: str) -> str:
    """Return the assistant's turn as trained, for an Expert the profile demands (vila_m3 trigger texts)."""
    if expert == "CXR":
        return "This looks like an chest x-ray. Let me first trigger <CXR()>."
    if expert == "BRATS":
        return "This looks like an MRI image sequence. Let me first trigger <BRATS()>."
    return f"This looks like a {modality} image. Let me trigger <{expert}({argument})>. "


def ask(bench: Bench, question: str, pictures: Sequence[Picture], *, expert: str, argument: str) -> Asked:
    """Put a question to the model and read its Trigger.

    Args:
        bench: the models.
        question: what is asked.
        pictures: the images of the first message.
        expert, argument: what the profile demands when the model asks for nothing usable.
    """
    card = bench.vlm.card
    opening = first_message(
        question,
        cards=print_cards(bench.cards, published_wording=card.published_cards),
        modality=bench.modality,
        images=len(pictures),
        style=card.style,
    )
    started = time.monotonic()
    text, lapse, triggers = _first_answer(bench, opening, pictures)
    usable = [t for t in triggers if (found := bench.card(t.expert)) and found.modality == bench.modality]
    wrong = [t.expert for t in triggers if t not in usable]
    if wrong:
        lapse = f"the model asked for {', '.join(wrong)}, which does not read {bench.modality}"
    chosen = next((t for t in usable if (t.expert, t.argument) == (expert, argument)), None)
    if chosen is None and usable:
        lapse = lapse or f"the model asked for {usable[0].expert}({usable[0].argument}) instead of {expert}({argument})"
    if chosen is None:
        lapse = lapse or "the model asked for no expert"
        bench.marks.append(Mark("trigger", "", f"{question} — {lapse}; {expert}({argument}) was run by rule."))
    reply = text if chosen else trigger_text(bench.modality, expert, argument)
    bench.transcript.append(
        {
            "question": question,
            "prompt": opening.text,
            "answer": text,
            "triggers": [[t.expert, t.argument] for t in triggers],
            "lapse": lapse,
            "seconds": round(time.monotonic() - started, 3),
        }
    )
    return Asked(
        messages=[opening, Message("assistant", reply)],
        pictures=list(pictures),
        trigger=chosen or Trigger(expert, argument, terminal=False),
        demanded=chosen is None,
    )


def _first_answer(bench: Bench, opening: Message, pictures: Sequence[Picture]) -> tuple[str, str, tuple[Trigger, ...]]:
    """Return what the model wrote, its lapse in words (or ``""``), and its Triggers."""
    try:
        text = bench.vlm.generate([opening], pictures, max_new_tokens=bench.max_new_tokens).text
    except GenerationBudgetError as exc:
        return "", str(exc), ()
    try:
        return text, "", parse_triggers(text, bench.cards)
    except TriggerSyntaxError as exc:
        return text, str(exc), ()
