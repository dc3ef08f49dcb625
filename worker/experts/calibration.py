"""From a score to a probability that means its number, for labels somebody has measured it for.

The operating-point scores of the ensemble put each threshold at 0.5; they are no probabilities of disease. A
site (or a publisher) that has compared scores with outcomes on its own patients adds a calibration to the
package. Nothing is claimed for a label without one, and the vision-language model keeps seeing the scores it
was trained on.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from config.errors import ExpertError

_EDGE = 1e-6  # a score of exactly 0 or 1 has no finite logit; no calibration makes it a certainty


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Platt(_Frozen):
    """``sigmoid(slope · logit(score) + intercept)`` (Platt 1999, on the logit of the score)."""

    slope: float = Field(gt=0)
    intercept: float


class Temperature(_Frozen):
    """``sigmoid(logit(score) / temperature)`` (Guo et al. 2017)."""

    temperature: float = Field(gt=0)


class Isotonic(_Frozen):
    """Straight lines between knots, constant outside (isotonic regression, Zadrozny and Elkan 2002).

    Attributes:
        scores: of the knots, strictly increasing, 0…1.
        probabilities: of the knots, never decreasing, 0…1.
    """

    scores: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=2)
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _monotone(self) -> "Isotonic":
        if len(self.scores) != len(self.probabilities):
            raise ValueError(f"{len(self.scores)} scores, {len(self.probabilities)} probabilities")
        if min(np.diff(self.scores)) <= 0 or min(np.diff(self.probabilities)) < 0:
            raise ValueError("scores must increase and probabilities must not decrease")
        return self


_PARAMETERS: Mapping[str, type[Platt | Isotonic | Temperature]] = {
    "platt": Platt,
    "isotonic": Isotonic,
    "temperature": Temperature,
}


class Calibration(_Frozen):
    """``network.calibration`` of a manifest.

    Attributes:
        id: named in every result that used it; changes whenever a parameter does.
        method: of all labels.
        source: on which patients it was measured, in words for people.
        labels: label → parameters of the method; labels not named stay uncalibrated.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    method: Literal["platt", "isotonic", "temperature"]
    source: str = Field(min_length=1)
    labels: Mapping[str, Platt | Isotonic | Temperature] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_method(self) -> "Calibration":
        wanted = _PARAMETERS[self.method]
        strange = [label for label, parameters in self.labels.items() if not isinstance(parameters, wanted)]
        if strange:
            raise ValueError(f"the parameters of {', '.join(strange)} are not those of method {self.method}")
        return self

    def calibrated(self, scores: Mapping[str, float | None]) -> dict[str, float]:
        """Return label → probability for the labels that have a calibration and a score.

        Raises:
            ExpertError: a score is outside 0…1 or no number.
        """
        return {
            label: _probability(parameters, score)
            for label, parameters in self.labels.items()
            if (score := scores.get(label)) is not None
        }


def _probability(parameters: Platt | Isotonic | Temperature, score: float) -> float:
    if not 0.0 <= score <= 1.0:  # also false for a score that is no number
        raise ExpertError(f"a score of {score:g} cannot be calibrated: scores lie in 0…1")
    if isinstance(parameters, Isotonic):
        return float(np.interp(score, parameters.scores, parameters.probabilities))
    inner = min(max(score, _EDGE), 1.0 - _EDGE)
    logit = math.log(inner / (1.0 - inner))
    if isinstance(parameters, Platt):
        return _sigmoid(parameters.slope * logit + parameters.intercept)
    return _sigmoid(logit / parameters.temperature)


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))  # does not overflow
