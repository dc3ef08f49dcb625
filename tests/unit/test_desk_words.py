"""Sentences, which finding each speaks of, and comparisons that can be put together again."""

import random
from itertools import pairwise

import pytest

from dashboard.differences import word_diff
from dashboard.sentences import sentences, told, without
from db.report_models import Finding
from db.types import Presence


def finding(label: str, presence: Presence = Presence.PRESENT, sentence: str = "") -> Finding:
    return Finding(label=label, presence=presence, sentence=sentence)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Tumor of 12.4 ml. No effusion.", ["Tumor of 12.4 ml.", "No effusion."]),
        ("First line\nSecond line.", ["First line", "Second line."]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("هل يوجد ورم؟ لا.", ["هل يوجد ورم؟", "لا."]),
        ("  \n ", []),
    ],
)
def test_text_is_split_at_what_ends_a_sentence(text: str, parts: list[str]) -> None:
    found = list(sentences(text))
    assert [one.group() for one in found] == parts
    assert all(text[one.start() : one.end()] == one.group() for one in found)


def test_a_sentence_is_of_the_one_finding_it_asserts() -> None:
    tumor, effusion, mass = finding("lung tumor"), finding("effusion", Presence.ABSENT), finding("tumor")
    rows = [tumor, effusion, mass]

    def said_of(one: Finding, text: str) -> list[str]:
        return told({"findings": text}, one, [other for other in rows if other is not one]).get("findings", [])

    text = "Lung tumor. No lung tumor. Lung tumor with effusion. No effusion."
    assert said_of(tumor, text) == ["Lung tumor."]  # not the negated one, not the one of two findings
    assert said_of(effusion, text) == ["No effusion."]
    assert said_of(mass, text) == []  # "lung tumor" is another finding's longer name
    own = finding("nodule", sentence="Segmented nodule,  2 ml.")
    assert told({"findings": "segmented nodule, 2 ml. Other."}, own, rows) == {"findings": ["segmented nodule, 2 ml."]}
    assert told({"history": "Lung tumor."}, tumor, rows) == {}  # only findings and impression are told


@pytest.mark.parametrize(
    ("text", "unwanted", "instead", "left"),
    [
        ("A. B. C.", ["B."], "", "A. C."),
        ("A. B. C.", ["B."], "X.", "A. X. C."),
        ("A.\nB.\nC.", ["B."], "", "A.\nC."),
        ("A.\nB. C.", ["B."], "", "A.\nC."),
        ("A. B.", ["A.", "B."], "X.", "X."),
        ("A.", ["A."], "", ""),
        ("A. B.", ["Z."], "X.", "A. B."),
    ],
)
def test_a_sentence_is_taken_out_or_replaced_and_the_lines_stay(
    text: str, unwanted: list[str], instead: str, left: str
) -> None:
    assert without(text, unwanted, instead) == left


def test_every_comparison_can_be_put_together_again_however_long() -> None:
    chance = random.Random(7)
    words = [f"word{number}" for number in range(40)]
    for length in (0, 1, 30, 4000):
        before = " ".join(chance.choice(words) + chance.choice(["", ".", ",\n"]) for _ in range(length))
        after = " ".join(chance.choice(words) + chance.choice(["", ".", ",\n"]) for _ in range(length))
        pieces = word_diff(before, after)
        assert "".join(text for kind, text in pieces if kind != "ins") == before
        assert "".join(text for kind, text in pieces if kind != "del") == after
        assert all(text for _, text in pieces)
        assert all(one[0] != other[0] for one, other in pairwise(pieces))
    assert word_diff("same", "same") == [("same", "same")]
