"""Masks before they are an object: what is kept, how many frames it takes, and where it is split."""

import numpy as np
import pytest

from config.errors import RefusedInputError
from reports.codes import code_table
from reports.masks import MOST_FRAMES, MOST_PIXEL_BYTES, compact, disjoint, most_frames, split
from reports.segmentation import build_segmentation, segment_numbers
from tests.reports_sources import EQUIPMENT, boxes, cross_sections, identity_of, spec

KEYS = [row.key for row in code_table().labels.values() if row.category != "finding"]


def full_house(slices: int = 600, structures: int = 120) -> np.ndarray:
    """A label map whose every slice holds every structure: 600 slices of 120 are 72 000 frames."""
    plane = np.zeros(8 * 16, np.uint8)
    plane[:structures] = np.arange(1, structures + 1)
    return np.broadcast_to(plane.reshape(8, 16), (slices, 8, 16))


def specs_for(count: int):
    return [spec(number, key) for number, key in enumerate(KEYS[:count], 1)]


def test_a_mask_knows_its_frames_and_counts_its_segments_anew():
    mask = compact(boxes((5, 12, 10), 7, 1), [spec(1, "ct.liver"), spec(3, "ct.spleen"), spec(7, "ct.heart")])
    assert [one.code_key for one in mask.segments] == ["ct.liver", "ct.heart"]
    assert mask.frames == 4
    assert np.array_equal(mask.array, np.choose(boxes((5, 12, 10), 2, 1), [0, 1, 2]))


def test_a_mask_that_is_in_order_already_is_not_copied():
    labels = boxes((5, 12, 10), 1, 2)
    assert compact(labels, [spec(1, "ct.liver"), spec(2, "ct.spleen")]).array is labels


def test_the_most_frames_of_an_object_follow_from_their_number_and_their_bytes():
    assert most_frames(8, 16) == MOST_FRAMES == 65_535
    assert most_frames(1024, 1024) == MOST_PIXEL_BYTES // (1024 * 1024 // 8) == 8192


def test_more_than_65535_frames_are_split_by_segments_and_nothing_is_lost():
    labels, specs = full_house(), specs_for(120)
    parts = split(labels, specs)
    assert [part.frames for part in parts] == [109 * 600, 11 * 600]
    assert [one.number for part in parts for one in part.segments] == list(range(1, 121))
    assert np.array_equal(sum(part.array for part in parts), labels)
    for part in parts:
        assert compact(part.array, part.segments).frames == part.frames <= MOST_FRAMES


def test_an_object_of_more_frames_than_readers_count_is_refused_not_written():
    source = cross_sections(600, 8, 16)
    with pytest.raises(RefusedInputError, match="72000 frames of 8 x 16 in one object, at most 65535"):
        build_segmentation(
            source, full_house(), segments=specs_for(120), identity=identity_of(source[0]), equipment=EQUIPMENT
        )


def test_the_parts_are_instances_of_one_series_that_hold_each_segment_once():
    source, specs = cross_sections(6, 8, 16), specs_for(10)
    labels = np.ascontiguousarray(full_house(6, 10))
    made = [
        build_segmentation(
            source, part.array, segments=part.segments, identity=identity_of(source[0]), equipment=EQUIPMENT,
            instance_number=number,
        )
        for number, part in enumerate(split(labels, specs, most=24), 1)
    ]  # fmt: skip
    assert [int(seg.NumberOfFrames) for seg in made] == [24, 24, 12]
    assert len({seg.SeriesInstanceUID for seg in made}) == 1
    assert len({seg.SOPInstanceUID for seg in made}) == 3
    assert [uid for seg in made for uid in segment_numbers(seg)] == [one.tracking_uid for one in specs]


def test_stacked_masks_are_split_by_channel_and_counted_anew():
    masks = np.zeros((4, 3, 3, 3), np.uint8)
    masks[:, 0, 0, 0] = masks[:2, 1, 1, 1] = masks[:3, 1, 1, 2] = 1
    parts = split(masks, specs_for(3), most=6)
    assert [[one.number for one in part.segments] for part in parts] == [[1, 2], [1]]
    assert np.array_equal(parts[0].array, masks[..., :2])
    assert np.array_equal(parts[1].array, masks[..., 2:])
    assert [one.code_key for part in parts for one in part.segments] == KEYS[:3]


def test_empty_segments_never_make_a_part():
    assert split(np.zeros((2, 3, 3), np.uint8), specs_for(2)) == []
    (part,) = split(boxes((5, 12, 10), 2), specs_for(3))
    assert part.frames == 2


def test_a_label_map_of_disjoint_masks_has_their_channels_as_values():
    masks = np.zeros((2, 3, 3, 2), np.uint8)
    masks[0, 0, 0, 0] = masks[1, 2, 2, 1] = 1
    labels = disjoint(masks)
    assert (labels[0, 0, 0], labels[1, 2, 2], int((labels > 0).sum())) == (1, 2, 2)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 1), (1, 256), (-1, 2)])
def test_numbers_that_name_no_value_are_refused(numbers):
    with pytest.raises(RefusedInputError, match=r"must differ and lie in 1…255"):
        split(boxes((5, 12, 10), 1), [spec(number, key) for number, key in zip(numbers, KEYS, strict=False)])
