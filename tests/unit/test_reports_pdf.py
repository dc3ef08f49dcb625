"""The PDF of a report: pypdf reads back what a reader sees on every page, and the archive gets the same bytes."""

import io
import re
import unicodedata
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pydicom
import pypdf
import pytest

from config.errors import RefusedInputError
from reports.document import (
    Addendum,
    Code,
    OrderFacts,
    PatientFacts,
    ReportDocument,
    ReportedFinding,
    SeriesFacts,
    SignatureFacts,
    StudyFacts,
)
from reports.encapsulated_pdf import build_encapsulated_pdf
from reports.pdf import build_pdf, person
from reports.pdf_page import MISSING
from reports.typefaces import east_asian_typeface, typeface
from reports.values import MeasurementValue, Section, SignOff
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    SIGNER,
    dciodvfy,
    identity_of,
    radiograph,
    written,
)

WRITTEN_AT = datetime(2026, 11, 22, 14, 5, 6, tzinfo=timezone(timedelta(hours=1)))
SIGNED = SignatureFacts(replace(SIGNER, signed_at=WRITTEN_AT), "final", "reviewed and approved as author", "ab" * 32)
ROUND = "The liver is of normal size. "


def report(state="draft", **changes):
    """A report of about one page; keyword arguments replace its parts."""
    document = ReportDocument(
        state=state,
        uid="2.25.1234",
        report_uid="2.25.1",
        written_at=WRITTEN_AT,
        patient=PatientFacts("P-0001", "GENHOSP", "Øster^Åse^^Dr.", "19600102", "F"),
        study=StudyFacts("1.2.3", "20261121", "083000", "", "Thorax", "Ref^Paul", [SeriesFacts("1.2.3.4", "CT")]),
        order=OrderFacts("A-77", procedure=Code("24627-2", "LN", "Chest scan"), indication="Cough."),
        sections=[Section("findings", "Lungs: clear.\nLiver: ≤ 15 cm."), Section("impression", "No acute finding.")],
        signatures=[] if state == "draft" else [SIGNED],
        algorithms=[ALGORITHM],
        organization="General Hospital",
    )
    return replace(document, **changes)


def pages(document):
    """Return the text of each page as pypdf extracts it, blanks made single."""
    reader = pypdf.PdfReader(io.BytesIO(build_pdf(document)), strict=True)
    return [" ".join(page.extract_text().split()) for page in reader.pages]


def long_report(state="draft", **changes):
    return report(state, sections=[Section("findings", (ROUND * 40 + "\n\n") * 12)], **changes)


@pytest.mark.requirement("REQ-LABEL-2")
@pytest.mark.parametrize(
    ("state", "algorithm", "notice"),
    [
        ("draft", ALGORITHM, "AI-generated draft, not verified"),
        ("draft", DEMONSTRATION, "AI-generated draft, not verified – DEMONSTRATION MODEL, not for clinical use"),
        ("preliminary", ALGORITHM, "Preliminary report, not verified"),
    ],
)
def test_until_a_radiologist_signed_every_page_says_so_above_and_below(state, algorithm, notice):
    texts = pages(long_report(state, algorithms=[algorithm]))
    assert len(texts) >= 4
    for text in texts:
        assert text.startswith(notice)
        assert text.count(notice) >= 2


@pytest.mark.requirement("REQ-LABEL-6")
@pytest.mark.parametrize("state", ["final", "addended", "corrected"])
def test_a_verified_report_carries_no_notice_but_says_what_its_ai_part_is(state):
    plain = pages(long_report(state))
    assert "not verified" not in " ".join(plain)
    assert "draft" not in " ".join(plain).lower()
    for text in pages(long_report(state, algorithms=[DEMONSTRATION])):
        assert "AI part: DEMONSTRATION MODEL, not for clinical use" in text
        assert "not verified" not in text


@pytest.mark.requirement("REQ-CONF-6")
def test_every_page_names_organisation_patient_study_version_and_its_number():
    texts = pages(long_report("final"))
    for number, text in enumerate(texts, 1):
        for words in ("General Hospital", "Øster, Dr. Åse", "P-0001 (GENHOSP)", "1960-01-02 · female", "A-77",
                      "2026-11-21 08:30", "CT · Chest scan", "Radiology report – Final", "2.25.1234",
                      "2026-11-22 14:05:06 UTC+01:00", f"Page {number} of {len(texts)}"):  # fmt: skip
            assert words in text, (number, words)


def test_sections_come_with_headings_in_order():
    (text,) = pages(report(sections=[Section("history", "Fever."), *report().sections]))
    parts = ["History / indication", "Fever.", "Findings", "Lungs: clear.", "Liver: ≤ 15 cm.", "Impression",
             "No acute finding.", "Signatures", "Not signed."]  # fmt: skip
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)


@pytest.mark.requirement("REQ-SIGN-6")
def test_a_signature_shows_printed_name_moment_with_zone_and_meaning():
    (text,) = pages(report("final"))
    block = text[text.index("Signatures") :]
    for words in ("Dr. Iola Räd", "2026-11-22 14:05:06 UTC+01:00", "reviewed and approved as author",
                  "General Hospital", "ST-4711", "ab" * 32):  # fmt: skip
        assert words in block


def test_addenda_name_number_signer_and_moment_and_a_correction_its_reason():
    added = Addendum(2, "Seen with the late images.", SIGNED.signer)
    (text,) = pages(report("addended", addenda=[added]))
    assert "Addendum 2 Dr. Iola Räd, 2026-11-22 14:05:06 UTC+01:00 Seen with the late images." in text
    (text,) = pages(report("corrected", correction="The side was wrong."))
    assert "Radiology report – Corrected" in text
    assert "Correction The side was wrong." in text


def test_the_table_of_findings_shows_side_score_measurements_and_decision():
    volume = MeasurementValue("volume", 0.1134, "cm3")
    finding = ReportedFinding(
        "lung nodule", None, "present", "right", 0.914, measurements=[volume], decision="rejected", reason="a vessel"
    )
    (text,) = pages(report("final", findings=[finding, ReportedFinding("hernia", None, "absent")]))
    assert "lung nodule right present, score 0.91 volume 0.1134 cm³ rejected: a vessel" in text
    assert "hernia – absent – not decided" in text
    assert "not probabilities" in text


@pytest.mark.requirement("REQ-LABEL-5")
def test_every_model_is_named_with_version_weights_and_limits():
    (text,) = pages(report("final", algorithms=[ALGORITHM, DEMONSTRATION, ALGORITHM], not_assessed=["hernia: failed"]))
    assert text.count("VISTA3D 0.5.0, MONAI") == 1
    assert "CXR 0.1.0, Firstread – DEMONSTRATION MODEL, not for clinical use" in text
    assert "ab" * 32 in text
    assert "cd" * 32 in text
    assert "Not assessed hernia: failed" in text


@pytest.mark.parametrize(
    "words",
    ["Größe 5 µm, Übelkeit", "Сердце не увеличено", "Καρδιά φυσιολογική", "≥ 5 mm → ∅ ≈ 3 ± 1 ‰", "Đặng Thị", "Łódź"],
)
def test_european_scripts_and_signs_are_shown(words):
    (text,) = pages(report(sections=[Section("findings", words)]))
    assert words in text
    assert "cannot be shown" not in text


@pytest.mark.requirement("REQ-DELIV-9")
@pytest.mark.parametrize("words", ["لا يوجد استرواح صدري", "הלב בגודל תקין"])
def test_right_to_left_scripts_are_shaped_and_stay_readable(words):
    (text,) = pages(report(sections=[Section("findings", words)]))
    plain = unicodedata.normalize("NFKC", text).replace("\u200b", "").replace(" ", "")  # shaped forms back to letters
    for word in words.split():
        assert word in plain or word[::-1] in plain  # readers give lines in reading or in visual order
    assert MISSING not in text


@pytest.mark.parametrize("words", ["肝臓に異常なし", "폐에 이상 없음", "肺部未见异常"])
def test_east_asian_text_is_shown_or_visibly_missing_and_said_to_be(words):
    (text,) = pages(
        report(sections=[Section("findings", f"ok {words}")], patient=PatientFacts("P-1", "", "A^B=山田^太郎"))
    )
    if east_asian_typeface():
        text = text.replace("\x00", "")  # pypdf takes the two-byte codes of an embedded CMap for two characters
        assert words in text
        assert "山田 太郎" in text
    else:
        assert MISSING * len(words.split()[0]) in text
        assert "Some characters cannot be shown here" in text
        assert "structured report of this study has them" in text


def test_what_no_font_has_is_a_visible_box_never_dropped():
    (text,) = pages(report(sections=[Section("findings", "a\U000e0fffb \U0001f9ff c")]))
    assert f"a{MISSING}b {MISSING} c" in text
    assert "cannot be shown" in text


def test_control_characters_bidi_overrides_and_lone_surrogates_do_no_harm():
    (text,) = pages(report(sections=[Section("findings", "one\x00\x1b[31m two\u202eevil\ud800 three\x0cfour")]))
    assert "one[31m twoevil three four" in text


@pytest.mark.requirement("REQ-KEEP-4")
def test_long_words_and_very_long_sections_are_complete():
    word = "https://example.org/" + "a1b2c3" * 60
    texts = pages(report(sections=[Section("findings", word), Section("impression", "Wort " * 13_000)]))
    joined = "".join(texts).replace(" ", "")
    assert word in joined
    assert sum(text.count("Wort") for text in texts) == 13_000
    assert len(texts) > 10


def test_extreme_facts_stay_on_the_page():
    endless = PatientFacts("P" * 500, "I" * 500, "N" * 900, "19600102", "F")
    finding = ReportedFinding("f" * 5000, None, "present", reason="r" * 9000, decision="rejected")
    texts = pages(report("final", patient=endless, organization="O" * 5000, findings=[finding] * 3))
    assert all("…" in text for text in texts)
    assert "Page 1 of" in texts[0]


def test_the_same_document_gives_the_same_bytes_and_metadata_without_the_patient():
    document = report("final")
    content = build_pdf(document)
    assert content == build_pdf(document)
    assert content != build_pdf(replace(document, written_at=WRITTEN_AT + timedelta(seconds=1)))
    reader = pypdf.PdfReader(io.BytesIO(content))
    assert reader.metadata.title == "Radiology report"
    assert reader.metadata.creation_date == WRITTEN_AT
    assert not re.search(r"Øster|Åse|P-0001|A-77", str(dict(reader.metadata)))
    assert reader.trailer["/Root"]["/Lang"] == "en-US"
    assert {str(one.title) for one in reader.outline} >= {"Findings", "Impression", "Signatures"}


def test_every_font_is_embedded():
    reader = pypdf.PdfReader(io.BytesIO(build_pdf(report(sections=[Section("findings", "≤ لا הלב a")]))))
    fonts = {name: font for page in reader.pages for name, font in page["/Resources"]["/Font"].items()}
    descriptors = [font.get_object()["/DescendantFonts"][0].get_object()["/FontDescriptor"] for font in fonts.values()]
    assert len(descriptors) >= 5
    assert all("/FontFile2" in one or "/FontFile3" in one for one in descriptors)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Yamada^Taro=山田^太郎=やまだ^たろう", "Yamada, Taro (山田 太郎, やまだ たろう)"),
        ("=山田^太郎", "山田 太郎"),
        ("Adams^John Robert^Quincy^Rev.^B.A. M.Div.", "Adams, Rev. John Robert Quincy, B.A. M.Div."),
        ("Doe", "Doe"),
        ("^^^^", "Name not given"),
    ],
)
def test_a_name_is_shown_as_it_is_read(name, shown):
    assert person(name) == shown


# --- as a DICOM object --------------------------------------------------------------------------------------


def encapsulated(pdf, source, sign_off=None, algorithms=(ALGORITHM,)):
    return build_encapsulated_pdf(
        pdf, source, identity=identity_of(source), equipment=EQUIPMENT, algorithms=algorithms, sign_off=sign_off
    )


@pytest.mark.parametrize(
    ("sign_off", "flag", "title"),
    [
        (None, "UNVERIFIED", "AI DRAFT – not verified: VISTA3D 0.5.0"),
        (SignOff(SIGNER, preliminary=True), "UNVERIFIED", "Preliminary report, not verified"),
        (SignOff(SIGNER), "VERIFIED", "Radiology report (signed)"),
    ],
)
def test_an_encapsulated_pdf_says_who_stands_behind_it_and_reads_back(tmp_path, sign_off, flag, title):
    pdf = build_pdf(report("final" if sign_off else "draft"))
    path = tmp_path / "pdf.dcm"
    path.write_bytes(written(encapsulated(pdf, radiograph(), sign_off)))
    ds = pydicom.dcmread(path)
    assert (ds.VerificationFlag, ds.DocumentTitle, ds.SeriesDescription) == (flag, title, title)
    assert (ds.BurnedInAnnotation, ds.MIMETypeOfEncapsulatedDocument, ds.Modality) == ("YES", "application/pdf", "DOC")
    assert ds.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == pdf
    assert str(ds.PatientName) == "Øster^Åse"
    assert "No acute finding." in pypdf.PdfReader(io.BytesIO(ds.EncapsulatedDocument)).pages[0].extract_text()
    assert dciodvfy(ds, tmp_path) == []


@pytest.mark.parametrize("length", [8, 9])
def test_an_odd_document_is_padded_and_its_true_length_written(length):
    ds = encapsulated(b"%PDF-1.7."[:length], radiograph())
    assert len(ds.EncapsulatedDocument) % 2 == 0
    assert ds.EncapsulatedDocumentLength == length


def test_what_is_no_pdf_or_a_draft_of_nobody_is_refused():
    with pytest.raises(RefusedInputError, match="do not start like a PDF"):
        encapsulated(b"<html>", radiograph())
    with pytest.raises(RefusedInputError, match="algorithms"):
        encapsulated(b"%PDF-1.7", radiograph(), algorithms=())


def test_every_font_that_ships_has_its_licence_beside_it():
    folder = typeface().parent
    licences = " ".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt")))
    assert len(sorted(folder.glob("*.ttf"))) == 8
    for family in ("Noto Sans Arabic", "Noto Sans Hebrew", "DejaVu Sans", "SIL OPEN FONT LICENSE", "Bitstream"):
        assert family in licences
