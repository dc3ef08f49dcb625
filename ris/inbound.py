"""Read an HL7 message that came in: its header, its characters, its segments as text."""

from dataclasses import dataclass

import hl7  # type: ignore[import-untyped]

from config.errors import RefusedInputError
from reports.hl7_encoding import unescape

# HL7 table 0211, as far as Python decodes it; nothing said is Latin-1, which ASCII is a part of
_CHARACTER_SETS = {
    "": "latin-1",
    "ASCII": "latin-1",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
UNSUPPORTED_TYPE, UNSUPPORTED_EVENT, UNSUPPORTED_PROCESSING, UNSUPPORTED_VERSION = "200", "201", "202", "203"
MISSING_FIELD, NOT_UNDERSTOOD, NOT_IN_TABLE, INTERNAL_ERROR = "101", "102", "103", "207"


class RefusedMessageError(RefusedInputError):
    """A message that is answered AR; ``code`` is of HL7 table 0357, and the words never quote the message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Segment:
    """One segment of a message, its fields read as text."""

    def __init__(self, parsed: hl7.Segment) -> None:
        """Wrap what the library parsed."""
        self._parsed = parsed
        self.name = str(parsed[0])

    def text(self, field: int, component: int = 1, subcomponent: int = 0, repetition: int = 1) -> str:
        """Return one value, unescaped; ``""`` when it is not there. All positions are 1-based, as in the Standard.

        Subcomponent 0 is the whole component: many senders do not escape an ampersand in a text. HL7's ``""``, which
        says that a value is to be deleted, is empty too: nothing is ever emptied by a message.
        """
        parts = self.components(field, repetition)
        value = parts[component - 1] if len(parts) >= component else ""
        if subcomponent:
            values = value.split("&")
            value = values[subcomponent - 1] if len(values) >= subcomponent else ""
        value = unescape(value).strip()
        return "" if value == '""' else value

    def whole(self, field: int) -> str:
        """Return a field of plain text with all its repetitions as lines, unescaped."""
        if len(self._parsed) <= field:
            return ""
        return "\n".join(unescape(one).strip() for one in str(self._parsed[field]).split("~")).strip()

    def components(self, field: int, repetition: int = 1) -> list[str]:
        """Return the components of one repetition as sent."""
        if len(self._parsed) <= field:
            return []
        repetitions = str(self._parsed[field]).split("~")
        return repetitions[repetition - 1].split("^") if len(repetitions) >= repetition else []

    def repetitions(self, field: int) -> int:
        """Return how often a field is repeated; 0 when it is not there."""
        value = str(self._parsed[field]) if len(self._parsed) > field else ""
        return value.count("~") + 1 if value else 0


@dataclass(frozen=True)
class Header:
    """What MSH says, as far as it can be known of any message; empty where it says nothing."""

    application: str = ""
    facility: str = ""
    control_id: str = ""
    message_type: str = ""
    event: str = ""
    processing: str = ""
    version: str = ""
    character_set: str = ""

    @property
    def sender(self) -> str:
        """Application and facility, at most 200 characters."""
        return f"{self.application}|{self.facility}"[:200]

    @property
    def kind(self) -> str:
        """Type and event: ``ORM^O01``, at most 32 characters."""
        return f"{self.message_type}^{self.event}"[:32]


def read_header(content: bytes) -> Header:
    """Return what the header says, for the answer and the record, whatever else is wrong with the message."""
    first = content.lstrip().split(b"\r", 1)[0].split(b"\n", 1)[0].decode("latin-1")
    if not first.startswith("MSH|"):
        return Header()
    fields = first.split("|")

    def part(position: int, component: int = 1) -> str:
        parts = fields[position - 1].split("^") if len(fields) >= position else []
        return unescape(parts[component - 1]).strip()[:180] if len(parts) >= component else ""

    return Header(part(3), part(4), part(10), part(9), part(9, 2), part(11), part(12), part(18))


def read_message(content: bytes, header: Header, *, processing: str) -> list[Segment]:
    """Return the segments of a message, MSH first.

    Raises:
        RefusedMessageError: it is no HL7 v2 message, has delimiters or characters that are not read here, or is a
            test when we work, or the other way round (MSH-11).
    """
    _require_known(header, processing)
    if not content.lstrip().startswith((b"MSH|^~\\&|", b"MSH|^~\\&#|")):
        raise RefusedMessageError(NOT_UNDERSTOOD, "its delimiters are not the usual ones")
    codec = _CHARACTER_SETS.get(header.character_set.upper())
    if codec is None:
        raise RefusedMessageError(NOT_IN_TABLE, "the character set in MSH-18 is not supported")
    try:
        text = content.decode(codec).replace("\r\n", "\r").replace("\n", "\r")
        parsed = hl7.parse(text)
    except UnicodeDecodeError as exc:
        raise RefusedMessageError(NOT_UNDERSTOOD, "it is not in the character set of MSH-18") from exc
    except (KeyError, ValueError, IndexError, AssertionError, hl7.HL7Exception) as exc:
        raise RefusedMessageError(NOT_UNDERSTOOD, "it is no HL7 message") from exc
    return [Segment(one) for one in parsed if str(one)]


def _require_known(header: Header, processing: str) -> None:
    if not header.message_type or not header.control_id:
        raise RefusedMessageError(MISSING_FIELD, "it has no header with a type (MSH-9) and a control id (MSH-10)")
    if header.version and not header.version.startswith("2."):
        raise RefusedMessageError(UNSUPPORTED_VERSION, "it is not of HL7 version 2")
    if header.processing and header.processing != processing:
        raise RefusedMessageError(UNSUPPORTED_PROCESSING, "its processing id (MSH-11) is not ours")
