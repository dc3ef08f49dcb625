"""What the model asks for and what becomes of it: Triggers, rounds, storms, bad output, other Experts."""

from dataclasses import replace

import pydicom
import pytest

from config.errors import GenerationBudgetError, ModelOutputError, OutsideIntendedUseError, RepetitionError
from tests.conversation_support import (
    CXR_TRIGGER,
    LESIONS,
    LIVER,
    TUMOUR,
    asks,
    bench,
    chest_intake,
    conversation,
    torso_intake,
    vista,
)
from tests.fakes import VLM_CARD, BoxSegmenter, BrokenExpert, FixedClassifier, ScriptedVlm, card, reads_feedback
from worker.drafting import draft_study
from worker.outputs import write_outputs
from worker.profiles import CHEST_XRAY, CT_TORSO

from .test_worker_drafting import place

EMPTY = (slice(0),) * 3


@pytest.fixture(scope="module")
def torso(tmp_path_factory):
    return torso_intake(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    return chest_intake(tmp_path_factory.mktemp("cxr"))


# --- first answers -----------------------------------------------------------------------------------------


def test_all_first_turns_of_a_study_are_one_batch(torso):
    vlm = ScriptedVlm(asks(), reads_feedback)
    batches = []
    together = vlm.generate_batch
    vlm.generate_batch = lambda waiting, **limits: batches.append(len(waiting)) or together(waiting, **limits)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista((*LESIONS, "organs"))))
    assert batches == [5]
    assert len(content.provenance["conversations"]) == 5
    assert content.marks == []


@pytest.mark.parametrize(
    ("said", "lapse"),
    [
        ("", "wrote nothing"),
        (" \n\t ", "wrote nothing"),
        ("The liver looks fine.", "asked for no expert"),
        ("Let me trigger <VISTA3D(hepatic tumor)", "no trigger"),
        ("Let me trigger <VISTA3D(liver)>.", "no argument 'liver'"),
        ("<VISTA3D(args)> Modality: CT", "no argument 'args'"),
        ("Let me trigger <VISTA2D()>.", "was not offered"),
        (None, "did not stop within 32 tokens"),
        (RepetitionError("the model repeated itself without end"), "repeated itself"),
        (GenerationBudgetError("4200 tokens do not fit the context of 4096"), "do not fit"),
    ],
)
def test_an_answer_without_a_usable_trigger_is_marked_and_the_rule_runs_the_expert(torso, said, lapse):
    expert = vista(("hepatic tumor",))
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(lambda _: said, reads_feedback), expert))
    (mark,) = [mark for mark in content.marks if mark.kind == "trigger"]
    assert lapse in mark.text
    assert "VISTA3D(hepatic tumor) was run by rule" in mark.text
    assert expert.calls == ["hepatic tumor"]
    assert [(f.label, f.is_present) for f in content.findings] == [("hepatic tumor", True)]
    assert conversation(content, "hepatic")["demanded_by_rule"] is True


def test_a_storm_of_triggers_is_marked_and_none_of_it_is_heeded(torso):
    arguments = ("everything", *LESIONS, "organs", "skeleton", "muscles")
    expert = vista(arguments)
    storm = " ".join(f"Let me trigger <VISTA3D({argument})>." for argument in arguments if argument != "hepatic tumor")
    vlm = ScriptedVlm(asks(hepatic=storm), reads_feedback)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, expert, max_triggers=6))
    (mark,) = [mark for mark in content.marks if mark.kind == "trigger"]
    assert "asked for 7 experts at once, more than 6" in mark.text
    assert sorted(expert.calls) == sorted((*LESIONS, "organs"))  # what the other questions asked for, and the rule
    assert conversation(content, "hepatic")["triggers"] == [["VISTA3D", "hepatic tumor"]]


def test_several_triggers_in_one_answer_run_in_order_each_once_and_are_fed_back_in_one_turn(torso):
    expert = vista(("hepatic tumor", "organs", "skeleton"))
    several = "Let me trigger <VISTA3D(skeleton)>, <VISTA3D(hepatic tumor)> and again <VISTA3D(skeleton)>."
    vlm = ScriptedVlm(asks(hepatic=several), reads_feedback)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, expert))
    first = conversation(content, "hepatic")["rounds"][0]
    assert first["experts"] == [["VISTA3D", "skeleton"], ["VISTA3D", "hepatic tumor"]]
    assert first["feedback"].count("The results are <image>") == 2
    assert first["feedback"].count("Use this result to respond to this prompt:") == 1
    assert sorted(expert.calls) == ["hepatic tumor", "organs", "skeleton"]
    assert content.marks == []
    assert ("VISTA3D", "skeleton") in content.results  # evidence, although the profile does not ask for it


def test_an_expert_of_another_modality_is_refused_and_marked_beside_one_that_runs(torso):
    film_reader = FixedClassifier({"Mass": 0.9})
    both = "Let me trigger <CXR()> and <VISTA3D(hepatic tumor)>."
    content = draft_study(
        torso, CT_TORSO, bench(torso, ScriptedVlm(asks(hepatic=both), reads_feedback), vista(), film_reader)
    )
    (mark,) = [mark for mark in content.marks if mark.kind == "trigger"]
    assert "CXR, which does not read CT" in mark.text
    assert "by rule" not in mark.text
    assert not any(expert == "CXR" for expert, _ in content.results)


def test_what_the_model_asks_for_beyond_the_profile_runs_and_so_does_what_the_profile_demands(torso):
    content = draft_study(
        torso, CT_TORSO, bench(torso, ScriptedVlm(asks(hepatic="<VISTA3D(skeleton)>"), reads_feedback),
                               vista(("hepatic tumor", "organs", "skeleton")))
    )  # fmt: skip
    (mark,) = [mark for mark in content.marks if mark.kind == "trigger"]
    assert "asked for VISTA3D(skeleton) instead of VISTA3D(hepatic tumor)" in mark.text
    assert conversation(content, "hepatic")["rounds"][0]["experts"] == [
        ["VISTA3D", "skeleton"],
        ["VISTA3D", "hepatic tumor"],
    ]


def test_numbers_that_are_none_end_one_question_and_leave_the_others(torso):
    broken = ModelOutputError("the logits are no numbers")
    expert = vista((*LESIONS, "organs"))
    vlm = ScriptedVlm(asks(lung=broken), reads_feedback)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, expert))
    assert {"what": "lung tumor", "why": "the logits are no numbers"} in content.not_assessed
    assert "lung tumor" not in {finding.label for finding in content.findings}
    assert "lung tumor" not in expert.calls
    assert "Not assessed: lung tumor." in content.sections["findings"]
    assert len(content.findings) == 3


@pytest.mark.requirement("REQ-FAIL-3")
def test_a_model_that_gives_no_numbers_at_all_leaves_no_draft_and_says_why(chest):
    vlm = ScriptedVlm(ModelOutputError("the logits are no numbers"), reads_feedback)
    with pytest.raises(OutsideIntendedUseError, match="nothing could be assessed: the logits are no numbers"):
        draft_study(chest, CHEST_XRAY, bench(chest, vlm, FixedClassifier({"Effusion": 0.9})))


def test_no_numbers_after_the_feedback_is_not_assessed_either(chest):
    def fails(_said, _question):
        raise ModelOutputError("the logits are no numbers")

    with pytest.raises(OutsideIntendedUseError, match="nothing could be assessed: the logits are no numbers"):
        draft_study(
            chest, CHEST_XRAY, bench(chest, ScriptedVlm(CXR_TRIGGER, fails), FixedClassifier({"Effusion": 0.9}))
        )


# --- later rounds ------------------------------------------------------------------------------------------


def test_after_feedback_the_model_may_trigger_again_until_it_answers(torso):
    expert = vista(("hepatic tumor", "skeleton", "muscles"))
    vlm = ScriptedVlm(asks(), reads_feedback, then=["Let me trigger <VISTA3D(skeleton)>. ", "It is there."])
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, expert))
    talk = conversation(content, "hepatic")
    assert [turn["experts"] for turn in talk["rounds"]] == [[["VISTA3D", "hepatic tumor"]], [["VISTA3D", "skeleton"]]]
    assert talk["rounds"][1]["wrote"] == "It is there."
    assert expert.calls == ["hepatic tumor", "skeleton"]
    assert content.marks == []
    assert len(talk["pictures"]) == 3 + len(talk.get("slices", []))


def test_rounds_are_bounded_and_what_is_still_wanted_is_marked(torso):
    arguments = ("hepatic tumor", "skeleton", "muscles", "everything")
    expert = vista(arguments)
    endless = [f"Let me trigger <VISTA3D({argument})>." for argument in ("skeleton", "muscles", "everything")]
    vlm = ScriptedVlm(lambda _: "<VISTA3D(hepatic tumor)>", reads_feedback, then=endless)
    profile = replace(CT_TORSO, lesions=CT_TORSO.lesions[:1], name="one lesion")
    content = draft_study(torso, profile, bench(torso, vlm, expert, max_rounds=2))
    assert expert.calls == ["hepatic tumor", "skeleton"]
    assert vlm.written == 2
    (mark,) = [mark for mark in content.marks if mark.kind == "trigger"]
    assert "after 2 rounds the model still asked for VISTA3D(muscles); not run" in mark.text


def test_a_model_that_repeats_its_trigger_gets_no_further_round(torso):
    expert = vista(("hepatic tumor",))
    vlm = ScriptedVlm(asks(), reads_feedback, then=["<VISTA3D(hepatic tumor)>"] * 3)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, expert))
    assert vlm.written == 1
    assert expert.calls == ["hepatic tumor"]
    assert [finding.is_present for finding in content.findings] == [True]


@pytest.mark.parametrize("said", ["", None, "Let me trigger <VISTA3D(organs)", "Probably."])
def test_what_is_no_trigger_after_feedback_leaves_the_choice_between_yes_and_no(torso, said):
    vlm = ScriptedVlm(asks(), reads_feedback, then=[said])
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista(("hepatic tumor",))))
    assert [(f.label, f.is_present) for f in content.findings] == [("hepatic tumor", True)]
    assert len([m for m in content.marks if m.kind == "trigger"]) == (said == "Let me trigger <VISTA3D(organs)")


@pytest.mark.requirement("REQ-TEXT-10")
def test_after_a_terminal_trigger_the_model_is_asked_for_no_more_text(torso):
    vlm = ScriptedVlm(
        asks(hepatic="I segmented liver tumors using <VISTA3D(hepatic tumor)>."), reads_feedback, then=["never said"]
    )
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista(("hepatic tumor",))))
    assert vlm.written == 0
    assert [(f.label, f.is_present) for f in content.findings] == [("hepatic tumor", True)]


@pytest.mark.parametrize(("verb", "rounds"), [("I outlined the organs using", 0), ("Let me trigger", 1)])
def test_anatomy_is_fed_back_only_when_the_model_waits_for_it(torso, verb, rounds):
    vlm = ScriptedVlm(asks(organs=f"{verb} <VISTA3D(organs)>."), reads_feedback)
    vlm.then = ["A liver."] * rounds
    vlm.answer_each = lambda messages, images, questions: type(vlm).answer_each(
        replace(vlm, then=[]), messages, images, questions
    )
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista()))
    assert len(conversation(content, "organs")["rounds"]) == rounds
    assert vlm.written == rounds
    assert ("VISTA3D", "organs") in content.results


def test_an_extra_expert_that_fails_is_marked_and_never_heard_of(torso):
    broken = BrokenExpert(card("NODULES", "CT"))
    vlm = ScriptedVlm(asks(hepatic="<NODULES()> <VISTA3D(hepatic tumor)>"), reads_feedback)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista(), broken))
    assert any("NODULES(), which the model asked for, failed" in mark.text for mark in content.marks)
    assert not any("failed" in text or "NaN" in text for text in vlm.heard)
    assert [(f.label, f.is_present) for f in content.findings] == [("hepatic tumor", True)]


# --- what other Experts say --------------------------------------------------------------------------------


def test_a_plug_ins_uncoded_structures_are_evidence_and_a_mark_but_no_finding_and_no_segment(torso, tmp_path):
    nodules = BoxSegmenter({"": {7: ("ground glass", (slice(5, 8),) * 3)}}, card("NODULES", "CT"))
    vlm = ScriptedVlm(asks(hepatic="<NODULES()> <VISTA3D(hepatic tumor)>"), reads_feedback)
    content = draft_study(torso, CT_TORSO, bench(torso, vlm, vista(), nodules))
    (mark,) = [mark for mark in content.marks if mark.kind == "not_asked"]
    assert "NODULES() shows ground glass, which no question of this draft answers" in mark.text
    assert "ground glass" not in {finding.label for finding in content.findings}
    made = write_outputs(content, torso, vlm.card, place(tmp_path, torso, content))
    assert {row.expert for row in made.evidence} == {"VISTA3D", "NODULES"}
    seg = pydicom.dcmread(tmp_path / next(o.path for o in made.objects if o.kind == "SEG"))
    assert {str(item.SegmentLabel) for item in seg.SegmentSequence} == {"liver", "hepatic tumor"}


def test_a_lesion_no_question_covers_is_marked_and_its_code_makes_it_a_segment(torso, tmp_path):
    expert = vista(organs=LIVER | {116: ("left kidney cyst", (slice(5, 8),) * 3)})
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), expert))
    (mark,) = content.marks
    assert (mark.kind, "shows left kidney cyst, which no question" in mark.text) == ("not_asked", True)
    made = write_outputs(content, torso, VLM_CARD, place(tmp_path, torso, content))
    seg = pydicom.dcmread(tmp_path / next(o.path for o in made.objects if o.kind == "SEG"))
    assert "left kidney cyst" in {str(item.SegmentLabel) for item in seg.SegmentSequence}


def test_another_classifiers_positives_are_a_mark(chest):
    other = FixedClassifier({"Nodule": 0.9, "Effusion": 0.8}, card("OTHER", "CXR"))
    vlm = ScriptedVlm(f"{CXR_TRIGGER} And <OTHER()>.", reads_feedback)
    content = draft_study(chest, CHEST_XRAY, bench(chest, vlm, FixedClassifier({"Effusion": 0.9}), other))
    (mark,) = [mark for mark in content.marks if mark.kind == "not_asked"]
    assert "OTHER() shows Nodule, which no question of this draft answers" in mark.text
    assert [finding.label for finding in content.findings] == ["Effusion"]


def test_what_an_expert_had_to_do_differently_is_shown_to_people(torso):
    expert = vista()
    expert.notes = ("out of memory on the GPU: this run used the CPU",)
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), expert))
    assert {mark.text for mark in content.marks if mark.kind == "resources"} == {
        "VISTA3D(hepatic tumor): out of memory on the GPU: this run used the CPU",
        "VISTA3D(organs): out of memory on the GPU: this run used the CPU",
    }


def test_two_runs_that_disagree_about_a_lesion_are_marked_and_only_the_asked_one_draws_it(torso, tmp_path):
    arguments = ("hepatic tumor", "lung tumor", "organs")
    metastasis = {23: ("lung tumor", (slice(5, 8),) * 3)}
    expert = vista(arguments, organs=LIVER | metastasis | TUMOUR, **{"lung tumor": LIVER | {23: ("lung tumor", EMPTY)}})
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), expert))
    (mark,) = content.marks
    assert (mark.kind, mark.finding) == ("contradiction", "lung tumor")
    assert mark.text == "VISTA3D(organs) shows lung tumor; VISTA3D(lung tumor) does not."
    made = write_outputs(content, torso, VLM_CARD, place(tmp_path, torso, content))
    seg = pydicom.dcmread(tmp_path / next(o.path for o in made.objects if o.kind == "SEG"))
    drawn = {str(item.SegmentLabel): item for item in seg.SegmentSequence}
    assert set(drawn) == {"liver", "hepatic tumor"}
    (tumour,) = [row for row in made.findings if row.label == "hepatic tumor"]
    assert drawn["hepatic tumor"].TrackingUID == tumour.tracking_uid


def test_a_result_that_is_not_believed_is_neither_evidence_nor_drawn(torso, tmp_path):
    everywhere = {26: ("hepatic tumor", (slice(None),) * 3)}
    expert = vista(**{"hepatic tumor": everywhere, "lung tumor": LIVER})
    expert.card = card("VISTA3D", "CT", arguments=("hepatic tumor", "lung tumor"))
    content = draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), expert))
    assert list(content.results) == [("VISTA3D", "lung tumor")]
    assert [failed["argument"] for failed in content.provenance["experts_failed"]] == ["hepatic tumor"]
    made = write_outputs(content, torso, VLM_CARD, place(tmp_path, torso, content))
    seg = pydicom.dcmread(tmp_path / next(o.path for o in made.objects if o.kind == "SEG"))
    assert {str(item.SegmentLabel) for item in seg.SegmentSequence} == {"liver"}


@pytest.mark.requirement("REQ-FAIL-3")
def test_without_the_profiles_expert_there_is_no_draft_and_the_reason_names_it(torso):
    with pytest.raises(OutsideIntendedUseError, match="no expert VISTA3D is available here"):
        draft_study(torso, CT_TORSO, bench(torso, ScriptedVlm(asks(), reads_feedback), FixedClassifier({"Mass": 0.9})))
