"""Any text fits its value representation, and nothing a reader needs gets lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import RefusedInputError
from reports.text import code_string, one_line, person_name, text_block

ANY = st.text(st.characters(), max_size=300)  # surrogates included


@pytest.mark.requirement("REQ-TEXT-11")
@settings(deadline=None)  # a busy machine is no bug
@given(ANY, st.integers(3, 80))
def test_one_line_is_always_a_legal_long_string(text, limit):
    line = one_line(text, limit)
    assert len(line) <= len(line.encode()) <= limit
    assert "\\" not in line
    assert line == line.strip()
    assert all(ord(char) >= 0x20 and not 0x7F <= ord(char) <= 0x9F for char in line)


@settings(deadline=None)
@given(ANY)
def test_a_text_block_is_encodable_and_breaks_lines_with_cr_lf_only(text):
    block = text_block(text)
    assert not any(ord(char) < 0x20 for char in block.replace("\r\n", ""))
    block.encode()
    assert text_block(block) == block


def test_a_report_keeps_every_word_and_line():
    text = "Heart:\tnormal.\nLungs: 5 mm nodule\r\nLU\\RU – größer\x0bend\x00"
    assert text_block(text) == "Heart:    normal.\r\nLungs: 5 mm nodule\r\nLU\\RU – größer\r\nend"
    assert len(text_block("word " * 200_000)) == 999_999


@pytest.mark.requirement("REQ-TEXT-11")
def test_direction_overrides_cannot_turn_a_side_round():
    assert one_line("\u202etfel\u202c pneumothorax") == "tfel pneumothorax"


def test_a_value_is_not_split_by_a_backslash_and_says_that_it_was_cut():
    assert one_line("a\\b", 64) == "a/b"
    assert one_line("x" * 100, 64) == "x" * 61 + "…"
    assert one_line("漢" * 22, 64) == "漢" * 20 + "…"
    assert one_line("漢" * 21, 64) == "漢" * 21


def test_code_strings_are_upper_case_and_short():
    assert code_string("ai seg (left) – draft") == "AI SEG _LEFT_ _"


@pytest.mark.parametrize(
    ("family", "given_name", "name"),
    [
        ("Räd", "Iola", "Räd^Iola"),
        ("Mono", "", "Mono"),
        ("A^B=C\\D", "E\nF", "A B C D^E F"),
        ("山田", "太郎", "山田^太郎"),
    ],
)
def test_a_name_has_exactly_its_two_parts(family, given_name, name):
    assert person_name(family, given_name) == name


@pytest.mark.parametrize(("family", "given_name"), [("", ""), ("^^", "="), ("\x00", " ")])
def test_a_signer_without_a_name_is_refused(family, given_name):
    with pytest.raises(RefusedInputError):
        person_name(family, given_name)
