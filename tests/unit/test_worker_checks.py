"""The checker finds what a text says, and marks every disagreement with the Experts."""

import pytest

from worker.checks import _TERMS, check_findings, check_numbers, check_sides, check_unfounded, said, sentences
from worker.composition import FindingAnswer, compose


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("There is a pleural effusion.", "Effusion", "present"),
        ("No pleural effusion or pneumothorax.", "Pneumothorax", "absent"),
        ("No effusion, pneumothorax, or fracture is seen.", "Fracture", "absent"),
        ("No pneumothorax, but a small effusion is present.", "Effusion", "present"),
        ("Effusion is not seen.", "Effusion", "absent"),
        ("The lungs are clear.", "Nodule", "nothing"),
        ("Lungs are free of consolidation.", "Consolidation", "absent"),
        ("No nodule. A 4.2 cm mass lies in the lung.", "Mass", "present"),
        ("Cardiac silhouette: the heart is enlarged.", "Cardiomegaly", "present"),
        ("Widened mediastinum.", "Enlarged Cardiomediastinum", "present"),
        ("No hepatic tumor is seen.", "hepatic tumor", "absent"),
        ("A liver tumour of 12.5 ml.", "hepatic tumor", "present"),
        ("No effusion. Moderate effusion.", "Effusion", "present"),
        ("Pneumonia cannot be excluded however no consolidation.", "Consolidation", "absent"),
    ],
)
def test_what_a_text_says_of_a_finding(text, label, expected):
    assert said(text, label) == expected


@pytest.mark.parametrize("label", _TERMS)
@pytest.mark.parametrize(("is_present", "expected"), [(True, "present"), (False, "absent")])
def test_every_sentence_the_drafts_are_composed_of_is_read_back(label, is_present, expected):
    others = [FindingAnswer(other, not is_present) for other in ("Effusion", "Mass") if other != label]
    composed = compose([FindingAnswer(label, is_present), *others])
    assert said(composed.findings_text, label) == expected


def test_a_decimal_point_ends_no_sentence():
    assert sentences("A mass of 12.5 ml. No effusion.") == ["A mass of 12.5 ml.", "No effusion."]


@pytest.mark.requirement("REQ-TEXT-3")
def test_an_expert_positive_the_text_omits_or_denies_is_marked():
    calls = {"Effusion": True, "Mass": True, "Nodule": False, "Edema": False, "Fracture": True}
    marks = check_findings("No mass. There is a nodule. A fracture is seen.", "CXR", calls)
    assert {(m.kind, m.finding) for m in marks} == {
        ("omission", "Effusion"),
        ("contradiction", "Mass"),
        ("contradiction", "Nodule"),
    }


def test_a_text_that_agrees_is_not_marked():
    assert check_findings("No mass. Effusion is present.", "CXR", {"Effusion": True, "Mass": False}) == []


@pytest.mark.requirement("REQ-TEXT-3")
def test_a_finding_nobody_assessed_is_marked_even_when_denied():
    marks = check_unfounded("No hernia. No effusion.", ["Effusion"])
    assert [(m.kind, m.finding) for m in marks] == [("unfounded", "Hernia")]


@pytest.mark.requirement("REQ-TEXT-1")
def test_a_side_nobody_measured_is_marked():
    assert [m.kind for m in check_sides("Right pleural effusion.", {"Effusion": ""})] == ["laterality"]
    assert [m.kind for m in check_sides("A lung tumor in the left lung.", {"lung tumor": "right"})] == ["laterality"]
    assert check_sides("A lung tumor in the right lung. Left arm is fine.", {"lung tumor": "right"}) == []


@pytest.mark.requirement("REQ-TEXT-4")
def test_a_number_nobody_measured_is_marked():
    measured = [12.46, 31.0]
    assert check_numbers("Volume 12.5 ml, diameter 31 mm.", measured) == []
    assert [m.text for m in check_numbers("Volume 13.5 ml.", measured)] == [
        "The draft states 13.5, which no expert measured."
    ]
