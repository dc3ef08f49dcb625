"""Reading positive findings out of free report text, for findings named as the composition names them."""

import re
from collections.abc import Sequence

from worker.composition import FindingAnswer, compose
from worker.vlm.prompts import finding_name

_NEGATION = re.compile(r"\b(no|not|without|absent|none|negative|nothing)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.;\n]+")


def positive_findings(text: str, labels: Sequence[str]) -> set[str]:
    """Return the labels a text asserts: named in a sentence that holds no negation.

    Longer names win over shorter ones inside them, so "lung lesion" is not read as "lesion", and a sentence may
    name several findings.
    """
    found: set[str] = set()
    names = sorted(((name, label) for label in labels for name in _names(label)), key=lambda pair: -len(pair[0]))
    for sentence in _SENTENCE.split(text):
        if _NEGATION.search(sentence):
            continue
        rest = sentence.lower()
        for name, label in names:
            pattern = rf"\b{re.escape(name)}\b"
            if re.search(pattern, rest):
                found.add(label)
                rest = re.sub(pattern, " ", rest)
    return found


def _names(label: str) -> set[str]:
    composed = compose([FindingAnswer(label, True)]).findings_text.rstrip(".").lower()
    return {finding_name(label), composed}
