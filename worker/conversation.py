"""Conversations with the vision-language model: question, Triggers, Experts, feedback, until it answers.

The model decides which Experts it needs; what the profile demands runs all the same. Its lapses are marked, never
repaired, and an Expert's failure never becomes text for the model to read.

What an answer may hold, and what follows:

- Triggers of offered Experts of this modality: each runs once, in order, and all are fed back in one turn.
- a Trigger of another modality: refused and marked; it never runs.
- more than ``max_triggers`` different Triggers (a storm): marked; none of them is heeded, since a model that asks for
  everything has asked for nothing.
- no Trigger, a malformed or unknown one, nothing at all, endless text: marked.
- numbers that are none (`ModelOutputError`): the question ends as "not assessed", with that reason.

In all but the last case the profile's own Expert runs by rule. After the feedback the model answers; when what it would
rather write is another Trigger (`… trigger <X(…)>`, intermediate) that Expert runs too, up to ``max_rounds`` rounds. A
terminal Trigger (`… using <X(…)>`) says that the model is done: no further text is asked of it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ExpertError, GenerationBudgetError, ModelError, ModelOutputError, TriggerSyntaxError
from worker.checks import Mark
from worker.experts.base import Classification, Expert, ExpertInput, ExpertResult, ModelCard
from worker.pictures import Picture
from worker.upright import run_upright
from worker.vlm.backends import Conversation, Generation, VisionLanguageModel
from worker.vlm.cards import print_cards
from worker.vlm.prompts import Overlay, first_message
from worker.vlm.templates import Message, plain_text
from worker.vlm.triggers import Trigger, parse_triggers

Key = tuple[str, str]
"""(expert, argument) of one run."""


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
        max_rounds: rounds of Expert feedback in one conversation.
        max_triggers: different Experts one answer may ask for; more is a storm.
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
    max_rounds: int = 3
    max_triggers: int = 6
    results: dict[Key, ExpertResult] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)
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
                self.results[key] = run_upright(self.expert(name), self.study, argument)
            except ExpertError as exc:
                self.failures[key] = str(exc)
                raise
        return self.results[key]

    def disbelieve(self, key: Key, why: str) -> ExpertError:
        """Take back a result that cannot be true, so that nothing of the draft rests on it; return the error."""
        self.results.pop(key, None)
        self.failures[key] = why
        return ExpertError(why)


@dataclass(frozen=True)
class Question:
    """What one conversation is about.

    Attributes:
        text: the request.
        pictures: of the first message.
        expert, argument: what the profile demands.
        wanted: label values its overlay is to show; empty for any.
    """

    text: str
    pictures: tuple[Picture, ...]
    expert: str
    argument: str
    wanted: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Run:
    """One Expert's answer as a turn presents it: its text, and the overlay of a label map."""

    key: Key
    result: ExpertResult
    block: Classification | Overlay
    picture: Picture | None


@dataclass
class Dialogue:
    """A conversation under way.

    Attributes:
        question: what it is about.
        messages, pictures: everything said and shown so far; one picture per ``<image>``.
        triggers: Experts to run next.
        first_feedback: what the first turn of feedback was made of, in order.
        record: its part of the provenance.
        failure: why the model cannot answer at all, or ``""``.
    """

    question: Question
    messages: list[Message]
    pictures: list[Picture]
    record: dict[str, Any]
    triggers: tuple[Trigger, ...] = ()
    first_feedback: tuple[Run, ...] = ()
    failure: str = ""

    @property
    def key(self) -> Key:
        """What the profile demands."""
        return self.question.expert, self.question.argument

    @property
    def is_done(self) -> bool:
        """Whether the model said so: its last Triggers are all terminal."""
        return all(trigger.terminal for trigger in self.triggers)

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        """The pictures' pixels."""
        return [picture.pixels for picture in self.pictures]


def trigger_text(modality: str, expert: str, argument: str) -> str:
    """Return the assistant's turn as trained, for an Expert the profile demands (vila_m3 trigger texts)."""
    if expert == "CXR":
        return "This looks like an chest x-ray. Let me first trigger <CXR()>."
    if expert == "BRATS":
        return "This looks like an MRI image sequence. Let me first trigger <BRATS()>."
    return f"This looks like a {modality} image. Let me trigger <{expert}({argument})>. "


def open_dialogues(bench: Bench, questions: Sequence[Question]) -> list[Dialogue]:
    """Put all first turns of a Study to the model at once and read what it asks for.

    Raises:
        ModelError: the model or a card broke its contract in a way that no question survives.
    """
    cards = print_cards(bench.cards, published_wording=bench.vlm.card.published_cards)
    openings = [
        first_message(
            question.text,
            cards=cards,
            modality=bench.modality,
            images=len(question.pictures),
            style=bench.vlm.card.style,
        )
        for question in questions
    ]
    waiting = [
        Conversation((opening,), tuple(picture.pixels for picture in question.pictures))
        for opening, question in zip(openings, questions, strict=True)
    ]
    started = time.monotonic()
    answers = bench.vlm.generate_batch(waiting, max_new_tokens=bench.max_new_tokens)
    seconds = round((time.monotonic() - started) / max(1, len(waiting)), 3)
    return [
        _opened(bench, question, opening, answer, seconds)
        for question, opening, answer in zip(questions, openings, answers, strict=True)
    ]


def _opened(
    bench: Bench, question: Question, opening: Message, answer: Generation | ModelError, seconds: float
) -> Dialogue:
    """Return the conversation after its first answer, with what runs next."""
    record: dict[str, Any] = {"question": question.text, "prompt": opening.text, "seconds": seconds, "rounds": []}
    record["pictures"] = [dict(picture.record) for picture in question.pictures]
    bench.transcript.append(record)
    dialogue = Dialogue(question, [opening], list(question.pictures), record)
    if isinstance(answer, ModelOutputError):
        dialogue.failure = str(answer)
        record |= {"answer": "", "triggers": [], "lapse": str(answer)}
        return dialogue
    if isinstance(answer, Generation):
        record |= {"prompt": answer.prompt or opening.text, "token_ids": list(answer.token_ids)}
    heard = hear(bench, answer)
    text, triggers, lapses = heard.text, heard.triggers, list(heard.lapses)
    demanded = any((t.expert, t.argument) == dialogue.key for t in triggers)
    if not demanded:
        named = f"{question.expert}({question.argument})"
        if triggers:
            asked = ", ".join(f"{t.expert}({t.argument})" for t in triggers)
            lapses.append(f"the model asked for {asked} instead of {named}")
        lapses[-1] += f"; {named} was run by rule"
        rule = trigger_text(bench.modality, question.expert, question.argument)
        text = f"{text} {rule}" if triggers else rule
        triggers = (*triggers, Trigger(question.expert, question.argument, terminal=False))
    bench.marks += [Mark("trigger", "", f"{question.text} — {lapse}.") for lapse in lapses]
    record |= {
        "answer": answer.text if isinstance(answer, Generation) else "",
        "triggers": [[t.expert, t.argument] for t in triggers],
        "demanded_by_rule": not demanded,
        "lapse": "; ".join(lapses),
    }
    dialogue.messages.append(Message("assistant", plain_text(text)))
    dialogue.triggers = triggers
    return dialogue


@dataclass(frozen=True)
class Heard:
    """What one answer of the model amounts to.

    Attributes:
        text: what it wrote; ``""`` when it did not stop.
        triggers: those that may run.
        lapses: what was wrong with it, in words; not empty when no Trigger may run.
        tried: it asked, or tried to ask, for an Expert.
    """

    text: str
    triggers: tuple[Trigger, ...]
    lapses: list[str]
    tried: bool = False


def hear(bench: Bench, answer: Generation | ModelError) -> Heard:
    """Read one answer of the model.

    Raises:
        ModelError: it is an error that no part of a conversation survives.
    """
    if isinstance(answer, ModelError):
        if not isinstance(answer, GenerationBudgetError):
            raise answer
        return Heard("", (), [str(answer)])
    text = answer.text.strip()
    if not text:
        return Heard("", (), ["the model wrote nothing"])
    try:
        triggers = parse_triggers(text, bench.cards)
    except TriggerSyntaxError as exc:
        return Heard(text, (), [str(exc)], tried=True)
    if not triggers:
        return Heard(text, (), ["the model asked for no expert"])
    if len(triggers) > bench.max_triggers:
        storm = f"the model asked for {len(triggers)} experts at once, more than {bench.max_triggers}"
        return Heard(text, (), [storm], tried=True)
    usable = tuple(t for t in triggers if (card := bench.card(t.expert)) and card.modality == bench.modality)
    refused = dict.fromkeys(t.expert for t in triggers if t not in usable)
    lapses = [f"the model asked for {', '.join(refused)}, which does not read {bench.modality}"] if refused else []
    return Heard(text, usable, lapses, tried=True)
