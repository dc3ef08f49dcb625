"""Which MR Series is T1, contrast-enhanced T1, T2 or FLAIR, read from what the scanner wrote."""

import re
from collections.abc import Mapping, Sequence

from pydicom import Dataset

from config.errors import OutsideIntendedUseError

ROLES = ("T1c", "T1", "T2", "FLAIR")
_NOT_ANATOMY = re.compile(r"\b(dwi|dti|diff|adc|trace|perf|dsc|dce|swi|bold|fmri|loc|localizer|scout|survey|mra|tof)\b")
_CONTRAST_WORDS = re.compile(r"(\bgad\b|gad[oe]|\bgd\b|post|contrast|\+c\b|\bce\b|t1c|t1ce)")


def _words(ds: Dataset) -> str:
    names = (ds.get("SeriesDescription", ""), ds.get("ProtocolName", ""), ds.get("SequenceName", ""))
    return re.sub(r"[_\-*]", " ", " ".join(str(n) for n in names).lower())


def _number(ds: Dataset, keyword: str) -> float | None:
    value = ds.get(keyword)
    return None if value in (None, "") else float(value)


def _weighting(ds: Dataset, words: str) -> str:
    """Return T1, T2, FLAIR or an empty string."""
    te, tr, ti = _number(ds, "EchoTime"), _number(ds, "RepetitionTime"), _number(ds, "InversionTime")
    if "flair" in words or (ti is not None and ti >= 1500 and te is not None and te >= 60):
        return "FLAIR"
    named = re.findall(r"\b(t1|t2)", words)
    if len(set(named)) == 1:
        return str(named[0]).upper()
    if te is None or tr is None:
        return ""
    if te <= 30 and tr <= 1200:
        return "T1"
    return "T2" if te >= 70 and tr >= 1800 else ""


def role_of(ds: Dataset) -> str:
    """Return the role of a Series by one of its headers, or an empty string when it plays none."""
    words = _words(ds)
    if _NOT_ANATOMY.search(words) or "DIFFUSION" in [str(v).upper() for v in ds.get("ImageType", [])]:
        return ""
    weighting = _weighting(ds, words)
    if weighting == "T1":
        agent = str(ds.get("ContrastBolusAgent", "") or "").strip().lower()
        with_agent = agent not in {"", "none", "no"} or bool(_CONTRAST_WORDS.search(words))
        return "T1c" if with_agent else "T1"
    return weighting


def assign_roles(series: Mapping[str, Sequence[Dataset]]) -> dict[str, str]:
    """Return role → Series Instance UID for the four sequences BraTS needs.

    Args:
        series: Series Instance UID → its headers.

    Raises:
        OutsideIntendedUseError: a role is missing, or two Series claim it.
    """
    claims: dict[str, list[str]] = {role: [] for role in ROLES}
    for uid, headers in series.items():
        role = role_of(headers[0])
        if role:
            claims[role].append(uid)
    missing = [role for role in ROLES if not claims[role]]
    if missing:
        raise OutsideIntendedUseError(f"missing MR sequence: {', '.join(missing)}")
    doubled = [role for role in ROLES if len(claims[role]) > 1]
    if doubled:
        raise OutsideIntendedUseError(f"more than one series could be {', '.join(doubled)}")
    return {role: uids[0] for role, uids in claims.items()}
