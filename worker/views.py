"""The view of a projection radiograph, from whichever attribute says it."""

from pydicom import Dataset

# View Code Sequence (0054,0220), CID 4010: required of DX where View Position (0018,5101) is optional
_CODED = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-10214": "PA",
    "399173006": "LL",
    "399198007": "RL",
}


def view_position(ds: Dataset) -> str:
    """Return View Position (0018,5101), else what View Code Sequence means in its terms, else ``""``."""
    stated = str(ds.get("ViewPosition", "") or "").strip()
    codes = ds.get("ViewCodeSequence") or []
    if stated or len(codes) != 1:
        return stated
    return _CODED.get(str(codes[0].get("CodeValue", "")), "")
