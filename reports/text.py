"""Make any text fit a DICOM value representation (PS3.5 section 6.2), since it comes from models, files and people."""

import re
import unicodedata

from config.errors import RefusedInputError

# C0, DEL, C1, line and paragraph separators, lone surrogates, bidirectional overrides, byte order mark.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
_NEWLINE = re.compile("\r\n|\r|\n|\x0b|\x0c|\x85|\u2028|\u2029")
_NAME_PARTS = re.compile(r"[\^=\\]")


def one_line(text: str, limit: int | None = None) -> str:
    """Return ``text`` on one line, without control characters or backslashes, for LO, SH and UC values.

    A backslash would split the value in two (PS3.5 section 6.4). Longer text ends in ``…``.

    Args:
        text: any Unicode text.
        limit: longest result in UTF-8 bytes: 64 for LO, 16 for SH; None for no limit. The Standard counts
            characters, but dciodvfy and some archives count bytes; for words of ours the safe side costs nothing.
    """
    plain = _CONTROL.sub(" ", unicodedata.normalize("NFC", text)).replace("\\", "/")
    return _shortened(" ".join(plain.split()), limit)


def _shortened(plain: str, limit: int | None) -> str:
    encoded = plain.encode()
    if limit is None or len(encoded) <= limit:
        return plain
    return encoded[: limit - len("…".encode())].decode(errors="ignore").rstrip() + "…"


def text_block(text: str) -> str:
    """Return ``text`` for a UT, ST or LT value: lines end in CR LF, tabs are spaces, no other control characters.

    Never shortens: a report must not lose its end.
    """
    lines = _NEWLINE.split(unicodedata.normalize("NFC", text).replace("\t", "    "))
    return "\r\n".join(_CONTROL.sub("", line).rstrip() for line in lines).strip()


def code_string(text: str) -> str:
    """Return ``text`` for a CS value: upper case letters, digits, space, underscore, at most 16 characters."""
    return re.sub(r"[^A-Z0-9_ ]", "_", one_line(text).upper())[:16].strip()


def person_name(family: str, given: str) -> str:
    """Return a PN value of family and given name, without the characters that separate its parts.

    Raises:
        RefusedInputError: nothing is left of the name.
    """
    parts = [one_line(_NAME_PARTS.sub(" ", part)) for part in (family, given)]
    name = _shortened("^".join(parts).rstrip("^"), 64)
    if not name.strip("^ "):
        raise RefusedInputError("a person needs a name; family and given name are empty")
    return name
