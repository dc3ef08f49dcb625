"""Do readers agree with the AI, finding by finding? Confirmed, refuted, overlooked, with Cohen's kappa."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dashboard.figures.shares import Share, share
from db.queries.quality import FindingCount
from db.types import Decision, Presence

Table = Counter[tuple[bool, bool]]  # (AI says present, reader says present): how often


@dataclass(frozen=True)
class Agreement:
    """One finding label over many signed drafts.

    An edited finding counts as confirmed: the reader changed its words, not whether it is there. A finding that
    the AI called absent counts as agreed unless the reader refused that; readers need not decide those one by one,
    so ``absent`` says what nobody contradicted, which is less than what somebody checked.
    """

    label: str
    confirmed: Share  # of those the AI called present: its positive predictive value as read
    uncontradicted: Share  # of those the AI called absent
    agreed: Share  # of all
    kappa: float | None  # Cohen 1960; None where only one answer was ever given

    @property
    def refuted(self) -> int:
        """How many the AI called present and the reader refused."""
        return self.confirmed.whole - self.confirmed.part

    @property
    def overlooked(self) -> int:
        """How many the AI called absent and the reader refused to call so."""
        return self.uncontradicted.whole - self.uncontradicted.part


def agreements(findings: Iterable[FindingCount]) -> list[Agreement]:
    """Return the agreement of each label, most frequently asserted first; undetermined ones do not count."""
    tables: dict[str, Table] = {}
    for one in findings:
        if one.presence is Presence.UNDETERMINED:
            continue
        said, holds = one.presence is Presence.PRESENT, one.decision is not Decision.REJECTED
        if said and one.decision is Decision.PENDING:
            continue  # nobody looked at it: its draft was signed under rules that did not ask
        table = tables.setdefault(one.label, Counter())
        table[said, said if holds else not said] += one.count
    made = [_agreement(label, table) for label, table in tables.items()]
    return sorted(made, key=lambda one: (-one.confirmed.whole, one.label))


def _agreement(label: str, table: Table) -> Agreement:
    both, neither = table[True, True], table[False, False]
    return Agreement(
        label,
        share(both, both + table[True, False]),
        share(neither, neither + table[False, True]),
        share(both + neither, table.total()),
        kappa(table),
    )


def kappa(table: Table) -> float | None:
    """Return Cohen's kappa of two raters' yes and no; None when chance alone would always agree."""
    count = table.total()
    if not count:
        return None
    first = (table[True, True] + table[True, False]) / count
    second = (table[True, True] + table[False, True]) / count
    by_chance = first * second + (1 - first) * (1 - second)
    if by_chance == 1:
        return None
    observed = (table[True, True] + table[False, False]) / count
    return (observed - by_chance) / (1 - by_chance)
