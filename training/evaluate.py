"""Evaluation of the demonstration vision-language model on phantoms and wordings that training never saw.

The checkpoint is loaded by the code that serves, and asked as a Draft asks: request, Trigger, feedback, one
question per finding over one shared prefix, sentences composed from the answers. Feedback in the reading tests is
drawn at random, so that it cannot be guessed from the picture.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from config.errors import GenerationBudgetError, TriggerSyntaxError
from training.conversations import (
    CXR_TRIGGER,
    EXPERT_OF,
    Branch,
    Conversation,
    Offer,
    feedback_conversation,
    pictures,
    random_predictions,
    training_cards,
    trigger_conversation,
)
from training.metrics.counts import Counts, wilson
from training.metrics.report_text import positive_findings
from training.patients import BRAIN_TUMOUR, EVALUATION_SEED, MODALITIES, Patient, read_patients, write_patients
from worker.composition import FindingAnswer, compose
from worker.experts.base import Classification, ModelCard
from worker.vlm.backends import VisionLanguageModel
from worker.vlm.cards import print_cards
from worker.vlm.prompts import (
    BRAIN_TUMOUR_REQUEST,
    LESION_ARGUMENTS,
    REPORT_REQUEST,
    TRAINED_ORDER,
    classification_feedback,
    finding_question,
    first_message,
    lesion_question,
    prediction_lines,
)
from worker.vlm.templates import Message
from worker.vlm.triggers import Trigger, parse_triggers

log = structlog.get_logger()

_LEAD = ". Analyze the image and take these predictions into account when responding to this prompt:\n"
_TOKENS: Final = 160


class EvaluatedModel(VisionLanguageModel, Protocol):
    """A backend that can also say whether it would write a given answer."""

    def would_write(
        self,
        messages: Sequence[Message],
        images: Sequence[NDArray[np.uint8]],
        pairs: Sequence[tuple[str, str]],
    ) -> list[bool]:
        """See `VilaM3.would_write`."""
        ...


Classifier = Callable[[Patient], Classification]


@dataclass(frozen=True)
class Sizes:
    """How many held-out patients each part takes."""

    chest: int = 100
    body: int = 60
    brain: int = 60
    free_text: int = 40


@dataclass
class Tally:
    """Right answers by what was tested."""

    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    total: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, key: str, *, right: bool) -> None:
        """Count one answer."""
        self.right[key] += right
        self.total[key] += 1

    def figures(self) -> dict[str, dict[str, float]]:
        """Return share, count and 95 % interval by key."""
        return {key: proportion(self.right[key], self.total[key]) for key in sorted(self.total)}


def proportion(right: int, total: int) -> dict[str, float]:
    """Return a share with its count and 95 % interval."""
    low, high = wilson(right, total)
    return {"share": right / total if total else 0.0, "n": total, "low": low, "high": high}


def held_out_patients(folder: Path, sizes: Sizes) -> dict[str, list[Patient]]:
    """Return evaluation patients, rendering those ``folder`` lacks."""
    wanted = dict(zip(MODALITIES, (sizes.chest, sizes.body, sizes.brain), strict=True))
    kept: dict[str, list[Patient]] = {}
    for modality in MODALITIES:
        count = wanted[modality]
        write_patients(folder, modality, range(EVALUATION_SEED, EVALUATION_SEED + count))
        kept[modality] = [p for p in read_patients(folder, modality) if p.seed >= EVALUATION_SEED][:count]
    return kept


def evaluate_vlm(
    model: EvaluatedModel,
    patients: dict[str, list[Patient]],
    cards: Sequence[ModelCard],
    *,
    sizes: Sizes,
    classifier: Classifier | None,
) -> dict[str, Any]:
    """Return every figure of the model as one JSON object.

    Args:
        model: the loaded checkpoint.
        patients: held-out patients by modality.
        cards: the Experts it is told of, as the registry prints them.
        sizes: how many free texts to generate.
        classifier: the chest Expert, for figures against truth; None leaves them out.
    """
    rng = np.random.default_rng(EVALUATION_SEED)
    offer = Offer(print_cards(cards), frozenset(card.name for card in cards))
    started = time.monotonic()
    parts: dict[str, Any] = {}
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "triggers": lambda: triggers(rng, model, patients, offer, cards),
        "reading": lambda: reading(rng, model, patients, offer),
        "shipped_route": lambda: shipped_route(rng, model, patients["CXR"], offer),
        "free_text": lambda: free_text(rng, model, patients["CXR"][: sizes.free_text], offer),
        "against_truth": lambda: against_truth(model, patients, offer.text, classifier),
    }
    for name, work in works.items():
        begun = time.monotonic()
        parts[name] = work()
        log.info("vlm.evaluated", part=name, seconds=round(time.monotonic() - begun))
    return {
        "model": {"name": model.card.name, "version": model.card.version},
        "patients": {modality: len(listed) for modality, listed in patients.items()},
        "seconds": round(time.monotonic() - started),
        **parts,
    }


def triggers(
    rng: np.random.Generator,
    model: EvaluatedModel,
    patients: dict[str, list[Patient]],
    offer: Offer,
    cards: Sequence[ModelCard],
) -> dict[str, Any]:
    """Return how often the first answer calls exactly the right Expert with exactly the right argument.

    Several requests per patient in held-out words: findings and reports, lesions, anatomy to name or to segment.
    An answer that is not the trained one to the letter is generated and its Triggers are read.
    """
    tally = Tally()
    for patient in _all(patients):
        made = trigger_conversation(rng, patient, offer, held_out=True)
        pairs = [(branch.question, branch.answer) for branch in made.branches]
        written = model.would_write(made.turns, made.images, pairs)
        for branch, is_written in zip(made.branches, written, strict=True):
            wanted = parse_triggers(branch.answer, cards)[0]
            found = [wanted] if is_written else _generated_triggers(model, made, branch, cards)
            is_expert = [trigger.expert for trigger in found] == [wanted.expert]
            is_exact = is_expert and found[0].argument == wanted.argument
            for group in _groups(patient, wanted):
                tally.add(f"{group} expert", right=is_expert)
                tally.add(f"{group} exact", right=is_exact)
    return tally.figures()


def _generated_triggers(
    model: EvaluatedModel, made: Conversation, branch: Branch, cards: Sequence[ModelCard]
) -> Sequence[Trigger]:
    message = Message("user", made.turns[0].text + branch.question)
    try:
        text = model.generate([message], made.images, max_new_tokens=_TOKENS).text
        return parse_triggers(text, cards)
    except (GenerationBudgetError, TriggerSyntaxError):
        return ()


def _groups(patient: Patient, wanted: Trigger) -> list[str]:
    if patient.modality != "CT":
        return ["all", patient.modality]
    return ["all", "CT", "CT lesion" if wanted.argument in LESION_ARGUMENTS else "CT anatomy"]


def reading(
    rng: np.random.Generator, model: EvaluatedModel, patients: dict[str, list[Patient]], offer: Offer
) -> dict[str, Any]:
    """Return how often yes/no questions are answered as the feedback says, feedback drawn at random."""
    counts: dict[str, Counts] = defaultdict(Counts)
    for patient in _all(patients):
        made = feedback_conversation(rng, patient, offer, held_out=True)
        asked = [branch for branch in made.branches if branch.key == "yes/no"]
        if not asked:
            continue
        answers = model.answer_each(made.turns, made.images, [branch.question for branch in asked])
        for branch, answer in zip(asked, answers, strict=True):
            for key in (patient.modality, "all"):
                counts[key].add(said=answer.text == "yes", wanted=branch.answer == "yes")
    return {key: _described(value) for key, value in sorted(counts.items())}


def shipped_route(
    rng: np.random.Generator, model: EvaluatedModel, patients: Sequence[Patient], offer: Offer
) -> dict[str, Any]:
    """Return the figures of the composed text against the Expert's list, before any checker."""
    counts, exact, free = Counts(), 0, 0
    for patient in patients:
        calls = dict(random_predictions(rng, patient.findings))
        turns = _chest_turns(offer, Message("user", prediction_lines(calls.items()) + _LEAD))
        answers = model.answer_each(turns, pictures(patient.scenes[0]), [finding_question(label) for label in calls])
        text = compose([FindingAnswer(label, a.text == "yes") for label, a in zip(calls, answers, strict=True)])
        said = positive_findings(text.findings_text, TRAINED_ORDER)
        wanted = {label for label, positive in calls.items() if positive}
        counts.add_sets(said, wanted, calls)
        exact += said == wanted
        free += sum(answer.is_free_choice for answer in answers)
    return _described(counts) | {
        "reports_exact": proportion(exact, len(patients)),
        "answers_freely_yes_or_no": proportion(free, counts.total),
    }


def free_text(
    rng: np.random.Generator, model: EvaluatedModel, patients: Sequence[Patient], offer: Offer
) -> dict[str, Any]:
    """Return the figures of plain generated reports against the Expert's list."""
    counts, exact, endless = Counts(), 0, 0
    examples = []
    for patient in patients:
        calls = dict(random_predictions(rng, patient.findings))
        feedback = Message("user", prediction_lines(calls.items()) + _LEAD + REPORT_REQUEST)
        try:
            text = model.generate(
                _chest_turns(offer, feedback), pictures(patient.scenes[0]), max_new_tokens=_TOKENS
            ).text
        except GenerationBudgetError:
            text, endless = "", endless + 1
        said = positive_findings(text, TRAINED_ORDER)
        wanted = {label for label, positive in calls.items() if positive}
        counts.add_sets(said, wanted, calls)
        exact += said == wanted
        examples.append({"wanted": sorted(wanted), "text": text})
    return _described(counts) | {
        "reports_exact": proportion(exact, len(patients)),
        "never_stopped": endless,
        "examples": examples[:5],
    }


def against_truth(
    model: EvaluatedModel, patients: dict[str, list[Patient]], cards: str, classifier: Classifier | None
) -> dict[str, Any]:
    """Return draft findings against what is really there, with the chest Expert and without any Expert.

    Args:
        model: the loaded checkpoint.
        patients: held-out patients by modality.
        cards: printed list of Experts.
        classifier: the chest Expert; None leaves its figures out.
    """
    offer = Offer(cards, frozenset())
    alone, guided, expert = Counts(), Counts(), Counts()
    questions = [finding_question(label) for label in TRAINED_ORDER]
    for patient in patients["CXR"]:
        opening = first_message("", cards="", modality="CXR")
        answers = model.answer_each([opening], pictures(patient.scenes[0]), questions)
        for label, answer in zip(TRAINED_ORDER, answers, strict=True):
            alone.add(said=answer.text == "yes", wanted=label in patient.findings)
        if classifier is not None:
            _guided(model, patient, offer, classifier(patient), (guided, expert))
    figures = {"chest without expert": _described(alone)}
    if classifier is not None:
        figures |= {"chest with expert": _described(guided), "chest expert alone": _described(expert)}
    return figures | _volumes_without_expert(model, patients)


def _guided(
    model: EvaluatedModel, patient: Patient, offer: Offer, result: Classification, counts: tuple[Counts, Counts]
) -> None:
    labels = [label for label, probability in result.probabilities.items() if probability is not None]
    turns = _chest_turns(offer, classification_feedback(result, ""))
    answers = model.answer_each(turns, pictures(patient.scenes[0]), [finding_question(label) for label in labels])
    for label, answer in zip(labels, answers, strict=True):
        probability = result.probabilities[label]
        assert probability is not None
        counts[0].add(said=answer.text == "yes", wanted=label in patient.findings)
        counts[1].add(said=probability >= result.threshold, wanted=label in patient.findings)


def _volumes_without_expert(model: EvaluatedModel, patients: dict[str, list[Patient]]) -> dict[str, Any]:
    body, brain = Counts(), Counts()
    for patient in patients["CT"]:
        opening = first_message("", cards="", modality="CT")
        asked = [lesion_question(argument) for argument in LESION_ARGUMENTS]
        answers = model.answer_each([opening], pictures(patient.scenes[0]), asked)
        for argument, answer in zip(LESION_ARGUMENTS, answers, strict=True):
            body.add(said=answer.text == "yes", wanted=argument in patient.findings)
    for patient in patients["MRI"]:
        opening = first_message("", cards="", modality="MRI", images=4)
        answer = model.answer_each([opening], pictures(patient.scenes[0]), [BRAIN_TUMOUR_REQUEST])[0]
        brain.add(said=answer.text == "yes", wanted=BRAIN_TUMOUR in patient.findings)
    return {"CT without expert": _described(body), "MRI without expert": _described(brain)}


def _chest_turns(offer: Offer, feedback: Message) -> list[Message]:
    return [
        first_message(REPORT_REQUEST, cards=offer.text, modality="CXR"),
        Message("assistant", CXR_TRIGGER),
        feedback,
    ]


def _described(counts: Counts) -> dict[str, Any]:
    right = counts.true_positive + counts.true_negative
    return {
        "accuracy": proportion(right, counts.total),
        "balanced_accuracy": counts.balanced_accuracy,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "positives": counts.true_positive + counts.false_negative,
    }


def _all(patients: dict[str, list[Patient]]) -> list[Patient]:
    return [patient for modality in MODALITIES for patient in patients[modality]]


def stand_in_cards() -> tuple[ModelCard, ...]:
    """Return three cards in fixed wording, for evaluation before Experts exist."""
    rng = np.random.default_rng(7)
    while len(cards := training_cards(rng)) < len(EXPERT_OF):
        continue
    return cards
