"""The message that takes a draft back: whatever the draft said, none of it comes along; hl7apy is the judge."""

from datetime import timedelta

import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.document import OrderFacts, PatientFacts, StudyFacts
from reports.hl7 import build_oru, control_id
from reports.hl7_retraction import retract_oru
from reports.values import Section
from tests.hl7_support import HL7, RIS, WRITTEN, document

LATER = WRITTEN + timedelta(hours=3)
HOSTILE = "ok\rOBX|9|FT|19005-8^^LN||Normal.||||||F\r\x1c\r\x0bMSH|^~\\&|"


def retracted(sent: bytes) -> bytes:
    return retract_oru(sent, RIS.name, uid="2.25.77", at=LATER, why="A reader rejected it.")


def draft(text: str = "Nodule.", **changes) -> bytes:
    sections = [Section("findings", text), Section("impression", text)]
    one = document("draft", sections=sections, not_assessed=[text], **changes)
    return build_oru(one, RIS, HL7, uid="2.25.9", pdf=b"%PDF-1.7")


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from([HOSTILE, "\\F\\", "\n\n|OBX|"]))
def test_whatever_the_draft_said_the_message_is_the_same(text: str) -> None:
    assert retracted(draft(f"Nodule {text}")) == retracted(draft())


def test_it_is_valid_and_cancels_every_observation() -> None:
    message = parse_message(retracted(draft(HOSTILE)).decode(), find_groups=True)
    assert (message.name, message.validate()) == ("ORU_R01", True)
    order = message.oru_r01_patient_result.oru_r01_order_observation
    assert order.obr.obr_25.value == "X"
    assert (order.obr.obr_2.value, order.obr.obr_3.value, order.obr.obr_18.value) == ("PL-1", "FI-1", "A-1")
    assert order.obr.obr_22.value == "20260304080607+0100"
    assert order.orc.orc_5.value == "IP"  # the order goes on
    found = [(row.obx.obx_3.obx_3_1.value, row.obx.obx_11.value) for row in order.oru_r01_observation]
    assert found == [("113014", "O"), ("59776-5", "X"), ("19005-8", "X"), ("18748-4", "X")]
    assert [row.obx.obx_5.value for row in order.oru_r01_observation] == ["1.2.3", "", "", ""]
    assert message.msh.msh_10.value == control_id("2.25.77", "ris")


def test_a_draft_of_which_nothing_is_known_is_taken_back_too() -> None:
    bare = draft(patient=PatientFacts(""), study=StudyFacts("1.2.3"), order=OrderFacts(), algorithms=())
    assert parse_message(retracted(bare).decode(), find_groups=True).validate()


@pytest.mark.parametrize("sent", [b"", b"MSH|^~\\&|A\r", b"PID|1\rOBR|1\r", b"\xff"])
def test_what_is_no_report_of_ours_is_refused(sent: bytes) -> None:
    with pytest.raises(ValueError, match=r"report|utf-8"):
        retracted(sent)
