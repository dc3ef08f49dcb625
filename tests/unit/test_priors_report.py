"""Reading earlier reports out of SR documents of any origin."""

from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
)

from config.errors import RefusedInputError
from instances.part10 import FileMeta, file_head
from reports.prior_report import MAX_CHARACTERS, read_pdf_report, read_prior_report
from tests.node_support import ct_slice, encoded
from tests.priors_support import PATIENT, code, pdf, report, section

TEXT = {"Findings": "A nodule of 6 mm.", "Impression": "Nodule."}
IMAGE = ct_slice(**PATIENT, StudyDate="20220102", StudyDescription="CT chest")


def item(kind: str, meaning: str, **values: object) -> Dataset:
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = "CONTAINS", kind
    ds.ConceptNameCodeSequence = [code("x", "99T", meaning)]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def read_back(ds: Dataset) -> Dataset:
    """As it comes from a file."""
    meta = FileMeta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), ExplicitVRLittleEndian)
    return pydicom.dcmread(BytesIO(file_head(meta) + encoded(ds)))


@pytest.mark.parametrize(
    "sop_class", [BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage]
)
def test_a_verified_report_is_read_with_its_headings(sop_class: str) -> None:
    found = read_prior_report(read_back(report(IMAGE, TEXT, SOPClassUID=sop_class)))
    assert found.sections == (("Findings", "A nodule of 6 mm."), ("Impression", "Nodule."))
    assert (found.title, found.date, found.author) == ("Diagnostic Imaging Report", "2022-01-02", "Reader Rita")
    assert found.is_verified
    assert not found.is_shortened


def test_codes_numbers_and_nested_sections_are_words_too() -> None:
    ds = report(IMAGE, {})
    outer, unit, measured = section("Findings", "See below."), code("mm", "UCUM", "millimeter"), Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "6.5", [unit]
    outer.ContentSequence.append(item("CODE", "Finding", ConceptCodeSequence=[code("1", "SCT", "Nodule")]))
    outer.ContentSequence.append(item("NUM", "Diameter", MeasuredValueSequence=[measured]))
    outer.ContentSequence.append(section("Lungs", "Clear otherwise."))
    outer.ContentSequence.append(item("IMAGE", "Source"))
    ds.ContentSequence = [outer]
    assert read_prior_report(read_back(ds)).sections == (
        ("Findings", "See below.\nFinding: Nodule\nDiameter: 6.5 mm"),
        ("Lungs", "Clear otherwise."),
    )


def test_context_is_not_text() -> None:
    ds = report(IMAGE, TEXT)
    observer = item("PNAME", "Person Observer Name", PersonName="Reader^Rita")
    observer.RelationshipType = "HAS OBS CONTEXT"
    language = item("TEXT", "Language", TextValue="English")
    language.RelationshipType = "HAS CONCEPT MOD"
    ds.ContentSequence = [observer, language, *ds.ContentSequence]
    assert [heading for heading, _ in read_prior_report(ds).sections] == ["Findings", "Impression"]


def test_text_is_of_its_own_character_set_and_holds_no_control_characters() -> None:
    ds = report(IMAGE, {"Beurteilung": "Größe: 6 mm\r\nüber\u202eall \x1b[31mrot"}, SpecificCharacterSet="ISO_IR 192")
    assert read_prior_report(read_back(ds)).sections == (("Beurteilung", "Größe: 6 mm\nüberall [31mrot"),)


def by_device(ds: Dataset) -> Dataset:
    author = Dataset()
    author.ObserverType = "DEV"
    ds.AuthorObserverSequence = [author]
    return ds


def in_tree(ds: Dataset) -> Dataset:
    kind = item("CODE", "Observer Type", ConceptCodeSequence=[code("121007", "DCM", "Device")])
    kind.RelationshipType, kind.ConceptNameCodeSequence = "HAS OBS CONTEXT", [code("121005", "DCM", "Observer Type")]
    ds.ContentSequence = [kind, *ds.ContentSequence]
    return ds


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (report(IMAGE, TEXT, CompletionFlag="PARTIAL"), "not complete"),
        (report(IMAGE, TEXT, SOPClassUID=CTImageStorage), "not a text report"),
        (report(IMAGE, {}), "no text"),
        (by_device(report(IMAGE, TEXT, VerificationFlag="UNVERIFIED")), "a device's draft"),
        (in_tree(report(IMAGE, TEXT, VerificationFlag="UNVERIFIED")), "a device's draft"),
        (report(IMAGE, TEXT, ConceptNameCodeSequence=[code("126000", "DCM", "Imaging Report")]), "measurements only"),
        (Dataset(), "not a text report"),
    ],
)
def test_what_is_no_report_of_a_person_is_refused(document: Dataset, why: str) -> None:
    with pytest.raises(RefusedInputError, match=why):
        read_prior_report(document)


def test_a_device_s_draft_that_a_person_verified_is_a_report() -> None:
    assert read_prior_report(by_device(report(IMAGE, TEXT))).is_verified


def test_an_unverified_report_of_a_person_says_so() -> None:
    ds = report(IMAGE, TEXT, VerificationFlag="UNVERIFIED")
    author = Dataset()
    author.ObserverType, author.PersonName = "PSN", "Writer^Willi=書^人"
    ds.AuthorObserverSequence = [author]
    found = read_prior_report(ds)
    assert (found.is_verified, found.author, found.date) == (False, "Writer Willi", "2022-01-02")


def test_missing_items_are_just_not_there() -> None:
    ds = report(IMAGE, TEXT)
    for keyword in ("VerifyingObserverSequence", "ConceptNameCodeSequence", "ContentDate"):
        delattr(ds, keyword)
    ds.ContentSequence.insert(0, Dataset())
    ds.ContentSequence[1].ContentSequence.append(item("NUM", "Diameter"))
    ds.ContentSequence[1].ContentSequence.append(item("TEXT", "Nothing"))
    del ds.ContentSequence[2].ConceptNameCodeSequence
    found = read_prior_report(ds)
    assert found.sections == (("Findings", "A nodule of 6 mm."), ("", "Nodule."))
    assert (found.title, found.date, found.author) == ("Report", "", "")


def test_depth_size_and_number_of_items_are_bounded() -> None:
    deep = section("Innermost", "hidden")
    for level in range(500):
        outer = section(f"Level {level}", "text" if level == 499 else "")
        outer.ContentSequence.append(deep)
        deep = outer
    found = read_prior_report(report(IMAGE, {}, ContentSequence=[deep]))
    assert found.is_shortened
    assert found.sections == (("Level 499", "text"),)
    long = read_prior_report(report(IMAGE, {"Findings": "x" * 10 * MAX_CHARACTERS, "Impression": "y"}))
    assert long.is_shortened
    assert sum(len(text) for _, text in long.sections) < MAX_CHARACTERS + 10
    many = read_prior_report(report(IMAGE, {f"Section {n}": "text" for n in range(5000)}))
    assert many.is_shortened
    assert len(many.sections) <= 2000


def test_a_pdf_is_noted() -> None:
    assert vars(read_pdf_report(read_back(pdf(IMAGE)))) == {"title": "Radiology report", "date": "2022-01-02"}
    with pytest.raises(RefusedInputError):
        read_pdf_report(report(IMAGE, TEXT))
