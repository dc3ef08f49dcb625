"""Slices and overlays: values against the published preparation, not against our own code."""

import numpy as np
import pytest
from skimage.color import label2rgb

from worker.radiograph import Radiograph
from worker.rendering import (
    COLOURS,
    axial,
    axial_index,
    ct_grey,
    legend,
    mr_grey,
    overlay,
    radiograph_image,
    volume_slice,
    widest_slice,
)
from worker.volume import Volume


def test_overlay_golden_array():
    labels = np.array([[0, 3, 5], [0, 26, 3]], np.uint8)
    grey = np.array([[100, 100, 200], [255, 0, 50]], np.uint8)
    assert overlay(grey, labels).tolist() == [
        [[69, 69, 69], [146, 69, 69], [139, 139, 216]],
        [[178, 178, 178], [76, 76, 0], [111, 34, 34]],
    ]


def test_overlay_equals_label2rgb_up_to_rounding():
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (40, 50)).astype(np.uint8)
    labels = rng.integers(0, 21, (40, 50)).astype(np.uint8)
    names = [name for name, _ in COLOURS]
    expected = (label2rgb(labels, grey / 255.0, colors=names, bg_label=0) * 255).astype(np.uint8)
    assert np.abs(expected.astype(int) - overlay(grey, labels).astype(int)).max() <= 1


def test_colours_go_by_rank_in_the_slice_and_start_again_after_sixteen():
    many = np.arange(0, 18, dtype=np.uint8).reshape(3, 6)
    assert legend(np.array([[0, 26, 3]], np.uint8)) == [("red", 3), ("blue", 26)]
    assert [colour for colour, _ in legend(many)][-2:] == ["darkgreen", "red"]
    assert legend(np.zeros((2, 2), np.uint8)) == []


def test_ct_window_is_minus_150_to_250():
    values = np.array([-1000, -150, 50, 250, 3000, -148], np.float32)
    assert ct_grey(values).tolist() == [0, 0, 127, 255, 255, 1]


def test_mr_is_scaled_over_its_volume_and_a_flat_volume_is_black():
    assert mr_grey(np.array([10.0, 60.0, 110.0], np.float32), low=10, high=110).tolist() == [0, 127, 255]
    assert mr_grey(np.full((2, 2), 7.0, np.float32), low=7, high=7).tolist() == [[0, 0], [0, 0]]


def volume(array: np.ndarray, affine: np.ndarray, modality: str = "CT") -> Volume:
    uids = tuple(f"1.2.{i}" for i in range(array.shape[0]))
    return Volume(array.astype(np.float32), affine, uids, (1,) * len(uids), "1.1", "1.0", modality)


def world(array: np.ndarray, affine: np.ndarray, point: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(round(v) for v in np.linalg.solve(affine, np.array([*point, 1.0]))[:3])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_right_of_the_patient_is_on_the_left_and_front_at_the_top(order, signs):
    """A voxel at the patient's right front (LPS -x, -y), head end, lands at top left of the last slice."""
    sizes = (4, 5, 6)  # along z, y, x
    shape = [0, 0, 0]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, direction in enumerate(order):  # array axis runs along world z, y, x number ``direction``
        shape[axis] = sizes[direction]
        affine[2 - direction, axis] = signs[direction]
        affine[2 - direction, 3] = 0 if signs[direction] > 0 else sizes[direction] - 1
    array = np.zeros(shape, np.float32)
    array[world(array, affine, (0, 0, 3))] = 1.0
    turned = axial(array, affine)
    assert turned.shape == (4, 5, 6)
    assert np.argwhere(turned == 1.0).tolist() == [[3, 0, 0]]


def test_the_source_slice_of_an_axial_view_is_known_and_of_another_view_is_not():
    upright = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    head_first = upright.copy()
    head_first[2, 0] = -1
    sagittal = np.eye(4)
    array = np.zeros((4, 5, 6))
    assert axial_index(1, volume(array, upright)) == 1
    assert axial_index(1, volume(array, head_first)) == 2
    assert axial_index(1, volume(array, sagittal)) is None


def test_volume_slice_is_windowed_for_its_modality():
    upright = np.eye(4)[[2, 1, 0, 3]]
    array = np.zeros((2, 2, 2))
    array[1] = 250
    assert volume_slice(volume(array, upright), 1).tolist() == [[[255] * 3] * 2] * 2
    assert volume_slice(volume(array, upright), 0)[0, 0].tolist() == [95] * 3
    assert volume_slice(volume(array, upright, "MR"), 0)[0, 0].tolist() == [0] * 3


def test_a_radiograph_is_clipped_to_8_bits():
    film = Radiograph(np.array([[-3.0, 127.9, 300.0]], np.float32), "1", "2", "PA", "DX", None)
    assert radiograph_image(film)[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]


def test_widest_slice_prefers_what_is_asked_and_falls_back_to_the_middle():
    labels = np.zeros((5, 2, 2), np.uint8)
    labels[1] = 1
    labels[3, 0, 0] = 26
    assert widest_slice(labels) == 1
    assert widest_slice(labels, frozenset({26})) == 3
    assert widest_slice(labels, frozenset({99})) == 2
