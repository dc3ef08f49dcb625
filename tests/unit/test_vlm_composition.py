"""Sentences composed from answers: nothing added, nothing dropped, missing is not negative."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.composition import FindingAnswer, compose


def test_positives_first_then_one_sentence_of_negatives():
    made = compose(
        [FindingAnswer("Mass", False), FindingAnswer("Effusion", True), FindingAnswer("Pneumothorax", False)]
    )
    assert made.findings_text == "Pleural effusion. No pulmonary mass or pneumothorax."
    assert made.impression_text == "Pleural effusion."


@pytest.mark.requirement("REQ-TEXT-7")
def test_nothing_present_is_said_of_the_assessed_findings_only():
    made = compose([FindingAnswer("Mass", False), FindingAnswer("Edema", None)])
    assert made.findings_text == "No pulmonary mass. Not assessed: pulmonary edema."
    assert made.impression_text == "None of the assessed findings is seen."


@pytest.mark.requirement("REQ-TEXT-7")
def test_nothing_assessed_is_never_normal():
    assert compose([]).impression_text == "Nothing was assessed."
    unassessed = compose([FindingAnswer("brain tumor", None)])
    assert unassessed.impression_text == unassessed.findings_text == "Not assessed: brain tumor."


def test_an_unknown_label_is_written_as_it_is():
    assert compose([FindingAnswer("Air_Trapping", True)]).findings_text == "Air trapping."


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=8), st.sampled_from([True, False, None]), max_size=12))
def test_every_answer_keeps_its_evidence_in_exactly_one_findings_sentence(answers):
    made = compose([FindingAnswer(label, value) for label, value in answers.items()])
    spoken = [label for sentence in made.findings for label in sentence.labels]
    assert sorted(spoken) == sorted(answers)
    positive = {label for label, value in answers.items() if value}
    assert {s.labels[0] for s in made.findings if not s.text.startswith(("No ", "Not assessed", "Nothing"))} == positive
