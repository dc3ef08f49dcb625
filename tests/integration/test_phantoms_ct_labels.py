"""Label maps on disk."""

from pathlib import Path

import numpy as np
import pytest

from config.errors import RefusedInputError
from phantoms.truth import load_labels, save_labels


def test_a_label_map_survives_the_file(tmp_path: Path) -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    save_labels(tmp_path / "labels.npz", labels, affine)
    again, where = load_labels(tmp_path / "labels.npz")
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_array_equal(where, affine)
    assert again.dtype == np.uint8


def test_what_is_no_label_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.npz").write_bytes(b"not a zip archive")
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    for name in ("labels.npz", "other.npz", "absent.npz"):
        with pytest.raises(RefusedInputError, match="not a label map"):
            load_labels(tmp_path / name)
