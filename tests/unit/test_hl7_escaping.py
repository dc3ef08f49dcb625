"""No text can become a delimiter, a segment or a frame: properties over any Unicode text, judged by two parsers."""

import re
import unicodedata
from dataclasses import replace

import hl7
import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.document import Addendum, Code, OrderFacts, PatientFacts, StudyFacts
from reports.hl7 import build_oru
from reports.hl7_encoding import Formatted, escape, unescape
from reports.values import AlgorithmIdentity, Section
from tests.hl7_support import HL7, RIS, WRITTEN, document, signed, signer

_HOSTILE = st.sampled_from(
    ["\r", "\n", "\x0b", "\x1c", "\x1c\r", "\\", "|", "^", "&", "~", "\\F\\", "\\X0D\\", "\\.br\\", "\rOBX|1|FT|x"]
)
TEXT = st.lists(st.one_of(_HOSTILE, st.text(max_size=6)), max_size=8).map("".join)
_ANY = st.text(alphabet=st.characters(), max_size=60)  # surrogates too
# C0 and C1 controls, separators, surrogates, bidirectional overrides, byte order marks and noncharacters
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
_ALSO = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff")
_ENDS = re.compile("\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]")


def _expected_lines(text):
    """What a reader must get of a text of several lines, written down independently of the code."""
    lines = _ENDS.split(unicodedata.normalize("NFC", text).replace("\t", "    "))
    seen = ["".join(c for c in line if unicodedata.category(c) not in _UNSEEN and c not in _ALSO) for line in lines]
    return "\n".join(line.rstrip() for line in seen).strip()


def _expected(text):
    return " ".join(_expected_lines(text).split())


@pytest.mark.requirement("REQ-TEXT-11")
@settings(max_examples=400, deadline=None)
@given(st.one_of(TEXT, _ANY))
def test_escaped_text_holds_nothing_that_has_a_meaning_and_comes_back(text):
    for form, expected in ((text, _expected(text)), (Formatted(text), _expected_lines(text))):
        escaped = escape(form)
        assert not set("\r\n\x0b\x1c|^&~") & set(escaped)
        assert re.fullmatch(r"([^\\]|\\([EFSTR]|\.br)\\)*", escaped, re.DOTALL)
        assert unescape(escaped) == expected


def _full(text):
    """Return a report that says ``text`` wherever words from outside can stand."""
    one = signer(printed_name=text, family=text, given=text)
    other = replace(one, staff_id=f"x{text}")
    return document(
        "addended",
        patient=PatientFacts(text, text, text, text, text),
        study=StudyFacts(text, text, text, text, text, text),
        order=OrderFacts(
            accession_number=text,
            placer_order_number=text,
            filler_order_number=text,
            procedure=Code(text, text, text),
            indication=text,
            ordering_provider=text,
            ordering_provider_id=text,
            visit_number=text,
            patient_class=text,
            patient_location=text,
        ),
        sections=[Section("findings", text), Section("impression", text)],
        addenda=[Addendum(1, text, one)],
        signatures=(signed("preliminary", other), signed("final", one)),
        correction=f"because {text}",
        algorithms=(AlgorithmIdentity(text, text, text, "ab"),),
        not_assessed=(text,),
    )


def _leaf(element):
    """Return the text hl7apy read: its to_er7 and value escape again, and do not know ``\\.br\\``."""
    while getattr(element, "children", None):
        element = element.children[0]
    return getattr(element.value, "value", element.value) or ""


SEGMENTS = ["MSH", "PID", "PV1", "ORC", "OBR", "NTE", "NTE", "NTE", "TQ1", "OBX", "OBX", "OBX", "OBX"]


@settings(max_examples=120, deadline=None)
@given(TEXT)
def test_any_text_in_every_field_gives_the_same_segments_to_both_parsers(text):
    content = build_oru(_full(text), RIS, HL7, uid="2.25.1", pdf=None)
    assert not {0x0B, 0x1C, 0x0A} & set(content)
    # python-hl7
    ours = hl7.parse(content)
    assert [str(segment[0]) for segment in ours] == SEGMENTS
    sections = [segment for segment in ours if str(segment[0]) == "OBX"][1:]
    assert {unescape(str(segment[5])) for segment in sections} == {_expected_lines(text)}
    obr = next(segment for segment in ours if str(segment[0]) == "OBR")
    assert len(obr) <= 45
    assert unescape(str(obr[18])) == _expected(text)
    # hl7apy
    theirs = parse_message(content.decode(), find_groups=False)
    assert [segment.name for segment in theirs.children] == SEGMENTS
    values = [unescape(_leaf(row.obx_5)) for row in theirs.obx][1:]
    assert set(values) == {_expected_lines(text)}
    assert unescape(_leaf(theirs.pid.pid_3.pid_3_1)) == _expected(text)
    assert unescape(_leaf(theirs.obr.obr_18)) == _expected(text)


def test_lines_of_a_report_do_not_start_segments():
    attack = "ok\rOBX|9|FT|19005-8^^LN||Normal.||||||F\r\x1c\r\x0bMSH|^~\\&|"
    content = build_oru(document("final", sections=[Section("findings", attack)]), RIS, HL7, uid="1", pdf=None)
    assert content.count(b"\rOBX|") == 2
    assert b"OBX\\F\\9\\F\\FT" in content
    assert WRITTEN.strftime("%Y%m%d").encode() in content
