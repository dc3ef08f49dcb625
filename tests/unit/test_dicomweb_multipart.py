"""Bodies in parts (RFC 2046), cut anywhere, and hostile ones."""

import random
import time

import pytest

from config.errors import BrokenBodyError
from dashboard.dicomweb.multipart import Body, parts, write_parts


def cut(content: bytes, size: int):
    """A reader that gives ``size`` bytes at a time."""
    position = 0

    def read(most: int) -> bytes:
        nonlocal position
        piece = content[position : position + min(size, most)]
        position += len(piece)
        return piece

    return read


def read_all(content: bytes, boundary: str = "XX", size: int = 1 << 20) -> list[tuple[dict[str, str], bytes]]:
    return [(dict(part.headers), b"".join(part.pieces)) for part in parts(Body(cut(content, size)), boundary)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_parts_are_the_same_however_the_body_is_cut(size):
    tricky = b"\r\n--XY\r\n--X\r\n--XXX\r\n-\r--XX\r\n"
    content = (
        b"preamble\r\n--XX\r\nA: 1\r\n\r\n"
        + tricky
        + b"\r\n--XX  \t\r\n\r\n\r\n--XX\r\nB:2\r\n\r\n\x00--XX\r\n--XX--epilogue"
    )
    assert read_all(content, size=size) == [({"a": "1"}, tricky), ({}, b""), ({"b": "2"}, b"\x00--XX")]


def test_any_bytes_survive_writing_and_reading():
    chance = random.Random(4)
    for _ in range(50):
        contents = [chance.randbytes(chance.randrange(5000)) for _ in range(chance.randrange(1, 6))]
        body = b"".join(write_parts("XX", (({"Content-Type": "a/b"}, (one,)) for one in contents)))
        size = chance.choice([1, 13, 4096])
        assert [content for _, content in read_all(body, size=size)] == contents


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no boundary at all",
        b"--XX\r\nA: 1\r\n\r\ndata",  # ends in the data
        b"--XX\r\nA: 1\r\n\r\ndata\r\n--XX",  # ends in the delimiter
        b"--XX\r\nA: 1",  # ends in the header
        b"--XX\r\nno colon\r\n\r\ndata\r\n--XX--",
        b"--XX\r\nA: 1\r\n folded\r\n\r\ndata\r\n--XX--",
        b"--XX\r\n" + b"A: 1\r\n" * 100_000,
        b"--XX\r\nA: " + b"x" * 100_000 + b"\r\n\r\ndata\r\n--XX--",
        b"x" * 1_000_000 + b"\r\n--XX\r\n\r\n\r\n--XX--",
    ],
)
@pytest.mark.parametrize("size", [5, 1 << 20])
def test_a_body_that_is_none_is_said_to_be_broken(content, size):
    with pytest.raises(BrokenBodyError):
        read_all(content, size=size)


@pytest.mark.parametrize("boundary", ["", " ", "x" * 300, "a\r\nb", "ä", 'a"b'])
def test_a_boundary_that_is_none_is_refused(boundary):
    with pytest.raises(BrokenBodyError):
        read_all(b"--x--", boundary=boundary)


def test_a_part_that_nobody_reads_is_passed_over():
    content = b"--XX\r\n\r\none\r\n--XX\r\n\r\ntwo\r\n--XX--"
    found = list(parts(Body(cut(content, 4)), "XX"))
    assert len(found) == 2


def test_no_piece_is_larger_than_a_read():
    content = b"--XX\r\n\r\n" + bytes(5_000_000) + b"\r\n--XX--"
    part = next(parts(Body(cut(content, 1 << 30)), "XX"))
    sizes = [len(piece) for piece in part.pieces]
    assert sum(sizes) == 5_000_000
    assert max(sizes) <= 1 << 17


def test_a_sender_that_stops_is_given_up():
    def stopped(most: int) -> bytes:
        raise BlockingIOError

    with pytest.raises(BrokenBodyError, match="stopped"):
        list(parts(Body(stopped), "XX"))


def test_a_sender_that_crawls_is_late_while_it_is_waited_for():
    late = []

    def read(most: int) -> bytes:
        late.append(body.is_late)
        time.sleep(1.1)
        late.append(body.is_late)
        return b""

    body = Body(read, slow_bytes_per_s=1 << 20)
    body.read()
    assert late == [False, True]
    assert not body.is_late
