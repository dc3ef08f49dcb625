"""The code table: what it must say, and the wrong codes it must never say."""

import re

import pytest
from pydicom.sr._concepts_dict import concepts as dicom_concepts

from config.errors import ConfigurationError, RefusedInputError
from reports.codes import code_table, load_code_table

# Order of torchxrayvision.datasets.default_pathologies, and the codes of the reviewed sheet.
TXRV = (
    ("Atelectasis", "46621007"), ("Consolidation", "95436008"), ("Infiltration", "112121"),
    ("Pneumothorax", "36118008"), ("Edema", "19242006"), ("Emphysema", "87433001"), ("Fibrosis", "51615001"),
    ("Effusion", "60046008"), ("Pneumonia", "233604007"), ("Pleural_Thickening", "RID28509"),
    ("Cardiomegaly", "8186001"), ("Nodule", "786838002"), ("Mass", "309529002"), ("Hernia", "39839004"),
    ("Lung Lesion", "52988006"), ("Fracture", "125605004"), ("Lung Opacity", "112001"),
    ("Enlarged Cardiomediastinum", "260376009"),
)  # fmt: skip
# Codes found in public tables for these labels that mean something else, or more than a model can know.
FORBIDDEN = {
    "287272002": "Enlarged septal foramen of heart, offered for cardiomegaly",
    "41699000": "Effusion of anything, offered for pleural effusion",
    "427359005": "Solitary nodule of lung",
    "27550009": "published for another label, wrong",
    "46866001": "published for another label, wrong",
    "301867009": "Edema of trunk",
    "29700009": "Right subclavian artery",
    "372087000": "Primary malignant neoplasm",
    "14799000": "Metastatic malignant neoplasm",
    "123037004": "Body structure, not CID 7150's Anatomical Structure",
    "121068": "the old heading Previous Findings, not the element",
}


@pytest.mark.parametrize(("index", "label", "value"), [(i, *row) for i, row in enumerate(TXRV)])
def test_every_radiograph_label_has_its_reviewed_code(index, label, value):
    row = code_table().label(code_table().key_for_label("txrv", label))
    assert (row.index, row.concept.value, row.category) == (index, value, "finding")


@pytest.mark.requirement("REQ-TEXT-2")
def test_a_classifier_label_never_carries_a_side():
    assert [row.key for row in code_table().labels.values() if row.family == "txrv" and row.side] == []


@pytest.mark.parametrize("value", FORBIDDEN)
def test_no_row_uses_a_code_known_to_be_wrong(value):
    assert [key for key, row in code_table().concepts.items() if row.value == value] == []


@pytest.mark.requirement("REQ-TEXT-12")
def test_every_row_that_cites_the_standard_agrees_with_it():
    wrong = []
    for key, row in code_table().concepts.items():
        if row.source != "pydicom":
            continue
        meanings = {
            str(meaning).lower()
            for by_value in dicom_concepts[row.scheme].values()
            for value, (meaning, _) in by_value.items()
            if value == row.value
        }
        if row.meaning.lower() not in meanings:
            wrong.append((key, row.value, row.meaning, meanings))
    assert wrong == []


def test_no_retired_or_unknown_scheme_and_every_row_is_reviewed():
    rows = code_table().concepts.values()
    assert {row.scheme for row in rows} == {"SCT", "DCM", "LN", "NCIt", "RADLEX", "UCUM"}
    assert {row.confidence for row in rows} == {"H", "M"}
    assert all(row.source for row in rows)


def test_vista3d_channels_are_covered_except_the_two_without_a_safe_code():
    covered = {row.index for row in code_table().labels.values() if row.family == "vista3d"} - {None}
    assert set(range(1, 133)) - covered == {16, 131}


def test_a_side_in_a_segments_name_is_its_side():
    for row in code_table().labels.values():
        named = re.match(r"(left|right) ", row.label)
        if row.family == "vista3d" and row.key not in ("ct.left_atrial_appendage", "ct.right_lung_middle_lobe"):
            assert row.side == (named.group(1) if named else None), row.key


def test_a_tumour_mask_is_a_neoplasm_in_its_organ():
    row = code_table().label(code_table().key_for_index("vista3d", 26))
    assert (row.label, row.concept.value, row.category) == ("hepatic tumor", "108369006", "abnormal")
    assert row.site.value == "10200004"


@pytest.mark.parametrize(("index", "value"), [(1, "C81175"), (2, "79654002"), (4, "C113842")])
def test_brats_label_values_have_their_codes(index, value):
    row = code_table().label(code_table().key_for_index("brats", index))
    assert (row.concept.value, row.site.value, row.category) == (value, "12738006", "abnormal")


def test_sections_have_loinc_headings_and_element_codes_in_reading_order():
    found = {key: (row.heading.value, row.element.value) for key, row in code_table().sections.items()}
    assert list(found.items()) == [
        ("history", ("11329-0", "11329-0")),
        ("technique", ("55111-9", "121065")),
        ("comparison", ("18834-2", "121069")),
        ("findings", ("59776-5", "121071")),
        ("impression", ("19005-8", "121073")),
        ("recommendation", ("18783-1", "121075")),
        ("addendum", ("55107-7", "55107-7")),
    ]


@pytest.mark.requirement("REQ-TEXT-12")
def test_an_unreviewed_label_is_refused_by_name():
    assert code_table().key_for_label("txrv", "Kyphosis") is None
    with pytest.raises(RefusedInputError, match=r"'ct\.left_kidny'"):
        code_table().label("ct.left_kidny")


BROKEN = {
    "not yaml": "{{{",
    "no mapping": "- 1\n",
    "dangling": """version: 1
private_schemes: {staff: {designator: 99X, name: x}}
concepts: {}
sections: {}
labels:
  a: {family: f, index: 1, label: a, concept: nowhere, category: anatomy}
""",
    "double": """version: 1
private_schemes: {staff: {designator: 99X, name: x}}
concepts:
  c: {value: "1", scheme: SCT, meaning: c, confidence: H, source: s}
sections: {}
labels:
  a: {family: f, index: 1, label: a, concept: c, category: anatomy}
  b: {family: f, index: 1, label: b, concept: c, category: anatomy}
""",
}


@pytest.mark.requirement("REQ-CONF-1")
@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_damaged_table_stops_the_process(tmp_path, text):
    path = tmp_path / "codes.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"codes\.yaml"):
        load_code_table(path)
