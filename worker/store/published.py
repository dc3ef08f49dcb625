"""What is known of published weights: their manifests without hashes, where they come from, their licence texts."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.errors import ConfigurationError, RefusedInputError
from db.types import PackageKind

PUBLISHED = Path(__file__).resolve().parent.parent / "models" / "published"
CATALOGUE = PUBLISHED / "catalogue.yaml"
_LICENCE_WORDS = ("licence", "license", "notice", "copying")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HubSource(_Frozen):
    """A repository of the hub; ``revision`` is a commit, or the first characters of one, or empty."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(default="", pattern=r"^[0-9a-f]{0,40}$")


class UrlFile(_Frozen):
    """One file at a plain address, with the digest its publisher gives."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: str = Field(pattern=r"^https?://")
    md5: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _can_be_checked(self) -> "UrlFile":
        if not (self.md5 or self.sha256):
            raise ValueError(f"{self.name}: a file at a plain address needs an md5 or a sha256")
        return self


class _Entry(_Frozen):
    manifest: str
    hub: HubSource | None = None
    files: tuple[UrlFile, ...] = ()
    licence_files: tuple[str, ...] = ()
    licence: str = ""
    hidden_size: int = 0


class _Catalogue(_Frozen):
    packages: dict[str, _Entry]


class Recipe(_Frozen):
    """How a package is made of published files.

    Attributes:
        promise: the manifest without hashes.
        hub, files: where the files come from; neither when they can only be imported.
        licence_files: files of the package that are its licence; found by name when empty.
        licence_text: the licence where the files bring none.
        hidden_size: of the decoder, by which a folder is recognised; 0 for none.
    """

    promise: dict[str, Any]
    hub: HubSource | None = None
    files: tuple[UrlFile, ...] = ()
    licence_files: tuple[str, ...] = ()
    licence_text: str = ""
    hidden_size: int = 0

    @property
    def name(self) -> str:
        """Name of the package."""
        return str(self.promise["name"])

    @property
    def kind(self) -> PackageKind:
        """Whether it is a vision-language model or an Expert."""
        return PackageKind.VLM if self.promise["kind"] == "vlm" else PackageKind.EXPERT

    def is_licence(self, path: str) -> bool:
        """Return whether this file of the package is part of its licence."""
        if self.licence_files:
            return path in self.licence_files
        return is_licence_name(path)


def is_licence_name(path: str) -> bool:
    """Return whether a file at the top of a package looks like its licence."""
    return "/" not in path and any(word in path.lower() for word in _LICENCE_WORDS)


def read_promise(path: Path) -> dict[str, Any]:
    """Read a manifest without hashes.

    Raises:
        ConfigurationError: it cannot be read, or has no kind, name, version and licence.
    """
    try:
        promise = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigurationError(f"{path.name} is no manifest: {exc}") from exc
    needed = ("kind", "name", "version", "licence")
    if not isinstance(promise, dict) or not all(isinstance(promise.get(key), str) for key in needed):
        raise ConfigurationError(f"{path.name} is no manifest: it needs {', '.join(needed)}, each a text")
    return promise


def recipes(catalogue: Path = CATALOGUE) -> dict[str, Recipe]:
    """Return what is known, by name.

    Raises:
        ConfigurationError: the catalogue or a manifest of it cannot be read.
    """
    folder = catalogue.parent
    try:
        listed = _Catalogue.model_validate(yaml.safe_load(catalogue.read_text(encoding="utf-8")))
        texts = {
            name: (folder / entry.licence).read_text(encoding="utf-8") if entry.licence else ""
            for name, entry in listed.packages.items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as exc:
        raise ConfigurationError(f"{catalogue.name} is no catalogue of models: {exc}") from exc
    return {
        name: Recipe(
            promise=read_promise(folder / entry.manifest),
            hub=entry.hub,
            files=entry.files,
            licence_files=entry.licence_files,
            licence_text=texts[name],
            hidden_size=entry.hidden_size,
        )
        for name, entry in listed.packages.items()
    }


def find_recipe(named: str, *, manifest: Path | None = None, catalogue: Path = CATALOGUE) -> Recipe:
    """Return the recipe of a known name, of a known repository, or of any repository with a manifest.

    Raises:
        RefusedInputError: nothing of this name is known, and no manifest was given.
        ConfigurationError: the manifest or the catalogue cannot be read.
    """
    if manifest is not None:
        try:
            hub = HubSource(repo=named)
        except ValidationError as exc:
            raise RefusedInputError(f"{named!r} is no repository: a manifest goes with OWNER/NAME") from exc
        return Recipe(promise=read_promise(manifest), hub=hub)
    known = recipes(catalogue)
    for name, recipe in known.items():
        if named.lower() in {name.lower(), recipe.hub.repo.lower() if recipe.hub else ""}:
            return recipe
    raise RefusedInputError(
        f"no published model {named!r} is known; there are {', '.join(known)}; others need --manifest FILE"
    )


def recognise(folder: Path, catalogue: Path = CATALOGUE) -> Recipe | None:
    """Return the recipe of a folder in a published layout that brings no manifest; None when it is not known.

    A VILA-M3 folder is recognised by the decoder's width, an Expert's by the names of its weight files.
    """
    try:
        width = json.loads((folder / "llm" / "config.json").read_text(encoding="utf-8")).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        width = None
    present = {path.name for path in folder.iterdir() if path.is_file()}
    for recipe in recipes(catalogue).values():
        if recipe.kind is PackageKind.VLM:
            if width is not None and recipe.hidden_size == width:
                return recipe
        elif set(weight_files(recipe.promise)) <= present:
            return recipe
    return None


def weight_files(promise: dict[str, Any]) -> tuple[str, ...]:
    """Return the weight files the manifest of an Expert names in its network."""
    network = promise.get("network", {})
    return tuple(
        [network["weights"]] if "weights" in network else [member["file"] for member in network.get("members", ())]
    )
