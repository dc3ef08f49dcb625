"""Which MR Series is T1, contrast-enhanced T1, T2 or FLAIR: certain, or not at all.

A role is taken from acquisition attributes. A name that contradicts them, or a name without attributes, is
doubt: the Series is set aside, and when no other Series fills the role the Study is refused with that reason.
Of several Series of one role the better is read, in this order: original before reformat; 3D before 2D;
axial before other planes (2D only); at least half as many slices again. Otherwise the Study is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom import Dataset

from config.errors import OutsideIntendedUseError
from worker.mr_sequences import MrSequence, mr_sequence

ROLES = ("T1c", "T1", "T2", "FLAIR")
_MORE_SLICES = 1.5


@dataclass(frozen=True)
class Claim:
    """What one Series may be.

    Attributes:
        roles: one when it is certain, none when it plays no role.
        reason: why it plays no role, or why it is not certain; ``""`` when it is.
        note: what a certain role rests on, if not on attributes alone.
    """

    roles: frozenset[str]
    reason: str = ""
    note: str = ""

    @property
    def role(self) -> str:
        """The role that is certain, or ``""``."""
        return "" if self.reason else next(iter(self.roles))


@dataclass(frozen=True)
class RoleAssignment:
    """The four Series that are read.

    Attributes:
        chosen: role → Series Instance UID.
        excluded: (Series Instance UID, reason) of every other Series.
        unchecked: what a role rests on besides the attributes, in words for a person.
    """

    chosen: dict[str, str]
    excluded: list[tuple[str, str]]
    unchecked: list[str]


def claim_of(sequence: MrSequence) -> Claim:
    """Return what one Series may be."""
    reason = sequence.no_anatomy()
    if reason:
        return Claim(frozenset(), reason)
    weighting, reason = sequence.acquired_weighting()
    named = sequence.named_weighting
    if reason:
        return Claim(frozenset(_with_agent(named) if named else ()), reason)
    if not weighting:
        if not named:
            return Claim(frozenset(), "its attributes name no contrast")
        return Claim(_with_agent(named), f"it is called {named}, but no echo or repetition time supports that")
    if named and named != weighting:
        return Claim(
            _with_agent(named) | _with_agent(weighting), f"it is called {named} but was acquired as {weighting}"
        )
    return _t1_claim(sequence) if weighting == "T1" else Claim(frozenset({weighting}))


def _with_agent(weighting: str) -> frozenset[str]:
    return frozenset({"T1", "T1c"} if weighting == "T1" else {weighting})


def _t1_claim(sequence: MrSequence) -> Claim:
    """Tell T1 from contrast-enhanced T1."""
    said, named = sequence.agent, sequence.named_agent
    both = frozenset({"T1", "T1c"})
    if len(said) > 1:
        return Claim(both, "its attributes say both that a contrast agent was given and that none was")
    if said and named is not None and named not in said:
        called, fact = ("with", "none was") if named else ("without", "one was")
        return Claim(both, f"it is called {called} contrast agent, but its attributes say that {fact} given")
    if said:
        return Claim(frozenset({"T1c" if True in said else "T1"}))
    if named:
        return Claim(frozenset({"T1c"}), note="the contrast agent is known only from the name of the series")
    return Claim(frozenset({"T1"}))


def assign_roles(series: Mapping[str, Sequence[Dataset]]) -> RoleAssignment:
    """Find the four sequences BraTS needs.

    Args:
        series: Series Instance UID → its headers.

    Raises:
        OutsideIntendedUseError: a role is missing, doubtful, or claimed by Series none of which is clearly
            better; the reason names them by Series Number and acquisition attributes.
    """
    sequences = {uid: mr_sequence(headers) for uid, headers in series.items()}
    claims = _doubt_late_t1(sequences, {uid: claim_of(sequence) for uid, sequence in sequences.items()})
    chosen: dict[str, str] = {}
    excluded = [(uid, _set_aside(sequences[uid], claim)) for uid, claim in claims.items() if claim.reason]
    missing = []
    for role in ROLES:
        candidates = [uid for uid, claim in claims.items() if claim.role == role]
        if not candidates:
            missing.append(role)
            continue
        chosen[role], others = _best(role, {uid: sequences[uid] for uid in candidates})
        excluded += others
    if missing:
        raise OutsideIntendedUseError(_missing(missing, sequences, claims))
    notes = [f"{role}: {claims[uid].note}" for role, uid in chosen.items() if claims[uid].note]
    return RoleAssignment(chosen, excluded, notes)


def _doubt_late_t1(sequences: Mapping[str, MrSequence], claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """Doubt every T1 acquired after an enhanced one: scanners forget to record the agent, bodies do not."""
    enhanced = [sequences[uid].acquired for uid, claim in claims.items() if claim.role == "T1c"]
    first = min(filter(None, enhanced), default="")
    doubted = dict(claims)
    for uid, claim in claims.items():
        sequence = sequences[uid]
        if claim.role == "T1" and not sequence.agent and first and sequence.acquired > first:
            reason = "it does not say whether a contrast agent was given, but was acquired after one"
            doubted[uid] = replace(claim, roles=frozenset({"T1", "T1c"}), reason=reason)
    return doubted


def _set_aside(sequence: MrSequence, claim: Claim) -> str:
    if claim.roles:
        return f"{sequence} could be {_or(claim.roles)}: {claim.reason}"
    return f"{sequence} plays no role in the brain tumour protocol: {claim.reason}"


def _best(role: str, candidates: Mapping[str, MrSequence]) -> tuple[str, list[tuple[str, str]]]:
    """Return the Series to read, and why each other is not read."""
    ranked = sorted(candidates, key=lambda uid: (*_rank(candidates[uid]), candidates[uid].slices, uid), reverse=True)
    best = candidates[ranked[0]]
    excluded = []
    for uid in ranked[1:]:
        why = _better(best, candidates[uid])
        if not why:
            both = " and ".join(str(candidates[one]) for one in (ranked[0], uid))
            raise OutsideIntendedUseError(f"more than one series could be {role}: {both}")
        excluded.append((uid, f"{candidates[uid]} is {role} too; series {best.number} was read because it {why}"))
    return ranked[0], excluded


def _rank(sequence: MrSequence) -> tuple[bool, bool, bool]:
    return not sequence.is_reformat, sequence.is_3d, sequence.is_3d or sequence.plane == "axial"


def _better(best: MrSequence, other: MrSequence) -> str:
    """Return in which way one Series is clearly better than the other, or ``""``."""
    ways = ("is original, not reformatted", "is 3D", "is axial")
    for way, one, two in zip(ways, _rank(best), _rank(other), strict=True):
        if one != two:
            return way
    return "has more slices" if best.slices >= _MORE_SLICES * other.slices else ""


def _missing(missing: Sequence[str], sequences: Mapping[str, MrSequence], claims: Mapping[str, Claim]) -> str:
    """Say which roles are missing, and which Series might have been meant."""
    said = [f"missing MR sequence: {', '.join(missing)}"]
    for uid, claim in claims.items():
        if claim.reason and claim.roles & set(missing):
            said.append(_set_aside(sequences[uid], claim))
        elif missing == ["T1c"] and claim.role == "T1":
            said.append(f"{sequences[uid]} is T1 without contrast agent")
    return "; ".join(said)


def _or(roles: frozenset[str]) -> str:
    return " or ".join(role for role in ROLES if role in roles)
