"""Measurements against solids of known size: volume, longest axial diameter, range and side worked out by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from tests.fakes import card
from worker.experts.base import SegmentationResult
from worker.measuring import label_counts, longest_axial_diameter, measure
from worker.volume import Volume

VISTA = card("VISTA3D", "CT")


def affine_of(spacing, rotation=None, origin=(0.0, 0.0, 0.0)):
    """Return (slice, row, column) -> LPS: slices along z, rows along y, columns along x, then turned."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]], float)
    if rotation is not None:
        matrix[:3, :3] = rotation @ matrix[:3, :3]
    matrix[:3, 3] = origin
    return matrix


def turned(axis, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


def result(mask, affine, array=None):
    shape = mask.shape
    uids = tuple(f"1.2.{i}" for i in range(shape[0]))
    array = np.full(shape, 40.0, np.float32) if array is None else array
    volume = Volume(array, affine, uids, (1,) * shape[0], "1.1", "1.0", "CT")
    return SegmentationResult(VISTA, "x", 0.1, mask.astype(np.uint8) * 26, {26: "hepatic tumor"}, volume)


def ellipsoid(shape, centre_mm, radii_mm, spacing):
    z, y, x = np.indices(shape)
    places = [axis * step for axis, step in zip((z, y, x), spacing, strict=True)]
    return sum(((p - c) / r) ** 2 for p, c, r in zip(places, centre_mm, radii_mm, strict=True)) <= 1.0


@pytest.mark.requirement("REQ-TEXT-4")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (2.0, 0.5, 1.5)])
def test_an_ellipsoid_is_measured_to_its_size(spacing):
    shape = tuple(int(80 / step) for step in spacing)
    radii = (14.0, 18.0, 25.0)
    solid = ellipsoid(shape, (40.0, 40.0, 40.0), radii, spacing)
    found = measure(result(solid, affine_of(spacing)), frozenset({26}))
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * 14 * 18 * 25 / 1000, rel=0.03)
    assert found.diameter_mm == pytest.approx(50.0, abs=2 * max(spacing[1:]))
    assert found.count == 1
    assert found.extent_mm == pytest.approx(28.0, abs=spacing[0] + 1e-6)


def test_a_box_is_measured_exactly():
    mask = np.zeros((30, 40, 50), bool)
    mask[10:14, 5:17, 20:36] = True  # 4 x 12 x 16 voxels of 3 x 0.8 x 0.5 mm
    found = measure(result(mask, affine_of((3.0, 0.8, 0.5), origin=(7.0, 8.0, -100.0))), frozenset({26}))
    assert found.volume_ml == pytest.approx(4 * 12 * 16 * 3 * 0.8 * 0.5 / 1000)
    # centres of the corners: 11 rows and 15 columns apart; one pixel along that direction on top
    apart = np.hypot(11 * 0.8, 15 * 0.5)
    assert found.diameter_mm == pytest.approx(apart + (11 * 0.8 * 0.8 + 15 * 0.5 * 0.5) / apart)
    assert found.slice_range == (10, 13)
    assert found.slice_numbers == (17, 20)  # of 30 slices stored feet first, counted from the head
    assert found.normal_mm == pytest.approx((-70.0, -61.0))
    assert found.extent_mm == pytest.approx(12.0)


def test_the_extent_of_a_tilted_scan_is_along_the_normal_not_along_the_table():
    """Slices 5 mm apart along a table that a gantry tilted by 20 degrees does not follow."""
    mask = np.zeros((30, 40, 50), bool)
    mask[10:14, 5:17, 20:36] = True
    affine = affine_of((5.0, 0.8, 0.5))
    affine[:3, 0] = [0.0, 5.0 * np.tan(np.radians(20)), 5.0]  # each slice also moves in its own plane
    found = measure(result(mask, affine), frozenset({26}))
    assert found.extent_mm == pytest.approx(20.0)
    assert found.normal_mm == pytest.approx((50.0, 65.0))


@pytest.mark.parametrize(("axis", "degrees"), [("x", 20), ("y", -25), ("z", 33)])
def test_turning_the_scanner_frame_changes_no_size(axis, degrees):
    solid = ellipsoid((40, 60, 60), (40.0, 30.0, 30.0), (12.0, 9.0, 21.0), (2.0, 1.0, 1.0))
    straight = measure(result(solid, affine_of((2.0, 1.0, 1.0))), frozenset({26}))
    oblique = measure(result(solid, affine_of((2.0, 1.0, 1.0), turned(axis, degrees))), frozenset({26}))
    assert oblique.diameter_mm == pytest.approx(straight.diameter_mm)
    assert oblique.volume_ml == pytest.approx(straight.volume_ml)
    assert oblique.extent_mm == pytest.approx(straight.extent_mm)


def test_the_diameter_is_axial_however_the_series_was_acquired():
    """A rod 40 mm long from foot to head and 6 mm thick: stored sagittally it must not be called 40 mm."""
    rod = np.zeros((40, 50, 50), bool)
    rod[:, 20:26, 20:26] = True
    axial = measure(result(rod, affine_of((1.0, 1.0, 1.0))), frozenset({26}))
    assert axial.diameter_mm == pytest.approx(6 * np.sqrt(2))
    sagittal = np.eye(4)[[0, 2, 1, 3]]  # (slice, row, column) -> (x, z, y)
    stored = np.transpose(rod, (2, 0, 1))
    assert measure(result(stored, sagittal), frozenset({26})).diameter_mm == pytest.approx(6 * np.sqrt(2))


@pytest.mark.requirement("REQ-TEXT-4")
def test_the_diameter_is_the_true_maximum_over_all_pairs_of_voxels():
    rng = np.random.default_rng(3)
    for _ in range(20):
        blob = np.zeros((1, 30, 30), bool)
        row, column = 15, 15
        for _ in range(120):  # a random walk is one 8-connected island
            row, column = np.clip(np.add([row, column], rng.integers(-1, 2, 2)), 0, 29)
            blob[0, row, column] = True
        points = np.argwhere(blob[0]) * [0.9, 0.6]
        pairs = np.stack(np.triu_indices(len(points), 1), axis=1)
        lengths = pdist(points)
        found = longest_axial_diameter(blob, result(blob, affine_of((1.0, 0.9, 0.6))).volume)
        best = lengths.max()
        widths = [
            np.abs((points[a] - points[b]) / best) @ [0.9, 0.6]
            for (a, b), length in zip(pairs, lengths, strict=True)
            if np.isclose(length, best)
        ]
        assert any(found == pytest.approx(best + width) for width in widths)


def test_two_lesions_are_two_parts_and_no_diameter_bridges_them():
    mask = np.zeros((20, 60, 60), bool)
    mask[5:8, 10:14, 10:14] = True
    mask[5:8, 40:46, 40:46] = True
    found = measure(result(mask, affine_of((1.0, 1.0, 1.0))), frozenset({26}))
    assert found.count == 2
    assert found.diameter_mm == pytest.approx(6 * np.sqrt(2))


def test_one_voxel_is_one_pixel_wide_and_nothing_has_no_measure():
    mask = np.zeros((5, 5, 5), bool)
    assert measure(result(mask, affine_of((3.0, 0.8, 0.5))), frozenset({26})) is None
    assert longest_axial_diameter(mask, result(mask, affine_of((3.0, 0.8, 0.5))).volume) == 0.0
    mask[2, 2, 2] = True
    found = measure(result(mask, affine_of((3.0, 0.8, 0.5))), frozenset({26}))
    assert (found.diameter_mm, found.extent_mm) == (pytest.approx(0.8), pytest.approx(3.0))


@pytest.mark.requirement("REQ-TEXT-1")
@pytest.mark.parametrize(
    ("columns", "side"),
    [((10, 20), "right"), ((80, 90), "left"), ((45, 55), ""), ((20, 80), ""), ((12, 54), "right")],
)
def test_the_side_is_of_the_centroid_from_the_middle_of_the_body(columns, side):
    """The body lies off the centre of the picture: columns 2 to 97 of 140, the midline at 49.5."""
    body = np.full((10, 60, 140), -1000.0, np.float32)
    body[:, 5:55, 2:98] = 40.0
    mask = np.zeros(body.shape, bool)
    mask[3:6, 20:30, columns[0] : columns[1]] = True
    if columns == (12, 54):
        mask[3:6, 20:30, 34:54] = False
        mask[4, 25, 53] = True
    assert measure(result(mask, affine_of((1.0, 1.0, 1.0)), body), frozenset({26})).laterality == side


def test_labels_are_counted_like_numpy_counts_them():
    labels = np.random.default_rng(1).integers(0, 256, (5, 20, 20)).astype(np.uint8)
    assert label_counts(labels).tolist() == np.bincount(labels.ravel(), minlength=256).tolist()
