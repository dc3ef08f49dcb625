"""BRATS: the label map of three overlapping regions, the z-score, and what is refused."""

import dataclasses
import time

import numpy as np
import pytest

from config.errors import ExpertError, InputTooLargeError
from tests.fakes import card
from worker.experts.base import ExpertInput
from worker.experts.brain_mask import foreground
from worker.experts.brats import (
    CHANNELS,
    BratsConfig,
    BratsExpert,
    _by_role,
    build_brats,
    drop_small_tumours,
    label_map,
    needed_mb,
    prepared,
    z_score,
)
from worker.volume import Volume


def volume(array, affine=None, frame="1.2.3"):
    count = len(array)
    return Volume(np.asarray(array, np.float32), np.eye(4) if affine is None else affine, ("1.2",) * count,
                  (1,) * count, "1.2.4", frame, "MR")  # fmt: skip


def head(shape=(12, 14, 16), **fields):
    rng = np.random.default_rng(3)
    return {role: volume(rng.uniform(100, 200, shape), **fields) for role in CHANNELS}


def expert(**changes):
    config = BratsConfig(weights="x", init_filters=8, blocks_down=(1, 1), blocks_up=(1,), brain_mask="none")
    return BratsExpert(card=card("BRATS", "MRI"), config=config, network=build_brats(config), **changes)


@pytest.mark.parametrize(
    ("core", "whole", "enhancing", "label"),
    [(0.9, 0.9, 0.9, 4), (0.9, 0.9, 0.4, 1), (0.4, 0.9, 0.4, 2), (0.4, 0.4, 0.4, 0), (0.5, 0.0, 0.0, 1),
     (0.0, 0.5, 0.0, 2), (0.0, 0.0, 0.5, 4), (0.49, 0.49, 0.49, 0)],
)  # fmt: skip
def test_enhancing_wins_over_core_and_core_over_whole(core, whole, enhancing, label):
    got = label_map(np.array([core, whole, enhancing], np.float32).reshape(3, 1, 1, 1) >= 0.5)
    assert got.item() == label
    assert got.dtype == np.uint8


def test_the_z_score_counts_only_voxels_with_signal():
    got = z_score(np.array([0, 0, 0, 10, 20, 30], np.float32))
    assert got[:3].tolist() == [0, 0, 0]
    assert got[3:] == pytest.approx([-1.2247, 0, 1.2247], abs=1e-3)


def test_an_empty_or_constant_channel_gives_finite_numbers():
    assert z_score(np.zeros((2, 2, 2), np.float32)).tolist() == np.zeros((2, 2, 2)).tolist()
    assert np.isfinite(z_score(np.full((2, 2, 2), 7, np.float32))).all()


@pytest.mark.parametrize("role", CHANNELS)
def test_a_missing_contrast_is_named(role):
    study = {name: one for name, one in head().items() if name != role}
    with pytest.raises(ExpertError, match=f"missing: {role}$"):
        _by_role(ExpertInput(brain_mr=study), "BRATS")


def test_no_brain_mr_at_all_names_all_four():
    with pytest.raises(ExpertError, match=r"T1c, T1, T2, FLAIR$"):
        _by_role(ExpertInput(), "BRATS")


@pytest.mark.parametrize("role", CHANNELS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [(0.0, "is empty"), (700.0, "is empty"), (np.nan, "no finite numbers"), (np.inf, "no finite numbers")],
)
def test_a_contrast_without_signal_is_named(role, value, reason):
    study = head() | {role: volume(np.full((12, 14, 16), value))}
    with pytest.raises(ExpertError, match=f"^{role} .*{reason}"):
        expert().run(ExpertInput(brain_mr=study), "")


def test_one_voxel_that_is_no_number_is_enough():
    study = head()
    study["T1"].array[3, 4, 5] = np.nan
    with pytest.raises(ExpertError, match="T1 holds values that are no finite numbers"):
        expert().run(ExpertInput(brain_mr=study), "")


@pytest.mark.parametrize("shape", [(14, 16), (0, 14, 16)])
def test_what_is_no_volume_is_refused(shape):
    study = head() | {"T2": volume(np.ones(shape))}
    with pytest.raises(ExpertError, match="T2 is no Volume"):
        expert().run(ExpertInput(brain_mr=study), "")


def test_a_contrast_that_shows_another_part_of_the_head_is_refused():
    far = np.eye(4)
    far[0, 3] = 9
    study = head() | {"FLAIR": volume(np.ones((12, 14, 16)), affine=far)}
    with pytest.raises(ExpertError, match="covers 25%"):
        prepared(study, BratsConfig(weights="x", spacing_mm=1.0))


def test_contrasts_on_other_grids_meet_on_the_grid_of_t1c():
    z, y, x = np.meshgrid(np.arange(20.0), np.arange(20.0), np.arange(20.0), indexing="ij")
    flipped = np.array([[0, 0, -1.0, 19], [0, 1, 0, 0], [-1, 0, 0, 19], [0, 0, 0, 1]])  # axes x, y, z swapped, turned
    landmark = 10 + ((z - 4) ** 2 + (y - 8) ** 2 + (x - 15) ** 2 < 9) * 100.0
    study = head((20, 20, 20))
    study["T1c"] = volume(landmark)
    study["T2"] = volume(landmark.transpose(2, 1, 0)[::-1, :, ::-1], affine=flipped)
    ready = prepared(study, BratsConfig(weights="x", spacing_mm=1.0))
    t1c, t2 = ready.image[0], ready.image[2]
    inner = (slice(1, -1),) * 3
    assert t2[inner] == pytest.approx(t1c[inner], abs=0.05)


def test_the_foreground_keeps_the_head_and_its_dark_ventricles():
    noise = np.abs(np.random.default_rng(2).normal(0, 3, (20, 40, 40)))
    _, y, x = np.meshgrid(np.arange(20), np.arange(40), np.arange(40), indexing="ij")
    radius = np.sqrt((y - 20.0) ** 2 + (x - 20.0) ** 2)
    signal = np.where(radius < 15, 300.0, 0.0) * (radius > 4) + noise
    kept = foreground(signal.astype(np.float32))
    assert kept[:, 20, 20].all()
    assert not kept[:, 0, 0].any()
    assert abs(kept.mean() - (radius < 15).mean()) < 0.02


def test_small_tumours_are_dropped_whole():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[1:4, 1:4, 1:4] = 2
    labels[2, 2, 2] = 4
    labels[7, 7, 7] = 4
    got = drop_small_tumours(labels, 5.0)
    assert got[7, 7, 7] == 0
    assert (got[:5] == labels[:5]).all()


def test_the_memory_of_a_run_is_known_from_shapes_alone():
    """1000 voxels each: 15 arrays on the grid, 8 x 8 + 8 in the window, 3 on T1c, 2 of the largest; 4 bytes."""
    study = {role: volume(np.zeros((10, 10, 10))) for role in CHANNELS}
    config = BratsConfig(weights="x", init_filters=8, roi=(10, 10, 10), brain_mask="foreground")
    assert needed_mb(study, config) == pytest.approx((15 + 72 + 3 + 2) * 1000 * 4 / 1e6)


def test_a_study_above_the_budget_is_refused_before_it_is_touched():
    """Each array is a view of one number; a copy of one of them would take 8 GB."""
    huge = dataclasses.replace(volume(np.zeros((1, 1, 1))), array=np.broadcast_to(np.float32(1), (500, 2000, 2000)))
    started = time.perf_counter()
    with pytest.raises(InputTooLargeError, match=r"^BRATS would need \d{6} MB for this study, 8000 MB is its budget"):
        expert(memory_mb=8000.0).run(ExpertInput(brain_mr=dict.fromkeys(CHANNELS, huge)), "")
    assert time.perf_counter() - started < 1.0


def test_the_skull_is_zero_on_every_contrast_when_a_brain_is_given():
    study = head((12, 14, 16))
    brain = np.zeros((12, 14, 16), bool)
    brain[3:9, 4:10, 5:12] = True
    ready = prepared(study, BratsConfig(weights="x"), brain)
    assert ready.shape == (12, 14, 16)
    assert ready.box == (slice(1, 11), slice(2, 12), slice(3, 14))
    inside = ready.axes.apply(brain[ready.box])
    assert (ready.image[:, ~inside] == 0).all()
    assert ready.image[:, inside].mean(axis=1) == pytest.approx(np.zeros(4), abs=1e-4)
    assert ready.image[:, inside].std(axis=1) == pytest.approx(np.ones(4), abs=1e-3)
