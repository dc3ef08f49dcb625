"""The CXR ensemble against torchxrayvision itself, and the published ensemble against numbers worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torchxrayvision as xrv
import yaml
from safetensors.torch import save_file

from config.errors import ExpertError, ModelPackageError
from worker.experts.base import ExpertInput
from worker.experts.cxr import LABELS, ChestXrayExpert, average, ensemble_config, op_norm
from worker.experts.packages import Manifest, seal_package
from worker.radiograph import Radiograph

PUBLISHED = Path(__file__).resolve().parents[2] / "worker" / "models" / "published" / "cxr.yaml"
POINTS = {
    "a": [0.3, None, 0.5, 0.1, 0.62, None, 0.4, 0.5, 0.2, 0.9, 0.45, 0.5, 0.55, 0.35, 0.48, 0.52, 0.49, 0.51],
    "b": [0.7, 0.2, None, 0.5, 0.5, 0.4, None, 0.3, 0.6, 0.5, 0.55, 0.45, 0.5, 0.65, None, 0.47, 0.53, 0.5],
}
SIZES = {"a": 64, "b": 96}


def library_network(name):
    """A DenseNet of the library with random weights and its own operating points: missing ones are NaN."""
    torch.manual_seed(ord(name))
    points = torch.tensor([float("nan") if value is None else value for value in POINTS[name]])
    network = xrv.models.DenseNet(
        growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=18, weights=None, op_threshs=points
    )
    network.input_resolution = SIZES[name]
    network.classifier.weight.data.mul_(0.01)  # inputs of ±1024 drive random weights into 0 and 1
    return network.eval()


def package(folder, *, antialias, calibration=None):
    folder.mkdir()
    members = []
    for name, points in POINTS.items():
        state = library_network(name).state_dict()
        state.pop("op_threshs", None)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / f"{name}.safetensors")
        members.append({
            "name": name, "file": f"{name}.safetensors", "architecture": "densenet", "input_px": SIZES[name],
            "growth_rate": 8, "block_config": [2, 2], "num_init_features": 16, "op_thresholds": points,
        })  # fmt: skip
    network = {"members": members, "label_members": {"Pneumothorax": ["b"]}, "antialias": antialias}
    promise = {
        "name": "CXR", "kind": "torchxrayvision", "version": "0", "licence": "Apache-2.0", "demonstration": True,
        "task": "classification", "modality": "CXR", "overview": "random", "accuracy": "none",
        "intended_use": {"modalities": ["CR", "DX"], "statement": "Tests."},
        "labels": dict(enumerate(LABELS)), "budget": {"memory_mb": 100, "seconds": 10},
        "network": network | ({"calibration": calibration} if calibration else {}),
    }  # fmt: skip
    return seal_package(folder, promise)


@pytest.fixture(scope="module")
def film():
    noise = np.random.default_rng(8).integers(0, 256, (301, 244)).astype(np.float32)
    return Radiograph(noise, "1.2.3", "1.2", "PA", "DX", None)


@pytest.fixture(scope="module")
def library_answers(film):
    """normalize, XRayCenterCrop and DenseNet with op_threshs, as a user of the library calls them."""
    image = xrv.datasets.XRayCenterCrop()(xrv.datasets.normalize(film.pixels, 255)[None])

    def answer(resize):
        with torch.inference_mode():
            return {name: library_network(name)(resize(torch.from_numpy(image)[None], SIZES[name]))[0].numpy()
                    for name in POINTS}  # fmt: skip

    return answer


@pytest.mark.parametrize("antialias", [True, False])
def test_the_ensemble_answers_as_the_library_does(tmp_path, film, library_answers, antialias):
    # ≥ 1.3.2 resizes inside forward, antialiased; 1.2.4 put nn.Upsample before it
    theirs = library_answers(
        lambda image, side: image if antialias else torch.nn.Upsample(size=(side, side), mode="bilinear")(image)
    )
    expert = ChestXrayExpert.load(package(tmp_path / "cxr", antialias=antialias))
    result = expert.run(ExpertInput(radiograph=film), "")
    for index, label in enumerate(LABELS):
        speakers = ["b"] if label == "Pneumothorax" else ["a", "b"]
        expected = np.mean([theirs[name][index] for name in speakers])
        assert result.probabilities[label] == pytest.approx(expected, abs=2e-5), label
    assert np.std(list(result.probabilities.values())) > 0.02
    assert result.sop_instance_uid == "1.2.3"


def test_antialiasing_changes_the_answer(tmp_path, film):
    smooth, plain = (
        ChestXrayExpert.load(package(tmp_path / str(wide), antialias=wide)).run(ExpertInput(radiograph=film), "")
        for wide in (True, False)
    )
    gaps = [abs(smooth.probabilities[label] - plain.probabilities[label]) for label in LABELS]
    assert max(gaps) > 1e-3
    assert smooth.details["antialias"] is True
    assert plain.details["antialias"] is False


def test_a_result_says_which_networks_read_what(tmp_path, film):
    result = ChestXrayExpert.load(package(tmp_path / "cxr", antialias=True)).run(ExpertInput(radiograph=film), "")
    assert result.details["source_shape"] == [301, 244]
    assert result.details["members"]["b"] == {"file": "b.safetensors", "input_px": 96}
    assert result.details["versions"]["torchxrayvision"] == xrv.__version__
    assert (result.calibration, result.calibrated, result.details["calibration"]) == ("", {}, None)


def test_a_calibrated_label_shows_its_probability_and_the_model_still_sees_the_score(tmp_path, film):
    calibration = {
        "id": "site-2026", "method": "temperature", "source": "800 films", "labels": {"Effusion": {"temperature": 2}},
    }  # fmt: skip
    plain = ChestXrayExpert.load(package(tmp_path / "plain", antialias=True)).run(ExpertInput(radiograph=film), "")
    with_one = ChestXrayExpert.load(package(tmp_path / "cal", antialias=True, calibration=calibration))
    result = with_one.run(ExpertInput(radiograph=film), "")
    assert result.probabilities == plain.probabilities
    score = plain.probabilities["Effusion"]
    odds = (score / (1 - score)) ** 0.5
    assert result.calibrated == pytest.approx({"Effusion": odds / (1 + odds)})
    assert result.calibration == "site-2026"
    assert result.details["calibration"] == {"id": "site-2026", "method": "temperature", "source": "800 films"}


@pytest.mark.parametrize(
    "labels", [{"Gout": {"temperature": 2}}, {"Effusion": {"temperature": -1}}, {"Effusion": {"slope": 1}}]
)
def test_a_package_with_a_calibration_that_is_none_is_refused(tmp_path, labels):
    wrong = {"id": "x", "method": "temperature", "source": "s", "labels": labels}
    with pytest.raises(ModelPackageError):
        ChestXrayExpert.load(package(tmp_path / "cxr", antialias=True, calibration=wrong))


def test_a_network_that_gives_no_number_is_an_error(tmp_path, film):
    expert = ChestXrayExpert.load(package(tmp_path / "cxr", antialias=True))
    expert.networks["b"].classifier.bias.fill_(float("nan"))
    with pytest.raises(ExpertError, match="b gave an output that is no number"):
        expert.run(ExpertInput(radiograph=film), "")


def test_a_study_without_a_radiograph_is_refused(tmp_path, film):
    expert = ChestXrayExpert.load(package(tmp_path / "cxr", antialias=True))
    with pytest.raises(ExpertError, match="reads a frontal chest radiograph"):
        expert.run(ExpertInput(), "")
    with pytest.raises(ExpertError, match="0…255"):
        expert.run(ExpertInput(radiograph=dataclasses.replace(film, pixels=film.pixels * 16)), "")


@pytest.fixture(scope="module")
def published():
    content = Manifest.model_validate({**yaml.safe_load(PUBLISHED.read_text()), "files": []})
    return ensemble_config(content.network, source="published")


LIBRARY_NAMES = {"resnet50": "resnet50-res512-all"}


def test_every_published_operating_point_is_the_library_s(published):
    assert tuple(xrv.datasets.default_pathologies) == LABELS
    for member in published.members:
        library = xrv.models.model_urls[LIBRARY_NAMES.get(member.name, member.name)]["op_threshs"]
        ours = [float("nan") if value is None else value for value in member.op_thresholds]
        assert ours == pytest.approx(list(library), nan_ok=True), member.name


# By hand from the published label sets: members with an operating point for the label, of those that speak for it.
CERTAIN = {
    "Atelectasis": 1.0, "Consolidation": 1.0, "Infiltration": (4 + 4 / 2) / 8, "Pneumothorax": 1.0, "Edema": 1.0,
    "Emphysema": (4 + 4 / 2) / 8, "Fibrosis": (4 + 4 / 2) / 8, "Effusion": 1.0, "Pneumonia": 1.0,
    "Pleural_Thickening": (4 + 4 / 2) / 8, "Cardiomegaly": 1.0, "Nodule": (4 + 4 / 2) / 8, "Mass": (4 + 4 / 2) / 8,
    "Hernia": (4 + 4 / 2) / 8, "Lung Lesion": (4 + 4 / 2) / 8, "Fracture": (3 + 1 / 2) / 4,
    "Lung Opacity": (6 + 2 / 2) / 8, "Enlarged Cardiomediastinum": (4 + 4 / 2) / 8,
}  # fmt: skip


def answers(config, probability):
    outputs = {
        member.name: op_norm(np.array([probability(point) for point in member.op_thresholds]), member.op_thresholds)
        for member in config.members
    }
    return average(outputs, config)


def test_members_that_lack_a_label_vote_one_half(published):
    certain = answers(published, lambda point: 1.0)
    excluded = answers(published, lambda point: 0.0)
    assert certain == pytest.approx(CERTAIN)
    assert excluded == pytest.approx({label: 1 - value for label, value in CERTAIN.items()})


def test_at_the_operating_points_every_label_is_exactly_one_half_and_counts_as_positive(published):
    at_the_points = answers(published, lambda point: 0.3 if point is None else point)
    assert at_the_points == pytest.approx(dict.fromkeys(LABELS, 0.5), abs=1e-12)


def test_halfway_below_every_operating_point_is_a_quarter_where_all_members_have_the_label(published):
    got = answers(published, lambda point: 0.9 if point is None else point / 2)
    assert got["Pneumothorax"] == pytest.approx(0.25)
    assert got["Fracture"] == pytest.approx((3 * 0.25 + 0.5) / 4)
    assert got["Lung Opacity"] == pytest.approx((6 * 0.25 + 2 * 0.5) / 8)
    assert got["Lung Lesion"] == pytest.approx((4 * 0.25 + 4 * 0.5) / 8)
