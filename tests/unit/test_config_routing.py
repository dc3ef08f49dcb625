"""Routing: the first rule that matches decides, and the trace says why the others did not."""

import pytest

from config.errors import ConfigurationError
from config.routing import StudyFacts, load_rules
from config.settings import ROOT

RULES = load_rules(ROOT / "config" / "routing.yaml")


def facts(**given):
    return StudyFacts(**given)


@pytest.mark.parametrize(
    ("study", "action", "profile", "priority"),
    [
        (facts(modalities=frozenset({"DX"}), body_parts=frozenset({"CHEST"})), "draft", "chest-xray", "ROUTINE"),
        (
            facts(modalities=frozenset({"DX"}), body_parts=frozenset({"CHEST"}), calling_ae="ER_ROOM1"),
            "draft",
            "chest-xray",
            "STAT",
        ),
        (facts(modalities=frozenset({"CR"}), procedure="XR CHEST PA"), "draft", "chest-xray", "ROUTINE"),
        (facts(modalities=frozenset({"CR"}), body_parts=frozenset({"TIBIA"})), "ignore", "", "ROUTINE"),
        (facts(modalities=frozenset({"MR", "SR"}), body_parts=frozenset({"BRAIN"})), "draft", "brain-mr", "ROUTINE"),
        (facts(modalities=frozenset({"CT"}), procedure="CT Thorax/Abdomen"), "draft", "ct-torso", "ROUTINE"),
        (facts(modalities=frozenset({"CT"}), procedure="Daily QA water"), "hold", "", "ROUTINE"),
        (facts(modalities=frozenset({"US"})), "ignore", "", "ROUTINE"),
        (facts(), "ignore", "", "ROUTINE"),
    ],
)
def test_the_first_matching_rule_decides(study, action, profile, priority):
    verdict = RULES.judge(study)
    assert (verdict.action, verdict.profile, verdict.priority) == (action, profile, priority)


@pytest.mark.requirement("REQ-RECV-11")
def test_an_unmatched_study_is_ignored_with_the_reason_of_every_rule():
    verdict = RULES.judge(facts(modalities=frozenset({"US"})))
    assert verdict.reason == "no routing rule matches this study"
    assert [step["rule"] for step in verdict.trace] == [rule.name for rule in RULES.rules]
    assert not any(step["matched"] for step in verdict.trace)
    assert "modality US is not one of CR, DX" in verdict.trace[2]["why"]


def test_a_patient_named_like_quality_control_is_still_a_patient():
    study = facts(modalities=frozenset({"CR"}), procedure="CHEST FOR DAILY QANTAS CREW")
    assert RULES.judge(study).action == "draft"


@pytest.mark.requirement("REQ-CONF-1")
@pytest.mark.parametrize(
    "text",
    [
        "rules: [{name: a, when: {modality: [CT]}, profile: nonsense}]",
        "rules: [{name: a, when: {modality: [CT]}}]",
        "rules: [{name: a, when: {procedure: '('}, profile: ct-torso}]",
        "rules: [{name: a, wenn: {modality: [CT]}, profile: ct-torso}]",
        "rules: [{name: 'A b', profile: ct-torso}]",
        "not: yaml: at: all",
    ],
)
def test_rules_nobody_can_work_with_stop_the_process(tmp_path, text):
    path = tmp_path / "routing.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        load_rules(path, profiles={"ct-torso": 1})


def test_a_person_who_asks_for_a_draft_passes_over_rules_that_hold():
    study = facts(modalities=frozenset({"CR"}), body_parts=frozenset({"CHEST"}), procedure="Daily QA")
    assert RULES.judge(study).action == "hold"
    assert RULES.judge(study, only_drafting=True).profile == "chest-xray"
    assert RULES.judge(facts(modalities=frozenset({"US"})), only_drafting=True).action == "ignore"
