"""Grids: what goes onto a network's grid comes back to the same voxels, whatever the source orientation."""

import itertools

import numpy as np
import pytest

from worker.experts import grid


def affine_of(order, signs, spacing=(3.0, 1.0, 2.0), turn=0.0):
    """Index → LPS mm for source axes that run along signed patient axes, optionally turned about z."""
    matrix = np.zeros((3, 3))
    for source, (patient, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[patient, source] = sign * spacing[source]
    c, s = np.cos(turn), np.sin(turn)
    result = np.eye(4)
    result[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ matrix
    return result


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_network_axes_increase_to_the_right_front_and_head(order, signs, turn):
    affine = affine_of(order, signs, turn=turn)
    axes = grid.axis_order(affine, "RAS")
    for network_axis, expected in enumerate((-1, -1, 1)):  # R, A are minus in LPS; S is plus
        step = np.zeros((3, 4, 5))
        index = [0, 0, 0]
        index[axes.order[network_axis]] = 1
        step[tuple(index)] = 1
        moved = (
            np.argwhere(axes.apply(step) == 1)[0][network_axis]
            - np.argwhere(axes.apply(np.eye(1, 60).reshape(3, 4, 5)) == 1)[0][network_axis]
        )
        world = affine[:3, axes.order[network_axis]] * moved
        assert np.sign(world[network_axis]) == expected
        assert np.argmax(np.abs(world)) == network_axis


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_undo_is_the_inverse_of_apply(order, signs):
    axes = grid.axis_order(affine_of(order, signs), "LPS")
    array = np.arange(60).reshape(3, 4, 5)
    assert (axes.undo(axes.apply(array)) == array).all()


def test_resampling_a_linear_ramp_gives_the_ramp():
    z, y, x = np.meshgrid(np.arange(9.0), np.arange(13.0), np.arange(5.0), indexing="ij")
    ramp = (2 * z - y + 3 * x).astype(np.float32)
    shape = grid.resampled_shape(ramp.shape, (1.0, 1.0, 1.0), (2.0, 0.5, 1.0))
    assert shape == (5, 25, 5)
    got = grid.resample(ramp, (1.0, 1.0, 1.0), (2.0, 0.5, 1.0), shape=shape, antialias=False)
    z, y, x = np.meshgrid(np.arange(5) * 2.0, np.arange(25) * 0.5, np.arange(5.0), indexing="ij")
    assert got == pytest.approx(2 * z - y + 3 * x, abs=1e-4)


def test_antialiasing_averages_noise_and_keeps_the_mean():
    noise = np.random.default_rng(1).normal(50, 10, (40, 40, 40)).astype(np.float32)
    plain, smooth = (
        grid.resample(noise, (1, 1, 1), (4, 4, 4), shape=(10, 10, 10), antialias=wide) for wide in (False, True)
    )
    assert plain.std() == pytest.approx(10, rel=0.1)
    assert smooth[1:-1, 1:-1, 1:-1].std() < 2.5
    assert smooth.mean() == pytest.approx(50, abs=1)


def test_labels_come_back_to_the_nearest_voxel_of_the_source_grid():
    coarse = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    got = grid.back_to_source(coarse, (4.0, 4.0, 4.0), (1.0, 4.0, 2.0), shape=(6, 2, 4))
    assert got.shape == (6, 2, 4)
    assert got[:, 0, 0].tolist() == [0, 0, 4, 4, 4, 4]  # centres at 0..5 mm; the border lies at 2 mm
    assert got[0, 0].tolist() == [0, 1, 1, 1]


def test_a_small_component_takes_the_label_around_it_and_a_large_one_stays():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[2, 2, 2] = 26
    labels[4:7, 4:7, 4:7] = 26
    labels[8, 8, 8] = 26
    cleaned = grid.drop_small_components(labels, {26: 5.0})
    assert cleaned[2, 2, 2] == 1
    assert cleaned[8, 8, 8] in (0, 1)
    assert (cleaned == 26).sum() == 27
    assert (labels == 26).sum() == 29


def test_the_box_around_the_foreground_stays_inside_the_grid():
    mask = np.zeros((10, 10, 10), bool)
    mask[0:2, 4:6, 9] = True
    assert grid.foreground_box(mask, 3) == (slice(0, 5), slice(1, 9), slice(6, 10))
    assert grid.foreground_box(np.zeros((2, 3, 4), bool), 3) == (slice(0, 2), slice(0, 3), slice(0, 4))
