"""Shares with confidence intervals, and spreads; what is too small to judge says so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 10  # below this a share is shown, and no conclusion drawn from it


@dataclass(frozen=True)
class Share:
    """``part`` of ``whole``, with Wilson's 95 % confidence interval (Wilson 1927); all in 0…1."""

    part: int
    whole: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def is_small(self) -> bool:
        """Whether there are too few to draw a conclusion from."""
        return self.whole < ENOUGH


def share(part: int, whole: int) -> Share:
    """Return ``part`` of ``whole``; without a value when there is nothing to take a part of."""
    if not whole:
        return Share(part, whole)
    from scipy.stats import binomtest  # more than a second, and nobody waits for it when the dashboard starts

    interval = binomtest(part, whole).proportion_ci(confidence_level=0.95, method="wilson")
    return Share(part, whole, part / whole, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Spread:
    """The middle and the tail of some durations or counts."""

    count: int
    median: float | None = None
    p90: float | None = None


def spread(values: Sequence[float]) -> Spread:
    """Return median and 90th percentile (linear interpolation) of ``values``."""
    if not values:
        return Spread(0)
    median, p90 = np.percentile(np.asarray(values, dtype=np.float64), (50, 90))
    return Spread(len(values), float(median), float(p90))
