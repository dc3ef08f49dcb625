"""The truth file: everything comes back, nothing else is accepted."""

import json

import numpy as np
import pytest

from config.errors import RefusedInputError
from phantoms.truth import Truth, label_volumes_ml

TRUTH = Truth(
    modality="CT",
    findings=frozenset({"lung tumor", "bone lesion"}),
    label_names={1: "liver", 128: "bone lesion"},
    volumes_ml={"liver": 1500.25, "bone lesion": 2.5},
    counts={"bone lesion": 2},
)


def test_a_truth_survives_json() -> None:
    assert Truth.from_json(TRUTH.to_json()) == TRUTH


def test_json_is_stable_and_names_its_fields() -> None:
    raw = json.loads(TRUTH.to_json())
    assert raw["findings"] == ["bone lesion", "lung tumor"]
    assert set(raw) == {"modality", "findings", "label_names", "volumes_ml", "counts"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"modality": "CT"}', '{"modality":1,"findings":3}'])
def test_what_is_no_truth_is_refused(text: str) -> None:
    with pytest.raises(RefusedInputError, match="not a truth file"):
        Truth.from_json(text)


def test_volumes_count_only_named_labels_that_occur() -> None:
    labels = np.array([[[0, 1, 1, 7]]], np.uint8)
    assert label_volumes_ml(labels, {1: "liver", 3: "spleen"}, 0.5) == {"liver": 1.0}
