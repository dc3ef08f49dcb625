"""The walk over encoded Data Sets: one typed error for whatever is wrong, and what pydicom reads otherwise."""

import struct
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from config.errors import UnreadableDatasetError
from instances.elements import BeyondError, find_elements

PATIENT_ID, STUDY_UID = 0x00100020, 0x0020000D
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit)


def encode(ds, *, implicit):
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return buffer.getvalue()


def nested(depth, *, undefined):
    """A Data Set with a sequence in a sequence in a sequence, lengths defined or not."""
    inner = Dataset()
    inner.CodeValue = "T-1"
    for _ in range(depth):
        outer = Dataset()
        inner.is_undefined_length_sequence_item = undefined
        outer.ConceptNameCodeSequence = Sequence([inner, inner])
        outer["ConceptNameCodeSequence"].is_undefined_length = undefined
        inner = outer
    inner.PatientID = "P-7"
    inner.StudyInstanceUID = "1.2.3"
    return inner


@given(data=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
@example(data=b"\x08\x00\x18\x00UI\xff\xff", syntax=ExplicitVRLittleEndian)
@example(data=b"\x08\x00\x18\x00OB\x00\x00", syntax=ExplicitVRLittleEndian)
@settings(max_examples=400, deadline=None)
def test_random_bytes_give_values_or_the_typed_error(data, syntax):
    try:
        found = find_elements(data, syntax, {PATIENT_ID})
    except UnreadableDatasetError:
        return
    assert set(found) <= {PATIENT_ID}


@given(
    position=st.integers(0, 10_000),
    value=st.integers(0, 255),
    implicit=st.booleans(),
    undefined=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_one_changed_byte_gives_values_or_the_typed_error(position, value, implicit, undefined):
    data = bytearray(encode(nested(4, undefined=undefined), implicit=implicit))
    data[position % len(data)] = value
    try:
        find_elements(bytes(data), ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian, {PATIENT_ID})
    except UnreadableDatasetError:
        pass


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("undefined", [True, False])
def test_values_behind_sequences_are_found(implicit, undefined):
    data = encode(nested(5, undefined=undefined), implicit=implicit)
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    assert find_elements(data, syntax, {PATIENT_ID, STUDY_UID}) == {PATIENT_ID: b"P-7 ", STUDY_UID: b"1.2.3\0"}


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("undefined", [True, False])
def test_every_cut_that_is_not_between_two_elements_is_noticed(implicit, undefined):
    ds = nested(3, undefined=undefined)
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data = encode(ds, implicit=implicit)
    boundaries = {len(encode(ds[: elem.tag], implicit=implicit)) for elem in ds} - {0}
    for cut in range(1, len(data)):
        if cut in boundaries:
            find_elements(data[:cut], syntax, ())
        elif any(data[max(b for b in {0, *boundaries} if b < cut) : cut]):
            with pytest.raises(UnreadableDatasetError):
                find_elements(data[:cut], syntax, ())


def test_cut_pixel_data_is_noticed_native_and_encapsulated():
    ds = Dataset()
    ds.add_new("PixelData", "OW", bytes(100))
    with pytest.raises(UnreadableDatasetError, match="announces 100 bytes, 99 follow"):
        find_elements(encode(ds, implicit=True)[:-1], ImplicitVRLittleEndian, ())
    ds.add_new("PixelData", "OB", encapsulate([b"\xff\xd8" * 20, b"\xff\xd9" * 20]))
    ds["PixelData"].is_undefined_length = True
    data = encode(ds, implicit=False)
    assert find_elements(data, JPEGBaseline8Bit, ()) == {}
    for cut in (1, 8, 9, 40):
        with pytest.raises(UnreadableDatasetError):
            find_elements(data[:-cut], JPEGBaseline8Bit, ())


def test_deflated_is_read_and_its_damage_noticed():
    plain = encode(nested(2, undefined=True), implicit=False)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(plain) + deflater.flush()
    assert find_elements(data + b"\0", DeflatedExplicitVRLittleEndian, {PATIENT_ID}) == {PATIENT_ID: b"P-7 "}
    for broken in (data[:-4], b"\xff" * 20, plain):
        with pytest.raises(UnreadableDatasetError):
            find_elements(broken, DeflatedExplicitVRLittleEndian, ())


def test_sequences_nested_without_end_are_refused_not_recursed():
    open_sequence = struct.pack("<HHI", 0x0040, 0xA730, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(UnreadableDatasetError, match="deep"):
        find_elements(open_sequence * 5000, ImplicitVRLittleEndian, ())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\x02\x00\x10\x00UI\x04\x001.2\x00", r"\(0002,0010\) has no place"),
        (b"\x00\x00\x00\x01US\x02\x00\x01\x00", r"\(0000,0100\) has no place"),
        (b"\xfe\xff\x0d\xe0\x00\x00\x00\x00", "no value representation"),
        (b"\x10\x00\x20\x00LO\x02\x00AB" * 2, "stands twice"),
        (b"\x10\x00\x20\x00LO\x02\x00ABxyz", "3 stray bytes"),
    ],
)
def test_what_has_no_place_in_a_data_set_is_named(data, said):
    with pytest.raises(UnreadableDatasetError, match=said):
        find_elements(data, ExplicitVRLittleEndian, {PATIENT_ID})


def test_big_endian_is_not_read():
    with pytest.raises(UnreadableDatasetError, match="Big Endian"):
        find_elements(b"\x00\x10\x00\x20LO\x00\x02AB", ExplicitVRBigEndian, ())


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_the_beginning_gives_the_same_answer_or_says_that_it_is_not_enough(syntax, undefined):
    ds = nested(3, undefined=undefined)
    ds.PixelData = encapsulate([b"ab" * 20, b"c" * 9]) if syntax == JPEGBaseline8Bit else b"12" * 50
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", syntax == JPEGBaseline8Bit
    data = encode(ds, implicit=syntax == ImplicitVRLittleEndian)
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    whole, enough = find_elements(data, syntax, {PATIENT_ID, STUDY_UID}), 0
    assert set(whole) == {PATIENT_ID, STUDY_UID}
    for length in range(len(data) + 1):
        try:
            assert find_elements(data[:length], syntax, {PATIENT_ID, STUDY_UID}, size=len(data)) == whole
            enough += 1
        except BeyondError:
            assert length < len(data)
    is_native = syntax in {ExplicitVRLittleEndian, ImplicitVRLittleEndian}
    assert enough > 90 if is_native else enough >= 1


@given(data=st.binary(max_size=300), cut=st.integers(0, 300), syntax=st.sampled_from(SYNTAXES))
@settings(max_examples=400, deadline=None)
def test_the_beginning_of_nonsense_is_the_same_nonsense(data, cut, syntax):
    def answer(part):
        try:
            return find_elements(part, syntax, {PATIENT_ID}, size=len(data))
        except UnreadableDatasetError as exc:
            return str(exc)

    try:
        assert answer(data[:cut]) == answer(data)
    except BeyondError:
        assert cut < len(data)
