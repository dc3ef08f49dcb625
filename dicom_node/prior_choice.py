"""Which earlier Studies are worth comparing with, and whether what came is of the same patient. No I/O.

Order of candidates: the same modality before one that shows the same thing another way (a radiograph and a CT of the
chest) before any other; within that the same body region before an unknown one before another; then the newest first.
A region is read from Body Part Examined and from the words of Study Description, in the languages of our sites.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from db.lifecycle.prior_values import FoundPrior, PatientFacts, SearchJob

_RADIOGRAPH = frozenset({"CR", "DX", "RF", "XA"})
_SECTIONS = frozenset({"CT", "MR", "PT"})
_NOT_IMAGES = frozenset({"SR", "KO", "PR", "SEG", "DOC", "OT", "AU", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE"})
_REGIONS: Mapping[str, str] = {
    "head": r"head|brain|skull|cranial|cranium|cerebr|neuro|ccrani|kopf|schadel|hirn|tete|cabeza|orbit|sinus|pituitar",
    "neck": r"neck|cervical|thyroid|carotid|hals|cou\b|cuello|larynx|c.?spine|cspine",
    "chest": r"chest|thora|lung|pulmon|cxr|rib|heart|cardiac|coronar|mediast|sternum|breast|brust|torax|poumon",
    "abdomen": r"abdom|chestabd|liver|hepat|kidney|renal|pancrea|spleen|bowel|gastr|bauch|leber|tap\b|cap\b|kub\b",
    "pelvis": r"pelvi|hip\b|bladder|prostat|uter|rectum|becken|tap\b|cap\b|kub\b",
    "spine": r"spine|lumbar|thoracic sp|sacr|lspine|tspine|wirbel|rachis|columna",
    "limb": r"shoulder|arm\b|elbow|wrist|hand|finger|femur|knee|leg\b|ankle|foot|toe|extremit|tibia|humerus",
}
_PATTERNS = {region: re.compile(rf"\b(?:{words})") for region, words in _REGIONS.items()}
_SEX = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}


@dataclass(frozen=True)
class Candidate:
    """One Study an archive has of this Patient ID."""

    found: FoundPrior
    issuer: str = ""
    body_part: str = ""


def modality_rank(current: str, earlier: str) -> int:
    """Return 0 for a shared modality, 1 for a related one, 2 for others; both are comma or backslash separated."""
    mine, theirs = _modalities(current), _modalities(earlier)
    if mine & theirs:
        return 0
    related = any(mine & group and theirs & group for group in (_RADIOGRAPH, _SECTIONS))
    return 1 if related or _shows_the_same(mine, theirs) else 2


def _shows_the_same(mine: frozenset[str], theirs: frozenset[str]) -> bool:
    return bool((mine & _RADIOGRAPH and "CT" in theirs) or (theirs & _RADIOGRAPH and "CT" in mine))


def _modalities(text: str) -> frozenset[str]:
    return frozenset(re.split(r"[,\\\s]+", text.upper().strip())) - _NOT_IMAGES - {""}


def regions(*texts: str) -> frozenset[str]:
    """Return the body regions that Body Part Examined and Study Description speak of."""
    words = " ".join(_plain(re.sub(r"[_^/-]", " ", text)) for text in texts)
    return frozenset(region for region, pattern in _PATTERNS.items() if pattern.search(words))


def region_rank(current: frozenset[str], earlier: frozenset[str]) -> int:
    """Return 0 when a region is shared, 1 when either is unknown, 2 when they differ."""
    if not current or not earlier:
        return 1
    return 0 if current & earlier else 2


def rank(candidates: Iterable[Candidate], job: SearchJob) -> list[Candidate]:
    """Return candidates, the one to compare with first (see the module)."""
    here = regions(job.body_part, job.description)

    def key(one: Candidate) -> tuple[int, int, int, str]:
        found = one.found
        order = modality_rank(job.modalities, found.modalities)
        where = region_rank(here, regions(one.body_part, found.description))
        newest = -int(found.study_date) if found.study_date.isdigit() else 0
        return order, where, newest, found.study_instance_uid

    return sorted(candidates, key=key)


def eligible(candidates: Iterable[Candidate], job: SearchJob, *, years: float) -> list[Candidate]:
    """Return the candidates of an earlier day, within ``years``, each Study once, and never the Study itself."""
    first = _years_before(job.study_date, years)
    once: dict[str, Candidate] = {}
    for one in candidates:
        found = one.found
        is_earlier = re.fullmatch("[0-9]{8}", found.study_date) and first <= found.study_date < job.study_date
        if is_earlier and found.study_instance_uid != job.study_instance_uid:
            once.setdefault(found.study_instance_uid, one)
    return list(once.values())


def date_range(job: SearchJob, years: float) -> str:
    """Return the Study Date range to ask for, as range matching has it (PS3.4 C.2.2.2.5)."""
    return f"{_years_before(job.study_date, years)}-{job.study_date}"


def _years_before(study_date: str, years: float) -> str:
    try:
        day = date(int(study_date[:4]), int(study_date[4:6]), int(study_date[6:8]))
        return (day - timedelta(days=365.25 * years)).strftime("%Y%m%d")
    except (ValueError, OverflowError):
        return "00010101"


def by_issuer(candidates: Sequence[Candidate], issuer: str) -> tuple[list[Candidate], str]:
    """Return the candidates whose Patient ID may be of the same domain, each noted, and why others were left out.

    A Patient ID means something only within the domain that issued it. Where one side names no issuer, the rest of
    the identity has to prove more (:func:`identity_mismatch`); where the archive names several, nobody can say whose
    patient is meant.
    """
    ours = issuer.strip()
    named = {one.issuer.strip() for one in candidates} - {""}
    if not ours and len(named) > 1:
        return [], "our study names no issuer of the Patient ID, and the archives know it from several"
    kept = []
    for one in candidates:
        theirs = one.issuer.strip()
        if ours and theirs and ours != theirs:
            continue
        note = ""
        if not ours and theirs:
            note = "our study names no issuer of the Patient ID, the archive does"
        elif ours and not theirs:
            note = "the archive names no issuer of the Patient ID, our study does"
        kept.append(replace(one, found=replace(one.found, note=note)))
    left_out = len(candidates) - len(kept)
    return kept, f"{left_out} of another issuer of this Patient ID" if left_out else ""


def identity_mismatch(current: PatientFacts, earlier: PatientFacts) -> str:
    """Return why an earlier Study is not taken for this patient's; empty when name, birth date and sex agree.

    A value that one side lacks proves nothing: the name must agree, and either the birth date or, when both
    sides name the same issuer, the Patient ID within it.
    """
    if why := contradiction(current, earlier):
        return why
    if not same_name(current.name, earlier.name):
        return "the name differs"
    same_domain = current.issuer.strip() and current.issuer.strip() == earlier.issuer.strip()
    if not same_domain and not (current.birth_date.strip() and earlier.birth_date.strip()):
        return "neither a birth date nor an issuer of the Patient ID proves that it is the same patient"
    return ""


def contradiction(current: PatientFacts, earlier: PatientFacts) -> str:
    """Return which value that both sides have differs; empty when none does."""
    names = bool(current.name.strip("^= ") and earlier.name.strip("^= "))
    checks = {
        "it has another Patient ID": _differ(current.patient_id, earlier.patient_id),
        "its Patient ID is of another issuer": _differ(current.issuer, earlier.issuer),
        "the birth date differs": _differ(current.birth_date, earlier.birth_date),
        "the sex differs": _differ(_sex(current.sex), _sex(earlier.sex)),
        "the name differs": names and not same_name(current.name, earlier.name),
    }
    return next((why for why, differs in checks.items() if differs), "")


def same_name(one: str, other: str) -> bool:
    """Return whether two PN values name the same person (PS3.5 6.2.1).

    The groups both have are compared, alphabetic with alphabetic: family and given name, without case, diacritics
    and punctuation; a middle name, prefix or suffix that one side lacks does not matter. A letter with a diacritic is
    also taken for the two it is written with elsewhere: Müller, MULLER and MUELLER are one name.
    """
    spellings = [(name, unicodedata.normalize("NFC", name).translate(_DIGRAPHS)) for name in (one, other)]
    return any(_same_spelling(a, b) for a in spellings[0] for b in spellings[1])


def _same_spelling(one: str, other: str) -> bool:
    groups = [_groups(one), _groups(other)]
    shared = [(a, b) for a, b in zip(*groups, strict=False) if any(a) and any(b)]
    return bool(shared) and all(_same_group(a, b) for a, b in shared)


def _groups(name: str) -> list[list[str]]:
    return [[_letters(part) for part in group.split("^")] for group in name.split("=")[:3]]


def _same_group(one: list[str], other: list[str]) -> bool:
    first = [(one + [""] * 3)[:3], (other + [""] * 3)[:3]]
    if "".join(first[0]) == "".join(first[1]):
        return True  # the same words, separated otherwise: "Doe Jane" and "Doe^Jane"
    (family, given, middle), (family2, given2, middle2) = first
    return family == family2 and given == given2 and (middle == middle2 or not middle or not middle2)


def _letters(text: str) -> str:
    return "".join(letter for letter in _plain(text) if letter.isalnum())


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.translate(_LIGATURES)).casefold()
    return "".join(letter for letter in folded if not unicodedata.combining(letter))


_DIGRAPHS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "Ä": "AE", "Ö": "OE", "Ü": "UE", "Ø": "OE", "Å": "AA"}
)
_LIGATURES = str.maketrans(
    {"ø": "o", "Ø": "o", "ł": "l", "Ł": "l", "đ": "d", "Đ": "d", "æ": "ae", "Æ": "ae", "œ": "oe"}
)


def _sex(value: str) -> str:
    return _SEX.get(value.strip().upper(), "")


def _differ(one: str, other: str) -> bool:
    return bool(one.strip() and other.strip()) and one.strip() != other.strip()
