"""The synthetic brain MR keeps its promises about contrast, geometry, labels and repeatability."""

import time

import numpy as np
import pytest

from phantoms.brain_mr import CHANNELS, LABEL_NAMES, BrainMr, make_brain_mr

COARSE = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def tumour() -> BrainMr:
    return make_brain_mr(5, tumour=True)


@pytest.fixture(scope="module")
def healthy() -> BrainMr:
    return make_brain_mr(6, tumour=False)


def _white_grey_csf(brain: BrainMr, channel: str) -> tuple[float, float, float]:
    """Median signal of three tissues, found from T1 and T2 alone, not from the phantom's own map."""
    t1, t2 = brain.channels["t1"], brain.channels["t2"]
    inside = brain.brain_mask & (brain.labels == 0)
    low, high = np.quantile(t1[inside], [0.15, 0.75])
    csf = inside & (t2 > np.quantile(t2[inside], 0.94)) & (t1 < low)
    white = inside & (t1 > high)
    grey = inside & (t1 > np.quantile(t1[inside], 0.2)) & (t1 < np.quantile(t1[inside], 0.45)) & ~csf
    values = brain.channels[channel]
    return float(np.median(values[white])), float(np.median(values[grey])), float(np.median(values[csf]))


def test_every_array_shares_one_frame(tumour: BrainMr) -> None:
    assert tuple(tumour.channels) == CHANNELS == ("t1c", "t1", "t2", "flair")
    shapes = {a.shape for a in tumour.channels.values()} | {tumour.labels.shape, tumour.brain_mask.shape}
    assert shapes == {(90, 114, 96)}
    assert {a.dtype for a in tumour.channels.values()} == {np.dtype(np.float32)}
    assert all(float(a.min()) >= 0 for a in tumour.channels.values())


def test_affine_maps_slices_up_rows_back_columns_left(tumour: BrainMr) -> None:
    steps = tumour.affine[:3, :3]
    assert np.array_equal(steps @ [1, 0, 0], [0, 0, 2])
    assert np.array_equal(steps @ [0, 1, 0], [0, 2, 0])
    assert np.array_equal(steps @ [0, 0, 1], [2, 0, 0])


def test_contrast_of_each_sequence(healthy: BrainMr) -> None:
    white, grey, csf = _white_grey_csf(healthy, "t1")
    assert white > grey > csf
    white, grey, csf = _white_grey_csf(healthy, "t2")
    assert csf > grey > white
    white, grey, csf = _white_grey_csf(healthy, "flair")
    assert csf < 0.7 * min(white, grey)


def test_oedema_is_bright_on_flair_and_the_rim_enhances(tumour: BrainMr) -> None:
    healthy = tumour.brain_mask & (tumour.labels == 0)
    flair, t1, t1c = (tumour.channels[c] for c in ("flair", "t1", "t1c"))
    assert np.median(flair[tumour.labels == 2]) > np.quantile(flair[healthy], 0.9)
    gain = [np.median(t1c[m]) / np.median(t1[m]) for m in (tumour.labels == 4, healthy)]
    assert gain[0] > 1.6 * gain[1]


@pytest.mark.parametrize("seed", range(6))
def test_tumour_lies_on_the_side_it_names(seed: int) -> None:
    brain = make_brain_mr(seed, tumour=True, voxel_mm=COARSE)
    where = np.argwhere(np.isin(brain.labels, (1, 4)))
    x_mm = (np.c_[where, np.ones(len(where))] @ brain.affine.T)[:, 0]
    assert brain.side == ("left" if x_mm.mean() > 0 else "right")
    assert abs(x_mm.mean()) > 10


@pytest.mark.parametrize("seed", range(4))
def test_labels_follow_brats_and_truth_counts_them(seed: int) -> None:
    brain = make_brain_mr(seed, tumour=True, voxel_mm=COARSE)
    assert set(np.unique(brain.labels)) <= {0, 1, 2, 4}
    for value, name in LABEL_NAMES.items():
        assert brain.truth.volumes_ml.get(name, 0.0) == pytest.approx((brain.labels == value).sum() * 0.064)
    assert 2 < sum(brain.truth.volumes_ml.values()) < 250
    assert brain.truth.findings == {"brain tumor"}
    assert not (brain.labels[~brain.brain_mask] > 0).any()


def test_without_tumour_nothing_is_labelled(healthy: BrainMr) -> None:
    assert not healthy.labels.any()
    assert (healthy.has_tumour, healthy.side, healthy.truth.findings) == (False, None, frozenset())


def test_same_seed_same_bytes_other_seed_other_head() -> None:
    one, again, other = (make_brain_mr(seed, voxel_mm=COARSE) for seed in (3, 3, 4))
    assert all(np.array_equal(one.channels[c], again.channels[c]) for c in CHANNELS)
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.brain_mask, other.brain_mask)


def test_one_seed_is_one_head_at_every_resolution() -> None:
    fine, coarse = (make_brain_mr(5, tumour=True, voxel_mm=v) for v in ((2.0, 2.0, 2.0), COARSE))
    assert coarse.brain_mask.sum() * 8 == pytest.approx(fine.brain_mask.sum(), rel=0.05)
    assert sum(coarse.truth.volumes_ml.values()) == pytest.approx(sum(fine.truth.volumes_ml.values()), rel=0.15)


def test_brains_have_human_size() -> None:
    litres = [make_brain_mr(s, tumour=False, voxel_mm=COARSE).brain_mask.sum() * 6.4e-5 for s in range(6)]
    assert 1.0 < min(litres) < max(litres) < 1.8
    assert np.ptp(litres) > 0.05


def test_chance_gives_a_tumour_to_about_six_in_ten() -> None:
    rate = np.mean([make_brain_mr(s, voxel_mm=(16.0, 16.0, 16.0)).has_tumour for s in range(60)])
    assert 0.4 < rate < 0.8


def test_two_millimetres_take_at_most_a_second() -> None:
    start = time.thread_time()
    make_brain_mr(11)
    assert time.thread_time() - start < 1.5  # a second alone, half as much again on a busy machine
