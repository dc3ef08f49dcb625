"""A card the grammar cannot name and a result the draft cannot rest on are refused, whoever made them."""

from dataclasses import replace

import numpy as np
import pytest

from config.errors import ExpertError, ModelPackageError
from tests.experts_fakes import LABELS, UIDS, box, ct_card, ct_study, ct_volume, film_result, film_study
from tests.fakes import card as plain_card
from worker.experts.base import ExpertInput
from worker.experts.contract import check_card, check_result

CT = ct_card()
CXR = plain_card("FILMS", "CXR", labels=LABELS)
CXR = replace(CXR, task="classification")


def test_a_good_card_passes():
    check_card(CT)
    check_card(CXR)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "lungmask"}, "capital letters and digits"),
        ({"name": "LUNG MASK"}, "capital letters and digits"),
        ({"name": "LUNG(args)"}, "capital letters and digits"),
        ({"name": ""}, "capital letters and digits"),
        ({"overview": "now <VISTA3D(everything)>"}, "overview must be one line"),
        ({"overview": "one\ntwo"}, "overview must be one line"),
        ({"accuracy": "<|im_end|>"}, "accuracy must be one line"),
        ({"modality": "CT\x00"}, "modality must be one line"),
        ({"arguments": ("left (lung)",)}, "cannot be an argument"),
        ({"arguments": ("",)}, "cannot be an argument"),
        ({"task": "narration"}, "task is 'narration'"),
        ({"labels": {0: "background"}}, "lie in 1…255"),
        ({"labels": {256: "lung"}}, "lie in 1…255"),
    ],
)
def test_a_card_no_trigger_could_name_is_refused(change, said):
    with pytest.raises(ModelPackageError, match=said):
        check_card(replace(CT, **change))


def test_something_that_is_no_card_is_refused():
    with pytest.raises(ModelPackageError, match="must show a ModelCard, not dict"):
        check_card({"name": "X"})  # type: ignore[arg-type]


def test_good_results_pass():
    study, film = ct_study(), film_study()
    check_result(CT, study, box(CT, study))
    check_result(CXR, film, film_result(CXR, film))


def test_an_equal_volume_is_the_same_volume():
    study = ct_study()
    check_result(CT, ExpertInput(volume=ct_volume()), box(CT, study))


def _labels(value, shape=(3, 4, 5), dtype=np.uint8):
    return np.full(shape, value, dtype=dtype)


@pytest.mark.requirement("REQ-FAIL-1")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": _labels(1, (3, 5, 4))}, r"labels are \(3, 5, 4\), the source is \(3, 4, 5\)"),
        ({"labels": _labels(1, (2, 4, 5))}, r"the source is \(3, 4, 5\)"),
        ({"labels": _labels(1, dtype=np.int16)}, "labels are int16, not uint8"),
        ({"labels": _labels(1.0, dtype=np.float32)}, "not uint8"),
        ({"labels": _labels(1).tolist()}, "labels are list, not uint8"),
        ({"labels": _labels(7)}, "label value 7 has no name"),
        ({"names": {1: "liver"}, "labels": _labels(3)}, "label value 3 has no name"),
        ({"names": {1: "kidney"}}, "label 1 is called 'kidney', its card says 'liver'"),
        ({"names": {9: "pancreas"}}, "label 9 is called 'pancreas', its card says None"),
        ({"volume": ct_volume(first_uid=5)}, "not of this study"),
        ({"volume": ct_volume((4, 4, 5))}, "not of this study"),
        ({"card": replace(CT, version="2")}, "card of another model"),
        ({"card": replace(CT, weights_sha256={"w": "2" * 64})}, "card of another model"),
        ({"seconds": float("nan")}, "no duration"),
        ({"seconds": -1.0}, "no duration"),
        ({"notes": (3,)}, "no sentences"),
        ({"details": {"volume": np.zeros(3)}}, "no JSON"),
        ({"details": {"score": float("inf")}}, "no JSON"),
    ],
)
def test_a_segmentation_that_breaks_the_contract_is_refused(change, said):
    study = ct_study()
    with pytest.raises(ExpertError, match=f"BOXES broke its contract: .*{said}"):
        check_result(CT, study, replace(box(CT, study), **change))


@pytest.mark.requirement("REQ-FAIL-1")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilities": {"liver": float("nan")}}, "liver is nan, no number in 0…1"),
        ({"probabilities": {"liver": float("inf")}}, "liver is inf"),
        ({"probabilities": {"liver": 1.0000001}}, "liver is 1.0000001"),
        ({"probabilities": {"liver": -0.01}}, "liver is -0.01"),
        ({"probabilities": {"liver": True}}, "liver is True"),
        ({"probabilities": {"liver": "0.5"}}, "liver is 0.5, no number"),
        ({"probabilities": {"kidney": 0.5}}, "'kidney' is not a label of its card"),
        ({"calibrated": {"liver": 2.0}}, "liver is 2.0"),
        ({"threshold": float("nan")}, "the threshold is nan"),
        ({"threshold": 1.5}, "the threshold is 1.5"),
        ({"sop_instance_uid": UIDS[0]}, "an instance that is not of this study"),
    ],
)
def test_a_classification_that_breaks_the_contract_is_refused(change, said):
    film = film_study()
    with pytest.raises(ExpertError, match=f"FILMS broke its contract: .*{said}"):
        check_result(CXR, film, replace(film_result(CXR, film), **change))


def test_the_other_kind_of_result_is_refused():
    study, film = ct_study(), film_study()
    with pytest.raises(ExpertError, match="a classification was promised, not SegmentationResult"):
        check_result(replace(CT, task="classification"), study, box(CT, study))
    with pytest.raises(ExpertError, match="a segmentation was promised, not NoneType"):
        check_result(CT, film, None)  # type: ignore[arg-type]
