"""The digest of a kept file is that of the bytes that were received, in memory that does not grow with it."""

import hashlib
import tracemalloc

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from config.errors import UnreadableDatasetError
from instances.part10 import FileMeta, dataset_digest, file_head

HEAD = file_head(FileMeta(CTImageStorage, "1.2.3", ExplicitVRLittleEndian, "MODALITY"))


def test_a_large_file_is_read_in_pieces(tmp_path):
    path, size = tmp_path / "large.dcm", 96 << 20
    with path.open("wb") as file:
        file.write(HEAD + b"first")
        file.truncate(len(HEAD) + size)
    tracemalloc.start()
    try:
        digest = dataset_digest(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    expected = hashlib.sha256(b"first")
    for _ in range(95):
        expected.update(bytes(1 << 20))
    expected.update(bytes((1 << 20) - 5))
    assert digest == expected.hexdigest()
    assert peak < 4 << 20


@pytest.mark.parametrize("data", [b"", b"x", b"pixels" * 1000])
def test_only_the_data_set_counts(tmp_path, data):
    path = tmp_path / "small.dcm"
    path.write_bytes(HEAD + data)
    assert dataset_digest(path) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("content", [b"", b"short", bytes(200), HEAD[:150]])
def test_what_is_no_dicom_file_has_none(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UnreadableDatasetError):
        dataset_digest(path)
