"""What a reader's text says otherwise than the draft: sides, degrees, sentences. By English word lists, not learned."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

COMPARED = ("technique", "comparison", "findings", "impression", "recommendation")
_SIDES = {"left": "left", "left-sided": "left", "right": "right", "right-sided": "right",
          "bilateral": "both", "bilaterally": "both", "both": "both"}  # fmt: skip
_DEGREES = {
    "minimal": "minimal", "tiny": "minimal", "trace": "minimal", "small": "small", "mild": "mild", "mildly": "mild",
    "slight": "mild", "moderate": "moderate", "moderately": "moderate", "large": "large", "marked": "severe",
    "severe": "severe", "severely": "severe", "massive": "severe", "extensive": "severe",
}  # fmt: skip
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def changed_sides(drafted: Mapping[str, str], signed: Mapping[str, str]) -> str:
    """Return which sides the signed text names less and more often, as ``right → left``; empty when none."""
    return _changed(drafted, signed, _SIDES)


def changed_degrees(drafted: Mapping[str, str], signed: Mapping[str, str]) -> str:
    """Return which degrees of severity or size changed, as ``mild → severe``; empty when none."""
    return _changed(drafted, signed, _DEGREES)


def changed_sentences(drafted: Mapping[str, str], signed: Mapping[str, str]) -> tuple[int, int]:
    """Return how many sentences were added and removed; one that was changed counts as both."""
    before, after = _sentences(drafted), _sentences(signed)
    return (after - before).total(), (before - after).total()


def _changed(drafted: Mapping[str, str], signed: Mapping[str, str], known: Mapping[str, str]) -> str:
    before, after = _known(drafted, known), _known(signed, known)
    gone, came = sorted((before - after).keys()), sorted((after - before).keys())
    return f"{_said(gone)} → {_said(came)}" if gone or came else ""


def _said(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _known(sections: Mapping[str, str], known: Mapping[str, str]) -> Counter[str]:
    return Counter(known[word] for text in _texts(sections) for word in _WORD.findall(text.lower()) if word in known)


def _sentences(sections: Mapping[str, str]) -> Counter[str]:
    parts = (" ".join(one.split()) for text in _texts(sections) for one in _SENTENCE.split(text))
    return Counter(one for one in parts if one)


def _texts(sections: Mapping[str, str]) -> Iterable[str]:
    return (str(sections.get(key) or "") for key in COMPARED)
