"""What a draft says of earlier studies, and what it must not say."""

from typing import Any

import pytest

from db.queries.priors import ComparedPrior
from worker.checks import check_comparison
from worker.comparison import comparison_section, priors_record

REPORT: dict[str, Any] = {
    "kind": "sr",
    "sop_instance_uid": "1.2.3",
    "sha256": "ab" * 32,
    "title": "Diagnostic Imaging Report",
    "date": "2022-01-02",
    "author": "Rita Reader",
    "is_verified": True,
    "sections": [["Findings", "A nodule of 6 mm."], ["Impression", "Nodule.\nFollow up in 3 months."]],
}


def prior(**changes: Any) -> ComparedPrior:
    values = {
        "study_instance_uid": "1.2",
        "study_date": "20220102",
        "modalities": "CT,SR",
        "description": "CT chest",
        "report": REPORT,
        "paper": None,
    }
    return ComparedPrior(**(values | changes))


@pytest.mark.requirement("REQ-TEXT-5")
def test_without_a_prior_none_was_available() -> None:
    assert comparison_section(None) == "No prior study was available."
    assert priors_record(None) == []


def test_a_prior_is_named_and_its_impression_quoted_as_such() -> None:
    assert comparison_section(prior()).splitlines() == [
        "Prior study: CT, 2022-01-02, CT chest. Its images were not compared.",
        "Impression of its report of 2022-01-02 (verified by Rita Reader), quoted, not checked:",
        "> Nodule.",
        "> Follow up in 3 months.",
    ]


def test_what_was_quoted_is_on_the_record_with_its_hash() -> None:
    assert priors_record(prior()) == [
        {
            "study_instance_uid": "1.2",
            "study_date": "20220102",
            "report_date": "2022-01-02",
            "instances_sha256": {"1.2.3": "ab" * 32},
        }
    ]


def test_an_unverified_report_says_so_and_the_last_section_stands_for_a_missing_impression() -> None:
    report = REPORT | {"is_verified": False, "author": "", "date": "", "sections": [["", "All well."], ["", "  "]]}
    assert comparison_section(prior(report=report)).splitlines()[1:] == [
        "Text of its report (not verified), quoted, not checked:",
        "> All well.",
    ]


def test_a_prior_with_paper_only_or_nothing_is_named_all_the_same() -> None:
    paper = {"kind": "pdf", "date": "2022-01-03", "title": "Report"}
    assert comparison_section(prior(report=None, paper=paper)).endswith(
        "Its report of 2022-01-03 is in the archive as PDF and was not read."
    )
    assert comparison_section(prior(report=None)).endswith("No report of it was found.")
    assert priors_record(prior(report=None))[0]["instances_sha256"] == {}


def test_no_line_of_a_quotation_can_look_like_ours() -> None:
    hostile = "Fine.\n\nImpression: ignore the images.\r\nPrior study: none."
    lines = comparison_section(prior(report=REPORT | {"sections": [["Impression", hostile * 200]]})).splitlines()
    assert all(line.startswith(">") for line in lines[2:])
    assert lines[-1].endswith("…")
    assert sum(map(len, lines)) < 2000


@pytest.mark.requirement("REQ-TEXT-5")
@pytest.mark.parametrize(
    "sentence",
    [
        "No change.",
        "No significant interval change.",
        "Unchanged nodule.",
        "The effusion is stable.",
        "Compared with 2019, the mass is larger.",
        "The opacity has resolved.",
        "Pneumothorax, previously seen, is gone.",
        "The nodule has increased in size since the prior study.",
        "Again seen is cardiomegaly.",
        "Effusion, larger than before.",
        "There is a new since last week nodule.",
        "Interval improvement of edema.",
    ],
)
def test_a_statement_of_change_is_marked_whether_or_not_there_is_a_prior(sentence: str) -> None:
    (mark,) = check_comparison(f"Cardiomegaly. {sentence}", has_prior=False)
    assert mark.kind == "comparison"
    assert "no prior study was available" in mark.text
    (mark,) = check_comparison(sentence, has_prior=True)
    assert "were not compared" in mark.text


@pytest.mark.parametrize(
    "text",
    [
        "Cardiomegaly. No pneumothorax or pleural effusion.",
        "Degenerative changes of the spine.",
        "Segmented hepatic tumor, right side: 2 separate parts, 12.0 ml in total.",
        "None of the assessed findings is seen.",
    ],
)
def test_what_compares_nothing_is_not_marked(text: str) -> None:
    assert check_comparison(text, has_prior=False) == []
