"""The DICOM JSON Model (PS3.18 Annex F), and what a query may ask."""

import json

import pytest
from pydicom import Dataset, Sequence
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from dashboard.dicomweb.model import bulk_element, json_model, json_pieces
from dashboard.dicomweb.qido import Level, parse
from db.queries.dicomweb import How, Match


def one_of_each() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "Møller^Åse"
    ds.PatientWeight = "71.5"
    ds.SeriesNumber = "3"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.StudyID = ""
    ds.FrameIncrementPointer = 0x00181063
    ds.RealWorldValueSlope = float("nan")
    ds.EncryptedAttributesSequence = None
    item = Dataset()
    item.CodeValue = "1"
    item.add_new(0x00091010, "OB", bytes(2000))
    ds.ProcedureCodeSequence = Sequence([item])
    ds.ICCProfile = b"abc"
    ds.RedPaletteColorLookupTableData = bytes(4000)
    return ds


def test_each_kind_of_value_is_written_as_annex_f_says():
    model = json_model(one_of_each(), bulk_address="http://x/bulkdata")
    assert model["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert model["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Møller^Åse"}]}
    assert model["00101030"] == {"vr": "DS", "Value": [71.5]}
    assert model["00200011"] == {"vr": "IS", "Value": [3]}
    assert model["00080008"] == {"vr": "CS", "Value": ["ORIGINAL", "PRIMARY"]}
    assert model["00200010"] == {"vr": "SH"}
    assert model["00280009"] == {"vr": "AT", "Value": ["00181063"]}
    assert model["00409225"] == {"vr": "FD", "Value": ["nan"]}
    assert model["00282000"] == {"vr": "OB", "InlineBinary": "YWJj"}
    assert model["00281201"] == {"vr": "OW", "BulkDataURI": "http://x/bulkdata/00281201"}
    nested = model["00081032"]["Value"][0]
    assert nested["00091010"] == {"vr": "OB", "BulkDataURI": "http://x/bulkdata/00081032/0/00091010"}
    text = b"".join(json_pieces([model])).decode()
    assert json.loads(text) == [model]
    assert "NaN" not in text


def test_a_value_that_cannot_be_decoded_hides_nothing_else():
    ds = one_of_each()
    ds._dict[Tag(0x00280010)] = RawDataElement(Tag(0x00280010), "US", 3, b"abc", 0, False, True)
    model = json_model(ds)
    assert "00280010" not in model
    assert "00100010" in model


def test_no_result_is_an_empty_list():
    assert b"".join(json_pieces([])) == b"[]"


def test_bulk_data_is_found_by_its_address_and_nothing_else_is():
    ds = one_of_each()
    found = bulk_element(ds, "00081032/0/00091010")
    assert found is not None
    assert found.value == bytes(2000)
    for wrong in (
        "00081032/1/00091010",
        "00081032/0",
        "00081032",
        "x",
        "00081032/x/00091010",
        "00100010/0/00091010",
        "",
    ):
        element = bulk_element(ds, wrong)
        assert element is None or not isinstance(element.value, bytes), wrong


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("PatientID", "X-1", Match("PatientID", How.ONE_OF, ("X-1",))),
        ("00100020", "X*", Match("PatientID", How.WILDCARD, ("X*",))),
        ("0020000d", "1.2,1.3\\1.4", Match("StudyInstanceUID", How.ONE_OF, ("1.2", "1.3", "1.4"))),
        ("StudyDate", "20260101-20260131", Match("StudyDate", How.RANGE, ("20260101", "20260131"))),
        ("StudyDate", "-20260131", Match("StudyDate", How.RANGE, ("", "20260131"))),
        ("StudyDate", "20260101-", Match("StudyDate", How.RANGE, ("20260101", ""))),
        ("StudyDate", "20260101", Match("StudyDate", How.RANGE, ("20260101", "20260101"))),
        ("StudyTime", "08-0930", Match("StudyTime", How.RANGE, ("080000", "093059"))),
        ("StudyTime", "10", Match("StudyTime", How.RANGE, ("100000", "105959"))),
        ("ModalitiesInStudy", "CT,MR", Match("ModalitiesInStudy", How.ONE_OF, ("CT", "MR"))),
    ],
)
def test_keys_are_read_as_ps3_4_says(name, value, match):
    query = parse(Level.STUDY, MultiDict([(name, value)]), {})
    assert query.matches == [match]
    assert match.keyword in query.fields


@pytest.mark.parametrize("value", ["", "*"])
def test_an_empty_key_matches_everything_and_is_returned(value):
    query = parse(Level.SERIES, MultiDict([("SeriesDescription", value)]), {})
    assert query.matches == []
    assert "SeriesDescription" in query.fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoSuchThing", "1"), ("0010002", "1"), ("StudyDate", "2026"), ("StudyDate", "-"), ("StudyDate", "today"),
        ("StudyTime", "8"), ("StudyTime", "080000-x"), ("StudyInstanceUID", "abc"), ("limit", "-1"), ("limit", "x"),
        ("offset", "1.5"), ("includefield", "Nonsense"),
    ],
)  # fmt: skip
def test_what_is_no_query_is_refused(name, value):
    with pytest.raises(RefusedInputError):
        parse(Level.STUDY, MultiDict([(name, value)]), {})


def test_a_key_given_twice_is_refused_where_it_names_one_value():
    with pytest.raises(RefusedInputError):
        parse(Level.STUDY, MultiDict([("PatientID", "1"), ("PatientID", "2")]), {})


def test_what_is_not_done_is_said_in_a_warning():
    query = parse(Level.STUDY, MultiDict([("fuzzymatching", "true"), ("StudyID", "7"), ("limit", "99999")]), {})
    assert len(query.warnings) == 2
    assert query.matches == []
    assert query.limit == 1000
