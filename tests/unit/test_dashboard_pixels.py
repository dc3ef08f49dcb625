"""Pixels become grey values as PS3.3 C.11.2 says, and slices stand in the order a stack is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from config.errors import RefusedInputError
from dashboard.overlays import LabelMap, paint
from dashboard.pixels import Frame, Window, apply_window, render, square_pixels
from dashboard.slices import LruCache, parse_window
from dashboard.stacks import Slice, Stack, _edges_from_tag, reading_direction
from reports.geometry import functional_group


def frame(values: Any, **changes: Any) -> Frame:
    facts: dict[str, Any] = {"window": Window(50, 100), "display": None, "inverted": False, "row_to_column": 1.0}
    return Frame(np.asarray(values, dtype=np.float32), **(facts | changes))


@pytest.mark.requirement("REQ-VIEW-1")
def test_a_linear_window_follows_the_standards_example() -> None:
    # PS3.3 C.11.2.1.2.1: c=2048, w=4096 maps 0 to the lowest and 4095 to the highest value
    shown = apply_window(np.array([-5, 0, 2048, 4095, 5000], dtype=np.float32), Window(2048, 4096))
    assert shown.tolist() == [0, 0, 128, 255, 255]


def test_a_window_of_width_one_is_a_step() -> None:
    # PS3.3 C.11.2.1.2.1: c=100, w=1: x <= 99.5 is black, above it white
    shown = apply_window(np.array([99, 100.5, 101], dtype=np.float32), Window(100, 1))
    assert shown.tolist() == [0, 255, 255]


def test_linear_exact_and_sigmoid_have_their_own_formulas() -> None:
    values = np.array([0, 50, 75, 100], dtype=np.float32)
    assert apply_window(values, Window(50, 100, "LINEAR_EXACT")).tolist() == [0, 128, 191, 255]
    sigmoid = apply_window(values, Window(50, 100, "SIGMOID"))
    assert sigmoid.tolist() == [round(255 / (1 + np.exp(-4 * (v - 50) / 100))) for v in values]


def test_monochrome1_is_shown_with_the_lowest_value_white() -> None:
    assert render(frame([[0, 100]], inverted=True)).tolist() == [[255, 0]]
    assert render(frame([[0, 100]])).tolist() == [[0, 255]]


def test_a_lookup_table_shows_until_the_reader_chooses_a_window() -> None:
    table = np.array([[7, 9]], dtype=np.uint8)
    shown = frame([[0, 100]], display=table)
    assert render(shown).tolist() == [[7, 9]]
    assert render(shown, Window(50, 100)).tolist() == [[0, 255]]


def test_colour_is_left_as_it_is() -> None:
    colour = Frame(np.full((2, 2, 3), 9, dtype=np.uint8), Window(0, 1), None, False, 1.0)
    assert render(colour, Window(1, 2)).tolist() == np.full((2, 2, 3), 9).tolist()


@pytest.mark.requirement("REQ-VIEW-1")
@pytest.mark.parametrize(("ratio", "size"), [(1.0, (40, 20)), (2.0, (40, 40)), (0.5, (80, 20))])
def test_a_millimetre_is_as_long_down_as_across(ratio: float, size: tuple[int, int]) -> None:
    assert square_pixels(Image.new("L", (40, 20)), ratio).size == size


@pytest.mark.parametrize(
    ("text", "window"), [("", None), ("40,400", Window(40, 400)), ("-600,1500", Window(-600, 1500))]
)
def test_a_window_is_two_numbers(text: str, window: Window | None) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["40", "a,b", "1,2,3", "0,0", "0,-5", "nan,1", "0,nan", "0,inf", "1e9,5"])
def test_anything_else_is_no_window(text: str) -> None:
    with pytest.raises(RefusedInputError):
        parse_window(text)


def test_a_functional_group_of_the_frame_stands_before_the_shared_one() -> None:
    def group(value: float) -> Dataset:
        item, holder = Dataset(), Dataset()
        item.RescaleSlope = value
        holder.PixelValueTransformationSequence = [item]
        return holder

    ds = Dataset()
    ds.SharedFunctionalGroupsSequence = [group(1)]
    ds.PerFrameFunctionalGroupsSequence = [group(2), Dataset()]
    slopes = [functional_group(ds, i, "PixelValueTransformationSequence").RescaleSlope for i in (0, 1, 5)]
    assert slopes == [2, 1, 1]
    assert functional_group(ds, 0, "FrameVOILUTSequence") is ds


@pytest.mark.parametrize(
    ("axes", "direction"),
    [
        ([[1, 0, 0], [0, 1, 0]], [0, 0, -1]),  # axial: head first
        ([[1, 0, 0], [0, 0, -1]], [0, 1, 0]),  # coronal: front first
        ([[0, 1, 0], [0, 0, -1]], [1, 0, 0]),  # sagittal: the patient's right first
        ([[-1, 0, 0], [0, -1, 0]], [0, 0, -1]),  # prone: still head first
    ],
)
def test_a_stack_is_read_from_head_front_or_right(axes: list[list[float]], direction: list[float]) -> None:
    assert reading_direction(np.array(axes, dtype=np.float64)).tolist() == direction


def test_a_radiographs_edges_come_from_patient_orientation() -> None:
    ds = Dataset()
    ds.PatientOrientation = ["L", "F"]
    assert _edges_from_tag(ds) == ("R", "L", "H", "F")
    assert _edges_from_tag(Dataset()) == ("", "", "", "")


def test_a_frame_of_a_multi_frame_instance_is_found_by_its_number() -> None:
    # read from the head: the last frame comes first
    stack = Stack(tuple(Slice(Path("x"), f, "1.2", None, ("", "", "", "")) for f in (3, 2, 1, 0)))
    assert stack.index_of("1.2", 3) == 1
    assert stack.index_of("1.2") == 0
    assert stack.index_of("1.2", 5) is None
    assert stack.index_of("9.9") is None


PLANES = np.stack([np.full((2, 2), value, dtype=np.uint8) for value in (1, 2)])


def test_an_overlay_goes_on_its_own_frame_or_on_none() -> None:
    # two echoes at one position: the label map was made of frames 4 and 2, frame 3 lies where frame 4 does
    maps = LabelMap(PLANES, ("1.2", "1.2"), {1: "a", 2: "b"}, ((0, 0, 0), (0, 0, 5)), (4, 2))
    found = maps.plane("1.2", 2, (0, 0, 5.0))
    assert found is not None
    assert found.tolist() == [[2, 2], [2, 2]]
    assert maps.plane("1.2", 3, (0, 0, 0)) is None
    assert maps.plane("9.9", 4, (0, 0, 0)) is None


def test_without_frame_numbers_the_position_decides() -> None:
    maps = LabelMap(PLANES, ("1.2", "1.2"), {1: "a", 2: "b"}, ((0, 0, 0), (0, 0, 5)))
    found = maps.plane("1.2", 1, (0, 0, 5.0))
    assert found is not None
    assert found.tolist() == [[2, 2], [2, 2]]
    assert maps.plane("1.2", 1, (0, 0, 2.5)) is None
    assert maps.plane("1.2", 1, None) is None


def test_only_the_chosen_labels_are_painted_and_only_on_the_same_grid() -> None:
    grey = np.full((4, 4), 100, dtype=np.uint8)
    plane = np.zeros((4, 4), dtype=np.uint8)
    plane[0], plane[3] = 1, 2
    painted = paint(grey, plane, frozenset({2}))
    assert painted[:3].tolist() == np.full((3, 4, 3), 100).tolist()
    assert (painted[3] != 100).any()
    assert (paint(grey, plane[:2], frozenset({1, 2})) == 100).all()


def test_a_cache_forgets_what_was_used_longest_ago() -> None:
    cache: LruCache[str, int] = LruCache(2)
    made: list[str] = []

    def make(key: str) -> int:
        made.append(key)
        return len(made)

    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: make(key))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
