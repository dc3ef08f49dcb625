"""The evaluation measures what it says: a perfect reader gets 1, one who always says no gets no recall."""

from collections.abc import Sequence

import numpy as np
import pytest

from config.errors import GenerationBudgetError
from tests.unit.test_training_conversations import CARDS, patient
from training.demo_report import write_report
from training.evaluate import Sizes, evaluate_vlm
from training.patients import Patient
from worker.experts.base import Classification
from worker.vlm.backends import Answer, Generation, VlmCard
from worker.vlm.prompts import TRAINED_ORDER, finding_name
from worker.vlm.templates import Message


class Reader:
    """A backend that reads feedback perfectly, or answers a fixed word, and writes what it is made to write."""

    def __init__(self, fixed: str | None = None, *, writes: bool = True, stops: bool = True) -> None:
        self.fixed, self.writes, self.stops = fixed, writes, stops
        self.card = VlmCard("fake", "1", "x", "x", "hermes-2", "trained", False, {}, "x", ("CXR",), True)

    def generate(self, messages: Sequence[Message], images: object, *, max_new_tokens: int) -> Generation:
        if not self.stops:
            raise GenerationBudgetError("never")
        lines = [line.split(": ") for line in messages[-1].text.splitlines() if line.endswith(": yes")]
        return Generation(". ".join(name for name, _ in lines) + ".", 5, True)

    def answer_each(self, messages: Sequence[Message], images: object, questions: Sequence[str]) -> list[Answer]:
        return [Answer(self.fixed or self._read(messages[-1].text, question), 1.0, True) for question in questions]

    def would_write(self, messages: object, images: object, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [self.writes for _ in pairs]

    def _read(self, text: str, question: str) -> str:
        if "predictions" in text:
            lines = dict(line.split(": ") for line in text.splitlines() if line.endswith((": yes", ": no")))
            return lines[max((name for name in lines if name in question), key=len)]
        if "T1" in text or "tumor core" in text or "whole tumor" in text or "describe\n" in text:
            word = "enhancing tumor" if "contrast" in question else "whole tumor"
            return "yes" if word in text else "no"
        return "yes" if any(f": {name}" in text for name in LESIONS) else "no"


LESIONS = ("hepatic tumor", "pancreatic tumor", "lung tumor", "bone lesion")


def patients() -> dict[str, list[Patient]]:
    rng = np.random.default_rng(1)
    return {modality: [patient(modality, rng) for _ in range(12)] for modality in ("CXR", "CT", "MRI")}


def truthful(subject: Patient) -> Classification:
    probabilities = {label: 1.0 if label in subject.findings else 0.0 for label in TRAINED_ORDER}
    return Classification(CARDS[0], "", 0.1, dict(probabilities), 0.5, "1.2")


def test_a_perfect_reader_is_perfect():
    made = evaluate_vlm(Reader(), patients(), CARDS, sizes=Sizes(free_text=12), classifier=truthful)
    assert made["triggers"]["all exact"]["share"] == 1.0
    assert made["reading"]["all"]["accuracy"]["share"] == 1.0
    assert made["shipped_route"]["f1"] == 1.0
    assert made["free_text"]["f1"] == 1.0
    assert made["against_truth"]["chest with expert"]["f1"] == 1.0


def test_one_who_always_says_no_has_no_recall_although_most_answers_are_right():
    made = evaluate_vlm(Reader("no", writes=False), patients(), CARDS, sizes=Sizes(free_text=2), classifier=truthful)
    assert made["shipped_route"]["recall"] == 0.0
    assert made["shipped_route"]["accuracy"]["share"] > 0.5
    assert made["reading"]["CXR"]["balanced_accuracy"] == pytest.approx(0.5)
    assert made["against_truth"]["chest without expert"]["f1"] == 0.0
    assert made["triggers"]["all expert"]["share"] == 0.0


def test_texts_that_never_stop_are_counted_not_hidden():
    made = evaluate_vlm(Reader(stops=False), patients(), CARDS, sizes=Sizes(free_text=3), classifier=None)
    assert made["free_text"]["never_stopped"] == 3
    assert made["free_text"]["recall"] == 0.0
    assert "chest with expert" not in made["against_truth"]


def test_the_report_says_missed_where_a_target_is_missed(tmp_path):
    good = evaluate_vlm(Reader(), patients(), CARDS, sizes=Sizes(), classifier=truthful)
    bad = evaluate_vlm(Reader("no"), patients(), CARDS, sizes=Sizes(), classifier=truthful)
    write_report(tmp_path, {"vlm": good, "training": [], "experts": {}})
    assert "missed" not in (tmp_path / "demo_models.md").read_text()
    write_report(
        tmp_path, {"vlm": bad, "training": [{"step": 1, "seconds": 2, "loss": 3.0}], "experts": {"CXR": {"f1": 0.5}}}
    )
    text = (tmp_path / "demo_models.md").read_text()
    assert text.count("**missed**") == 2
    assert "| 1 | 2 | 3.00 |" in text
    assert "CXR f1 | 0.500" in text


def test_names_in_questions_are_those_of_the_feedback():
    assert finding_name("Pleural_Thickening") == "pleural thickening"
