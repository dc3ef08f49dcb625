"""Sentences of a report's text, and which Finding each speaks of. The page's script splits by the same rule."""

import re
from collections.abc import Iterator, Mapping, Sequence

from db.report_models import Finding
from db.types import Presence

TOLD_IN = ("findings", "impression")  # sections whose sentences speak of findings
# up to a mark that ends a sentence (a decimal point does not), or to the end of the line; \u061f \u06d4 \u3002 are the
# Arabic question mark and the Urdu and Chinese full stops
_SENTENCE = re.compile(r"[^\s][^\n]*?(?:[.!?\u061f\u06d4\u3002]+(?=\s|\Z)|(?=\n|\Z))")
_NEGATION = re.compile(r"\b(no|not|without|absent|negative|none)\b")


def sentences(text: str) -> Iterator[re.Match[str]]:
    """Return the sentences of ``text`` with their places; what is between them is white space."""
    return _SENTENCE.finditer(text)


def of_finding(sentence: str, finding: Finding, others: Sequence[Finding]) -> bool:
    """Return whether ``sentence`` is this Finding's alone.

    It is the Finding's own words, or it asserts its label and names no other Finding's.
    """
    if finding.sentence and _plain(sentence) == _plain(finding.sentence):
        return True
    said = sentence.lower()
    if not _names(said, _label(finding)):
        return False
    asserted = finding.presence is not Presence.PRESENT or not _NEGATION.search(said)
    rest = said
    for label in sorted({_label(one) for one in (finding, *others)}, key=len, reverse=True):
        if _names(rest, label) and label != _label(finding):
            return False
        if label == _label(finding) and not _names(rest, label):
            return False
        rest = re.sub(rf"\b{re.escape(label)}\b", " ", rest)
    return asserted


def told(sections: Mapping[str, str], finding: Finding, others: Sequence[Finding]) -> dict[str, list[str]]:
    """Return the sentences that are this Finding's alone, by section."""
    found: dict[str, list[str]] = {}
    for key in TOLD_IN:
        mine = [
            one.group() for one in sentences(str(sections.get(key) or "")) if of_finding(one.group(), finding, others)
        ]
        if mine:
            found[key] = mine
    return found


def without(text: str, unwanted: Sequence[str], instead: str = "") -> str:
    """Return ``text`` with the first of these sentences replaced by ``instead`` and the others taken out."""
    made, at, line_break = "", 0, ""
    for one in sentences(text):
        gap, at = text[at : one.start()], one.end()
        kept = one.group()
        if kept in unwanted:
            kept, instead = instead, ""
        if not kept:  # its line break stays when more follows on its line
            line_break = line_break or (gap if "\n" in gap else "")
            continue
        made += (gap if "\n" in gap else line_break or gap) + kept
        line_break = ""
    return (made + text[at:]).strip()


def _label(finding: Finding) -> str:
    return finding.label.replace("_", " ").lower()


def _names(said: str, label: str) -> bool:
    return re.search(rf"\b{re.escape(label)}\b", said) is not None


def _plain(text: str) -> str:
    return " ".join(text.split()).lower()
