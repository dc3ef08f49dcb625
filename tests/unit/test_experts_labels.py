"""VISTA3D's label table and the groups that Trigger arguments name, counted by hand from the published files."""

import pytest

from worker.experts.vista3d_labels import EVERYTHING, GROUPS, NAMES, PARTS, SUPPORTED, UNSUPPORTED, expand, prompts_for


@pytest.mark.parametrize(
    ("argument", "count"),
    [
        ("everything", 117), ("hepatic tumor", 2), ("hepatoma", 2), ("pancreatic tumor", 2), ("lung tumor", 6),
        ("bone lesion", 1), ("organs", 26), ("cardiovascular", 18), ("gastrointestinal", 6), ("skeleton", 64),
        ("muscles", 10),
    ],
)  # fmt: skip
def test_an_argument_asks_for_the_published_number_of_structures(argument, count):
    assert len(prompts_for(argument)) == count


def test_organs_are_the_published_list():
    wanted = "1,2,3,4,5,8,9,10,14,22,23,24,25,26,27,28,29,30,31,32,57,116,117,118,121,126,132"
    assert sorted(GROUPS["organs"]) == [int(label) for label in wanted.split(",")]


def test_everything_leaves_out_parents_tumours_and_unsupported_labels():
    assert set(range(1, 133)) - set(EVERYTHING) == {2, 16, 18, 20, 21, 23, 24, 25, 26, 27, 128, 129, 130, 131, 132}


def test_class_prompts_are_the_127_the_published_network_accepts():
    assert len(SUPPORTED) == 127
    assert {NAMES[label] for label in UNSUPPORTED} == {
        "prostate or uterus", "rectum", "kidney mass", "liver tumor", "vertebrae L6",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "name"),
    [(1, "liver"), (26, "hepatic tumor"), (33, "vertebrae L5"), (56, "vertebrae C1"), (63, "left rib 1"),
     (86, "right rib 12"), (97, "sacrum"), (115, "heart"), (128, "bone lesion"), (132, "airway")],
)  # fmt: skip
def test_names_stand_at_the_published_ids(label, name):
    assert NAMES[label] == name


def test_no_argument_ever_prompts_a_parent_or_an_unsupported_label():
    for argument in GROUPS:
        assert not set(prompts_for(argument)) & (set(PARTS) | UNSUPPORTED)


def test_expansion_keeps_order_and_drops_duplicates():
    assert expand((2, 5, 1, 14)) == (14, 5, 1)
