"""Deterministic checks of a draft's text against the Experts' structured output.

Every omission, contradiction, unfounded side or number becomes a Mark that a person sees; nothing is
repaired (design section 5: small decoders were seen to write "normal" whatever the Expert said).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from safety.text import sentences as report_sentences

Said = Literal["present", "absent", "nothing"]
MarkKind = Literal[
    "omission", "contradiction", "unfounded", "laterality", "number", "comparison", "trigger", "not_asked", "resources",
    "result",
]  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """One disagreement a person has to look at.

    Attributes:
        kind: what is wrong.
        finding: label of the Finding concerned, or ``""``.
        text: one sentence for the radiologist.
    """

    kind: MarkKind
    finding: str
    text: str


# What a report may call each finding. Longer names first, so that "lung lesion" is not read as "lesion".
_TERMS: Mapping[str, str] = {
    "Atelectasis": r"atelecta(?:sis|ses|tic)",
    "Consolidation": r"consolidations?",
    "Infiltration": r"infiltrat(?:ion|ions|e|es)",
    "Pneumothorax": r"pneumothora(?:x|ces)",
    "Edema": r"(?:pulmonary |interstitial )?o?edema",
    "Emphysema": r"emphysema(?:tous)?",
    "Fibrosis": r"fibro(?:sis|tic)",
    "Effusion": r"effusions?",
    "Pneumonia": r"pneumonias?",
    "Pleural_Thickening": r"pleural thickening|thickened pleura",
    "Cardiomegaly": r"cardiomegaly|enlarged (?:heart|cardiac silhouette)|heart is enlarged",
    "Nodule": r"(?:lung |pulmonary )?nodules?",
    "Mass": r"mass(?:es)?",
    "Hernia": r"hernias?",
    "Lung Lesion": r"(?:lung|pulmonary) lesions?",
    "Fracture": r"fractures?",
    "Lung Opacity": r"(?:lung |airspace |pulmonary )?opacit(?:y|ies)",
    "Enlarged Cardiomediastinum": r"(?:enlarged|widened) (?:cardio)?mediastin(?:um|al silhouette)|mediastinal widening",
    "hepatic tumor": r"(?:hepatic|liver) tumou?rs?",
    "pancreatic tumor": r"pancreatic tumou?rs?",
    "lung tumor": r"(?:lung|pulmonary) tumou?rs?",
    "bone lesion": r"bone lesions?|osseous lesions?",
    "brain tumor": r"(?:brain|intra-?axial|cerebral) tumou?rs?",
}
_NEGATION = re.compile(r"\b(?:no|not|without|absent|absence of|negative for|free of|denies|neither|nor)\b")
_POST_NEGATION = re.compile(r"^[^.;]*?\b(?:(?:is|are|was|were) (?:not|absent|excluded)|(?:not|nor) (?:seen|present))\b")
_BREAK = re.compile(r"\b(?:but|however|although|except)\b|[;:]")
_SIDE = re.compile(r"\b(left|right|bilateral)\b")
_COMPARES = re.compile(
    r"\b(?:unchanged|no (?:\w+ ){0,3}changes?|(?:interval|significant) changes?|(?:has|have) (?:not )?changed"
    r"|stable|stability|compare|compared|comparing|comparison|previous|previously|redemonstrat\w*"
    r"|interval (?:development|resolution|increase|decrease|improvement|worsening|growth)"
    r"|(?:since|from|than) (?:the )?(?:prior|previous|last|earlier)|new since|newly|no longer"
    r"|(?:in|de)creas(?:e|ed|ing) in size|(?:larger|smaller|better|worse) than"
    r"|(?:has|have) (?:grown|shrunk|resolved|progressed|regressed)|progression|regression"
    r"|improved|worsened|worsening|again (?:seen|noted|demonstrated)|persist(?:s|ent|ing)?"
    r"|prior (?:study|exam\w*|ct|mri?|radiographs?|films?))\b"
)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")


def sentences(text: str) -> list[str]:
    """Split where the linter of signed text splits: a decimal point, an abbreviation, ``1.`` of a list end nothing."""
    return [one.place.text for one in report_sentences({"text": text}, ("text",))]


def said(text: str, label: str) -> Said:
    """Return what ``text`` says of a finding; a positive mention outweighs a negative one.

    Raises:
        KeyError: a label this module has no words for.
    """
    term = re.compile(rf"\b(?:{_TERMS[label]})\b")
    verdict: Said = "nothing"
    for sentence in sentences(text.lower()):
        for clause in _BREAK.split(sentence):
            for match in term.finditer(clause):
                before, after = clause[: match.start()], clause[match.end() :]
                if _NEGATION.search(before) or _POST_NEGATION.match(after):
                    verdict = "absent" if verdict == "nothing" else verdict
                else:
                    verdict = "present"
    return verdict


def check_findings(text: str, expert: str, calls: Mapping[str, bool]) -> list[Mark]:
    """Compare what the text says with what one Expert found.

    Args:
        text: findings and impression, as the model decided them.
        expert: name of the Expert.
        calls: finding label → positive, for what the Expert assessed.
    """
    marks: list[Mark] = []
    for label, positive in calls.items():
        if label not in _TERMS:
            continue
        name = label.lower().replace("_", " ")
        stated = said(text, label)
        if positive and stated == "nothing":
            marks.append(Mark("omission", label, f"{expert} found {name}; the draft does not mention it."))
        elif positive and stated == "absent":
            marks.append(Mark("contradiction", label, f"{expert} found {name}; the draft says there is none."))
        elif not positive and stated == "present":
            marks.append(Mark("contradiction", label, f"The draft reports {name}; {expert} did not find it."))
    return marks


def check_unfounded(text: str, assessed: Iterable[str]) -> list[Mark]:
    """Mark every finding the text speaks of that no Expert assessed: missing is not negative."""
    known = set(assessed)
    return [
        Mark("unfounded", label, f"The draft speaks of {label.lower().replace('_', ' ')}; no expert assessed it.")
        for label in _TERMS
        if label not in known and said(text, label) != "nothing" and not _covered(label, known)
    ]


def _covered(label: str, known: set[str]) -> bool:
    """Return whether a word of ``label`` is also how an assessed finding is named (brain tumor, tumor)."""
    own = re.compile(_TERMS[label])
    return any(own.search(other.lower().replace("_", " ")) for other in known)


def check_sides(text: str, sides: Mapping[str, str]) -> list[Mark]:
    """Mark a side that no Expert measured, or that differs from the one measured.

    Args:
        text: findings and impression.
        sides: finding label → ``"left"``, ``"right"``, or ``""`` where no Expert localised it.
    """
    marks = []
    for label, side in sides.items():
        if label not in _TERMS:
            continue
        term = re.compile(rf"\b(?:{_TERMS[label]})\b")
        for sentence in sentences(text.lower()):
            stated = set(_SIDE.findall(sentence)) if term.search(sentence) else set()
            if stated - ({side} if side else set()):
                what = f"the expert measured {side}" if side else "no expert localised it"
                words = " and ".join(sorted(stated))
                name = label.lower().replace("_", " ")
                marks.append(Mark("laterality", label, f"The draft says {words} for {name}; {what}."))
                break
    return marks


def check_numbers(text: str, measured: Sequence[float]) -> list[Mark]:
    """Mark every number in the text that is no measured value, rounded as written."""
    marks = []
    for token in dict.fromkeys(_NUMBER.findall(text)):
        digits = len(token.partition(".")[2])
        if not any(abs(round(value, digits) - float(token)) < 10.0 ** -(digits + 6) for value in measured):
            marks.append(Mark("number", "", f"The draft states {token}, which no expert measured."))
    return marks


def check_comparison(text: str, *, has_prior: bool) -> list[Mark]:
    """Mark every sentence that compares with an earlier study: the images of none were compared.

    Args:
        text: findings and impression.
        has_prior: an earlier study was available; the draft names it in Comparison, and looked at this one only.
    """
    why = "the images of the prior study were not compared" if has_prior else "no prior study was available"
    return [
        Mark("comparison", "", f"The draft speaks of change or of an earlier study ({sentence!r}); {why}.")
        for sentence in sentences(text)
        if _COMPARES.search(sentence.lower())
    ]
