"""What hangs where, what an MR Series is for, and masks as runs."""

import numpy as np
import pytest
from pydicom import Dataset

from dashboard.annotations import measure
from dashboard.hanging import Hung, hang
from dashboard.masks import runs_of
from dashboard.scene import Spacing, mr_role
from db.annotation_models import AnnotationKind


def hung(**roles: str) -> list[Hung]:
    """Series by key; the value is modality and role."""
    return [Hung(key, *[*value.split(), ""][:2], 20) for key, value in roles.items()]


def test_a_brain_hangs_by_role_and_scrolls_together() -> None:
    series = hung(a="MR T1", b="MR T2", c="MR FLAIR", d="MR T1C", e="MR DWI")
    hanging = hang(series, "b")
    assert (hanging.rows, hanging.columns, hanging.cells, hanging.linked) == (2, 2, ("d", "c", "b", "a"), True)
    # the series with the finding is always among them
    assert hang(series, "e").cells == ("e", "d", "c", "b")
    assert hang(hung(a="MR T1", b="MR"), "b").cells == ("b",)


def test_radiographs_hang_frontal_beside_lateral_and_others_alone() -> None:
    series = hung(side="DX LL", front="DX PA", ct="CT")
    assert hang(series, "front").cells == ("front", "side")
    assert hang(series, "side").cells == ("front", "side")
    assert hang(series, "ct").cells == ("ct",)
    assert hang(hung(a="CR PA", b="CR AP"), "b").cells == ("b",)
    assert hang([], "").cells == ()


@pytest.mark.parametrize(
    ("description", "tags", "role"),
    [
        ("ax T1 post Gd", {}, "T1C"),
        ("ax T1 SE", {}, "T1"),
        ("T1 SE", {"ContrastBolusAgent": "Gadovist"}, "T1C"),
        ("t2_tirm_dark-fluid", {}, "FLAIR"),
        ("AX T2 FLAIR", {}, "FLAIR"),
        ("ax T2 TSE", {}, "T2"),
        ("ep2d_diff ADC", {}, "DWI"),
        ("brain 1", {"EchoTime": 100, "RepetitionTime": 4000}, "T2"),
        ("brain 2", {"EchoTime": 10, "RepetitionTime": 500}, "T1"),
        ("brain 3", {"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}, "FLAIR"),
        ("localizer", {}, ""),
    ],
)
def test_an_mr_series_is_known_by_its_words_then_by_its_times(
    description: str, tags: dict[str, object], role: str
) -> None:
    ds = Dataset()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    assert mr_role(description, ds) == role


def test_runs_paint_the_same_plane_again() -> None:
    plane = np.random.default_rng(3).integers(0, 3, (17, 23)).astype(np.uint8)
    plane[0, :2] = plane[-1, -2:] = 2
    again = np.zeros(plane.size, np.uint8)
    at = 0
    for gap, length, value in runs_of(plane):
        at += gap
        again[at : at + length] = value
        at += length
    assert np.array_equal(again.reshape(plane.shape), plane)
    assert runs_of(np.zeros((4, 4), np.uint8)).shape == (0, 3)
    assert runs_of(np.full((4, 4), 7, np.uint8)).tolist() == [[0, 16, 7]]


def test_angles_take_the_spacing_of_both_directions() -> None:
    # pixels of 1 mm by 2 mm: (10, 5) is (10 mm, 10 mm), 45 degrees above the row
    points = [(10.0, 0.0), (0.0, 0.0), (10.0, 5.0)]
    assert measure(AnnotationKind.ANGLE, points, Spacing(2.0, 1.0, "mm")) == (45.0, "deg")
    assert measure(AnnotationKind.ARROW, points[:2], Spacing()) == (None, "")
    assert measure(AnnotationKind.ELLIPSE, points, Spacing()) is None
