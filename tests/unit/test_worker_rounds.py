"""Whatever the model writes, and however often: only offered Experts of the modality run, and it ends."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import ModelOutputError, ModelPackageError, OutsideIntendedUseError, RepetitionError
from tests.fakes import BoxSegmenter, FixedClassifier, ScriptedVlm, card, reads_feedback
from worker.conversation import Bench
from worker.drafting import any_yes, draft_study
from worker.experts.base import ExpertInput
from worker.intake import Intake
from worker.profiles import CT_TORSO
from worker.vlm.backends import Answer
from worker.volume import Volume

ARGUMENTS = ("everything", "hepatic tumor", "lung tumor", "organs", "skeleton")
PIECES = (
    "<VISTA3D(hepatic tumor)>", "<VISTA3D(organs)>", "<VISTA3D(skeleton)>", "<VISTA3D()>", "<VISTA3D(liver)>",
    "<CXR()>", "<EVIL()>", "<VISTA3D(organs", "<image>", "<|im_end|>", "</s>", "ASSISTANT:", "Let me trigger ",
    "I segmented it using ", "yes", ". ", "\n", "<", ">",
)  # fmt: skip
written = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.just(None),
    st.just(RepetitionError("the model repeated itself without end")),
    st.just(ModelOutputError("the logits are no numbers")),
)


def study():
    affine = np.eye(4)[[2, 1, 0, 3]]
    array = np.full((8, 12, 12), 40.0, np.float32)
    uids = tuple(f"1.2.{i}" for i in range(8))
    return Intake(ExpertInput(volume=Volume(array, affine, uids, (1,) * 8, "1.1", "1.0", "CT")), {})


def vista():
    liver = {1: ("liver", (slice(1, 6), slice(2, 8), slice(2, 8)))}
    tumour = {26: ("hepatic tumor", (slice(2, 4), slice(3, 5), slice(3, 5)))}
    boxes = {argument: liver | (tumour if argument == "hepatic tumor" else {}) for argument in ARGUMENTS}
    return BoxSegmenter(boxes, card("VISTA3D", "CT", arguments=ARGUMENTS))


def bench(vlm, intake, expert=None, **limits):
    experts = {"VISTA3D": expert or vista(), "CXR": FixedClassifier({"Mass": 0.9})}
    cards = [one.card for one in experts.values()]
    return Bench(vlm, cards, experts.__getitem__, intake.study, "CT", max_new_tokens=16, **limits)


@pytest.mark.requirement("REQ-TEXT-9")
@settings(max_examples=60, deadline=None)
@given(first=st.lists(written, min_size=3, max_size=3), then=st.lists(written, max_size=12), rounds=st.integers(1, 4))
def test_any_text_in_any_round_runs_only_offered_experts_and_ends(first, then, rounds):
    intake, expert, order = study(), vista(), iter(first)
    vlm = ScriptedVlm(lambda _message: next(order), reads_feedback, then=list(then))
    try:
        content = draft_study(intake, CT_TORSO, bench(vlm, intake, expert, max_rounds=rounds, max_triggers=2))
    except OutsideIntendedUseError:
        # no question about a lesion was left: only numbers that are none do that
        assert any(isinstance(one, ModelOutputError) for one in (*first, *then))
        return
    assert {name for name, _ in content.results} <= {"VISTA3D"}
    assert len(expert.calls) == len(set(expert.calls))
    assert set(expert.calls) <= set(ARGUMENTS)
    assert vlm.written <= rounds * 3
    for talk in content.provenance["conversations"]:
        assert len(talk["rounds"]) <= rounds
    assert not any(piece in said for said in vlm.said for piece in ("<|", "</s>", "ASSISTANT:", "<image>"))
    present = {finding.label for finding in content.findings if finding.is_present}
    assert present <= {"hepatic tumor"}  # nothing a text says makes a finding
    json.dumps(content.provenance, allow_nan=False)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 50.0)), min_size=1, max_size=3))
def test_any_yes_makes_a_finding_and_the_margin_is_the_surest_yes_or_the_least_sure_no(said):
    is_present, margin = any_yes([Answer("yes" if yes else "no", m, True) for yes, m in said])
    assert is_present == any(yes for yes, _ in said)
    assert margin == (max(m for yes, m in said if yes) if is_present else min(m for _, m in said))


def test_an_extra_expert_that_is_no_sound_package_is_marked_and_the_draft_stands():
    intake = study()
    vlm = ScriptedVlm(lambda _: "Let me trigger <OTHER()> and <VISTA3D(hepatic tumor)>.", reads_feedback)
    one = bench(vlm, intake)
    one.cards = [*one.cards, card("OTHER", "CT")]
    experts = one.expert

    def load(name):
        if name == "OTHER":
            raise ModelPackageError("other: model.safetensors is altered: its SHA-256 differs")
        return experts(name)

    one.expert = load
    content = draft_study(intake, CT_TORSO, one)
    assert any("OTHER(), which the model asked for, failed: other: model" in mark.text for mark in content.marks)
    assert "hepatic tumor" in {finding.label for finding in content.findings}


def test_the_expert_the_profile_demands_must_be_a_sound_package():
    intake = study()
    one = bench(ScriptedVlm("nothing", reads_feedback), intake)

    def altered(name):
        raise ModelPackageError(f"{name}: model.safetensors is altered")

    one.expert = altered
    with pytest.raises(ModelPackageError, match="altered"):
        draft_study(intake, CT_TORSO, one)
