"""Sentences from the model's yes/no answers: the decision is the model's, the wording is ours and fixed.

A Draft made this way says so in its provenance (`ROUTE`). Nothing is added that was not asked: no side, size,
severity, comparison or history.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

ROUTE: Final = "per-finding answers, composed"
"""Name of this way of writing, for provenance."""

_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "atelectasis": ("Atelectasis.", "atelectasis"),
    "consolidation": ("Consolidation.", "consolidation"),
    "infiltration": ("Pulmonary infiltration.", "infiltration"),
    "pneumothorax": ("Pneumothorax.", "pneumothorax"),
    "edema": ("Pulmonary edema.", "pulmonary edema"),
    "emphysema": ("Emphysema.", "emphysema"),
    "fibrosis": ("Pulmonary fibrosis.", "fibrosis"),
    "effusion": ("Pleural effusion.", "pleural effusion"),
    "pneumonia": ("Findings of pneumonia.", "findings of pneumonia"),
    "pleural thickening": ("Pleural thickening.", "pleural thickening"),
    "cardiomegaly": ("Cardiomegaly.", "cardiomegaly"),
    "nodule": ("Pulmonary nodule.", "pulmonary nodule"),
    "mass": ("Pulmonary mass.", "pulmonary mass"),
    "hernia": ("Hernia.", "hernia"),
    "lung lesion": ("Lung lesion.", "lung lesion"),
    "fracture": ("Fracture.", "fracture"),
    "lung opacity": ("Lung opacity.", "lung opacity"),
    "enlarged cardiomediastinum": ("Enlarged cardiomediastinal silhouette.", "enlarged cardiomediastinum"),
    "hepatic tumor": ("Hepatic tumor.", "hepatic tumor"),
    "pancreatic tumor": ("Pancreatic tumor.", "pancreatic tumor"),
    "lung tumor": ("Lung tumor.", "lung tumor"),
    "bone lesion": ("Bone lesion.", "bone lesion"),
    "brain tumor": ("Brain tumor.", "brain tumor"),
}


@dataclass(frozen=True)
class FindingAnswer:
    """What the model said about one finding.

    Attributes:
        label: the finding, as the Expert or question names it.
        is_present: the answer; None when nobody assessed it, which is never read as "no".
    """

    label: str
    is_present: bool | None


@dataclass(frozen=True)
class Sentence:
    """One sentence and the findings it speaks of, so that each keeps its evidence.

    Attributes:
        text: the sentence, with its full stop.
        labels: labels of the answers it was made from.
    """

    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Composition:
    """The two sections of a Draft.

    Attributes:
        findings: positives in the order asked, then one sentence of negatives, then what was not assessed.
        impression: the positives again, or that there are none.
    """

    findings: tuple[Sentence, ...]
    impression: tuple[Sentence, ...]

    @property
    def findings_text(self) -> str:
        """The Findings section."""
        return " ".join(sentence.text for sentence in self.findings)

    @property
    def impression_text(self) -> str:
        """The Impression section."""
        return " ".join(sentence.text for sentence in self.impression)


def compose(answers: Sequence[FindingAnswer]) -> Composition:
    """Return Findings and Impression for the model's answers.

    The same answers give the same text. With no answer at all nothing was assessed, and that is what it says.
    """
    present = [answer.label for answer in answers if answer.is_present is True]
    absent = [answer.label for answer in answers if answer.is_present is False]
    unknown = [answer.label for answer in answers if answer.is_present is None]
    positives = tuple(Sentence(_wording(label)[0], (label,)) for label in present)
    findings = [*positives]
    if absent:
        findings.append(Sentence(f"No {join_or(_wording(label)[1] for label in absent)}.", tuple(absent)))
    if unknown or not answers:
        findings.append(_not_assessed(unknown))
    return Composition(findings=tuple(findings), impression=positives or (_negative_impression(absent, unknown),))


def join_or(names: Iterable[str]) -> str:
    """Return names as an English list: ``a``, ``a or b``, ``a, b or c``."""
    listed = list(names)
    if len(listed) < 2:
        return "".join(listed)
    return ", ".join(listed[:-1]) + f" or {listed[-1]}"


def _negative_impression(absent: Sequence[str], unknown: Sequence[str]) -> Sentence:
    if not absent:
        return _not_assessed(unknown)
    return Sentence("None of the assessed findings is seen.", tuple(absent))


def _not_assessed(unknown: Sequence[str]) -> Sentence:
    if not unknown:
        return Sentence("Nothing was assessed.", ())
    names = ", ".join(_wording(label)[1] for label in unknown)
    return Sentence(f"Not assessed: {names}.", tuple(unknown))


def _wording(label: str) -> tuple[str, str]:
    """Return (sentence when present, name in the list of negatives)."""
    name = label.lower().replace("_", " ")
    return _SENTENCES.get(name, (f"{name[:1].upper()}{name[1:]}.", name))
