"""The quality page as sheets: each a table that can be taken away as CSV, most with a chart of the same numbers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dashboard.figures.agreement import Agreement
from dashboard.figures.drift import RateShift, Shift
from dashboard.figures.shares import Share, Spread, share, spread
from db.quality_models import DraftOutcome
from db.types import Verdict

Outcomes = Sequence[tuple[DraftOutcome, str]]  # with the reader's printed name
Cell = str | int | float | None
GROUPS: Mapping[str, str] = {
    "model": "Model version",
    "reader": "Reader",
    "scanner": "Scanner",
    "sex": "Sex",
    "age_group": "Age group",
    "modality": "Modality",
    "body_part": "Body part",
    "priority": "Priority",
}
_VERDICTS = {"few": "too few to judge", "stable": "stable", "watch": "watch", "shifted": "shifted"}


@dataclass(frozen=True)
class Sheet:
    """One table; ``chart`` is None, or what dashboard/viewer/src/quality draws from."""

    key: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    chart: Mapping[str, Any] | None = field(default=None)


def summary(rows: Outcomes) -> Mapping[str, Any]:
    """Return the numbers at the head of the page."""
    verdicts = [one.verdict for one, _ in rows]
    signed = [one for one, _ in rows if one.verdict is not Verdict.REJECTED]
    return {
        "decided": len(rows),
        "demonstrations": sum(one.demonstration for one, _ in rows),
        "unchanged": share(verdicts.count(Verdict.UNCHANGED), len(rows)),
        "edited": share(verdicts.count(Verdict.EDITED), len(rows)),
        "rejected": share(verdicts.count(Verdict.REJECTED), len(rows)),
        "edits": spread([edits_per_100(one) for one in signed]),
        "to_decision": spread([_minutes(one.drafted_at, one.decided_at) for one, _ in rows]),
    }


def edits_per_100(one: DraftOutcome) -> float:
    """Return the words changed per hundred words of the longer text."""
    return 100.0 * one.edits / max(1, one.words_drafted, one.words_signed)


def by_week(rows: Outcomes) -> Sheet:
    """Return acceptance and edit distance of each week."""
    weeks: dict[str, list[DraftOutcome]] = defaultdict(list)
    for one, _ in rows:
        weeks[(one.decided_at - timedelta(days=one.decided_at.weekday())).date().isoformat()].append(one)
    made = [(week, _acceptance(ones), _edits(ones), len(ones)) for week, ones in sorted(weeks.items())]
    return Sheet(
        "weeks",
        "Week by week",
        "Drafts decided in the week that begins on this Monday (UTC).",
        ("Week", "Drafts", "Signed unchanged", "Low", "High", "Edits per 100 words, median"),
        [(week, count, *_cells(kept), edits.median) for week, kept, edits, count in made],
        {
            "kind": "line",
            "labels": [week for week, *_ in made],
            "series": [
                {"name": "Signed unchanged, %", "values": [_percent(kept.value) for _, kept, _, _ in made]},
                {"name": "Edits per 100 words", "values": [edits.median for _, _, edits, _ in made]},
            ],
        },
    )


def by_group(rows: Outcomes, name: str) -> Sheet:
    """Return acceptance, rejection and edit distance of each value of one dimension."""
    groups: dict[str, list[DraftOutcome]] = defaultdict(list)
    for one, reader in rows:
        groups[(reader if name == "reader" else getattr(one, name)) or "not stated"].append(one)
    made = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    kept = [_acceptance(ones) for _, ones in made]
    return Sheet(
        "groups",
        f"By {GROUPS[name].lower()}",
        "Signed unchanged, with Wilson's 95 % interval. Groups whose intervals overlap may well be alike.",
        (GROUPS[name], "Drafts", "Signed unchanged", "Low", "High", "Rejected", "Edits per 100 words, median"),
        [
            (value, len(ones), *_cells(mine), _rejections(ones).value, _edits(ones).median)
            for (value, ones), mine in zip(made, kept, strict=True)
        ],
        _intervals([value for value, _ in made], kept, "Signed unchanged, %"),
    )


def findings(rows: Sequence[Agreement]) -> Sheet:
    """Return the agreement of each finding."""
    return Sheet(
        "findings",
        "Finding by finding",
        "Confirmed: of the findings the AI called present, those the reader accepted or edited. Not contradicted: of "
        "those it called absent, which nobody has to decide one by one.",
        (
            *("Finding", "AI present", "Confirmed", "Low", "High", "Refuted"),
            *("AI absent", "Not contradicted", "Overlooked", "Agreement", "Cohen's kappa"),
        ),
        [
            (
                *(one.label, one.confirmed.whole, *_cells(one.confirmed), one.refuted),
                *(one.uncontradicted.whole, one.uncontradicted.value, one.overlooked, one.agreed.value, one.kappa),
            )
            for one in rows
        ],
        _intervals([one.label for one in rows], [one.confirmed for one in rows], "Confirmed, %"),
    )


def turnaround(rows: Outcomes) -> Sheet:
    """Return how long each step took, by priority."""
    steps: Sequence[tuple[str, Callable[[DraftOutcome], float]]] = (
        ("first image to draft", lambda one: _minutes(one.received_at, one.drafted_at)),
        ("draft to decision", lambda one: _minutes(one.drafted_at, one.decided_at)),
        ("first image to decision", lambda one: _minutes(one.received_at, one.decided_at)),
    )
    order = [name for name in ("STAT", "URGENT", "ROUTINE") if any(one.priority == name for one, _ in rows)]
    spreads = {
        (step, name): spread([of(one) for one, _ in rows if one.priority == name])
        for step, of in steps
        for name in order
    }
    return Sheet(
        "turnaround",
        "Turnaround",
        "Minutes. Decision: the final signature, or the rejection of the draft.",
        ("Step", "Priority", "Drafts", "Median", "90th percentile"),
        [(step, name, one.count, one.median, one.p90) for (step, name), one in spreads.items()],
        {
            "kind": "bars",
            "labels": [step for step, _ in steps],
            "series": [
                {"name": f"{name}, median minutes", "values": [spreads[step, name].median for step, _ in steps]}
                for name in order
            ],
        },
    )


def inputs(shifts: Sequence[Shift]) -> Sheet:
    """Return how what came in has moved."""
    return Sheet(
        "inputs",
        "Drift of what comes in",
        "Recent studies against those before. Population stability index: above 0.10 watch, above 0.25 shifted.",
        ("Of", "Studies before", "Studies now", "Stability index", "Jensen-Shannon distance", "Verdict"),
        [_shift_cells(one) for one in shifts],
        _index_chart(shifts),
    )


def scores(shifts: Sequence[Shift]) -> Sheet:
    """Return how the models' scores have moved."""
    return Sheet(
        "scores",
        "Drift of the models' scores",
        "Scores from 0 to 1 in ten bins, recent drafts against those before.",
        ("Finding", "Scores before", "Scores now", "Stability index", "Jensen-Shannon distance", "Verdict"),
        [_shift_cells(one) for one in shifts],
        _index_chart(shifts),
    )


def outputs(rates: Sequence[RateShift]) -> Sheet:
    """Return how often each label is asserted, before and now."""
    return Sheet(
        "outputs",
        "Drift of what the models say",
        "How often a draft asserts the finding. Fisher's exact test; shifted below p = 0.01, for many are compared.",
        ("Finding", "Drafts before", "Asserted before", "Drafts now", "Asserted now", "p", "Verdict"),
        [
            (one.label, one.before.whole, one.before.value, one.now.whole, one.now.value, one.p, _VERDICTS[one.verdict])
            for one in rates
        ],
        {
            "kind": "bars",
            "labels": [one.label for one in rates],
            "series": [
                {"name": "before, %", "values": [_percent(one.before.value) for one in rates]},
                {"name": "now, %", "values": [_percent(one.now.value) for one in rates]},
            ],
        },
    )


def _shift_cells(one: Shift) -> tuple[Cell, ...]:
    return (
        *(GROUPS.get(one.name, one.name.capitalize()), sum(one.before.values()), sum(one.now.values())),
        *(one.psi, one.distance, _VERDICTS[one.verdict]),
    )


def _index_chart(shifts: Sequence[Shift]) -> Mapping[str, Any] | None:
    names = [GROUPS.get(one.name, one.name.capitalize()) for one in shifts]
    if all(one.psi is None for one in shifts):
        return None
    return {"kind": "bars", "labels": names, "series": [{"name": "Stability index", "values": [s.psi for s in shifts]}]}


def _intervals(labels: Sequence[str], shares: Sequence[Share], name: str) -> Mapping[str, Any] | None:
    if all(one.value is None for one in shares):
        return None
    return {
        "kind": "interval",
        "labels": list(labels),
        "series": [
            {
                "name": name,
                "values": [_percent(one.value) for one in shares],
                "low": [_percent(one.low) for one in shares],
                "high": [_percent(one.high) for one in shares],
            }
        ],
    }


def _acceptance(ones: Sequence[DraftOutcome]) -> Share:
    return share(sum(one.verdict is Verdict.UNCHANGED for one in ones), len(ones))


def _rejections(ones: Sequence[DraftOutcome]) -> Share:
    return share(sum(one.verdict is Verdict.REJECTED for one in ones), len(ones))


def _edits(ones: Iterable[DraftOutcome]) -> Spread:
    return spread([edits_per_100(one) for one in ones if one.verdict is not Verdict.REJECTED])


def _cells(one: Share) -> tuple[Cell, Cell, Cell]:
    return one.value, one.low, one.high


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _minutes(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds() / 60)
