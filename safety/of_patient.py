"""Rules that hold the text against patient and study: sex, age, modality, body part, the side examined."""

import re
from collections.abc import Iterator

from safety.facts import Issue, ReportFacts
from safety.text import Sentence, sentences, sides_of
from safety.vocabulary import AGE, FEMALE, MALE, MAN, METHODS, OF_MODALITY, ONLY_IN, PAIRED, REGIONS, WOMAN, examined

_OF_THIS = ("technique", "findings", "impression")
_ELSEWHERE = re.compile(
    r"\b(?:prior|previous|compar\w+|history|known|outside|earlier|status post|s/p|correlat\w+|recommend\w*|advis\w*"
    r"|follow[- ]up|further|better (?:evaluated|assessed)|dedicated|consider|limited)\b"
)
_SECONDARY = re.compile(r"\b(?:metasta\w+|primary|carcinoma|cancer|resect\w+|psma)\b")
_THIS = r"\b(?:this|present|current|today'?s) (?:\w+ )?"


def sex(facts: ReportFacts) -> Iterator[Issue]:
    """Yield organs and words of the other sex; nothing when Patient's Sex is O, or not given."""
    if facts.patient_sex not in {"M", "F"}:
        return
    organs, person, name = (FEMALE, WOMAN, "male") if facts.patient_sex == "M" else (MALE, MAN, "female")
    for one in sentences(facts.sections, ("history", *_OF_THIS)):
        match = (
            None if one.place.section == "history" or _SECONDARY.search(one.said) else organs.search(one.said)
        ) or (person.search(one.said))
        if match is not None:
            yield _at(one, "sex", f"“{match[0]}”, but the patient is registered as {name}.", match)


def age(facts: ReportFacts) -> Iterator[Issue]:
    """Yield an age in the text that differs from the patient's by more than a year."""
    if facts.patient_age is None:
        return
    for one in sentences(facts.sections, ("history", *_OF_THIS)):
        match = AGE.search(one.said)
        if match is not None and abs(int(match[1] or match[2]) - int(facts.patient_age)) > 1:
            yield _at(one, "age", f"“{match[0]}”, but the patient is {int(facts.patient_age)} years old.", match)


def modality(facts: ReportFacts) -> Iterator[Issue]:
    """Yield what describes another method of imaging than the study's."""
    own = {OF_MODALITY.get(one, one) for one in facts.modalities}
    if not own or not own <= set(METHODS):
        return
    for one in sentences(facts.sections, _OF_THIS):
        if _ELSEWHERE.search(one.said):
            continue
        match = _foreign_method(one, own) or _foreign_word(one, own)
        if match is not None:
            yield _at(one, "modality", f"“{match[0]}”, but this is a study by {', '.join(sorted(own))}.", match)


def _foreign_method(one: Sentence, own: set[str]) -> re.Match[str] | None:
    """Return another method that a technique names, or that the text calls this study."""
    if any(METHODS[name].search(one.said) for name in own):
        return None
    for name in METHODS.keys() - own:
        pattern = METHODS[name]
        if one.place.section != "technique":
            pattern = re.compile(_THIS + pattern.pattern)
        if (match := pattern.search(one.said)) is not None:
            return match
    return None


def _foreign_word(one: Sentence, own: set[str]) -> re.Match[str] | None:
    for name, pattern in ONLY_IN.items():
        if name not in own and (match := pattern.search(one.said)) is not None:
            return match
    return None


def body_part(facts: ReportFacts) -> Iterator[Issue]:
    """Yield regions that a study of this body part does not show."""
    shown = examined(facts.body_part)
    if not shown:
        return
    for one in sentences(facts.sections, _OF_THIS):
        if one.asks or _ELSEWHERE.search(one.said) or _SECONDARY.search(one.said):
            continue
        for name in REGIONS.keys() - shown:
            match = REGIONS[name].search(one.said)
            if match is not None:
                words = f"“{match[0]}”, but the study is of: {facts.body_part.strip().lower()}."
                yield _at(one, "body_part", words, match)
                break


def study_side(facts: ReportFacts) -> Iterator[Issue]:
    """Yield the other side of a paired body part of which one side was examined."""
    if facts.study_side not in {"left", "right"}:
        return
    for one in sentences(facts.sections, _OF_THIS):
        match = None if _ELSEWHERE.search(one.said) else PAIRED.search(one.said)
        if match is None:
            continue
        said = sides_of(one.said, match.start(), match.end())
        if said and facts.study_side not in said and "bilateral" not in said:
            side = next(iter(said))
            yield _at(
                one, "study_side", f"The text says {side} {match[0]}; the {facts.study_side} was examined.", match
            )


def _at(one: Sentence, rule: str, words: str, match: re.Match[str]) -> Issue:
    start = one.place.start + match.start()
    return Issue(rule, words, one.place.section, start, start + len(match[0]))
