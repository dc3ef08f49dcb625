"""Running a draft's attempt again from its kept inputs, and saying how far the outcome is the same.

Greedy decoding on the same machine gives the same draft. Across GPU types, library releases or batch sizes
that is not promised: the verdict says what was found, never more (standards section 5.4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from config.errors import RefusedInputError
from db import queries
from db.queries.priors import ComparedPrior, compared_prior
from worker.comparison import priors_record
from worker.pipeline import StudyPipeline
from worker.profiles import profile
from worker.provenance import SCHEMA
from worker.rewording import Rewording

Verdict = Literal["identical", "same findings", "differs"]

_MACHINE = ("preprocessing", "decoding", "environment")


@dataclass(frozen=True)
class Reproduction:
    """What a second run of a draft's attempt gave.

    Attributes:
        verdict: ``identical``: texts, answers, decisions, scores and label maps are equal; ``same findings``: every
            finding has the same decision and side; ``differs``: some finding does not.
        differences: what is not equal, in words.
        circumstances: what was different about code, models, settings or machine, in words.
        record: the second run's provenance record.
    """

    verdict: Verdict
    differences: tuple[str, ...]
    circumstances: tuple[str, ...]
    record: Mapping[str, Any]


def reproduce(pipeline: StudyPipeline, sessions: sessionmaker[Session], draft_id: UUID) -> Reproduction:
    """Run the attempt behind a draft again and compare; nothing is written.

    Raises:
        RefusedInputError: no such draft, a draft of an earlier release, or inputs that are not what they were.
        ModelError: the models cannot be run.
    """
    with sessions() as session:
        draft = queries.draft(session, draft_id)
        if draft is None:
            raise RefusedInputError(f"there is no draft {draft_id}")
        recorded: Mapping[str, Any] = draft.provenance
        if recorded.get("schema") != SCHEMA:
            raise RefusedInputError("the draft was made by a release whose record cannot be run again")
        held = queries.instance_paths(session, draft.study_id, recorded["job"]["revision"])
        prior = _prior(session, draft.study_id, recorded)
    _require_same_inputs(recorded, {one.sop_instance_uid: one.sha256 for one in held})
    chosen = profile(recorded["job"]["profile"])
    reworded = Rewording.of_record(recorded)
    again = pipeline.run(held, chosen, use=None, recorded=recorded["models"], prior=prior, reworded=reworded)
    return compare(recorded, again.content.provenance)


def _prior(session: Session, study_id: UUID, recorded: Mapping[str, Any]) -> ComparedPrior | None:
    """Return the prior the draft used, if any.

    Raises:
        RefusedInputError: it is not here any more, or with another report.
    """
    for used in recorded["priors_used"]:
        prior = compared_prior(session, study_id, study_instance_uid=used["study_instance_uid"])
        if priors_record(prior) != [used]:
            raise RefusedInputError("the prior study is not the one the draft was compared with")
        return prior
    return None


def _require_same_inputs(recorded: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    then = set(recorded["instances_sha256"]) | set(recorded["instances_not_used"])
    if then != set(hashes):
        raise RefusedInputError(f"the draft was made from {len(then)} instances, {len(hashes)} are held now")
    altered = [uid for uid, sha256 in recorded["instances_sha256"].items() if hashes[uid] != sha256]
    if altered:
        raise RefusedInputError(f"{len(altered)} instances are not the ones the draft was made from")


def compare(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Reproduction:
    """Return how the second record's outcome relates to the first one's."""
    then, now = recorded["outcome"], again["outcome"]
    differences = tuple(_differences(then, now))
    if not differences:
        verdict: Verdict = "identical"
    elif _decisions(then) == _decisions(now):
        verdict = "same findings"
    else:
        verdict = "differs"
    return Reproduction(verdict, differences, tuple(_circumstances(recorded, again)), again)


def _decisions(outcome: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
    decided = {label: (one["present"], one["laterality"]) for label, one in outcome["findings"].items()}
    return decided | {f"not assessed: {what}": (False, "") for what in outcome["not_assessed"]}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each part of the outcome that is not equal."""
    found = []
    for part in sorted({*then, *now} - {"answers"}):
        old, new = then.get(part), now.get(part)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            found += [part] if old != new else []
            continue
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                found.append(f"{part}: {key}{_was_became(old.get(key), new.get(key))}")
    return found + _answers(then.get("answers", ()), now.get("answers", ()))


def _was_became(old: object, new: object) -> str:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return ""
    changed = [
        f"{name} {old.get(name)} → {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]
    return f" ({', '.join(changed)})"


def _answers(then: Sequence[str], now: Sequence[str]) -> list[str]:
    if len(then) != len(now):
        return [f"answers: {len(then)} then, {len(now)} now"]
    return [f"answers: {n}" for n, (old, new) in enumerate(zip(then, now, strict=True), 1) if old != new]


def _circumstances(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Return what was different about the run itself."""
    found = []
    models = {one["role"]: one for one in recorded["models"]}
    for one in again["models"]:
        old = models.pop(one["role"], None)
        if old is None or old["weights_sha256"] != one["weights_sha256"]:
            was = f"{old['name']} {old['version']}" if old else "not used"
            found.append(f"model {one['role']}: {was} → {one['name']} {one['version']}, other weights")
    found += [f"model {role}: not used now" for role in models]
    for part in _MACHINE:
        old, new = recorded[part], again[part]
        found += [f"{part}: {name}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return found
