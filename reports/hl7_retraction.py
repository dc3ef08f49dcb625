"""The message that takes an unverified draft back from a RIS: the same order and observations, without any text.

It is made from the message that was sent, so that it names the order, the patient and the observations exactly as the
receiver filed them, also when one of them was corrected since. Only the segments and fields below are taken over; what
the draft said is in none of them.
"""

from collections.abc import Iterator
from datetime import datetime

from reports.hl7 import control_id
from reports.hl7_encoding import Formatted, message, segment, timestamp

WITHDRAWN = "X"
"""OBR-25 and OBX-11 (tables 0123 and 0085): there is no result. Not C, which says that a verified result is corrected;
not D or W, for only with X may an OBX be without value and type (v2.5.1 section 7.4.2.2), so nothing is said again."""
_IDENTITY = frozenset({"PID", "PV1", "ORC", "TQ1"})
_STUDY = "113014^DICOM Study^DCM"


def retract_oru(sent: bytes, destination: str, *, uid: str, at: datetime, why: str) -> bytes:
    """Return the ORU^R01 that takes back one that `reports.hl7.build_oru` made of a draft.

    Args:
        sent: that message, without its MLLP frame.
        destination: name of who got it.
        uid: identity of the new message.
        at: when the draft stopped standing (MSH-7, OBR-22, OBX-14).
        why: in words without anything of the draft.

    Raises:
        ValueError: ``sent`` is not such a message.
    """
    lines = [line.split("|") for line in sent.decode().rstrip("\r").split("\r")]
    names = [line[0] for line in lines]
    if names[0] != "MSH" or names.count("OBR") != 1:
        raise ValueError("this is no report that we sent")
    # every value was escaped, so a delimiter here is one
    return "".join(f"{line}\r" for line in _lines(lines, destination, uid, timestamp(at), why)).encode()


def _lines(lines: list[list[str]], destination: str, uid: str, at: str, why: str) -> Iterator[str]:
    for line in lines:
        name = line[0]
        if name == "MSH":
            yield _with(line, {6: at, 9: control_id(uid, destination)})
        elif name in _IDENTITY:
            yield "|".join(line)
        elif name == "OBR":
            yield _with(line, {22: at, 25: WITHDRAWN})
            yield _note(why)
        elif name == "OBX":
            yield _observation(line, at)


def _observation(line: list[str], at: str) -> str:
    """Return an OBX: the Study as it is, everything else by its type, code and sub-id only."""
    if line[3] == _STUDY:
        return "|".join(line)
    return "|".join([*line[:5], "", *[""] * 5, WITHDRAWN, "", "", at])


def _with(line: list[str], changed: dict[int, str]) -> str:
    return "|".join(changed.get(position, value) for position, value in enumerate(line))


def _note(why: str) -> str:
    said = segment("NTE", "1", "L", Formatted(f"The AI draft that was sent before is withdrawn: do not use it. {why}"))
    return message([said]).decode().rstrip("\r")
