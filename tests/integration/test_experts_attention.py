"""Heat maps of the CXR Expert: real gradients, on the right pixels, and on the right side of phantoms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from phantoms.chest_xray import make_chest_xray
from worker.experts.attention import AttentionMaps, grad_cam, last_features
from worker.experts.base import ExpertInput
from worker.experts.cxr import LABELS, ChestXrayExpert, MemberConfig, build_member, fit, scaled
from worker.experts.packages import open_package
from worker.experts.wire import encode_result
from worker.provenance import result_sha256
from worker.radiograph import Radiograph

DEMONSTRATION = Path(__file__).resolve().parents[2] / "worker" / "models" / "demo-cxr"


@pytest.fixture(scope="module")
def expert():
    return ChestXrayExpert.load(open_package(DEMONSTRATION))


def film_of(seed: int, finding: str):
    phantom = make_chest_xray(seed, findings=frozenset({finding}))
    pixels = phantom.pixels.astype(np.float32) / 4095 * 255
    return Radiograph(pixels, "1.2.3", "1.2", phantom.view, "DX", None), phantom.sides[finding]


def network(architecture: str) -> nn.Module:
    """The published architectures with random weights: DenseNet-121 and the library's ResNet-50."""
    torch.manual_seed(5)
    member = MemberConfig(
        name="a", file="a", architecture=architecture, input_px=64, op_thresholds=(0.5,) * len(LABELS)
    )
    return build_member(member).eval()


@pytest.mark.parametrize("architecture", ["densenet", "resnet50"])
def test_a_map_is_the_class_activation_map_of_the_networks_last_features(architecture):
    model = network(architecture)
    image = torch.rand(1, 1, 96, 64) * 2048 - 1024
    with torch.inference_mode():
        alone = model(image)
        with last_features(model) as seen:
            watched = model(image)
        if architecture == "densenet":
            features, weights = torch.relu(model.features(image)), model.classifier.weight
        else:
            features, weights = nn.Sequential(*list(model.children())[:-2])(image), model.fc.weight
    assert torch.equal(alone, watched)
    assert len(seen) == 1
    # A linear layer after the mean over the map: the gradient is its row, so the map is that row's
    # weighted sum (Zhou et al. 2016) divided by the number of cells.
    for index in (0, 7, 17):
        row = weights[index].detach()[:, None, None]
        expected = torch.relu((row * features[0]).sum(dim=0)) / features[0, 0].numel()
        assert np.allclose(grad_cam(model, seen[0], index), expected.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(100, 80), (81, 120), (64, 64)])
def test_a_cell_lies_on_the_film_where_the_resize_took_it_from(shape):
    side, cells = min(shape), 4
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    for row, column in [(0, 0), (1, 2), (3, 3)]:
        at = top + int((row + 0.5) * side / cells), left + int((column + 0.5) * side / cells)
        film = np.zeros(shape, np.float32)
        film[at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] = 255
        seen = fit(scaled(film), cells, antialias=True)[0, 0].numpy()
        assert np.unravel_index(seen.argmax(), seen.shape) == (row, column)
        hot = np.zeros((cells, cells), np.float32)
        hot[row, column] = 3.0
        drawn = AttentionMaps({"Mass": [hot]}, shape)["Mass"]
        assert (drawn.shape, drawn.dtype, drawn.max()) == (shape, np.float32, 1.0)
        assert drawn[at] > 0.9


def test_nothing_is_said_about_the_part_of_the_film_that_no_network_saw():
    drawn = AttentionMaps({"Mass": [np.ones((7, 7), np.float32)]}, (100, 80))["Mass"]
    assert drawn[:10].max() == drawn[90:].max() == 0.0
    assert np.allclose(drawn[10:90], 1.0)


def test_networks_of_different_size_count_alike_and_a_silent_one_not_at_all():
    left, right = np.zeros((2, 2), np.float32), np.zeros((4, 4), np.float32)
    left[:, 0], right[:, 3] = 0.001, 500.0
    drawn = AttentionMaps({"Mass": [left, right, np.zeros((3, 3), np.float32)]}, (40, 40))["Mass"]
    assert drawn[20, 1] == drawn[20, 38] == pytest.approx(1.0)


def test_only_positive_labels_have_a_map_and_no_network_keeps_a_hook(expert):
    film, _ = film_of(1006, "Mass")
    result = expert.run(ExpertInput(radiograph=film), "")
    positive = {name for name, p in result.probabilities.items() if p is not None and p >= result.threshold}
    assert "Mass" in positive
    assert set(result.heat_maps) <= positive
    assert "Mass" in result.heat_maps
    for drawn in result.heat_maps.values():
        assert drawn.shape == film.pixels.shape
        assert drawn.min() >= 0.0
        assert drawn.max() == 1.0
    assert not any(module._forward_hooks for one in expert.networks.values() for module in one.modules())


@pytest.mark.parametrize("finding", ["Effusion", "Pneumothorax"])
def test_the_demonstration_networks_look_at_the_side_of_the_finding(expert, finding):
    agree = 0
    for seed in range(3000, 3006):
        film, side = film_of(seed, finding)
        drawn = expert.run(ExpertInput(radiograph=film), "").heat_maps[finding]
        middle = drawn.shape[1] // 2
        # the image's left is the patient's right
        looked = "right" if drawn[:, :middle].sum() > drawn[:, middle:].sum() else "left"
        agree += looked == side
    assert agree >= 5


def test_maps_are_no_part_of_what_the_expert_said(expert):
    film, _ = film_of(3000, "Effusion")
    study = ExpertInput(radiograph=film)
    result, again = expert.run(study, ""), expert.run(study, "")
    assert result.heat_maps
    message, arrays = encode_result(study, result)
    assert arrays == {}
    assert "heat_maps" not in message.model_dump()
    assert "heat_maps" not in json.dumps(dict(result.details))
    assert result_sha256(result) == result_sha256(again)
    assert np.array_equal(result.heat_maps["Effusion"], again.heat_maps["Effusion"])
