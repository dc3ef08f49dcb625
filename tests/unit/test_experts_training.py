"""What the Experts' training and evaluation compute, against numbers worked out by hand."""

import numpy as np
import pytest

from training.evaluate_experts import EVALUATION_SEED, _Lesions, _rates
from training.expert_cxr import f1, operating_points
from training.expert_radiographs import finding_vector
from training.experts import TRAINING_SEEDS, VALIDATION_SEEDS, Schedule, cycle, dice, progress


def test_evaluation_shares_no_seed_with_training():
    assert EVALUATION_SEED >= 2_000_000
    assert TRAINING_SEEDS.stop <= EVALUATION_SEED
    assert VALIDATION_SEEDS.stop <= EVALUATION_SEED


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing():
    assert cycle(0.0) == pytest.approx(0.1)
    assert cycle(0.08) == pytest.approx(1.0, abs=0.01)
    assert cycle(0.54) == pytest.approx(0.5, abs=0.01)
    assert cycle(0.999) < 0.01


def test_a_schedule_ends_by_steps_or_by_minutes_whichever_comes_first():
    plan = Schedule(steps=100, learning_rate=1.0, minutes=2)
    assert progress(plan, 50, 30.0) == 0.5
    assert progress(plan, 10, 90.0) == 0.75
    assert progress(plan, 10, 500.0) == 1.0
    assert progress(Schedule(steps=100, learning_rate=1.0), 10, 500.0) == 0.1


def test_the_operating_point_separates_what_can_be_separated():
    truth = np.zeros((40, 18), np.uint8)
    truth[:10, 3] = 1
    scores = np.full((40, 18), 0.3)
    scores[:, 3] = np.concatenate([np.linspace(0.6, 0.9, 10), np.linspace(0.0, 0.4, 30)])
    points = operating_points(scores, truth)
    assert points[3] is not None
    assert 0.4 < points[3] <= 0.6
    assert points[4] is None


def test_f1_and_dice_are_twice_the_overlap_over_the_sum():
    a = np.array([1, 1, 1, 0, 0], bool)
    b = np.array([1, 0, 0, 1, 0], bool)
    assert f1(a, b) == dice(a, b) == pytest.approx(2 / 5)
    none = np.zeros(5, bool)
    assert f1(none, none) == 0.0
    assert dice(none, none) == 1.0


def test_rates_of_a_two_by_two_table():
    assert _rates(6, 2, 4, 8) == {"examples": 10, "f1": 0.667, "sensitivity": 0.6, "specificity": 0.8}
    assert _rates(0, 0, 0, 5)["f1"] is None


def test_lesions_are_counted_one_by_one_and_false_alarms_apart():
    truth, found = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    truth[1:3, 1:3, 1:3] = truth[8:10, 8:10, 8:10] = True
    found[2, 2, 2] = True  # touches the first lesion
    found[5, 5, 5] = True  # touches nothing
    counter = _Lesions()
    counter.count(found, truth)
    counter.count(np.zeros_like(found), np.zeros_like(truth))
    figures = counter.figures(2)
    assert figures["lesions"] == 2
    assert figures["sensitivity"] == 0.5
    assert figures["false_alarms_per_patient"] == 0.5
    assert figures["patients"]["sensitivity"] == figures["patients"]["specificity"] == 1.0
    assert figures["dice"] == pytest.approx(2 / 18, abs=1e-4)


def test_findings_stand_at_their_library_position():
    vector = finding_vector({"Pneumothorax", "Enlarged Cardiomediastinum"})
    assert np.flatnonzero(vector).tolist() == [3, 17]
