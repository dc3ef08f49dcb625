"""Files written past the page cache: the same bytes as through it, wherever a block or a buffer ends."""

import errno
import hashlib
import os
import random
from pathlib import Path

import pytest

from instances.direct_file import BUFFER_BYTES, DirectFile

HEAD = b"head" * 90
SIZES = sorted(
    {0, 1, 2, 511, 512}
    | {whole - len(HEAD) + odd for whole in (4096, 8192, BUFFER_BYTES, 3 * BUFFER_BYTES) for odd in (-1, 0, 1)}
    | {5 * BUFFER_BYTES + 12345}
)
CONTENT = random.Random(4).randbytes(max(SIZES))


def made(path: Path, content: bytes, *, piece: int = 100_000) -> DirectFile:
    file = DirectFile(str(path), HEAD, mode=0o640)
    for at in range(0, len(content), piece):
        file.write(memoryview(content)[at : at + piece])
    return file


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [4095, 131_060, 2 * BUFFER_BYTES])
def test_every_length_is_kept_to_the_byte(tmp_path, size, piece):
    content = CONTENT[:size]
    file = made(tmp_path / "a", content, piece=piece)
    file.flush()
    assert (tmp_path / "a").read_bytes() == HEAD + content
    assert (file.size, file.sha256.hexdigest()) == (size, hashlib.sha256(content).hexdigest())
    assert file.beginning == content[: BUFFER_BYTES - len(HEAD)]
    if size:
        with file.content() as whole:
            assert whole == content
    file.close()


def test_several_at_once_do_not_share_their_bytes(tmp_path):
    contents = [random.Random(n).randbytes(3 * BUFFER_BYTES + n) for n in range(6)]
    files = [DirectFile(str(tmp_path / str(n)), HEAD, mode=0o640) for n in range(6)]
    for at in range(0, len(contents[0]), 50_000):
        for file, content in zip(files, contents, strict=True):
            file.write(memoryview(content)[at : at + 50_000])
    for n, (file, content) in enumerate(zip(files, contents, strict=True)):
        file.flush()
        file.close()
        assert (tmp_path / str(n)).read_bytes() == HEAD + content[: at + 50_000]


def test_one_that_breaks_off_while_it_is_written_does_not_spoil_the_next(tmp_path):
    for n in range(20):
        broken = made(tmp_path / f"broken-{n}", CONTENT[: 2 * BUFFER_BYTES])
        broken.close()
        file = made(tmp_path / str(n), CONTENT[-1_500_000:])
        file.flush()
        file.close()
        assert (tmp_path / str(n)).read_bytes() == HEAD + CONTENT[-1_500_000:]


@pytest.mark.parametrize("makes_it_first", [False, True])
def test_a_file_system_without_direct_writes_gets_the_same_bytes(tmp_path, monkeypatch, makes_it_first):
    real = os.open

    def refuses(path, flags, *mode):
        if flags & os.O_DIRECT:
            if makes_it_first:
                os.close(real(path, flags & ~os.O_DIRECT, *mode))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuses)
    file = made(tmp_path / "a", CONTENT[:1_234_567])
    file.flush()
    assert (tmp_path / "a").read_bytes() == HEAD + CONTENT[:1_234_567]
    file.close()


@pytest.mark.parametrize("odd", [False, True], ids=["in blocks", "in the midst of one"])
def test_writes_that_stop_short_are_gone_on_with(tmp_path, monkeypatch, odd):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: real(handle, data[: 1001 if odd else 8192], at))
    file = made(tmp_path / "a", CONTENT[:2_000_000])
    file.flush()
    assert (tmp_path / "a").read_bytes() == HEAD + CONTENT[:2_000_000]
    file.close()


def test_blocks_larger_than_ours_are_written_through_the_cache(tmp_path, monkeypatch):
    real = os.pwrite

    def wants_more(handle, data, at):
        import fcntl

        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT and len(data) % (1 << 16):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", wants_more)
    file = made(tmp_path / "a", CONTENT[:1_100_000])
    file.flush()
    assert (tmp_path / "a").read_bytes() == HEAD + CONTENT[:1_100_000]
    file.close()


def test_an_error_of_the_disk_is_told_by_the_next_call(tmp_path, monkeypatch):
    def full(handle, data, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = made(tmp_path / "a", CONTENT[: BUFFER_BYTES - 1000])
    monkeypatch.setattr(os, "pwrite", full)
    file.write(memoryview(CONTENT[:2000]))  # the writer fails behind it
    with pytest.raises(OSError, match="No space"):
        file.flush()
    file.close()
    still_open = [os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()]
    assert not [name for name in still_open if name.startswith(str(tmp_path))]
