"""The CXR ensemble's arithmetic, against numbers worked out by hand."""

import numpy as np
import pytest

from config.errors import ExpertError, ModelPackageError
from worker.experts.cxr import LABELS, EnsembleConfig, MemberConfig, average, ensemble_config, fit, op_norm, scaled

NO_POINTS = (None,) * 18


def members(*names):
    return tuple(
        MemberConfig(name=name, file=f"{name}.safetensors", architecture="densenet", input_px=224,
                     op_thresholds=NO_POINTS)
        for name in names
    )  # fmt: skip


def test_op_norm_puts_the_operating_point_at_one_half():
    got = op_norm(np.array([0.0, 0.1, 0.2, 0.6, 1.0, 0.9]), [0.2, 0.2, 0.2, 0.2, 0.2, None])
    # below t: p / 2t; from t on: 1 - (1 - p) / 2(1 - t); no operating point: one half
    assert got == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 0.5])


@pytest.mark.requirement("REQ-MODEL-11")
def test_op_norm_agrees_with_the_library():
    torch = pytest.importorskip("torch")
    from torchxrayvision.models import op_norm as library

    points = [0.0742, 0.51, float("nan"), 0.98]
    probabilities = np.array([[0.01, 0.5, 0.3, 0.99], [0.0742, 0.52, 0.9, 0.2]])
    theirs = library(torch.tensor(probabilities).float(), torch.tensor([points])).numpy()
    ours = np.stack([op_norm(row, [None if np.isnan(p) else p for p in points]) for row in probabilities])
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_label_is_the_plain_mean_of_the_members_that_speak_for_it():
    config = EnsembleConfig(
        members=members("a", "b", "c"),
        label_members={"Pneumothorax": ("c",), "Effusion": ("a", "c")},
        not_assessed=("Hernia",),
    )
    outputs = {"a": np.full(18, 0.2), "b": np.full(18, 0.5), "c": np.full(18, 0.8)}
    outputs["c"][LABELS.index("Effusion")] = 1.0
    got = average(outputs, config)
    assert got["Pneumothorax"] == pytest.approx(0.8)
    assert got["Effusion"] == pytest.approx(0.6)
    assert got["Mass"] == pytest.approx(0.5)
    assert got["Hernia"] is None
    assert list(got) == list(LABELS)


def test_the_central_square_is_scaled_to_the_range_the_networks_know():
    pixels = np.zeros((4, 6), np.float32)
    pixels[:, 1:5] = 255.0
    pixels[0, 1] = 127.5
    got = scaled(pixels)[0, 0].numpy()
    assert got.shape == (4, 4)
    assert got[0, 0] == pytest.approx(0.0)
    assert got[1:].min() == got.max() == pytest.approx(1024.0)


@pytest.mark.parametrize(
    "pixels",
    [np.full((4, 4), 256.0), np.full((4, 4), -1.0), np.full((4, 4), np.nan), np.zeros((4, 4, 3)), np.zeros((0, 4))],
)
def test_pixels_outside_the_promised_range_are_refused(pixels):
    with pytest.raises(ExpertError):
        scaled(pixels.astype(np.float32))


def test_resizing_averages_when_antialiased_and_samples_when_not():
    stripes = np.tile(np.array([0.0, 255.0], np.float32), (8, 4))
    image = scaled(stripes)
    assert abs(fit(image, 2, antialias=True)).max() < 300
    assert fit(image, 4, antialias=False).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    "fault",
    [
        {"label_members": {"Mass": ["nobody"]}}, {"label_members": {"Gout": ["a"]}},
        {"label_members": {"Mass": []}}, {"not_assessed": ["Gout"]}, {"members": []}, {"surprise": 1},
    ],
)  # fmt: skip
def test_a_manifest_that_describes_no_ensemble_is_refused(fault):
    network = {"members": [members("a")[0].model_dump()], **fault}
    with pytest.raises(ModelPackageError, match="broken-package"):
        ensemble_config(network, source="broken-package")
