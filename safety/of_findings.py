"""Rules that hold the text against the findings: what was decided, on which side, of which size."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from safety.facts import FindingFact, Issue, Measure, ReportFacts, Side
from safety.text import SPOKEN, Number, Sentence, is_asked, is_denied, numbers, sentences, sides_of
from safety.vocabulary import plain, term

_NEAR = 0.05  # a size may differ by one part in twenty, or by what it is rounded to
_LEAST_MM = 1.0


def decisions(facts: ReportFacts) -> Iterator[Issue]:
    """Yield text that asserts what the reader rejected or the model called absent, or denies what was accepted."""
    spoken = list(sentences(facts.sections, SPOKEN))
    standing = [one for one in facts.findings if one.stands]
    for finding in facts.findings:
        if finding.decision == "rejected" and finding.presence == "present":
            yield from _rejected(finding, spoken, standing)
        elif finding.decision == "accepted" and finding.stands and not facts.is_addendum:
            yield from _accepted(finding, spoken)
        elif finding.decision == "edited":
            yield from _edited(finding, spoken)
        elif finding.presence == "absent" and not _shares(finding, standing):
            yield from _absent(finding, spoken)


def _rejected(finding: FindingFact, spoken: Sequence[Sentence], standing: Sequence[FindingFact]) -> Iterator[Issue]:
    if _shares(finding, standing):
        return  # another finding of the same name stands: the sentence may be its
    for one in _asserting(finding, spoken):
        words = f"You rejected “{plain(finding.label)}”, but the text still says: “{one.place.text}”"
        yield _issue("rejected_asserted", words, one, finding)


def _accepted(finding: FindingFact, spoken: Sequence[Sentence]) -> Iterator[Issue]:
    name = plain(finding.label)
    if next(_asserting(finding, spoken), None) is not None:
        return
    for one in spoken:
        if term(finding.label).search(one.said):
            words = f"You accepted “{name}”, but the text denies it: “{one.place.text}”"
            yield _issue("accepted_denied", words, one, finding)
            return
    if finding.sentence and any(finding.sentence.lower().strip() in one.said for one in spoken):
        return
    yield Issue(
        "accepted_missing", f"You accepted “{name}”; the text does not speak of it.", finding_id=finding.finding_id
    )


def _edited(finding: FindingFact, spoken: Sequence[Sentence]) -> Iterator[Issue]:
    ai, own = finding.sentence.strip().lower(), finding.instead.strip().lower()
    for one in spoken:
        if ai and ai != own and one.said == ai:
            words = f"You edited “{plain(finding.label)}”, but the text still has the AI's sentence."
            yield _issue("edited_unchanged", words, one, finding)


def _absent(finding: FindingFact, spoken: Sequence[Sentence]) -> Iterator[Issue]:
    for one in _asserting(finding, spoken):
        words = f"The expert model did not find {plain(finding.label)}; the text says: “{one.place.text}”"
        yield _issue("absent_asserted", words, one, finding)
        return


def _asserting(finding: FindingFact, spoken: Sequence[Sentence]) -> Iterator[Sentence]:
    for one in spoken:
        said = one.said
        found = term(finding.label).finditer(said)
        if any(not is_denied(said, *m.span()) and not is_asked(said, m.start()) for m in found):
            yield one


def _shares(finding: FindingFact, others: Sequence[FindingFact]) -> bool:
    """Return whether another finding may be meant by the same words (nodule, lung lesion)."""
    own = term(finding.label)
    return any(
        other is not finding
        and (own.search(plain(other.label)) or term(other.label).search(plain(finding.label))
             or (own.search(other.sentence.lower()) and other.sentence != finding.sentence))
        for other in others
    )  # fmt: skip


def sides(facts: ReportFacts) -> Iterator[Issue]:
    """Yield sides in the text that are not the finding's, and impressions on the other side than the findings."""
    spoken = list(sentences(facts.sections, SPOKEN))
    measured: dict[str, set[Side]] = defaultdict(set)
    for finding in facts.findings:
        if finding.stands and finding.side:
            measured[finding.label].add(finding.side)
    unplaced = {one.label for one in facts.findings if one.stands and not one.side}
    for label, allowed in measured.items():
        if "bilateral" in allowed or label in unplaced:
            continue
        finding = next(one for one in facts.findings if one.label == label and one.stands)
        for one, said in _sided(label, spoken):
            # "bilateral" is more than was measured, not the other side; a person may see more than a mask
            wrong = said - allowed - {"bilateral"}
            if wrong and not said & allowed:
                words = f"The text says {_and(wrong)} for {plain(label)}; it was measured {_and(allowed)}."
                yield _issue("laterality", words, one, finding)
    yield from _parts_apart(facts, spoken)


def _parts_apart(facts: ReportFacts, spoken: Sequence[Sentence]) -> Iterator[Issue]:
    for label in sorted({one.label for one in facts.findings} | _COMMON):
        by_part: Mapping[str, set[Side]] = {key: set() for key in SPOKEN}
        last: dict[str, Sentence] = {}
        for one, said in _sided(label, spoken):
            by_part[one.place.section] |= {"left", "right"} if "bilateral" in said else set(said)
            last[one.place.section] = one
        here, there = by_part["findings"], by_part["impression"]
        if here and there and not here & there:
            words = f"{plain(label).capitalize()} is {_and(here)} in the findings and {_and(there)} in the impression."
            yield _issue("side_conflict", words, last["impression"], None)
            return


_COMMON = frozenset({"effusion", "pneumothorax", "consolidation", "nodule", "mass", "lung opacity", "fracture"})


def _sided(label: str, spoken: Sequence[Sentence]) -> Iterator[tuple[Sentence, set[Side]]]:
    for one in spoken:
        for match in term(label).finditer(one.said):
            said = set(sides_of(one.said, *match.span()))
            if said and not is_denied(one.said, *match.span()):
                yield one, said


def sizes(facts: ReportFacts) -> Iterator[Issue]:
    """Yield sizes in sentences about a finding that nothing measured agrees with."""
    reported: set[tuple[str, int]] = set()
    for finding in (one for one in facts.findings if one.stands and one.measures):
        kin = [one for one in facts.findings if one.label == finding.label and one.stands]
        known = [measure for one in kin for measure in one.measures] + list(facts.drawn)
        for one in sentences(facts.sections, SPOKEN):
            if term(finding.label).search(one.said) is None:
                continue
            for number in numbers(one):
                place = (one.place.section, one.place.start + number.start)
                if place not in reported and (words := _disagrees(number, known)):
                    reported.add(place)
                    start, end = place[1], one.place.start + number.end
                    yield Issue("number", words, one.place.section, start, end, finding.finding_id)


def _disagrees(number: Number, known: Sequence[Measure]) -> str:
    same = [one.value for one in known if one.dimension == number.dimension]
    if any(abs(value - number.value) <= _tolerance(number, value) for value in same):
        return ""
    if not same:
        other = next((one for one in known if abs(one.value - number.bare) < 1e-6), None)
        unit = {"length": "mm", "volume": "ml"}
        return f"“{number.written}”, but {other.value:g} {unit[other.dimension]} was measured." if other else ""
    unit_of = "mm" if number.dimension == "length" else "ml"
    measured = ", ".join(f"{value:.3g} {unit_of}" for value in dict.fromkeys(same))
    return f"“{number.written}” is none of what was measured: {measured}."


def _tolerance(number: Number, value: float) -> float:
    least = _LEAST_MM if number.dimension == "length" else 0.0
    return max(number.step / 2 + 1e-9, _NEAR * value, least)


def _and(said: set[Side]) -> str:
    return " and ".join(sorted(one or "" for one in said))


def _issue(rule: str, words: str, one: Sentence, finding: FindingFact | None) -> Issue:
    finding_id = finding.finding_id if finding else ""
    return Issue(rule, words, one.place.section, one.place.start, one.place.end, finding_id)
