"""Is what comes in, or what the models say of it, still what it was? A recent period against the one before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import fisher_exact

from dashboard.figures.shares import Share, share

ENOUGH = 30  # cases in each period; below this nothing is judged
SHIFTED, WATCHED = 0.25, 0.10  # population stability index: conventional limits of credit scoring (Siddiqi 2006)
SIGNIFICANT = 0.01


@dataclass(frozen=True)
class Shift:
    """How one distribution moved: population stability index and Jensen-Shannon distance (base 2, 0…1)."""

    name: str
    before: Mapping[str, int]
    now: Mapping[str, int]
    psi: float | None
    distance: float | None

    @property
    def verdict(self) -> str:
        """``few``, ``stable``, ``watch`` or ``shifted``."""
        if self.psi is None:
            return "few"
        return "shifted" if self.psi >= SHIFTED else "watch" if self.psi >= WATCHED else "stable"


def shift(name: str, before: Mapping[str, int], now: Mapping[str, int]) -> Shift:
    """Compare two counts per category; not judged with fewer than 30 cases in one of them.

    Every category gets half a case more, so that one that is new or gone has a finite index.
    """
    if min(sum(before.values()), sum(now.values())) < ENOUGH:
        return Shift(name, before, now, None, None)
    keys = sorted({*before, *now})
    p = np.array([before.get(key, 0) + 0.5 for key in keys])
    q = np.array([now.get(key, 0) + 0.5 for key in keys])
    p, q = p / p.sum(), q / q.sum()
    psi = float(((q - p) * np.log(q / p)).sum())
    return Shift(name, before, now, psi, float(jensenshannon(p, q, base=2)))


@dataclass(frozen=True)
class RateShift:
    """How often a label is asserted, before and now; ``p`` by Fisher's exact test."""

    label: str
    before: Share
    now: Share
    p: float | None

    @property
    def verdict(self) -> str:
        """``few``, ``stable`` or ``shifted``."""
        if self.p is None:
            return "few"
        return "shifted" if self.p < SIGNIFICANT else "stable"


def rate_shift(label: str, before: tuple[int, int], now: tuple[int, int]) -> RateShift:
    """Compare (asserted, asked) of a label in two periods; many labels are compared, so only p < 0.01 counts."""
    shares = share(*before), share(*now)
    if min(before[1], now[1]) < ENOUGH:
        return RateShift(label, *shares, None)
    table = [[before[0], before[1] - before[0]], [now[0], now[1] - now[0]]]
    p = float(fisher_exact(table)[1])
    return RateShift(label, *shares, p if math.isfinite(p) else None)
