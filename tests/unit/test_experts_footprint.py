"""Memory is estimated before it is taken, and features live no longer than their Volume."""

import gc

import numpy as np
import pytest

from config.errors import InputTooLargeError
from worker.experts.footprint import FeatureStore, footprint, require_room
from worker.experts.grid import resampling_voxels
from worker.experts.windows import WindowPlan


def need(size, *, features=48, patch=(128, 128, 128)):
    plan = WindowPlan.of(size, patch, 0.25)
    voxels = int(np.prod(size))
    return footprint(plan, grid_voxels=voxels, features=features, widest=48, autocast=True, weights_bytes=873_000_000)


def test_features_of_the_whole_volume_are_voxels_times_channels_times_four_bytes():
    assert need((256, 256, 128)).features_mb == pytest.approx(256 * 256 * 128 * 48 * 4 / 1e6)
    assert need((100, 100, 100)).features_mb == pytest.approx(128**3 * 48 * 4 / 1e6)  # padded to one window


def test_the_published_benchmark_volume_is_read_in_slabs_and_the_one_that_was_killed_is_refused():
    """333 × 333 × 603 ran on a host of 400 GB, 1024 × 1024 × 768 was killed (bundle vista3d, docs/README)."""
    ordinary, large, killed = (need(size) for size in ((256, 256, 256), (333, 333, 603), (1024, 1024, 768)))
    assert ordinary.whole_fits(12_000)
    assert not large.whole_fits(12_000)
    large.require_slabs_fit(12_000)
    with pytest.raises(InputTooLargeError, match=r"needs \d{5,} MB even when read in slabs, the budget is 12000 MB"):
        killed.require_slabs_fit(12_000)


def test_a_volume_that_cannot_even_be_resampled_is_refused_with_numbers():
    require_room(11_000_000, 12.0, step="resampling it")
    with pytest.raises(InputTooLargeError, match="needs 13 MB for resampling it, the budget is 12 MB"):
        require_room(13_000_000, 12.0, step="resampling it")


def test_resampling_counts_the_arrays_alive_at_one_time():
    # (100, 10, 10) → (10, 10, 20): first axis 0 shrinks (1000 voxels twice), then axis 2 grows (1000 + 2 × 2000)
    assert resampling_voxels((100, 10, 10), (10, 10, 20)) == 1000 + 2 * 2000


def test_what_is_kept_belongs_to_one_array_on_one_grid():
    store, array, affine = FeatureStore(), np.zeros((2, 2, 2), np.float32), np.eye(4)
    assert store.of(array, affine) is None
    store.keep(array, affine, "features")
    assert store.of(array, affine) == "features"
    assert store.of(array.copy(), affine) is None
    assert store.of(array, 2 * affine) is None
    store.clear()
    assert store.of(array, affine) is None


def test_another_array_takes_the_place_and_a_dead_one_frees_it():
    store, first, second = FeatureStore(), np.zeros(3, np.float32), np.ones(3, np.float32)
    store.keep(first, np.eye(4), "first")
    store.keep(second, np.eye(4), "second")
    del first  # must not take the second's features with it
    gc.collect()
    assert store.of(second, np.eye(4)) == "second"

    class Features:
        alive = True

        def __del__(self):
            Features.alive = False

    store.keep(second, np.eye(4), Features())
    del second
    gc.collect()
    assert not Features.alive
