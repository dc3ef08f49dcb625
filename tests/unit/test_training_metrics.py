"""Figures: against hand-worked values and published formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics.counts import Counts, wilson
from training.metrics.report_text import positive_findings
from worker.composition import FindingAnswer, compose
from worker.vlm.prompts import TRAINED_ORDER


def test_counts_by_hand():
    counts = Counts(true_positive=6, false_positive=2, false_negative=4, true_negative=8)
    assert counts.precision == 0.75
    assert counts.recall == 0.6
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert counts.accuracy == 0.7
    assert counts.balanced_accuracy == pytest.approx((0.6 + 0.8) / 2)


def test_an_invented_finding_is_a_false_positive():
    counts = Counts()
    counts.add_sets(said={"Mass", "Ghost"}, wanted={"Mass", "Edema"}, among=("Mass", "Edema", "Hernia"))
    assert (counts.true_positive, counts.false_positive, counts.false_negative, counts.true_negative) == (1, 1, 1, 1)


def test_nothing_said_and_nothing_there_is_right():
    assert (Counts().f1, Counts().precision, Counts().recall, Counts().accuracy) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_wilson_interval(right, total, low, high):
    assert wilson(right, total) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Pleural effusion. Cardiomegaly. No pneumothorax or mass.", {"Effusion", "Cardiomegaly"}),
        ("There is no lung lesion. Edema is present.", {"Edema"}),
        ("Lung lesion and pulmonary nodule.", {"Lung Lesion", "Nodule"}),
        ("Mass is absent. Pleural thickening is present", {"Pleural_Thickening"}),
        ("None of the findings is present.", set()),
        ("", set()),
        ("Masses of text about pneumoniae", set()),
    ],
)
def test_positive_findings_of_free_text(text, found):
    assert positive_findings(text, TRAINED_ORDER) == found


@given(st.dictionaries(st.sampled_from(TRAINED_ORDER), st.booleans(), max_size=18))
def test_composed_text_is_read_back_exactly(answers):
    made = compose([FindingAnswer(label, value) for label, value in answers.items()])
    assert positive_findings(made.findings_text, TRAINED_ORDER) == {label for label, value in answers.items() if value}
