"""The store's folders: a package is made in staging, sealed, and appears under its name in one rename."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.durable import flush_folder
from config.errors import ModelPackageError, TransientError
from db.packages import NewPackage, text_sha256
from db.types import PackageKind
from worker.experts import packages as experts
from worker.store.published import Recipe, is_licence_name, weight_files
from worker.store.transfer import disk_errors
from worker.vlm import package as vlms

_SUFFIXES = {
    PackageKind.VLM: {".json", ".safetensors", ".model", ".jinja", ".md", ".txt"},
    PackageKind.EXPERT: {".pt", ".safetensors", ".json", ".md", ".txt"},
}
_MANIFESTS = {vlms.MANIFEST, experts.MANIFEST}
_VLM_FILES = ("llm/config.json", "mm_projector/model.safetensors", "vision_tower/config.json")


@dataclass(frozen=True)
class Licence:
    """The licence of a package, as a person is shown it."""

    package: str
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in hex: what is accepted."""
        return text_sha256(self.text)


class ModelStore:
    """The folder that holds the site's packages, one folder each, named by their content."""

    def __init__(self, root: Path) -> None:
        """Take the folder; nothing is made yet."""
        self.root = root

    def path(self, folder: str) -> Path:
        """Return where a package of the record lies."""
        return self.root / folder

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """Give the folder in which the package ``key`` is made; what is left there an interrupted attempt goes on with.

        Raises:
            TransientError: another process is at it.
            ConfigurationError: the store cannot be written.
            OutOfSpaceError: its disk is full.
        """
        waiting = self.root / ".staging"
        folder = waiting / slug(key)
        with disk_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (waiting / f"{folder.name}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as exc:
                    raise TransientError(f"{key} is being fetched or imported by another process") from exc
                yield folder

    def publish(self, staged: Path, folder: str) -> None:
        """Let a sealed package appear as ``folder``; the caller records it in the same breath.

        A folder of this name that no record knows is what a crash left, and is replaced.
        """
        target = self.path(folder)
        with disk_errors(target):
            if target.exists():
                shutil.rmtree(target)
            staged.replace(target)
            flush_folder(self.root)


def slug(text: str) -> str:
    """Return a text as part of a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80]


def is_known_file(kind: PackageKind, path: str) -> bool:
    """Return whether a package of this kind may hold such a file; code and unknown formats it may not."""
    return Path(path).suffix.lower() in _SUFFIXES[kind] or is_licence_name(path)


def licence_of(folder: Path, recipe: Recipe) -> Licence:
    """Return the licence in a package's own files, or the one known for it.

    Raises:
        ModelPackageError: there is none to show, so none can be accepted.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and recipe.is_licence(path.name))
    missing = sorted(set(recipe.licence_files) - set(names))
    if missing:
        raise ModelPackageError(f"{recipe.name}: {missing[0]} is missing: a licence nobody can read cannot be accepted")
    texts = [f"=== {name} ===\n{(folder / name).read_text(encoding='utf-8', errors='replace')}" for name in names]
    text = "\n".join(texts) or recipe.licence_text
    if not text.strip():
        raise ModelPackageError(f"{recipe.name}: no licence text: put it into the folder as LICENSE")
    return Licence(recipe.name, str(recipe.promise["licence"]), text)


def check_layout(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that lacks a file of its kind's layout, or holds one that has no place in it.

    Raises:
        ModelPackageError: the message names the file.
    """
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - _MANIFESTS
    for name in sorted(present):
        if not is_known_file(recipe.kind, name):
            raise ModelPackageError(f"{recipe.name}: {name} is surplus: no file of a model package")
    needed = _vlm_files(folder, recipe) if recipe.kind is PackageKind.VLM else set(weight_files(recipe.promise))
    for name in sorted(needed - present):
        raise ModelPackageError(f"{recipe.name}: {name} is missing")


def _vlm_files(folder: Path, recipe: Recipe) -> set[str]:
    backend = recipe.promise.get("backend", "vila_m3")
    if backend == "openai":
        return set()
    if backend == "hf":
        return {"config.json"}
    needed = set(_VLM_FILES)
    for index in folder.glob("*/*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as exc:
            raise ModelPackageError(f"{recipe.name}: {index.name} is no index of shards") from exc
        needed |= {f"{index.parent.name}/{shard}" for shard in shards}
    return needed


def seal(folder: Path, recipe: Recipe, *, revision: str, licence: Licence) -> NewPackage:
    """Write the manifest with the SHA-256 of every file, flush everything, and say what was made.

    Raises:
        ModelPackageError: the promise makes no manifest.
    """
    promise = dict(recipe.promise)
    if recipe.kind is PackageKind.VLM:
        vlms.seal_vlm_package(folder, promise | {"revision": revision})
    else:
        experts.seal_package(folder, promise)
    _flush(folder)
    return describe(folder, revision=revision, licence=licence)


def describe(folder: Path, *, revision: str, licence: Licence) -> NewPackage:
    """Return a sealed folder as a package of the record; its name in the store follows from its manifest.

    Raises:
        ModelPackageError: its manifest is missing or is none.
    """
    kind, manifest, file = open_any(folder)
    sha256 = experts.file_sha256(folder / file)
    return NewPackage(
        kind=kind,
        name=manifest.name,
        version=manifest.version,
        revision=getattr(manifest, "revision", "") or revision,
        folder=f"{slug(manifest.name)}-{sha256[:16]}",
        manifest_sha256=sha256,
        licence=manifest.licence,
        licence_sha256=licence.sha256,
        research_only=manifest.research_only,
        demonstration=manifest.demonstration,
    )


def open_any(folder: Path) -> tuple[PackageKind, Any, str]:
    """Return kind, manifest and the manifest's file name of a sealed folder.

    Raises:
        ModelPackageError: it has no manifest, two, or one that is none.
    """
    found = [name for name in sorted(_MANIFESTS) if (folder / name).is_file()]
    if len(found) > 1:
        raise ModelPackageError(f"{folder.name}: {' and '.join(found)}: a package has one manifest")
    if found == [experts.MANIFEST]:
        return PackageKind.EXPERT, experts.open_package(folder).manifest, experts.MANIFEST
    return PackageKind.VLM, vlms.open_vlm_package(folder), vlms.MANIFEST


def faults(folder: Path, manifest_sha256: str = "") -> list[str]:
    """Compare every file of a package with its manifest, and that with the record; return all that differs, by name."""
    try:
        _, manifest, file = open_any(folder)
        if manifest_sha256 and experts.file_sha256(folder / file) != manifest_sha256:
            return [f"{file} is altered: it is not the manifest that was recorded"]
    except ModelPackageError as exc:
        return [str(exc)]
    listed = manifest.files
    if not isinstance(listed, dict):
        listed = {entry.path: entry.sha256 for entry in listed}
    present = vlms.files_of(folder) - {file}
    different = [f"{name} is missing" for name in sorted(set(listed) - present)]
    different += [f"{name} is surplus" for name in sorted(present - set(listed))]
    different += [
        f"{name} is altered" for name in sorted(present & set(listed)) if _differs(folder / name, listed[name])
    ]
    return different


def _differs(path: Path, sha256: str) -> bool:
    try:
        return experts.file_sha256(path) != sha256
    except ModelPackageError:
        return True


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            flush_folder(path)
        else:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
