"""Calibration: hand-computed values, monotone, refused when it is none, and nothing claimed without one."""

import numpy as np
import pytest
from pydantic import ValidationError

from config.errors import ExpertError
from worker.experts.calibration import Calibration


def calibration(method, **labels):
    return Calibration(id="site-2026-01", method=method, source="1,200 films of this site", labels=labels)


PLATT = calibration("platt", Effusion={"slope": 2.0, "intercept": -1.0})
TEMPERATURE = calibration("temperature", Effusion={"temperature": 2.0})
ISOTONIC = calibration("isotonic", Effusion={"scores": [0.2, 0.6, 0.8], "probabilities": [0.1, 0.3, 0.3]})


@pytest.mark.parametrize(
    ("by", "score", "expected"),
    [
        (PLATT, 0.5, 0.2689414),  # logit 0: sigmoid(-1) = 1 / (1 + e)
        (PLATT, 0.8, 0.8547793),  # odds 4² / e = 5.886071
        (TEMPERATURE, 0.8, 2 / 3),  # odds 4^½ = 2
        (TEMPERATURE, 0.2, 1 / 3),
        (TEMPERATURE, 0.5, 0.5),
        (ISOTONIC, 0.4, 0.2),  # halfway between the first two knots
        (ISOTONIC, 0.7, 0.3),
        (ISOTONIC, 0.0, 0.1),  # constant outside the knots
        (ISOTONIC, 1.0, 0.3),
    ],
)
def test_a_score_becomes_the_probability_worked_out_by_hand(by, score, expected):
    assert by.calibrated({"Effusion": score})["Effusion"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("by", [PLATT, TEMPERATURE, ISOTONIC])
def test_a_higher_score_is_never_a_lower_probability_and_no_score_is_a_certainty(by):
    got = [by.calibrated({"Effusion": float(score)})["Effusion"] for score in np.linspace(0, 1, 1001)]
    assert (np.diff(got) >= 0).all()
    assert got[0] > 0
    assert got[-1] < 1


def test_only_labels_with_a_calibration_and_a_score_get_a_probability():
    two = calibration("temperature", Effusion={"temperature": 1.0}, Mass={"temperature": 3.0})
    assert two.calibrated({"Effusion": 0.25, "Mass": None, "Hernia": 0.9}) == pytest.approx({"Effusion": 0.25})


@pytest.mark.parametrize("score", [-0.001, 1.001, float("nan"), float("inf")])
def test_a_score_out_of_range_is_refused(score):
    for by in (PLATT, TEMPERATURE, ISOTONIC):
        with pytest.raises(ExpertError, match="scores lie in 0…1"):
            by.calibrated({"Effusion": score})


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("platt", {"slope": 0.0, "intercept": 0.0}), ("platt", {"slope": -1.0, "intercept": 0.0}),
        ("platt", {"slope": float("inf"), "intercept": 0.0}), ("platt", {"slope": 1.0}),
        ("platt", {"temperature": 1.0}), ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": float("nan")}),
        ("isotonic", {"scores": [0.2, 0.2], "probabilities": [0.1, 0.2]}),
        ("isotonic", {"scores": [0.2, 0.4], "probabilities": [0.2, 0.1]}),
        ("isotonic", {"scores": [0.2, 0.4], "probabilities": [0.2]}),
        ("isotonic", {"scores": [0.2, 1.4], "probabilities": [0.2, 0.3]}),
        ("isotonic", {"scores": [0.2, 0.4], "probabilities": [-0.1, 0.3]}),
        ("isotonic", {"scores": [0.2], "probabilities": [0.3]}),
        ("histogram", {"temperature": 1.0}),
    ],
)  # fmt: skip
def test_parameters_that_are_no_monotone_calibration_are_refused(method, parameters):
    with pytest.raises(ValidationError):
        calibration(method, Effusion=parameters)


@pytest.mark.requirement("REQ-BIAS-2")
@pytest.mark.parametrize("fault", [{"source": ""}, {"id": ""}, {"id": "a b"}, {"labels": {}}, {"author": "me"}])
def test_a_calibration_without_id_source_or_labels_is_refused(fault):
    whole = {"id": "a", "method": "platt", "source": "b", "labels": {"Mass": {"slope": 1.0, "intercept": 0.0}}}
    Calibration.model_validate(whole)
    with pytest.raises(ValidationError):
        Calibration.model_validate(whole | fault)
