"""Statistics of the quality page against published and hand-made examples."""

import math
from collections import Counter

import pytest

from dashboard.figures.agreement import agreements, kappa
from dashboard.figures.drift import rate_shift, shift
from dashboard.figures.shares import share, spread
from dashboard.quality import _safe
from db.lifecycle.outcomes import age_group, compare
from db.queries.quality import FindingCount
from db.types import Decision, Presence, Verdict

PRESENT, ABSENT = Presence.PRESENT, Presence.ABSENT


@pytest.mark.requirement("REQ-BIAS-7")
@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [  # Newcombe, Statistics in Medicine 1998;17:857-872, table I, method 3 (Wilson without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_a_share_has_the_published_interval(part: int, whole: int, low: float, high: float) -> None:
    made = share(part, whole)
    assert made.value == part / whole
    assert (made.low, made.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_share_of_nothing_has_no_value() -> None:
    assert share(0, 0).value is None
    assert share(3, 9).is_small
    assert not share(3, 10).is_small


def test_kappa_of_the_textbook_table_is_two_fifths() -> None:
    # 50 proposals, two readers: 20 both yes, 15 both no, 5 and 10 mixed; kappa 0.4 (70 % observed, 50 % by chance)
    table = Counter({(True, True): 20, (True, False): 5, (False, True): 10, (False, False): 15})
    assert kappa(table) == pytest.approx(0.4)
    assert kappa(Counter({(True, True): 9})) is None
    assert kappa(Counter()) is None


@pytest.mark.requirement("REQ-BIAS-6")
def test_agreement_counts_what_readers_did_with_each_answer() -> None:
    (effusion, nodule) = agreements(
        [
            FindingCount("Effusion", PRESENT, Decision.ACCEPTED, 6),
            FindingCount("Effusion", PRESENT, Decision.EDITED, 2),
            FindingCount("Effusion", PRESENT, Decision.REJECTED, 2),
            FindingCount("Effusion", ABSENT, Decision.PENDING, 9),
            FindingCount("Effusion", ABSENT, Decision.REJECTED, 1),
            FindingCount("Nodule", PRESENT, Decision.PENDING, 4),
            FindingCount("Nodule", ABSENT, Decision.PENDING, 3),
            FindingCount("Nodule", Presence.UNDETERMINED, Decision.PENDING, 5),
        ]
    )
    assert (effusion.label, effusion.confirmed.part, effusion.confirmed.whole) == ("Effusion", 8, 10)
    assert (effusion.refuted, effusion.overlooked) == (2, 1)
    assert (effusion.agreed.part, effusion.agreed.whole) == (17, 20)
    # observed 17/20; readers say yes to 9 of 20, the AI to 10: by chance 0.5*0.45 + 0.5*0.55 = 0.5
    assert effusion.kappa == pytest.approx((0.85 - 0.5) / 0.5)
    assert (nodule.confirmed.whole, nodule.uncontradicted.whole) == (0, 3)


@pytest.mark.requirement("REQ-BIAS-7")
def test_the_stability_index_is_the_sum_over_categories() -> None:
    before, now = {"CT": 49, "MR": 49}, {"CT": 79, "MR": 19}
    p, q = (49.5 / 99, 49.5 / 99), (79.5 / 99, 19.5 / 99)
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    made = shift("modality", before, now)
    assert made.psi == pytest.approx(by_hand)
    assert made.verdict == "shifted"
    assert shift("modality", before, before).verdict == "stable"
    assert shift("modality", before, {"CT": 29}).verdict == "few"


def test_a_category_that_is_new_has_a_finite_index() -> None:
    made = shift("scanner", {"A": 100}, {"B": 100})
    assert made.psi is not None
    assert math.isfinite(made.psi)
    assert made.distance == pytest.approx(1.0, abs=0.05)  # nothing in common


def test_a_rate_that_moved_is_told_from_chance() -> None:
    assert rate_shift("Effusion", (10, 100), (40, 100)).verdict == "shifted"
    assert rate_shift("Effusion", (10, 100), (12, 100)).verdict == "stable"
    assert rate_shift("Effusion", (1, 29), (29, 29)).verdict == "few"


def test_a_spread_is_median_and_ninetieth_percentile() -> None:
    assert (spread([5, 1, 3]).median, spread(list(range(11))).p90) == (3, 9)
    assert spread([]).median is None


@pytest.mark.parametrize(
    ("born", "taken", "group"),
    [
        ("19580214", "20261121", "60-69"),
        ("19561122", "20261121", "60-69"),  # seventy tomorrow
        ("19561121", "20261121", "70-79"),
        ("", "20261121", ""),
        ("1958", "20261121", ""),
        ("20300101", "20261121", ""),
    ],
)
def test_age_groups_are_decades_at_the_study(born: str, taken: str, group: str) -> None:
    assert age_group(born, taken) == group


def test_edits_are_words_inserted_deleted_and_replaced() -> None:
    drafted = {"findings": "There is a small left effusion.", "impression": "Effusion."}
    signed = {"findings": "There is a right effusion today.", "impression": "Effusion.", "history": "cough"}
    made = compare(drafted, signed)
    # three words replaced: small -> right, left -> effusion, "effusion." -> "today."; no shorter way
    assert (made["edits"], made["changed_sections"]) == (3, ["findings"])
    assert made["verdict"] is Verdict.EDITED
    assert compare(drafted, {**drafted, "history": "cough"})["verdict"] is Verdict.UNCHANGED
    assert compare(drafted, {**drafted, "impression": " Effusion.\n"})["edits"] == 0  # white space is no word


def test_a_cell_from_outside_is_no_formula() -> None:
    assert _safe("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert _safe("GE Revolution") == "GE Revolution"
    assert _safe(-1.5) == -1.5
