"""What a draft was made with, as lines of a timeline: models and weights, code, prompts, Experts, the draft itself."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Study
from db.queries.audit.tagged import words
from db.queries.audit.timeline_items import Item
from db.report_models import Draft, Evidence

_CUT = 500  # characters of a section that are shown


def draft_items(session: Session, study: Study) -> Iterator[Item]:
    """Yield the lines of every draft of a Study, and of every Expert that ran for one."""
    drafts = session.scalars(select(Draft).where(Draft.study_id == study.id)).all()
    for one in drafts:
        yield from _made(one)
    ran = select(Evidence).where(Evidence.draft_id.in_([one.id for one in drafts]))
    for run in session.scalars(ran):
        digest = ", ".join(f"{name} {sha256}" for name, sha256 in sorted(run.weights_sha256.items()))
        said = words({"argument": run.argument, "version": run.version, "seconds": run.seconds, "output": run.output})
        what = f"{run.expert} answered"
        yield Item(run.created_at, "draft", f"{run.draft_id} 2 {run.id}", what, "worker", "", "", digest, said[:2000])


def _made(draft: Draft) -> Iterator[Item]:
    record: Mapping[str, Any] = draft.provenance
    about = f"draft {draft.id}"
    for number, model in enumerate(record.get("models") or []):
        named = f"{model.get('name', '')} {model.get('version', '')}".strip()
        files = ", ".join(f"{name} {sha256}" for name, sha256 in sorted((model.get("weights_sha256") or {}).items()))
        said = words({"role": model.get("role", ""), "licence": model.get("licence", "")})
        yield Item(
            draft.created_at, "draft", f"{draft.id} 0 {number:04}", f"model {named}", "worker", "", about, files, said
        )
    ways = {name: record[name] for name in ("pipeline_version", "decoding", "preprocessing", "environment")
            if record.get(name)}  # fmt: skip
    if ways:
        yield Item(
            draft.created_at, "draft", f"{draft.id} 0 ways", "how it was made", "worker", "", about, "", words(ways)
        )
    for number, (digest, prompt) in enumerate(_prompts(record)):
        said = prompt if len(prompt) <= _CUT else f"{prompt[:_CUT]}…"
        yield Item(
            draft.created_at, "draft", f"{draft.id} 1 {number:04}", "prompt", "worker", "", about, digest, said
        )  # fmt: skip
    text = "\n".join(f"{key}: {_shown(value)}" for key, value in sorted(draft.sections.items()) if value)
    yield Item(
        draft.created_at, "draft", f"{draft.id} 3", "drafted", "worker", "", about, draft.image_set_sha256, text
    )  # fmt: skip


def _prompts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each prompt of the record, as the model read it, with its SHA-256."""
    waiting: list[Any] = [record.get("conversations") or []]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, list):
            waiting = [*one, *waiting]
        elif isinstance(one, dict):
            prompt = one.get("prompt")
            if isinstance(prompt, str) and prompt:
                yield hashlib.sha256(prompt.encode()).hexdigest(), prompt
            waiting = [value for value in one.values() if isinstance(value, list | dict)] + waiting


def _shown(value: object) -> str:
    said = str(value)
    return said if len(said) <= _CUT else f"{said[:_CUT]}…"
