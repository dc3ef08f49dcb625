"""Values into HL7 v2 segments, so that no text whatever can become a delimiter, a segment or a frame.

Every value passes :func:`escape`; only the shape of what the builders give (tuples and lists) makes components and
repetitions. HL7 v2.5.1 section 2.7 (escape sequences); appendix C of the Implementation Guide (MLLP frame).
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import hl7  # type: ignore[import-untyped]

from reports.text import text_block

_SEQUENCE = re.compile(r"\\([^\\]*)\\")
_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"})
_UNESCAPED = {"E": "\\", "F": "|", "S": "^", "T": "&", "R": "~", ".br": "\n", ".sp": "\n"}


class Formatted(str):
    """Text of several lines for an FT value: a line end becomes ``\\.br\\``."""

    __slots__ = ()


Component = str | tuple[str, ...]
Repetition = str | tuple[Component, ...]
Value = Repetition | list[Repetition]
"""One field: a text; a tuple of components, each a text or a tuple of subcomponents; a list of repetitions of these."""


def plain(text: str) -> str:
    """Return ``text`` as one line in normal form C: every run of white space is one space, no control characters."""
    return " ".join(text_block(text).split())


def lines(text: str) -> str:
    """Return ``text`` in normal form C with ``\\n`` line ends, without other control characters or trailing space."""
    return text_block(text).replace("\r\n", "\n")


def escape(text: str) -> str:
    """Return ``text`` without a character that HL7 or MLLP gives a meaning; what cannot be seen is left out.

    One line, unless it is :class:`Formatted`.
    """
    if isinstance(text, Formatted):
        return "\\.br\\".join(line.translate(_ESCAPES) for line in lines(text).split("\n"))
    return plain(text).translate(_ESCAPES)


def unescape(text: str) -> str:
    """Return what ``text`` says: delimiters and line ends back; ``\\X..\\`` as UTF-8; highlighting and unknown gone."""
    return _SEQUENCE.sub(lambda found: _meaning(found[1]), text)


def _meaning(code: str) -> str:
    if code.startswith("X"):
        try:
            return bytes.fromhex(code[1:]).decode()
        except ValueError:
            return ""
    return _UNESCAPED.get(code.rstrip("0123456789+-") if code.startswith(".") else code, "")


def segment(name: str, *fields: Value) -> hl7.Segment:
    """Return one segment; the last field that is not empty ends it.

    Field separators, and in an MSH the encoding characters, are written by the segment itself: in an MSH the first
    of ``fields`` is MSH-3.
    """
    encoded = [_field(value) for value in fields]
    while encoded and not str(encoded[-1]):
        encoded.pop()
    head = ["MSH", "|", "^~\\&"] if name == "MSH" else [name]
    return hl7.Segment("|", [*head, *encoded])


def message(segments: Sequence[hl7.Segment]) -> bytes:
    """Return the message in UTF-8, each segment ended by CR, without its MLLP frame."""
    return str(hl7.Message("\r", list(segments))).encode()


def _field(value: Value) -> hl7.Field:
    repetitions = value if isinstance(value, list) else [value]
    return hl7.Field("~", [_repetition(one) for one in repetitions])


def _repetition(value: Repetition) -> str:
    components = value if isinstance(value, tuple) else (value,)
    return _joined("^", (_component(one) for one in components))


def _component(value: Component) -> str:
    return _joined("&", (escape(one) for one in (value if isinstance(value, tuple) else (value,))))


def _joined(separator: str, parts: Iterable[str]) -> str:
    return separator.join(parts).rstrip(separator)


def timestamp(moment: datetime) -> str:
    """Return a TS value to the second with the offset from UTC: ``20260102030405+0100``."""
    return moment.strftime("%Y%m%d%H%M%S%z")[:19]


def dicom_timestamp(date: str, time: str, timezone: str) -> str:
    """Return DICOM date, time and offset as a TS value; as much of it as is there and makes sense."""
    day, clock = date.replace(".", ""), time.partition(".")[0].replace(":", "")
    if not re.fullmatch("[0-9]{8}", day):
        return ""
    if not re.fullmatch("([0-9]{2}){2,3}", clock):
        return day
    return day + clock + (timezone if re.fullmatch(r"[+-][0-9]{4}", timezone) else "")


def person(name: str) -> list[tuple[str, ...]]:
    """Return a DICOM PN as family, given, middle, suffix and prefix of each component group that says something.

    HL7 has the suffix before the prefix, DICOM the other way round (PS3.5 section 6.2.1.1).
    """
    groups: list[tuple[str, ...]] = []
    for group in name.split("="):
        family, given, middle, prefix, suffix = [*group.split("^", 4), "", "", "", ""][:5]
        groups.append((family, given, middle, suffix.replace("^", " "), prefix))
    return groups


def xpn(name: str) -> Value:
    """Return a DICOM PN as XPN repetitions: alphabetic, ideographic, phonetic; unspecified when it is empty."""
    codes = ("A", "I", "P")
    said: list[Repetition] = [
        (*parts, "", "L", code) for parts, code in zip(person(name)[:3], codes, strict=False) if plain("".join(parts))
    ]
    return said or [("", "", "", "", "", "", "U")]


def xcn(name: str, identifier: str = "") -> Repetition:
    """Return a DICOM PN as XCN with an identifier of its own: the first component group, else the identifier alone."""
    first = next((parts for parts in person(name) if plain("".join(parts))), ())
    return (identifier, *first)
