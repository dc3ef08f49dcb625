"""VISTA3D: the running argmax is the plain one, features blend as logits do, and the class head is the library's."""

import numpy as np
import pytest
import torch

from worker.experts.vista3d import Vista3dConfig, build_vista3d, class_vectors, running_argmax, window_features
from worker.experts.vista3d_labels import EVERYTHING
from worker.experts.vista3d_network import autocast_name
from worker.experts.windows import WindowPlan, blended

SMALL = Vista3dConfig(weights="w", init_filters=4, feature_size=8, blocks_down=(1, 1, 1), bfloat16=False)


def plain_argmax(features, vectors, prompts):
    """Logits of every prompt at once, negative ones to 0, argmax + 1, background where all are ≤ 0."""
    logits = torch.einsum("pf,fxyz->pxyz", vectors, features)
    winner = logits.argmax(dim=0) + 1
    winner[(logits <= 0).all(dim=0)] = 0
    return torch.tensor((0, *prompts))[winner].numpy()


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_argmax_in_chunks_equals_argmax_over_all_prompts(chunk):
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(8, 9, 10, 11, generator=generator)
    prompts = (128, 1, 26, 5, 14, 200, 3)
    vectors = torch.randn(len(prompts), 8, generator=generator) * 0.2
    got = running_argmax(features, vectors, prompts, chunk=chunk)
    assert (got == plain_argmax(features, vectors, prompts)).all()
    assert set(np.unique(got)) > {0}
    assert got.shape == (9, 10, 11)
    assert got.dtype == np.uint8


def test_one_prompt_is_positive_or_background():
    features = torch.tensor([[[[1.0, -1.0, 0.0]]]])
    assert running_argmax(features, torch.tensor([[2.0]]), (26,), chunk=4).ravel().tolist() == [26, 0, 0]


def test_of_equal_prompts_the_first_wins_across_chunks():
    features = torch.ones(1, 1, 1, 1)
    assert running_argmax(features, torch.ones(4, 1), (9, 8, 7, 6), chunk=1).item() == 9


@pytest.mark.parametrize("prompts", [(1,), (3, 26, 128)])
def test_our_split_of_the_class_head_gives_the_logits_of_the_library(prompts):
    torch.manual_seed(2)
    network = build_vista3d(SMALL).eval()
    window = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        theirs = network(window, class_vector=torch.tensor(prompts)[:, None])
        features = window_features(network, window, bfloat16=False)
        ours = torch.einsum("pf,fxyz->pxyz", class_vectors(network, prompts), features[0])
    assert ours.numpy() == pytest.approx(theirs[:, 0].numpy(), abs=1e-4)


def test_blended_features_give_the_blended_logits():
    from monai.inferers import sliding_window_inference

    torch.manual_seed(3)
    network = build_vista3d(SMALL).eval()
    image = torch.rand(1, 1, 24, 20, 16)
    prompts = (1, 4, 26)
    with torch.inference_mode():
        vectors = class_vectors(network, prompts)
        features = sliding_window_inference(
            image, (16, 16, 16), 1, lambda w: window_features(network, w, bfloat16=False), overlap=0.25
        )
        logits = sliding_window_inference(
            image,
            (16, 16, 16),
            1,
            lambda w: network(w, class_vector=torch.tensor(prompts)[:, None], transpose=True),
            overlap=0.25,
        )
    ours = torch.einsum("pf,fxyz->pxyz", vectors, features[0])
    assert ours.numpy() == pytest.approx(logits[0].numpy(), abs=1e-4)


@pytest.mark.requirement("REQ-MODEL-11")
def test_the_label_map_is_the_one_of_monai_s_own_path():
    """Every class prompt at once through the library's network, inferer and post transform: no voxel differs."""
    from monai.apps.vista3d.transforms import VistaPostTransformd
    from monai.inferers import sliding_window_inference

    torch.manual_seed(4)
    network = build_vista3d(SMALL).eval()
    image = torch.rand(1, 1, 40, 28, 44)
    with torch.inference_mode():
        logits = sliding_window_inference(
            image, (32, 32, 32), 1, network, overlap=0.25, transpose=True,
            class_vector=torch.tensor(EVERYTHING)[:, None],
        )  # fmt: skip
        prompted = {"pred": logits[0], "label_prompt": torch.tensor(EVERYTHING)}
        theirs = VistaPostTransformd("pred")(prompted)["pred"][0].numpy()
        plan = WindowPlan.of((40, 28, 44), (32, 32, 32), 0.25)
        windows = blended(image, plan, lambda window: window_features(network, window, bfloat16=False), whole=False)
        vectors = class_vectors(network, EVERYTHING)
        seen = np.zeros(plan.padded, np.uint8)
        for z, features in windows:
            seen[:, :, z] = running_argmax(features, vectors, EVERYTHING, chunk=16).transpose(1, 2, 0)
    assert len(np.unique(theirs)) > 3
    assert (seen[plan.inside()] == theirs).all()


def test_autocast_is_bfloat16_on_a_cpu_and_float16_on_cuda_where_the_package_says_so():
    published = Vista3dConfig(weights="w", cuda_float16=True)
    assert autocast_name(published, "cpu") == "bfloat16"
    assert autocast_name(published, "cuda") == "float16"
    assert autocast_name(Vista3dConfig(weights="w"), "cuda") == "bfloat16"
    assert autocast_name(SMALL, "cuda") == "off"
