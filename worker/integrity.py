"""Whether kept Instances are still what was received: the hash of the Data Set's bytes, without file meta."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble

from config.errors import AlteredInstanceError, PixelsDeletedError
from db.queries import InstancePath

_CHUNK = 1 << 20


def dataset_sha256(path: Path) -> str:
    """Return the SHA-256 of a DICOM file's Data Set in hex, as it was computed when it was received.

    Raises:
        AlteredInstanceError: the file is gone, or is no DICOM file any more.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            read_preamble(stream, False)
            _read_file_meta_info(stream)
            while block := stream.read(_CHUNK):
                digest.update(block)
    except (OSError, InvalidDicomError, ValueError, KeyError, EOFError) as exc:
        raise AlteredInstanceError(f"a kept instance cannot be read back ({type(exc).__name__})") from exc
    return digest.hexdigest()


def require_kept(held: Sequence[InstancePath]) -> None:
    """Refuse to read a Study some of whose files retention deleted: a part of it is not the Study.

    Raises:
        PixelsDeletedError: with how many, and when.
    """
    deleted = [one.deleted_at for one in held if one.deleted_at]
    if deleted:
        raise PixelsDeletedError(
            f"{len(deleted)} of {len(held)} images were deleted by retention on {max(deleted):%Y-%m-%d}"
        )


def require_unchanged(files: Iterable[Path], received: Mapping[Path, str]) -> None:
    """Compare files with the hashes of their reception.

    Args:
        files: what is about to be trusted.
        received: path → SHA-256 of the Data Set when it was received.

    Raises:
        AlteredInstanceError: a file is gone or altered.
    """
    altered = sum(1 for path in files if dataset_sha256(path) != received[path])
    if altered:
        raise AlteredInstanceError(f"{altered} kept instances are not what was received: the store was altered")
