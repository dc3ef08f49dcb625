"""What is written beside a Draft so that audit questions find it without reading every provenance record."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.audit_draft_models import DraftGap, DraftModel, ModelWeights
from db.lifecycle.values import NewEvidence
from db.models import Study
from db.report_models import Draft
from db.types import PackageKind

_INSERT = {
    "sqlite": sqlite.insert(ModelWeights).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(ModelWeights).on_conflict_do_nothing(),
}


def index_draft(session: Session, draft: Draft, evidence: Iterable[NewEvidence]) -> None:
    """Add the rows of a new Draft: its models, their weights files, and what it did not assess."""
    study = session.get_one(Study, draft.study_id)
    files: dict[tuple[str, str], str] = {}
    for kind, package, version, weights in _models(draft.provenance, evidence):
        digest = weights_digest(weights)
        files |= {(digest, name[:200]): sha256[:64] for name, sha256 in weights.items()}
        session.add(
            DraftModel(
                draft_id=draft.id,
                kind=kind,
                package=package,
                version=version,
                weights_sha256=digest,
                site=study.calling_ae,
                created_at=draft.created_at,
            )
        )
    for position, one in enumerate(draft.not_assessed):
        what, why = str(one.get("what", ""))[:200], str(one.get("why", ""))
        session.add(DraftGap(draft_id=draft.id, position=position, what=what, why=why, created_at=draft.created_at))
    if files:
        rows = [{"weights_sha256": of, "file": name, "sha256": sha256} for (of, name), sha256 in files.items()]
        # two workers may keep the first drafts of a model at once
        session.execute(_INSERT[session.get_bind().dialect.name], rows)


def weights_digest(weights: Mapping[str, str]) -> str:
    """Return one hash for a model's weights: of a single file its SHA-256, else over the sorted ``name:SHA-256``."""
    if len(weights) == 1:
        return next(iter(weights.values()))[:64]
    lines = "\n".join(f"{name}:{sha256}" for name, sha256 in sorted(weights.items()))
    return hashlib.sha256(lines.encode()).hexdigest() if weights else ""


def _models(
    provenance: Mapping[str, Any], evidence: Iterable[NewEvidence]
) -> Iterator[tuple[str, str, str, Mapping[str, str]]]:
    """Yield kind, name, version and weights files of each model once: of the record, then of Experts it lacks."""
    seen: set[tuple[str, str]] = set()
    for one in provenance.get("models") or ():
        kind = PackageKind.VLM.value if one.get("role") == "VLM" else PackageKind.EXPERT.value
        name = str(one.get("name", ""))[:64]
        if (kind, name) not in seen:
            seen.add((kind, name))
            yield kind, name, str(one.get("version", ""))[:64], dict(one.get("weights_sha256") or {})
    for run in evidence:
        key = (PackageKind.EXPERT.value, run.expert[:64])
        if key not in seen:
            seen.add(key)
            yield *key, run.version[:64], dict(run.weights_sha256)
