"""What the packages of this site say of themselves, for "About this draft": intended use, training, limits.

The draft's provenance says which models drafted; their packages say what they are for.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from config.settings import Settings

_MANIFESTS = ("manifest.json", "manifest.yaml")
_LARGEST_BYTES = 1024**2
_SAID = (("overview", "What it is"), ("base", "Base"), ("accuracy", "Training and accuracy"))


@dataclass(frozen=True)
class ModelAbout:
    """One model behind a draft."""

    role: str
    name: str
    version: str
    licence: str
    research_only: bool
    demonstration: bool
    weights: Mapping[str, str]  # file -> SHA-256
    intended_use: str  # "" when its package is no longer here
    facts: tuple[tuple[str, str], ...]


def about(models: list[Mapping[str, Any]], settings: Settings) -> list[ModelAbout]:
    """Return what there is to say of each model of a provenance record.

    Args:
        models: rows of ``worker.provenance.models_record``.
        settings: where packages are.
    """
    manifests = {_key(one): one for one in _manifests(settings)} if models else {}
    return [_about(one, manifests.get(_key(one), {})) for one in models]


def _about(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> ModelAbout:
    use = manifest.get("intended_use") or ""
    statement = str(use.get("statement", "")) if isinstance(use, Mapping) else str(use)
    facts = [(title, str(manifest[name])) for name, title in _SAID if isinstance(manifest.get(name), str | int)]
    facts += _limits(use) if isinstance(use, Mapping) else []
    return ModelAbout(
        role=str(row.get("role", "")),
        name=str(row.get("name", "")),
        version=str(row.get("version", "")),
        licence=str(row.get("licence", "")),
        research_only=bool(row.get("research_only")),
        demonstration=bool(row.get("demonstration")),
        weights=row.get("weights_sha256") or {},
        intended_use=statement,
        facts=tuple((title, text) for title, text in facts if text),
    )


def _limits(use: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the pipeline refuses to show the model."""
    named = [
        (title, ", ".join(map(str, use.get(name) or ())))
        for name, title in (("modalities", "Modalities"), ("body_parts", "Body parts"), ("views", "Views"))
    ]
    age = use.get("age_years") or {}
    lowest, highest = age.get("minimum"), age.get("maximum")
    said = [f"from {lowest:g}" if lowest is not None else "", f"to {highest:g}" if highest is not None else ""]
    return [*named, ("Age, years", " ".join(one for one in said if one))]


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("name", "")), str(row.get("version", ""))


def _manifests(settings: Settings) -> Iterator[Mapping[str, Any]]:
    """Every manifest that can be read; one that cannot is the worker's to complain about."""
    for folder in _folders(settings):
        for path in (folder / name for name in _MANIFESTS):
            found = _mapping(path)
            if found:
                yield found


def _folders(settings: Settings) -> Iterator[Path]:
    yield settings.vlm_dir
    registry = settings.models.registry
    for one in _mapping(registry).get("experts") or ():
        if isinstance(one, str):
            yield registry.parent / one
    store = settings.data_dir.resolve() / "models" / "store"
    if store.is_dir():
        yield from (one for one in store.iterdir() if one.is_dir() and not one.name.startswith("."))


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        stat = path.stat()
    except OSError:
        return {}
    return _read(path, stat.st_mtime_ns) if stat.st_size <= _LARGEST_BYTES else {}


@lru_cache(maxsize=64)
def _read(path: Path, _changed_ns: int) -> Mapping[str, Any]:
    """Read a file once for each time it was written: pages are opened more often than packages change."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}
