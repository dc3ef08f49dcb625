"""Packed attention, repetition and the cache, by hand-worked values."""

import pytest
import torch

from worker.vlm.generation import RepetitionWatch, packed_attention
from worker.vlm.kv_cache import Kept, PrefixStore, RoomyCache, side_by_side


def test_branches_see_the_trunk_and_themselves_only():
    mask, positions = packed_attention(2, [1, 2], dtype=torch.float32)
    assert (mask[0, 0] == 0).tolist() == [
        [True, True, True, False, False],
        [True, True, False, True, False],
        [True, True, False, True, True],
    ]
    assert positions.tolist() == [[2, 2, 3]]


def fires_at(tokens: list[int]) -> int | None:
    watch = RepetitionWatch()
    return next((number for number, token in enumerate(tokens, 1) if watch.repeats(token)), None)


@pytest.mark.parametrize(
    ("ngram", "tokens"),
    [([7], 28), ([7, 8], 56), ([1, 2, 3, 4, 5, 6, 7, 8], 224), (list(range(9)), 54), (list(range(64)), 384)],
)
def test_the_same_words_without_end_are_noticed(ngram, tokens):
    """28 times for up to 8 tokens, 6 times for longer n-grams, whatever stood before."""
    before = [100, 101, 102]
    assert fires_at(before + ngram * 60) == 3 + tokens


def test_eighteen_lines_that_differ_in_the_finding_are_a_list():
    line = [50, 0, 51, 52]  # "-", the finding, ": no", newline
    listed = [token if token else 200 + finding for finding in range(18) for token in line]
    assert fires_at(listed) is None


@pytest.mark.parametrize("length", [2, 4, 8])
def test_twenty_four_equal_lines_are_a_list(length):
    assert fires_at(list(range(length)) * 24) is None


def test_a_sentence_said_five_times_over_is_not_yet_endless():
    assert fires_at(list(range(20)) * 5 + [99]) is None


def test_repetition_that_stopped_is_forgiven():
    assert fires_at([7] * 27 + [8] + [7] * 27) is None


def cache_of(values: list[float], room: int = 4) -> RoomyCache:
    """One layer, one head of width 1: the values as keys, their negatives as values."""
    keys = torch.tensor(values, dtype=torch.float32)[None, None, :, None]
    return RoomyCache(1, room=room, start=[(keys, -keys)])


def grow(cache: RoomyCache, *values: float) -> list[float]:
    new = torch.tensor(values, dtype=torch.float32)[None, None, :, None]
    keys, negatives = cache.update(new, -new, 0)
    assert torch.equal(keys, -negatives)
    return keys.flatten().tolist()


def test_a_cache_grows_within_its_room_and_beyond():
    cache = cache_of([1, 2], room=1)
    assert grow(cache, 3) == [1, 2, 3]
    assert grow(cache, 4, 5, 6) == [1, 2, 3, 4, 5, 6]
    assert cache.get_seq_length() == 6


def test_what_is_kept_is_not_touched_by_what_grows_from_it():
    source = cache_of([1, 2, 3])
    store = PrefixStore(10**6, rows_per_image=2)
    store.keep(Kept((10, 11, 12), source.columns(0, 0)))
    grow(source, 99)
    for tail in (7.0, 8.0):
        shared, layers = store.longest([10, 11, 20])
        assert shared == 2
        assert grow(RoomyCache(1, room=4, start=layers), tail) == [1, 2, tail]


def test_a_picture_is_shared_whole_or_not_at_all():
    store = PrefixStore(10**6, rows_per_image=2)
    store.keep(Kept((10, b"x", 11, 12), cache_of([1, 2, 3, 4, 5]).columns(0, 0)))
    assert [tensor.flatten().tolist() for tensor in store.longest([10, b"x", 11, 30])[1][0]] == [
        [1, 2, 3, 4], [-1, -2, -3, -4],
    ]  # fmt: skip
    assert store.longest([10, b"y", 11])[0] == 1
    assert store.longest([9, b"x"]) == (0, ())


def test_one_element_is_always_left_to_run():
    store = PrefixStore(10**6, rows_per_image=2)
    store.keep(Kept((1, 2, 3), cache_of([1, 2, 3]).columns(0, 0)))
    assert store.longest([1, 2, 3])[0] == 2
    assert store.longest([1])[0] == 0


def test_the_budget_holds_and_the_least_recently_used_goes_first():
    entry = 3 * 4 * 2  # three positions, four bytes, keys and values
    store = PrefixStore(2 * entry, rows_per_image=2)
    for name in (1, 2):
        store.keep(Kept((name, 8, 9), cache_of([1, 2, 3]).columns(0, 0)))
    store.longest([1, 8, 9, 9])
    store.keep(Kept((3, 8, 9), cache_of([1, 2, 3]).columns(0, 0)))
    assert [store.longest([name, 8, 9, 9])[0] for name in (1, 2, 3)] == [3, 0, 3]
    assert store.size == 2 * entry
    store.keep(Kept((4, 5), cache_of([1.0] * 7).columns(0, 0)))
    assert store.longest([4, 5, 6])[0] == 0, "larger than the whole budget"
    store.keep(Kept((3, 8, 9, 9), cache_of([1.0] * 7).columns(0, 0)))
    assert store.longest([3, 8, 9, 9])[0] == 3, "and nothing is given up for it"
    assert len(store) == 2


def test_a_conversation_replaces_its_own_beginning():
    store = PrefixStore(10**6, rows_per_image=2)
    store.keep(Kept((1, 2), cache_of([1, 2]).columns(0, 0)))
    store.keep(Kept((1, 2, 3), cache_of([1, 2, 3]).columns(0, 0)))
    assert len(store) == 1
    store.clear()
    assert (len(store), store.size) == (0, 0)


def test_caches_of_different_length_end_together():
    joined, padding = side_by_side([cache_of([1, 2, 3]), cache_of([4])], room=2)
    assert padding == [0, 2]
    assert joined.layers[0].keys[:, 0, :, 0].tolist() == [[1, 2, 3], [0, 0, 4]]
    alone = joined.select([1], room=2)
    assert grow(alone, 5) == [0, 0, 4, 5]
    assert alone.columns(0, 2)[0][0].flatten().tolist() == [4, 5]
