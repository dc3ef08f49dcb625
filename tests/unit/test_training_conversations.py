"""Training conversations: held-out words stay out, answers follow the feedback, questions are balanced."""

import numpy as np
import pytest

from tests.unit.test_vlm_prompts import card
from training import wording
from training.balance import MIXTURE, balanced, draw_kind
from training.conversations import (
    EXPERT_OF,
    NOTHING,
    Offer,
    direct_conversation,
    feedback_conversation,
    full_report,
    random_glioma,
    random_lesion,
    random_predictions,
    short_report,
    training_cards,
    trigger_conversation,
)
from training.patients import BRAIN_TUMOUR, Patient, Scene
from training.wording import Wordings
from worker.vlm.cards import print_cards
from worker.vlm.prompts import (
    ANATOMY_REQUEST,
    BRAIN_TUMOUR_REQUEST,
    LESION_ARGUMENTS,
    REPORT_REQUEST,
    TRAINED_ORDER,
    finding_name,
    finding_question,
    lesion_question,
)
from worker.vlm.triggers import parse_triggers

OFFER = Offer("cards\n", frozenset({"CXR", "VISTA3D", "BRATS"}))
CARDS = (
    card("CXR"),
    card("VISTA3D", arguments=tuple(wording.GROUP_NAMES)),
    card("BRATS"),
)


def patient(modality: str, rng: np.random.Generator) -> Patient:
    images = 4 if modality == "MRI" else 1
    greys = rng.integers(0, 256, (images, 30, 40)).astype(np.uint8)
    labels = np.zeros((30, 40), np.uint8)
    if modality == "CT":
        labels[5:20, 5:20] = 1
        labels[8:11, 8:11] = 26
        labels[22:28, 3:30] = 3
    if modality == "MRI":
        labels[10:20, 10:20] = 2
        labels[12:18, 12:18] = 4
    findings = {"CXR": {"Effusion"}, "CT": {"hepatic tumor"}, "MRI": {BRAIN_TUMOUR}}[modality]
    scenes = tuple(Scene(greys, labels, purpose) for purpose in ("middle", "random", "widest", "hepatic tumor"))
    return Patient(modality, 1, frozenset(findings), scenes)  # type: ignore[arg-type]


def all_wordings() -> list[Wordings]:
    found = [value for value in vars(wording).values() if isinstance(value, Wordings)]
    return found + list(wording.WHAT.values())


def test_no_held_out_wording_is_a_training_wording():
    training = {form for forms in all_wordings() for form in forms.training}
    held_out = {form for forms in all_wordings() for form in forms.held_out}
    assert not training & held_out
    assert all(forms.held_out for forms in all_wordings())


def test_every_question_a_draft_asks_is_held_out():
    asked = {REPORT_REQUEST, ANATOMY_REQUEST, BRAIN_TUMOUR_REQUEST}
    held_out = {form for forms in all_wordings() for form in forms.held_out}
    assert asked <= held_out
    assert finding_question("Mass") in {form.format(x="mass") for form in wording.FINDING.held_out}
    assert lesion_question("lung tumor") in {form.format(x="lung tumor") for form in wording.LESION.held_out}


@pytest.mark.parametrize("modality", ["CXR", "CT", "MRI"])
@pytest.mark.parametrize("held_out", [True, False])
def test_every_trigger_answer_is_a_trigger_of_the_patients_expert(modality, held_out):
    rng = np.random.default_rng(3)
    made = trigger_conversation(rng, patient(modality, rng), OFFER, held_out=held_out)
    for branch in made.branches:
        (trigger,) = parse_triggers(branch.answer, CARDS)
        assert trigger.expert == EXPERT_OF[modality]
        assert trigger.terminal == (branch.key == "segment")
    assert made.turns[0].text.count("<image>") == len(made.images)


def test_chest_answers_follow_the_feedback_not_the_picture():
    rng = np.random.default_rng(5)
    disagreements = 0
    for _ in range(40):
        made = feedback_conversation(rng, patient("CXR", rng), OFFER, held_out=True)
        lines = dict(line.split(": ") for line in made.turns[-1].text.splitlines() if line.endswith((": yes", ": no")))
        for branch in made.branches:
            if branch.key != "yes/no":
                continue
            named = max((name for name in lines if name in branch.question), key=len)
            assert branch.answer == lines[named]
            disagreements += (branch.answer == "yes") != (named == "effusion")
    assert disagreements > 50


@pytest.mark.parametrize("modality", ["CT", "MRI"])
def test_volume_answers_follow_the_legend(modality):
    rng = np.random.default_rng(6)
    seen = set()
    for _ in range(60):
        made = feedback_conversation(rng, patient(modality, rng), OFFER, held_out=False)
        text = made.turns[-1].text
        for branch in made.branches:
            if branch.key != "yes/no":
                continue
            if modality == "MRI":
                word = "enhancing tumor" if "enhanc" in branch.question else "whole tumor"
                assert (branch.answer == "yes") == (word in text)
            else:
                argument = made.turns[1].text.split("(")[1].split(")")[0]
                assert (branch.answer == "yes") == (f": {argument}" in text)
            seen.add(branch.answer)
        assert sum(turn.text.count("<image>") for turn in made.turns) == len(made.images)
    assert seen == {"yes", "no"}


@pytest.mark.parametrize("modality", ["CXR", "CT", "MRI"])
def test_without_an_expert_the_answer_is_the_truth_and_no_card_is_shown(modality):
    rng = np.random.default_rng(7)
    subject = patient(modality, rng)
    made = direct_conversation(rng, subject, Offer("", frozenset()), held_out=False)
    for branch in made.branches:
        names = [finding_name(f) for f in (*TRAINED_ORDER, *LESION_ARGUMENTS) if finding_name(f) in branch.question]
        about = max(names, key=len) if modality != "MRI" else BRAIN_TUMOUR
        assert (branch.answer == "yes") == (about in {finding_name(f) for f in subject.findings})
    assert "expert" not in made.turns[0].text


def test_reports_say_exactly_the_positives():
    calls = [("Mass", False), ("Effusion", True), ("Edema", True)]
    assert short_report(calls) == "Pleural effusion. Pulmonary edema."
    assert short_report([("Mass", False)]) == NOTHING
    assert full_report(calls) == "Mass is absent. Effusion is present. Edema is present."


def test_synthetic_answers_vary_in_order_and_length():
    rng = np.random.default_rng(8)
    drawn = [random_predictions(rng, frozenset({"Mass"})) for _ in range(80)]
    assert {len(calls) for calls in drawn} > {18}
    assert any([label for label, _ in calls] == list(TRAINED_ORDER) for calls in drawn)
    assert any(not positive for calls in drawn for label, positive in calls if label == "Mass")


def test_synthetic_segmentations_are_wrong_about_half_the_time():
    rng = np.random.default_rng(9)
    scene = patient("CT", rng).scenes[0]
    there = [bool((random_lesion(rng, scene.labels, 26) == 26).any()) for _ in range(200)]
    assert 70 < sum(there) < 130
    tumours = [bool(random_glioma(rng, np.zeros((60, 60), np.uint8)).any()) for _ in range(200)]
    assert 60 < sum(tumours) < 140


def test_balance_gives_as_many_present_as_absent_where_it_can():
    truth = {label: index < 7 for index, label in enumerate(TRAINED_ORDER)}
    chosen = balanced(np.random.default_rng(1), truth, each=5)
    assert sorted(positive for _, positive in chosen) == [False] * 5 + [True] * 5
    assert balanced(np.random.default_rng(1), {"Mass": False}, each=5) == [("Mass", False)]


def test_a_patient_is_read_directly_only_when_its_expert_is_not_offered():
    rng = np.random.default_rng(2)
    for _ in range(200):
        modality, form = draw_kind(rng, frozenset({"CXR"}), EXPERT_OF).split()
        assert (form == "direct") == (modality != "CXR")
    assert sum(MIXTURE.values()) == pytest.approx(1.0)


def test_offers_are_sometimes_incomplete_and_always_printable():
    rng = np.random.default_rng(4)
    offers = [training_cards(rng) for _ in range(200)]
    assert {len(cards) for cards in offers} == {0, 1, 2, 3}
    assert all(print_cards(cards).count("(args)>") == len(cards) + bool(cards) for cards in offers)
