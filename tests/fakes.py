"""Small implementations of our own Protocols, for behaviour no trained model can be relied on to show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from config.errors import ExpertError, GenerationBudgetError, ModelError
from worker.experts.base import Classification, ExpertInput, ModelCard, SegmentationResult
from worker.vlm.backends import Answer, Generation, VlmCard
from worker.vlm.prompts import TRAINED_ORDER

VLM_CARD = VlmCard(
    name="scripted",
    version="1",
    licence="Apache-2.0",
    base="none",
    template="hermes-2",
    style="trained",
    published_cards=False,
    weights_sha256={"model.safetensors": "0" * 64},
    intended_use="tests",
    modalities=("CXR", "CT", "MRI"),
    demonstration=True,
)


Said = str | None | ModelError


@dataclass
class ScriptedVlm:
    """Says what it is told to say; ``None`` means that it never stops, an error is raised.

    Attributes:
        first: its first answer, or what gives it for a question's opening message.
        reads: decides yes or no from all feedback of the conversation and the question.
        then: what it would rather write after feedback, in turn; while there is something, its yes or no is not free.
        heard, seen: every last message, and the pictures of every call.
        written: how often it wrote, first turns not counted.
    """

    first: Said | Callable[[str], Said]
    reads: Callable[[str, str], bool]
    card: VlmCard = VLM_CARD
    then: list[Said] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    seen: list[list] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    written: int = 0

    def generate(self, messages, images, *, max_new_tokens):
        self._listen(messages, images)
        if len(messages) > 1:
            self.written += 1
            answer = self.then.pop(0) if self.then else "That is all."
        else:
            answer = self.first(messages[-1].text) if callable(self.first) else self.first
        if answer is None:
            raise GenerationBudgetError(f"the model did not stop within {max_new_tokens} tokens")
        if isinstance(answer, ModelError):
            raise answer
        return Generation(text=answer, token_count=5, stopped=True)

    @property
    def runtime(self):
        return {"dtype": "none"}

    def generate_batch(self, conversations, *, max_new_tokens):
        answers = []
        for one in conversations:
            try:
                answers.append(self.generate(one.messages, one.images, max_new_tokens=max_new_tokens))
            except ModelError as exc:
                answers.append(exc)
        return answers

    def answer_each(self, messages, images, questions):
        self._listen(messages, images)
        said = "\n".join(m.text for m in messages[1:] if m.role == "user") or messages[0].text
        return [Answer("yes" if self.reads(said, q) else "no", 1.0, not self.then) for q in questions]

    def _listen(self, messages, images):
        assert sum(m.text.count("<image>") for m in messages) == len(images)
        assert messages[-1].role == "user"
        self.heard.append(messages[-1].text)
        self.said += [m.text for m in messages if m.role == "assistant"]
        self.seen.append(list(images))


def reads_feedback(said: str, question: str) -> bool:
    """Read a classifier's line or a legend as a faithful model would."""
    for line in said.splitlines():
        name, _, verdict = line.partition(": ")
        if verdict in {"yes", "no"} and name in question:
            return verdict == "yes"
    asked = said + question
    return any(f": {lesion}" in said for lesion in ("hepatic tumor", "lung tumor") if lesion in asked) or (
        "whole tumor" in said
    )


FAMILIES = {"CXR": "txrv", "VISTA3D": "vista3d", "BRATS": "brats"}


def card(name: str, modality: str, *, arguments: Sequence[str] = (), labels: Mapping[int, str] | None = None):
    return ModelCard(
        name=name,
        version="1",
        task="segmentation" if name != "CXR" else "classification",
        modality=modality,
        overview="fixed answers",
        accuracy="none",
        arguments=tuple(arguments),
        labels=labels or {},
        weights_sha256={"w": "1" * 64},
        licence="Apache-2.0",
        demonstration=True,
        code_family=FAMILIES.get(name, ""),
    )


@dataclass
class FixedClassifier:
    """Answers with fixed probabilities; labels not named have no output."""

    probabilities: Mapping[str, float]
    card: ModelCard = field(default_factory=lambda: card("CXR", "CXR"))

    def run(self, study: ExpertInput, argument: str) -> Classification:
        assert study.radiograph is not None
        return Classification(
            card=self.card,
            argument=argument,
            seconds=0.01,
            probabilities={label: self.probabilities.get(label) for label in TRAINED_ORDER},
            threshold=0.5,
            sop_instance_uid=study.radiograph.sop_instance_uid,
        )


@dataclass
class BoxSegmenter:
    """Draws fixed boxes: argument → {label value: (name, slices)}; notes and remembers its calls."""

    boxes: Mapping[str, Mapping[int, tuple[str, tuple[slice, slice, slice]]]]
    card: ModelCard
    notes: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)

    def run(self, study: ExpertInput, argument: str) -> SegmentationResult:
        self.calls.append(argument)
        volume = study.volume if study.volume is not None else (study.brain_mr or {})["T1c"]
        labels = np.zeros(volume.array.shape, dtype=np.uint8)
        drawn = self.boxes[argument]
        for value, (_, box) in drawn.items():
            labels[box] = value
        names = {value: name for value, (name, _) in drawn.items()}
        return SegmentationResult(self.card, argument, 0.01, labels, names, volume, notes=self.notes)


@dataclass
class BrokenExpert:
    """Always fails."""

    card: ModelCard

    def run(self, study: ExpertInput, argument: str):
        raise ExpertError(f"{self.card.name} failed: the output had NaN")
