"""Whatever arrives is read or refused: no bytes make the reader fail in any other way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import BrokenBodyError
from config.exchange_settings import Hl7Settings
from ris.frames import FrameReader, framed
from ris.inbound import RefusedMessageError, Segment, read_header, read_message
from ris.mllp import read_acknowledgement
from ris.receiving import _read, acknowledgement
from tests.hl7_support import line, msh, sent

WHOLE = sent(
    msh("ORM^O01"),
    line("PID", f3="P-1^^^HOSP&1.2&ISO^MR~77^^^SSN^SS", f5="Doe^Jane^^^^^L^A", f7="19700102", f8="F"),
    line("ORC", f1="NW", f2="PL-1", f7="^^^^^S", f12="O-1^Order^Olga"),
    line("OBR", f4="CT^CT Chest", f18="A-1", f31="^Cough"),
    "NTE|1||a note",
    "ZDS|1.2.3",
)
MERGE = sent(msh("ADT^A40"), line("PID", f3="P-9"), line("MRG", f1="P-1"))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with some of its bytes replaced, removed or added."""
    content = bytearray(draw(st.sampled_from([WHOLE, MERGE])))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 9))] = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"|", b"^", b"~", b"&", b"\\", b"\r", b"MSH|", b"\xff"]))
        )
    return bytes(content)


@settings(max_examples=500, deadline=None)
@given(st.one_of(damaged(), st.binary(max_size=200)))
def test_any_bytes_are_read_or_refused_and_can_be_answered(content):
    header = read_header(content)
    try:
        _read(content, header, Hl7Settings())
        code = ""
    except RefusedMessageError as exc:
        code = exc.code
    answer = acknowledgement(header, Hl7Settings(), "AR" if code else "AA", code)
    assert answer.count(b"\r") == (3 if code else 2)
    said = read_acknowledgement(answer)
    assert said is not None
    assert (said.code, said.error) == ("AR" if code else "AA", code)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_messages_come_out_of_frames_however_the_bytes_are_cut(messages, data):
    messages = [one.translate(None, b"\x0b\x1c") for one in messages]
    stream = b"".join(b"\r\n noise" + framed(one) for one in messages)
    reader, found = FrameReader(4096), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == messages


def test_a_frame_beyond_the_limit_is_an_error_and_one_at_it_is_not():
    assert FrameReader(10).feed(framed(b"x" * 8)) == [b"x" * 8]
    with pytest.raises(BrokenBodyError):
        FrameReader(10).feed(b"\x0b" + b"x" * 11)


@pytest.mark.parametrize(
    ("sent_as", "expected"),
    [
        ("a \\T\\ b \\F\\ c", "a & b | c"),
        ("line\\.br\\next", "line\nnext"),
        ("caf\\XC3A9\\", "caf\u00e9"),
        ("\\H\\bold\\N\\", "bold"),
        ("raw & ampersand", "raw & ampersand"),
        ("a lone \\ stays", "a lone \\ stays"),
        ('""', ""),
    ],
)
def test_text_is_read_as_it_was_meant(sent_as, expected):
    content = sent(msh("ORM^O01"), line("NTE", f3=sent_as))
    note: Segment = read_message(content, read_header(content), processing="P")[1]
    assert note.text(3) == expected
