"""Sliding windows: the features MONAI's inferer blends, and the same to the bit when handed on in slabs."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from worker.experts.windows import WindowPlan, blended

CASES = [
    ((20, 17, 40), (8, 8, 8), 0.25),
    ((20, 17, 40), (8, 6, 10), 0.5),
    ((5, 30, 9), (8, 8, 8), 0.25),
    ((3, 4, 5), (8, 8, 8), 0.25),
    ((8, 8, 8), (8, 8, 8), 0.25),
    ((16, 9, 33), (8, 8, 8), 0.0),
    ((11, 11, 11), (4, 4, 4), 0.9),
]


def stand_in(seen):
    """A network whose output depends on the place in the window, so that blending shows."""
    slope = torch.linspace(0.5, 1.5, 8 * 8 * 10)

    def network(window):
        seen.append(tuple(window.shape))
        weight = slope[: window.numel()].resize_(window.shape) if window.numel() <= 640 else torch.ones(window.shape)
        return torch.cat([window * weight, window**2 - weight, weight], dim=1)

    return network


def pieces(image, plan, *, whole):
    got = torch.full((3, *plan.padded), float("nan"))
    for z, features in blended(image, plan, stand_in([]), whole=whole):
        got[:, :, :, z] = features.permute(0, 2, 3, 1)
    return got[(slice(None), *plan.inside())]


@pytest.mark.parametrize(("size", "patch", "overlap"), CASES)
def test_features_are_those_of_monai_s_inferer(size, patch, overlap):
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1))
    theirs_seen, plan = [], WindowPlan.of(size, patch, overlap)
    theirs = sliding_window_inference(image, patch, 1, stand_in(theirs_seen), overlap=overlap, mode="constant")[0]
    assert plan.count == len(theirs_seen)
    for whole in (True, False):
        assert torch.allclose(pieces(image, plan, whole=whole), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "patch", "overlap"), CASES)
def test_slabs_give_the_same_bits_as_the_whole(size, patch, overlap):
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(2))
    plan = WindowPlan.of(size, patch, overlap)
    assert torch.equal(pieces(image, plan, whole=True), pieces(image, plan, whole=False))


def test_a_slab_is_never_thicker_than_a_window():
    image, plan = torch.rand(1, 1, 12, 12, 100), WindowPlan.of((12, 12, 100), (8, 8, 8), 0.25)
    slabs = [z for z, _ in blended(image, plan, stand_in([]), whole=False)]
    assert max(z.stop - z.start for z in slabs) <= 8
    assert [z.start for z in slabs[1:]] == [z.stop for z in slabs[:-1]]
    assert (slabs[0].start, slabs[-1].stop) == (0, 100)


def test_what_was_yielded_whole_stays_what_it_was():
    image, plan = torch.ones(1, 1, 8, 8, 20), WindowPlan.of((8, 8, 20), (8, 8, 8), 0.25)
    ((_, features),) = blended(image, plan, lambda window: window, whole=True)
    assert np.all(features.numpy() == 1.0)
