"""A report as ORU^R01, field by field; hl7apy, which knows the structures of v2.5.1, is the judge."""

import base64
from dataclasses import replace
from datetime import timedelta

import hl7
import pytest
from hl7apy.parser import parse_message

from reports.document import Addendum, OrderFacts, PatientFacts, StudyFacts
from reports.hl7 import build_oru
from reports.values import Section
from tests.hl7_support import HL7, MODEL, RIS, WRITTEN, document, signed, signer


def _oru(one=None, destination=RIS, **arguments):
    return build_oru(one or document("final"), destination, HL7, **({"uid": "2.25.9", "pdf": None} | arguments))


def _fields(content, name, number=0):
    rows = [line.split("|") for line in content.decode().split("\r") if line.startswith(name)]
    return rows[number]


def _judged(content):
    """Return hl7apy's own tree of the message, after it found it to be a valid ORU^R01 of v2.5.1."""
    message = parse_message(content.decode(), find_groups=True)
    assert message.name == "ORU_R01"
    assert message.version == "2.5.1"
    assert message.validate()
    return message.oru_r01_patient_result


@pytest.mark.requirement("REQ-DELIV-7")
def test_a_full_report_is_a_valid_oru_r01():
    one = document("addended", addenda=[Addendum(1, "More.", signer("Bo Berg", "S-2"))])
    result = _judged(_oru(one, pdf=b"%PDF-1.7"))
    order = result.oru_r01_order_observation
    assert result.oru_r01_patient.pid.pid_3.pid_3_1.value == "P-1"
    assert order.obr.obr_18.value == "A-1"
    assert [row.obx.obx_2.value for row in order.oru_r01_observation] == ["ST", "FT", "FT", "FT", "ED"]


def test_a_report_of_which_nothing_is_known_is_valid_too():
    bare = document(
        "draft", patient=PatientFacts(""), study=StudyFacts("1.2.3"), order=OrderFacts(), sections=[], algorithms=()
    )
    order = _judged(_oru(bare)).oru_r01_order_observation
    assert order.obr.obr_4.value == "18748-4^Diagnostic Imaging Report^LN"
    assert [row.obx.obx_5.value for row in order.oru_r01_observation] == ["1.2.3"]


def test_the_header_says_who_to_whom_when_and_in_which_characters():
    msh = _fields(_oru(), "MSH")
    assert msh[2:6] == ["FIRSTREAD", "RAD", "RIS", "HOSP"]
    assert msh[6] == "20260304050607+0100"
    assert msh[8] == "ORU^R01^ORU_R01"
    assert 0 < len(msh[9]) <= 20
    assert msh[10:12] == ["P", "2.5.1"]
    assert msh[17] == "UNICODE UTF-8"


def test_the_patient_is_named_by_number_issuer_and_every_writing_of_the_name():
    pid = _fields(_oru(), "PID")
    assert pid[3] == "P-1^^^HOSP&1.2.3.4&ISO^MR"
    assert pid[5] == "Müller^Jörg^Ü^jr.^Dr.^^L^A"  # HL7 has the suffix before the prefix
    assert pid[7:9] == ["19700102", "M"]


@pytest.mark.requirement("REQ-DELIV-9")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P",
        ),
        ("=山田^太郎", "山田^太郎^^^^^L^I"),
        ("محمد^أحمد", "محمد^أحمد^^^^^L^A"),
        ("", "^^^^^^U"),
        ("O|Neil & Sons^A~B", "O\\F\\Neil \\T\\ Sons^A\\R\\B^^^^^L^A"),
    ],
)
def test_a_name_keeps_its_writings(name, expected):
    content = _oru(document("final", patient=PatientFacts("P-1", name=name)))
    assert _fields(content, "PID")[5] == expected
    _judged(content)


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        ("", "HOSP&1.2.3.4&ISO"),
        ("1.2.3.4", "HOSP&1.2.3.4&ISO"),
        ("OTHER", "OTHER"),
        ("2.16.840.1", "&2.16.840.1&ISO"),
    ],
)
def test_the_assigning_authority_is_that_of_the_patient_id(issuer, expected):
    content = _oru(document("final", patient=PatientFacts("P-1", issuer)))
    assert _fields(content, "PID")[3] == f"P-1^^^{expected}^MR"


def test_the_order_comes_back_with_its_numbers_and_its_priority():
    content = _oru()
    obr = _fields(content, "OBR")
    assert _fields(content, "ORC")[1:6] == ["RE", "PL-1", "FI-1", "", "CM"]
    assert obr[2:5] == ["PL-1", "FI-1", "24627-2^CT Chest^LN"]
    assert obr[7] == "20260304050000+0100"
    assert obr[16] == "O-1^Order^Olga"
    assert (obr[18], obr[22], obr[24]) == ("A-1", "20260304050607+0100", "RAD")
    assert obr[31] == "^Cough \\F\\ fever"
    assert obr[32] == "S-1&Meyer&Ada"  # NDL of v2.5.1: its first component is the person
    assert _fields(content, "TQ1")[9] == "S"
    assert _fields(content, "PV1")[2:4] == ["I", "WARD 3"]
    assert _fields(content, "PV1")[19] == "V-1"


@pytest.mark.parametrize(("priority", "code"), [("STAT", "S"), ("URGENT", "A"), ("ROUTINE", "R")])
def test_each_priority_has_its_code(priority, code):
    assert _fields(_oru(document("final", order=OrderFacts(priority=priority))), "TQ1")[9] == code


@pytest.mark.requirement("REQ-LABEL-4")
@pytest.mark.parametrize(
    ("state", "addendum_status", "status", "order_status"),
    [
        ("draft", "C", "R", "IP"),
        ("preliminary", "C", "P", "IP"),
        ("final", "C", "F", "CM"),
        ("corrected", "F", "C", "CM"),
        ("addended", "C", "C", "CM"),
        ("addended", "F", "F", "CM"),
    ],
)
def test_the_status_says_what_stands_behind_the_text(state, addendum_status, status, order_status):
    content = _oru(document(state), RIS.model_copy(update={"addendum_status": addendum_status}))
    assert _fields(content, "OBR")[25] == status
    assert _fields(content, "ORC")[5] == order_status
    assert [_fields(content, "OBX", row)[11] for row in range(3)] == ["O", status, status]


@pytest.mark.requirement("REQ-LABEL-4")
def test_no_text_that_nobody_verified_goes_without_its_notice():
    for state, notice in (
        ("draft", "AI-generated draft, not verified"),
        ("preliminary", "Preliminary report, not verified"),
    ):
        content = _oru(document(state))
        assert [_fields(content, "OBX", row)[5].split("\\.br\\")[0] for row in (1, 2)] == [notice, notice]
        assert _fields(content, "NTE")[3] == notice
    assert b"not verified" not in _oru(document("final"))


@pytest.mark.requirement("REQ-MODEL-9")
def test_a_demonstration_model_is_named_as_one_before_and_after_the_signature():
    toy = replace(MODEL, demonstration=True)
    assert b"DEMONSTRATION MODEL, not for clinical use" in _oru(document("draft", algorithms=(toy,)))
    note = _fields(_oru(document("final", algorithms=(toy,))), "NTE")[3]
    assert note == "Drafted with Rad-VLM 1.2 (DEMONSTRATION MODEL); reviewed and signed by Ada Meyer."


def test_sections_have_their_loinc_codes_and_lines():
    keys = ("history", "technique", "comparison", "findings", "impression", "recommendation")
    content = _oru(document("final", sections=[Section(key, f"{key}\r\nsecond") for key in keys]))
    rows = [_fields(content, "OBX", row) for row in range(1, 7)]
    assert [row[3].split("^")[0] for row in rows] == [
        "55752-0",
        "55111-9",
        "18834-2",
        "59776-5",
        "19005-8",
        "18783-1",
    ]
    assert [row[5] for row in rows] == [f"{key}\\.br\\second" for key in keys]
    assert {row[2] for row in rows} == {"FT"}


def test_an_addendum_is_a_text_of_its_own_by_whom_and_when():
    late = signer("Bo Berg", "S-2", signed_at=WRITTEN + timedelta(days=1))
    content = _oru(document("addended", addenda=[Addendum(1, "More.", late)]))
    row = _fields(content, "OBX", 3)
    assert row[3].split("^")[0] == "55107-7"
    assert row[4:6] == ["1", "More."]
    assert row[14] == "20260305050607+0100"
    assert row[16] == "S-2^Berg^Bo"


def test_the_resident_assists_whom_the_radiologist_attests():
    resident, senior = signer("Rea Young", "S-9"), signer()
    content = _oru(document("final", signatures=(signed("preliminary", resident), signed("final", senior))))
    assert _fields(content, "OBR")[32:34] == ["S-1&Meyer&Ada", "S-9&Young&Rea"]


def test_the_reason_of_a_correction_and_what_was_not_assessed_are_said():
    content = _oru(document("corrected", correction="Wrong side.", not_assessed=("spleen",)))
    notes = [_fields(content, "NTE", row)[3] for row in range(3)]
    assert notes[1:] == ["Not assessed by AI: spleen.", "Corrected: Wrong side."]


def test_the_pdf_goes_along_whole():
    pdf = bytes(range(256)) * 40
    value = _fields(_oru(pdf=pdf), "OBX", 3)[5].split("^")
    assert value[:4] == ["", "application", "pdf", "Base64"]
    assert base64.b64decode(value[4]) == pdf


def test_a_resend_is_the_same_message_and_another_receivers_is_not():
    other = RIS.model_copy(update={"name": "ehr"})
    assert _oru() == _oru()
    ids = {_fields(one, "MSH")[9] for one in (_oru(), _oru(uid="2.25.10"), _oru(destination=other))}
    assert len(ids) == 3


def test_the_library_that_wrote_it_reads_the_same():
    content = _oru(pdf=b"%PDF-")
    assert str(hl7.parse(content)).encode() == content
