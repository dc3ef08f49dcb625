"""True and false positives over findings, and the figures made from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt


@dataclass
class Counts:
    """Positives counted over patients and findings (micro)."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def add(self, *, said: bool, wanted: bool) -> None:
        """Count one finding of one patient."""
        if said and wanted:
            self.true_positive += 1
        elif said:
            self.false_positive += 1
        elif wanted:
            self.false_negative += 1
        else:
            self.true_negative += 1

    def add_sets(self, said: Iterable[str], wanted: Iterable[str], among: Iterable[str]) -> None:
        """Count one patient; findings outside ``among`` that were said count as false positives too."""
        spoken, truth = set(said), set(wanted)
        for finding in spoken | set(among):
            self.add(said=finding in spoken, wanted=finding in truth)

    @property
    def precision(self) -> float:
        """Share of what was said that is there; 1 when nothing was said."""
        said = self.true_positive + self.false_positive
        return self.true_positive / said if said else 1.0

    @property
    def recall(self) -> float:
        """Share of what is there that was said; 1 when nothing is there."""
        there = self.true_positive + self.false_negative
        return self.true_positive / there if there else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2TP / (2TP + FP + FN); 1 when nothing is there or said."""
        whole = 2 * self.true_positive + self.false_positive + self.false_negative
        return 2 * self.true_positive / whole if whole else 1.0

    @property
    def accuracy(self) -> float:
        """Share of findings called right."""
        right = self.true_positive + self.true_negative
        return right / self.total if self.total else 1.0

    @property
    def balanced_accuracy(self) -> float:
        """Mean of sensitivity and specificity."""
        negatives = self.true_negative + self.false_positive
        specificity = self.true_negative / negatives if negatives else 1.0
        return (self.recall + specificity) / 2

    @property
    def total(self) -> int:
        """How many findings were counted."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative


def wilson(right: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion; (0, 1) when nothing was counted."""
    if not total:
        return 0.0, 1.0
    share = right / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)
