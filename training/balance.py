"""Class balance of conversations: which kinds are drawn how often, and which findings are asked about."""

from collections.abc import Mapping
from typing import Final

import numpy as np

MIXTURE: Final[Mapping[str, float]] = {
    "CXR trigger": 0.08,
    "CXR feedback": 0.36,
    "CXR direct": 0.14,
    "CT trigger": 0.10,
    "CT feedback": 0.14,
    "CT direct": 0.03,
    "MRI trigger": 0.05,
    "MRI feedback": 0.07,
    "MRI direct": 0.03,
}
"""Share of each kind of conversation; reading a chest feedback is the hardest and comes most often."""


def draw_kind(rng: np.random.Generator, experts: frozenset[str], expert_of: Mapping[str, str]) -> str:
    """Return a kind of conversation that is possible when ``experts`` are offered."""

    def is_possible(kind: str) -> bool:
        modality, form = kind.split()
        return (form == "direct") != (expert_of[modality] in experts)

    kinds = [kind for kind in MIXTURE if is_possible(kind)]
    shares = np.array([MIXTURE[kind] for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


def balanced(rng: np.random.Generator, truth: Mapping[str, bool], *, each: int) -> list[tuple[str, bool]]:
    """Return up to ``each`` present and ``each`` absent findings, in random order."""
    chosen: list[tuple[str, bool]] = []
    for wanted in (True, False):
        labels = [label for label, positive in truth.items() if positive == wanted]
        picked = rng.permutation(len(labels))[:each]
        chosen += [(labels[i], wanted) for i in picked]
    return [chosen[i] for i in rng.permutation(len(chosen))]
