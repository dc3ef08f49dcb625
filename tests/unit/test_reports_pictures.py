"""Outlines run along the edges of the pixels they enclose; a picture is drawn on the grid of its image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from config.errors import GeometryError
from reports.pictures import KeyPicture, Outline, closed_outlines, require_drawable
from tests.reports_sources import radiograph


def signed_area(points):
    """Shoelace formula; positive for a border that runs clockwise on a screen (row axis down)."""
    x, y = points[:-1].T
    x2, y2 = points[1:].T
    return float((x * y2 - x2 * y).sum() / 2)


def test_one_pixel_is_the_square_around_it():
    mask = np.zeros((4, 6), bool)
    mask[1, 4] = True
    (outline,) = closed_outlines(mask)
    assert outline.tolist() == [[4, 1], [5, 1], [5, 2], [4, 2], [4, 1]]


def test_a_hole_has_a_border_of_its_own_that_runs_the_other_way():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    assert sorted(signed_area(one) for one in closed_outlines(mask)) == [-1.0, 25.0]


@pytest.mark.parametrize("flipped", [False, True])
def test_pixels_that_touch_at_a_corner_are_two_outlines(flipped):
    mask = np.eye(2, dtype=bool)
    outlines = closed_outlines(mask[::-1] if flipped else mask)
    assert [signed_area(one) for one in outlines] == [1.0, 1.0]


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_close_turn_at_every_point_and_enclose_exactly_the_mask(mask):
    outlines = closed_outlines(mask)
    assert sum(map(signed_area, outlines)) == mask.sum()
    for outline in outlines:
        assert np.array_equal(outline[0], outline[-1])
        steps = np.diff(outline, axis=0)
        assert ((steps == 0).sum(axis=1) == 1).all()
        assert (steps[:-1] * steps[1:]).sum(axis=1).tolist() == [0] * (len(steps) - 1)
        assert (steps[-1] * steps[0]).sum() == 0


def test_an_empty_mask_has_no_outline():
    assert closed_outlines(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize(
    ("frame", "rows", "words"), [(None, 60, "its image is"), (2, 64, "frame 2 of an image with 1 frames")]
)
def test_a_mask_on_the_wrong_grid_or_a_missing_frame_is_refused(frame, rows, words):
    picture = KeyPicture(radiograph(), frame, outlines=[Outline("x", np.ones((rows, 48), bool))])
    with pytest.raises(GeometryError, match=words):
        require_drawable(picture)
