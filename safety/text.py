"""Reading a report's English: sentences with their places, what is denied, which side belongs to what, numbers.

Small and fixed on purpose: every judgement can be explained to a reader, and none is learned.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from safety.facts import Dimension, Place, Side

SPOKEN = ("findings", "impression", "addendum")  # what the report asserts; history and comparison speak of other things
_SENTENCE = re.compile(r"[^.!?\n]+(?:\.(?=\d)[^.!?\n]*)*[.!?]*")
_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|prof|approx|ca|vs|no|cf|e\.g|i\.e)\.$", re.IGNORECASE)
_PART = re.compile(r"\b(?:but|however|although|though|except|whereas|while|apart from|other than|aside from)\b|[;:]")
_BEFORE = re.compile(
    r"\b(?:no|not|without|absence of|absent|negative for|free of|clear of|neither|nor|den(?:y|ies)|never"
    r"|rul(?:e|es|ed) out|exclud(?:e|es|ed|ing)|unlikely|instead of|rather than|unremarkable for|lack of|resolved)\b"
)
# a denial ends where something else is asserted: "no effusion, and there is a nodule"
_ENDS = re.compile(
    r",\s*(?:and\s+)?(?:there (?:is|are)|with|a|an|the|new|small|large|mild|moderate|left|right)\s"
    r"|\band there (?:is|are)\b|\b(?:is|are) (?:seen|noted|present|identified)\b|\bwith (?:a|an)\b"
)
_UNDOES = re.compile(
    r"\b(?:no|not) (?:only|further|other|additional|longer|definite change|significant change|change)\b"
)
_AFTER = re.compile(
    r"^[^.;]{0,60}?\b(?:(?:is|are|was|were|has been|have been) (?:not|absent|excluded|ruled out|unlikely|resolved)"
    r"|(?:not|nor) (?:seen|present|identified|evident|detected|visible|demonstrated)|absent|unlikely)\b"
    r"|^[^.;,]{0,40}?\b(?:cannot|can not|could not) be (?:seen|identified|shown|demonstrated)\b"
)
_UNASSESSED = re.compile(r"\bnot (?:assessed|evaluated|included|asked)\b[^.;]*$")
_NONE = re.compile(r"\s*[:=]\s*(?:none|no|absent|negative|nil)\b")  # as structured reports write
_ASKS = re.compile(
    r"\b(?:recommend\w*|advis\w*|suggest(?:ed)? (?:a )?follow|follow[- ]up|correlat\w*|consider(?:ed|ing)?\b"
    r"|if clinically|should be|further evaluation|question of|to (?:rule out|exclude)|evaluate for|rule out)\b"
)
_SIDE = re.compile(r"\b(left|right|bilateral(?:ly)?|both)\b(?:[- ]sided)?")
_NO_SIDE = re.compile(
    # chambers and vessels that are named so wherever they are
    r"\b(?:left|right)[- ](?:sided )?(?:ventric\w*|atri\w*|heart|cardiac|coronar\w*|main coronary|anterior descending"
    r"|circumflex|bundle|aortic arch|dominan\w*|to[- ](?:left|right)|hilar angle|axis|shift\w*)"
    r"|\bto the (?:left|right)\b"  # a shift is away from a finding
    # what was put in has a side of its own
    r"|\b(?:left|right)[- ](?:sided )?(?:\w+ ){0,3}?(?:chest tubes?|drains?|catheters?|picc|ports?|port-a-cath|lines?"
    r"|pacemaker|icd|pacer|tubes?|stents?|prosthes\w*|arthroplasty|mastectomy|nephrectomy|lobectomy|leads?)\b"
    r"|\bleft (?:in (?:place|situ)|the|untreated|unchanged|open|alone|against)\b"
    r"|\bright (?:after|before|away|now|above|below|at|next)\b|\ball right\b"
)
_NUMBER = re.compile(
    r"(?<![\w.\-])(\d+(?:[.,]\d+)?)((?:\s*(?:[x×*]|by)\s*\d+(?:[.,]\d+)?(?:\s*(?:mm|cm))?){0,2})\s*-?"
    r"(mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?|ml|millilit(?:er|re)s?|cc|cm3|cm³|l|lit(?:er|re)s?)\b(?!\s*(?:slice|section|collim|thick|interval))",
    re.IGNORECASE,
)
_EARLIER = re.compile(r"\b(?:previous(?:ly)?|prior|formerly|was|were|from|earlier|before|compared)\W+(?:\w+\W+){0,3}$")
_UNITS: Mapping[str, tuple[Dimension, float]] = {
    "mm": ("length", 1.0), "mi": ("length", 1.0), "cm": ("length", 10.0), "ce": ("length", 10.0),
    "ml": ("volume", 1.0), "cc": ("volume", 1.0), "l": ("volume", 1000.0),
}  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """One sentence, lower case as ``said``, and where it stands."""

    place: Place
    said: str

    @property
    def asks(self) -> bool:
        """Whether it recommends or questions instead of stating."""
        return _ASKS.search(self.said) is not None


@dataclass(frozen=True)
class Number:
    """A number with a unit as written: ``value`` and ``step`` (of its last digit) in mm or ml."""

    dimension: Dimension
    value: float
    step: float
    written: str
    bare: float  # without the unit's factor
    start: int
    end: int


def sentences(sections: Mapping[str, str], keys: Sequence[str] = SPOKEN) -> Iterator[Sentence]:
    """Yield the sentences of some sections; a decimal point, an abbreviation or ``1.`` of a list ends none."""
    for key in keys:
        text = sections.get(key, "")
        start = None
        for match in _SENTENCE.finditer(text):
            begin = match.start() if start is None else start
            piece = text[begin : match.end()]
            if _ABBREVIATION.search(piece) or re.fullmatch(r"\s*\d+\.", piece):
                start = begin
                continue
            start = None
            kept = piece.strip()
            if kept:
                at = begin + piece.index(kept)
                yield Sentence(Place(key, at, at + len(kept), kept), kept.lower())


def is_denied(said: str, start: int, end: int) -> bool:
    """Return whether a sentence denies what stands at ``start``..``end`` of it."""
    before, after = said[:start], said[end:]
    if _UNASSESSED.search(before):
        return True  # the list after the colon is of what nobody looked for
    parts = list(_PART.finditer(before))
    before = before[parts[-1].end() :] if parts else before
    if _NONE.match(after):
        return True
    cut = _PART.search(after)
    after = after[: cut.start()] if cut else after
    for match in reversed(list(_BEFORE.finditer(before))):
        if _UNDOES.match(before, match.start()):
            continue
        ended = _ENDS.search(before, match.end())
        if ended is None:
            return True
        break
    return _AFTER.match(after) is not None


def is_asked(said: str, start: int) -> bool:
    """Return whether what stands at ``start`` is recommended or questioned, not stated: the asking word comes first."""
    parts = list(_PART.finditer(said, 0, start))
    return _ASKS.search(said, parts[-1].end() if parts else 0, start) is not None


def sides_of(said: str, start: int, end: int) -> frozenset[Side]:
    """Return the sides a sentence gives to what stands at ``start``..``end`` of it; empty when it gives none.

    The side in the same stretch between commas and conjunctions counts; without one there, the sentence's only side.
    """
    found = [(m.start(), _named(m[1])) for m in _SIDE.finditer(without_other_sides(said))]
    if not found:
        return frozenset()
    low, high = _stretch(said, start, end)
    near = [(at, side) for at, side in found if low <= at < high]
    if near:
        before = [side for at, side in near if at < start]
        after = [side for at, side in near if at >= start]
        # "right lung and left base": named around the term, all of them count
        return frozenset(before if before and not after else after if after and not before else before + after)
    every = frozenset(side for _, side in found)
    return every if len(every) == 1 and not _another(said, start, end) else frozenset()


def without_other_sides(said: str) -> str:
    """Return the sentence, every left and right blanked that is no finding's side (right ventricle, left port)."""
    return _NO_SIDE.sub(lambda match: " " * len(match[0]), said)


def numbers(sentence: Sentence) -> Iterator[Number]:
    """Yield the largest number of each measurement with a unit; sizes of earlier studies are left out."""
    text = sentence.place.text
    for match in _NUMBER.finditer(text):
        if _EARLIER.search(text[: match.start()].lower()):
            continue
        unit = match[3].lower()
        unit = "ml" if unit in {"cm3", "cm³"} or (unit.startswith("milli") and "l" in unit[5:]) else unit
        dimension, factor = _UNITS.get(unit[:2], _UNITS["l"]) if unit != "l" else _UNITS["l"]
        given = [match[1], *re.findall(r"\d+(?:[.,]\d+)?", match[2])]
        largest = max(given, key=lambda one: float(one.replace(",", ".")))
        plain = largest.replace(",", ".")
        digits = len(plain.partition(".")[2])
        yield Number(
            dimension, float(plain) * factor, factor * 10.0**-digits, match[0], float(plain), match.start(), match.end()
        )


def _named(word: str) -> Side:
    return "bilateral" if word.startswith(("bilateral", "both")) else "left" if word == "left" else "right"


_JOINT = re.compile(r",|;|:|\band\b|\bwith\b|\bbut\b|\bwhile\b|\bwhereas\b|\bas well as\b|\bor\b")
_LIST_OF_SIDES = re.compile(r"\b(?:left|right)\b[^,;:]{0,40}\band\b[^,;:]{0,25}\b(?:left|right)\b")


def _stretch(said: str, start: int, end: int) -> tuple[int, int]:
    low, high = 0, len(said)
    pairs = [match.span() for match in _LIST_OF_SIDES.finditer(said)]
    for match in _JOINT.finditer(said):
        if match[0] == "and" and any(a <= match.start() < b for a, b in pairs) and not _parted(said, match.start()):
            continue  # "in the right lower lobe and left apex" is one place list
        if match.end() <= start:
            low = match.end()
        elif match.start() >= end:
            high = match.start()
            break
    return low, high


_THING = re.compile(
    r"\b(?:effusions?|opacit(?:y|ies)|nodules?|mass(?:es)?|tumou?rs?|lesions?|pneumothora\w+|consolidations?|fractures?"
    r"|atelecta\w+|cysts?|h(?:a)?emorrhages?|infarcts?|thicken\w+|pneumonias?|edema|metastas[ie]s|stones?|hernias?)\b"
)


def _parted(said: str, at: int) -> bool:
    """Return whether both neighbours of an "and" name a thing of their own."""
    head, tail = re.split(r"[,;:]", said[:at])[-1], re.split(r"[,;:]|\band\b", said[at + 3 :])[0]
    return _THING.search(head) is not None and _THING.search(tail) is not None


def _another(said: str, start: int, end: int) -> bool:
    """Return whether the sentence names another thing, whose side it may be."""
    return any(one.end() <= start or one.start() >= end for one in _THING.finditer(said))
