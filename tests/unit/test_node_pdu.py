"""The bytes of PDUs and command sets: written by hand from PS3.7 and PS3.8, and compared with pynetdicom's."""

import pytest
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ABORT_RQ, P_DATA_TF

from config.errors import AbortAssociationError
from dicom_node.pdu import (
    Command,
    Element,
    PduType,
    abort_pdu,
    command_pdus,
    parse_command,
    store_response,
)

# PS3.7 table 9.3-1 for CT Image Storage and the UID 1.2.3, Message ID 7, asked for by a C-MOVE of MOVER
REQUEST = bytes.fromhex(
    "00000000 04000000 70000000"  # Command Group Length: 34 + 4 * 10 + 14 + 14 + 10 bytes follow
    "00000200 1a000000 312e322e3834302e31303030382e352e312e342e312e312e3200"  # 1.2.840.10008.5.1.4.1.1.2
    "00000001 02000000 0100"  # C-STORE-RQ
    "00001001 02000000 0700"
    "00000007 02000000 0000"  # Priority: medium
    "00000008 02000000 0000"  # a Data Set follows
    "00000010 06000000 312e322e3300"
    "00003010 06000000 4d4f56455220"
    "00003110 02000000 0900"
)

# PS3.7 table 9.3-2: the refusal of that request
REFUSAL = bytes.fromhex(
    "00000000 04000000 68000000"
    "00000200 1a000000 312e322e3834302e31303030382e352e312e342e312e312e3200"
    "00000001 02000000 0180"  # C-STORE-RSP
    "00002001 02000000 0700"
    "00000008 02000000 0101"  # no Data Set
    "00000009 02000000 00a7"
    "00000209 08000000 4e6f207370616365"  # Error Comment: No space
    "00000010 06000000 312e322e3300"
)


def test_a_c_store_request_written_by_hand_is_read():
    command = parse_command(REQUEST)
    assert command.number(Element.COMMAND_FIELD) == 0x0001
    assert command.number(Element.MESSAGE_ID) == 7
    assert command.text(Element.AFFECTED_SOP_CLASS_UID) == "1.2.840.10008.5.1.4.1.1.2"
    assert command.text(Element.AFFECTED_SOP_INSTANCE_UID) == "1.2.3"
    assert command.text(Element.MOVE_ORIGINATOR_AE) == "MOVER"
    assert command.has_data_set
    assert len(REQUEST) - 12 == 34 + 4 * 10 + 14 + 14 + 10 == 0x70


def test_the_answer_has_the_bytes_of_the_standard():
    assert store_response(parse_command(REQUEST), 0xA700, "No space") == REFUSAL
    assert len(REFUSAL) - 12 == int.from_bytes(REFUSAL[8:12], "little") == 34 + 4 * 10 + 16 + 14


def test_success_has_no_error_comment():
    answer = parse_command(store_response(parse_command(REQUEST), 0x0000, ""))
    assert Element.ERROR_COMMENT not in answer.values
    assert answer.values[Element.STATUS] == b"\0\0"


def pynetdicom_answer(status, comment, message_id):
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = message_id
    primitive.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    primitive.AffectedSOPInstanceUID = "1.2.3"
    primitive.Status = status
    if comment:
        primitive.ErrorComment = comment
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    return message


@pytest.mark.parametrize("message_id", [0, 1, 7, 0xFFFF])
@pytest.mark.parametrize(("status", "comment"), [(0x0000, ""), (0xA700, "No space"), (0xC002, "odd")])
@pytest.mark.parametrize("maximum", [0, 16, 50, 16384])
def test_answers_are_those_pynetdicom_writes(status, comment, message_id, maximum):
    request = parse_command(
        REQUEST.replace(b"\x10\x01\x02\0\0\0\x07\0", b"\x10\x01\x02\0\0\0" + message_id.to_bytes(2, "little"))
    )
    ours = list(command_pdus(3, store_response(request, status, comment), maximum))
    theirs = [P_DATA_TF(p).encode() for p in pynetdicom_answer(status, comment, message_id).encode_msg(3, maximum)]
    assert ours == theirs
    assert not maximum or all(len(pdu) - 6 <= maximum for pdu in ours)


def test_pynetdicom_reads_what_we_answer():
    decoded = DIMSEMessage()
    for pdu in command_pdus(1, REFUSAL, 20):
        read = P_DATA_TF()
        read.decode(pdu)
        whole = decoded.decode_msg(read.to_primitive())
    assert whole
    answer = decoded.message_to_primitive()
    assert (answer.Status, answer.ErrorComment, answer.MessageIDBeingRespondedTo) == (0xA700, "No space", 7)


def test_a_request_of_pynetdicom_is_read():
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 65535, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.34"
    primitive.MoveOriginatorApplicationEntityTitle = "A MOVER"
    primitive.MoveOriginatorMessageID = 3
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    (pdv,) = next(message.encode_msg(1, 0)).presentation_data_value_list
    command = parse_command(pdv[1][1:])
    assert command.number(Element.MESSAGE_ID) == 65535
    assert command.text(Element.AFFECTED_SOP_INSTANCE_UID) == "1.2.34"
    assert command.text(Element.MOVE_ORIGINATOR_AE) == "A MOVER"
    assert not command.has_data_set


def test_a_wrong_group_length_is_not_believed():
    assert parse_command(REQUEST[:8] + b"\xff\xff\xff\x7f" + REQUEST[12:]).number(Element.MESSAGE_ID) == 7
    assert parse_command(REQUEST[12:]).number(Element.MESSAGE_ID) == 7


@pytest.mark.parametrize(
    "encoded",
    [
        REQUEST[:-1],  # the last value is cut
        REQUEST[:-4],
        REQUEST + b"\0\0\x01\x10\x02\0\0",  # half an element
        REQUEST + bytes.fromhex("08001800 02000000 3100"),  # SOP Instance UID (0008,0018)
        bytes.fromhex("00000001 ffffffff 0100"),  # undefined length
    ],
)
def test_a_command_set_that_is_none_is_refused(encoded):
    with pytest.raises(AbortAssociationError):
        parse_command(encoded)


def test_missing_and_misshapen_elements_read_as_absent():
    command = Command({Element.MESSAGE_ID: b"\x01", Element.COMMAND_FIELD: b"\x01\0\0\0"})
    assert command.number(Element.MESSAGE_ID) is None
    assert command.number(Element.COMMAND_FIELD) is None
    assert command.number(Element.STATUS) is None
    assert command.text(Element.AFFECTED_SOP_CLASS_UID) == ""
    assert not command.has_data_set


def test_a_uid_too_long_to_be_one_is_not_repeated():
    request = Command({Element.MESSAGE_ID: b"\x01\0", Element.AFFECTED_SOP_INSTANCE_UID: b"1" * 65})
    assert Element.AFFECTED_SOP_INSTANCE_UID not in parse_command(store_response(request, 0, "")).values


def test_an_abort_has_the_bytes_of_the_standard():
    assert abort_pdu(2, 6) == bytes.fromhex("07 00 00000004 00 00 02 06")  # PS3.8 table 9-26
    decoded = A_ABORT_RQ()
    decoded.decode(abort_pdu(2, 2))
    assert (decoded.source, decoded.reason_diagnostic) == (2, 2)
    assert list(PduType) == [1, 2, 3, 4, 5, 6, 7]
