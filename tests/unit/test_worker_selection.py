"""Which slices are shown: positions worked out by hand on bodies, heads and label maps of known shape."""

import numpy as np
import pytest

from worker.rendering import axial
from worker.selection import first_slice, plane_centre, reading_number, same_level, widest_slices
from worker.volume import Volume

UPRIGHT = np.eye(4)[[2, 1, 0, 3]]  # (slice, row, column) -> (z, y, x), 1 mm


def volume(array, affine=UPRIGHT, modality="CT"):
    uids = tuple(f"1.2.{i}" for i in range(array.shape[0]))
    return Volume(np.asarray(array, np.float32), affine, uids, (1,) * len(uids), "1.1", "1.0", modality)


def body(areas, value=40.0, air=-1000.0, side=60):
    """Return slices whose first ``n`` voxels are tissue, ``n`` from ``areas``."""
    array = np.full((len(areas), side * side), air, np.float32)
    for index, area in enumerate(areas):
        array[index, :area] = value
    return array.reshape(-1, side, side)


def test_ct_opens_with_the_middle_of_the_slices_full_of_body():
    assert first_slice(volume(body([1000] * 9))) == 4  # as in VILA-M3's preparation: the middle of the stack
    # air above and a foot of partial coverage below do not count: slices 4 to 8 have at least half of the largest
    assert first_slice(volume(body([0, 0, 300, 400, 800, 1000, 900, 900, 800, 10, 0, 0, 0, 0, 0]))) == 6


def test_a_question_about_the_lungs_opens_with_the_slice_that_shows_most_lung():
    torso = body([3000] * 9)
    torso[2].flat[:2100] = -800
    torso[3].flat[:2500] = -800
    assert first_slice(volume(torso), "lung") == 3
    assert first_slice(volume(torso)) == 4
    # 20 cm2 at least: below, there is no lung in the scan and the body decides
    torso[2:4] = 40
    torso[3].flat[:1900] = -800
    assert first_slice(volume(torso), "lung") == 4


def test_mr_opens_where_the_head_is_largest():
    areas = [100, 500, 900, 980, 1000, 990, 700, 300, 50]
    assert first_slice(volume(body(areas, value=300.0, air=2.0), modality="MR")) == 4


def test_the_choice_does_not_depend_on_how_the_series_is_stored():
    areas = [0, 0, 0, 300, 800, 1000, 900, 800, 10]
    upright = body(areas)
    expected = first_slice(volume(upright))
    head_first = UPRIGHT.copy()
    head_first[2, 0], head_first[2, 3] = -1, len(areas) - 1
    assert first_slice(volume(upright[::-1], head_first)) == expected
    # stored as sagittal slices: array axes are x, z, y
    sagittal = np.eye(4)[[0, 2, 1, 3]]
    stored = np.transpose(upright, (2, 0, 1))
    assert axial(stored, sagittal).shape == upright.shape
    assert first_slice(volume(stored, sagittal)) == expected


def test_the_other_sequences_show_the_plane_through_the_same_point():
    guide = volume(np.zeros((10, 4, 4)), modality="MR")
    shifted = UPRIGHT.copy()
    shifted[2, 0], shifted[2, 3] = 2.0, -4.0  # slices 2 mm apart from z = -4
    other = volume(np.zeros((12, 4, 4)), shifted, "MR")
    assert same_level(6, guide, other) == 5  # z = 6 mm is (6 + 4) / 2
    assert same_level(6, guide, guide) == 6
    backwards = UPRIGHT.copy()
    backwards[2, 0], backwards[2, 3] = -2.0, 18.0
    assert same_level(6, guide, volume(np.zeros((12, 4, 4)), backwards, "MR")) == 5  # axial order starts at z = -4
    far = UPRIGHT.copy()
    far[2, 3] = 100.0
    assert same_level(6, guide, volume(np.zeros((5, 4, 4)), far, "MR")) == 0


def test_a_turned_sequence_is_cut_at_the_centre_of_the_guides_slice():
    angle = np.deg2rad(10)
    turned = UPRIGHT.copy()
    turned[:3, :3] = (
        np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) @ (UPRIGHT[:3, :3])
    )
    guide, other = volume(np.zeros((40, 41, 41)), modality="MR"), volume(np.zeros((60, 41, 41)), turned, "MR")
    point = plane_centre(guide, 20)
    assert point.tolist() == [20.0, 20.0, 20.0]
    # depth of (20, 20, 20) along the turned normal: -20 sin 10 + 20 cos 10... by hand 20*(0.98481 - (-1)*(-0.17365))
    assert same_level(20, guide, other) == round(20 * np.cos(angle) - 20 * np.sin(angle))


def test_the_widest_slices_keep_their_distance_and_stop_at_three():
    labels = np.zeros((40, 10, 10), np.uint8)
    for index, area in {3: 9, 4: 8, 20: 50, 21: 49, 25: 40, 31: 30, 39: 2}.items():
        labels[index].flat[:area] = 26
    labels[10] = 1
    assert widest_slices(labels, frozenset({26}), spacing_mm=1.0) == [20, 31, 3]
    assert widest_slices(labels, frozenset({26}), spacing_mm=2.0) == [20, 25, 31]  # 10 mm apart is apart
    assert widest_slices(labels, frozenset({26}), spacing_mm=0.1) == [20]


def test_without_a_lesion_the_organ_is_shown_once():
    labels = np.zeros((9, 4, 4), np.uint8)
    labels[2:4, 0] = 1
    labels[3] = 1
    assert widest_slices(labels, frozenset({26}), spacing_mm=5.0) == [3]
    assert widest_slices(np.zeros((9, 4, 4), np.uint8), frozenset({26}), spacing_mm=5.0) == [4]


@pytest.mark.parametrize(
    ("axis", "sign", "expected"),
    [
        (2, 1, [10, 9, 1]),  # stored feet first, read from the head
        (2, -1, [1, 2, 10]),
        (0, 1, [1, 2, 10]),  # sagittal: x grows to the left, read from the right
        (0, -1, [10, 9, 1]),
        (1, 1, [1, 2, 10]),  # coronal: y grows to the back, read from the front
    ],
)
def test_slices_are_numbered_as_the_viewer_counts_them(axis, sign, expected):
    affine = np.zeros((4, 4))
    affine[axis, 0] = sign * 3.0
    affine[(axis + 1) % 3, 1] = affine[(axis + 2) % 3, 2] = affine[3, 3] = 1.0
    stack = volume(np.zeros((10, 4, 4)), affine)
    assert [reading_number(stack, index) for index in (0, 1, 9)] == expected
