"""What an event says of a model's work: prompts, Expert runs and models by hash, and one digest of the whole record.

The texts themselves stand in the draft's provenance record or the answer; a prompt may hold what a patient's images
show, an event must not.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from db.lifecycle.asking import NewAnswer


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of a value's JSON, keys sorted, without spaces, UTF-8; of a text, of the text itself."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    )
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def draft_work(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event says of a draft's making: ``provenance`` as ``worker.provenance`` writes it."""
    outputs = provenance.get("outcome", {}).get("results", {})
    return {
        "provenance_sha256": sha256_of(provenance),
        "prompts_sha256": _prompts(provenance.get("conversations", ())),
        "experts": [
            _run(one, outputs.get(f"{one.get('expert')}/{one.get('argument')}", ""))
            for one in provenance.get("experts", ())
        ],
        "models": _models(provenance.get("models", ())),
    }


def answer_work(answer: "NewAnswer") -> dict[str, Any]:
    """Return what an event says of how a question was answered."""
    return {
        "prompts_sha256": _prompts([{"prompt": answer.prompt}, *answer.conversation]),
        "experts": [_run(one, str(one.get("sha256", ""))) for one in answer.experts],
        "models": _models(answer.models),
    }


def _run(one: Mapping[str, Any], output_sha256: str) -> dict[str, Any]:
    """Return one Expert call; the argument is a word of the Expert's own list, never of the patient."""
    return {**{name: one.get(name, "") for name in ("expert", "argument", "version")}, "output_sha256": output_sha256}


def _models(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            **{name: str(one.get(name, "")) for name in ("role", "name", "version")},
            "weights_sha256": sha256_of(one.get("weights_sha256", {})),
        }
        for one in rows
    ]


def _prompts(conversations: Iterable[Any]) -> list[str]:
    """Return the digest of each prompt the model read, in order, each once."""
    return list(dict.fromkeys(sha256_of(text) for text in _named(list(conversations), "prompt")))


def _named(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            if key == name and isinstance(one, str) and one:
                yield one
            else:
                yield from _named(one, name)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _named(one, name)
