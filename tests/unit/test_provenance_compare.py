"""How far two runs agree: the verdict is on decisions, the differences are on everything."""

import copy

import pytest

from worker.reproduce import compare

RECORD = {
    "models": [{"role": "VLM", "name": "m", "version": "1", "weights_sha256": {"a": "1"}}],
    "preprocessing": {"code_sha256": "c"},
    "decoding": {"dtype": "bfloat16"},
    "environment": {"gpu": "A100"},
    "outcome": {
        "sections": {"findings": "Mass.", "impression": "Mass."},
        "findings": {"Mass": {"present": True, "expert_positive": True, "score": 0.9, "laterality": "left"}},
        "not_assessed": [],
        "results": {"CXR/": "abc"},
        "answers": ["Let me trigger"],
    },
}


def changed(**parts):
    record = copy.deepcopy(RECORD)
    for path, value in parts.items():
        target = record
        *way, last = path.split("__")
        for key in way:
            target = target[key]
        target[last] = value
    return record


def test_equal_records_are_identical():
    result = compare(RECORD, changed())
    assert (result.verdict, result.differences, result.circumstances) == ("identical", (), ())


def test_another_machine_with_the_same_outcome_is_identical_and_named():
    result = compare(RECORD, changed(environment__gpu="H100"))
    assert (result.verdict, result.circumstances) == ("identical", ("environment: gpu",))


def test_another_label_map_is_the_same_findings():
    result = compare(RECORD, changed(outcome__results={"CXR/": "abd"}))
    assert (result.verdict, result.differences) == ("same findings", ("results: CXR/",))


def test_another_answer_is_the_same_findings():
    result = compare(RECORD, changed(outcome__answers=["I trigger"]))
    assert (result.verdict, result.differences) == ("same findings", ("answers: 1",))


@pytest.mark.requirement("REQ-AUDIT-10")
def test_another_side_differs():
    result = compare(
        RECORD, changed(outcome__findings__Mass={**RECORD["outcome"]["findings"]["Mass"], "laterality": "right"})
    )
    assert (result.verdict, result.differences) == ("differs", ("findings: Mass (laterality left → right)",))


def test_a_finding_that_is_not_assessed_any_more_differs():
    result = compare(RECORD, changed(outcome__findings={}, outcome__not_assessed=["Mass"]))
    assert result.verdict == "differs"


def test_other_weights_are_named():
    models = [{"role": "VLM", "name": "m", "version": "2", "weights_sha256": {"a": "2"}}]
    result = compare(RECORD, changed(models=models))
    assert result.circumstances == ("model VLM: m 1 → m 2, other weights",)
