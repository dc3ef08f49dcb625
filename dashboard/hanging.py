"""Which Series is shown where when a Study is opened: one rule per modality."""

from collections.abc import Sequence
from dataclasses import dataclass

_MR_ROLES = ("T1C", "FLAIR", "T2", "T1")
_LATERAL = frozenset({"LL", "RL", "LLD", "RLD", "LATERAL"})


@dataclass(frozen=True)
class Hung:
    """One Series to hang: its id in the page, modality, role (see ``dashboard.scene.role_of``), number of Instances."""

    key: str
    modality: str
    role: str
    count: int


@dataclass(frozen=True)
class Hanging:
    """A grid of viewports, row by row; ``linked`` ones scroll together by position in the patient."""

    rows: int
    columns: int
    cells: tuple[str, ...]
    linked: bool


def hang(series: Sequence[Hung], first: str) -> Hanging:
    """Return how ``series`` are hung.

    Args:
        series: image Series in the order of the rail.
        first: key of the Series that a finding is on, or the largest.
    """
    chosen = next((one for one in series if one.key == first), None)
    if chosen is None:
        return Hanging(1, 1, tuple(one.key for one in series[:1]), linked=False)
    if chosen.modality == "MR":
        return _brain(series, chosen)
    if chosen.modality in {"CR", "DX"}:
        return _radiographs(series, chosen)
    return Hanging(1, 1, (first,), linked=False)


def _brain(series: Sequence[Hung], chosen: Hung) -> Hanging:
    by_role = {one.role: one.key for one in reversed(series) if one.modality == "MR"}
    cells = [by_role[role] for role in _MR_ROLES if role in by_role]
    if len(cells) < 2:
        return Hanging(1, 1, (chosen.key,), linked=False)
    if chosen.key not in cells:
        cells = [chosen.key, *cells][:4]
    return Hanging(1 if len(cells) == 2 else 2, 2, tuple(cells), linked=True)


def _radiographs(series: Sequence[Hung], chosen: Hung) -> Hanging:
    films = [one for one in series if one.modality in {"CR", "DX"}]
    frontal = [one for one in films if one.role not in _LATERAL]
    lateral = [one for one in films if one.role in _LATERAL]
    if frontal and lateral:
        front = chosen if chosen in frontal else frontal[0]
        side = chosen if chosen in lateral else lateral[0]
        return Hanging(1, 2, (front.key, side.key), linked=False)
    return Hanging(1, 1, (chosen.key,), linked=False)
