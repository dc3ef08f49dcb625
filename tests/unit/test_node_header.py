"""The indexed attributes: UIDs checked before they name a path, text in any character set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.errors import InvalidUidError, MissingUidError, UnreadableDatasetError
from instances.header import read_header, valid_uid
from instances.inbox import instance_path
from tests.node_support import ct_slice, encoded


@pytest.mark.parametrize(
    "uid",
    [
        "../../etc/passwd", "1.2/3", "1.2\\3", "..", ".", "1..2", ".1", "1.", "1.2 3", "1.2\0.3", "a.b", "1.2.-3",
        "1,2", "１.２", "1." * 32 + "1", "1.2\n", "%2e%2e", "~", "C:1",
    ],
)  # fmt: skip
def test_what_is_no_uid_never_names_a_path(uid):
    with pytest.raises(InvalidUidError):
        valid_uid(uid, what="UID")


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008", "2.25." + "9" * 39, "1.02.3", "1" * 64])
def test_uids_and_common_near_misses_are_taken(uid):
    assert valid_uid(uid, what="UID") == uid


@given(st.text(max_size=70))
def test_an_accepted_uid_is_one_plain_path_component(uid):
    try:
        valid_uid(uid, what="UID")
    except InvalidUidError:
        return
    assert set(uid) <= set("0123456789.")
    assert uid not in {".", ".."}
    assert 0 < len(uid) <= 64


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_header_of_a_slice(syntax):
    ds = ct_slice(
        AccessionNumber="A1", StudyDate="20260101", SeriesNumber=3, InstanceNumber=-4, ReferringPhysicianName="Ref^Er",
        IssuerOfPatientID="HOSP", SeriesDescription="thin", PatientSex="F", PatientBirthDate="19500101",
    )  # fmt: skip
    header = read_header(encoded(ds, syntax), syntax)
    assert header.study_instance_uid == ds.StudyInstanceUID
    assert (header.patient_name, header.patient_id, header.issuer_of_patient_id) == ("Test^Patient", "P-1", "HOSP")
    assert (header.modality, header.body_part, header.accession_number) == ("CT", "CHEST", "A1")
    assert (header.series_number, header.instance_number) == (3, -4)
    assert (header.referring_physician, header.study_date, header.patient_sex) == ("Ref^Er", "20260101", "F")
    assert header.transfer_syntax_uid == syntax
    assert instance_path(header) == f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_missing_uid_is_named(keyword, how):
    ds = ct_slice(**{keyword: None if how == "absent" else ""})
    with pytest.raises(MissingUidError, match=keyword):
        read_header(encoded(ds), ExplicitVRLittleEndian)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_malformed_study_uid_is_not_called_missing():
    with pytest.raises(InvalidUidError, match="StudyInstanceUID is not a UID") as caught:
        read_header(encoded(ct_slice(StudyInstanceUID="1.2/../3")), ExplicitVRLittleEndian)
    assert not isinstance(caught.value, MissingUidError)


@pytest.mark.parametrize(
    ("terms", "raw", "name"),
    [
        ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东".encode(), "Wang^XiaoDong=王^小东"),  # PS3.5 J.1
        (  # PS3.5 H.3.1, example 1
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),  # PS3.5 K
        ("", b"M\xfcller", "Müller"),  # undeclared: Latin-1
        ("NO SUCH SET", "Müller".encode(), "Müller"),
        ("ISO_IR 192", b"broken \xff\xfe", "broken ÿþ"),
    ],
)
def test_names_are_decoded_with_their_character_set(terms, raw, name):
    ds = ct_slice(PatientName=None)
    charset = terms.encode() + b" " * (len(terms) % 2)
    raw += b" " * (len(raw) % 2)
    head = b"\x08\x00\x05\x00CS" + len(charset).to_bytes(2, "little") + charset
    patient = b"\x10\x00\x10\x00PN" + len(raw).to_bytes(2, "little") + raw
    assert read_header(head + encoded(ds) + patient, ExplicitVRLittleEndian).patient_name == name


def test_control_characters_and_numbers_that_are_none_are_dropped():
    ds = ct_slice(InstanceNumber=None)
    ds.add_new("SeriesNumber", "LO", "12a")
    ds.add_new("StudyDescription", "LO", "a\tb\x07c ")
    ds.add_new("InstanceNumber", "LO", "99999999999")
    header = read_header(encoded(ds), ExplicitVRLittleEndian)
    assert header.study_description == "abc"
    assert header.series_number is None
    assert header.instance_number is None


@given(st.binary(max_size=300))
def test_header_of_random_bytes_is_a_typed_error(data):
    # 300 random bytes do not hold four UIDs
    with pytest.raises((UnreadableDatasetError, InvalidUidError)):
        read_header(data, ImplicitVRLittleEndian)
