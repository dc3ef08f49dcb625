"""VISTA3D's label table and the groups that Trigger arguments name, counted by hand from the published files."""

import hashlib

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


def test_every_id_has_its_published_name():
    """Digest of "id name" lines of the bundle's channel_def, 1…132, taken from the published table."""
    table = "\n".join(f"{label} {NAMES[label]}" for label in sorted(NAMES))
    assert sorted(NAMES) == list(range(1, 133))
    digest = hashlib.sha256(table.encode()).hexdigest()
    assert digest == "72f599590b2303cb982eb20021e1c87ee0e18c105bf9c84bb74f3fef50c31941"


@pytest.mark.parametrize(
    ("argument", "ids"),
    [
        ("hepatic tumor", {1, 26}), ("hepatoma", {1, 26}), ("pancreatic tumor", {4, 24}),
        ("lung tumor", {20, 23, *range(28, 33)}), ("bone lesion", {128}),
        ("cardiovascular", {6, 7, 17, *range(58, 62), *range(108, 114), 115, 119, 123, 124, 125}),
        ("gastrointestinal", {11, 12, 13, 15, 19, 62}), ("muscles", set(range(98, 108))),
        ("skeleton", {21, *range(33, 57), *range(63, 98), 114, 120, 122, 127, 128}),
    ],
)  # fmt: skip
def test_a_group_holds_the_published_ids(argument, ids):
    assert set(GROUPS[argument]) == ids


def test_what_stands_for_lung_and_skeleton_after_expansion():
    assert sorted(prompts_for("lung tumor")) == [23, 28, 29, 30, 31, 32]
    assert set(prompts_for("skeleton")) == {*range(33, 57), *range(63, 98), 114, 120, 122, 127, 128}
