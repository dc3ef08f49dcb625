"""Model packages: a folder with a manifest and weights, refused by name when a file is missing, altered or surplus."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import ModelPackageError
from worker.experts.base import ModelCard

MANIFEST = "manifest.yaml"
_CHUNK = 1 << 20
_CODE_FAMILY = {"torchxrayvision": "txrv", "vista3d": "vista3d", "brats": "brats"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """One file of the package, named relative to its folder, with its SHA-256 in hex."""

    path: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class AgeLimits(_Frozen):
    """Patient ages the model may be used on, years; None means no limit on that side."""

    minimum: float | None = None
    maximum: float | None = None


class IntendedUse(_Frozen):
    """What the model may be used on.

    Attributes:
        modalities: Modality (0008,0060) values; never empty.
        body_parts: Body Part Examined (0018,0015) values; empty means any.
        views: View Position (0018,5101) values; empty means any.
        age_years: limits of age; an unknown age is within limits.
        statement: the sentence shown to people.
    """

    modalities: tuple[str, ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    age_years: AgeLimits = AgeLimits()
    statement: str

    def refusal(
        self, *, modality: str, body_part: str = "", view: str = "", age_years: float | None = None
    ) -> str | None:
        """Return why a Series is outside the intended use, or None when it is inside.

        An attribute the Series does not carry (empty, None) is not held against it; the gate of
        the pipeline decides whether an absent attribute is acceptable at all.
        """
        if modality not in self.modalities:
            return f"modality {modality or 'unknown'} is not one of {', '.join(self.modalities)}"
        if body_part and self.body_parts and body_part.upper() not in self.body_parts:
            return f"body part {body_part} is not one of {', '.join(self.body_parts)}"
        if view and self.views and view.upper() not in self.views:
            return f"view {view} is not one of {', '.join(self.views)}"
        return self._age_refusal(age_years)

    def _age_refusal(self, age_years: float | None) -> str | None:
        lowest, highest = self.age_years.minimum, self.age_years.maximum
        if age_years is not None and lowest is not None and age_years < lowest:
            return f"age is below {lowest:g} years"
        if age_years is not None and highest is not None and age_years > highest:
            return f"age is above {highest:g} years"
        return None


class Budget(_Frozen):
    """What one run may cost: memory in MB while loaded and running, and seconds."""

    memory_mb: float = Field(gt=0)
    seconds: float = Field(gt=0)


class Regulatory(_Frozen):
    """What authorities call a version of a model; empty where there is nothing, as for weights nobody cleared.

    Attributes:
        udi: Unique Device Identifier, device and production identifiers (21 CFR 830, EU MDR Article 27).
        clearance: number of the clearance or certificate it is on the market by.
        change: identifier of the modification under a predetermined change control plan (FDCA 515C).
    """

    udi: str = Field(default="", max_length=200)
    clearance: str = Field(default="", max_length=200)
    change: str = Field(default="", max_length=200)

    def known(self) -> dict[str, str]:
        """Return what there is."""
        return {name: value for name, value in self.model_dump().items() if value}


class Manifest(_Frozen):
    """A package's manifest: what it is, what it may be used for, and its files.

    Attributes:
        name: the Trigger's name.
        kind: which class of ours runs it.
        version, licence, demonstration, research_only, task, modality, overview, accuracy: as on the ModelCard.
        intended_use: what it may be used on.
        arguments: valid Trigger arguments in printing order; empty means None.
        labels: label value (or classifier index) → name on the wire; its codes are in ``config/codes.yaml``
            under the family of ``kind`` and this index.
        files: every file of the folder except the manifest.
        budget: memory and time.
        network: configuration of the network and its input, checked by the class that runs it.
        regulatory: what authorities call this version; goes into every provenance record.
    """

    name: str = Field(pattern=r"^[A-Z][A-Z0-9]*$")
    kind: Literal["torchxrayvision", "vista3d", "brats"]
    version: str
    licence: str
    demonstration: bool
    research_only: bool = False
    task: Literal["classification", "segmentation"]
    modality: str
    overview: str
    accuracy: str
    intended_use: IntendedUse
    arguments: tuple[str, ...] = ()
    labels: Mapping[int, str]
    files: tuple[FileEntry, ...]
    budget: Budget
    network: Mapping[str, Any]
    regulatory: Regulatory = Regulatory()


@dataclass(frozen=True)
class ModelPackage:
    """An opened package: its folder and its manifest. Call ``verify`` before trusting a file."""

    folder: Path
    manifest: Manifest

    @property
    def card(self) -> ModelCard:
        """The ModelCard this package promises."""
        promise = self.manifest
        return ModelCard(
            name=promise.name,
            version=promise.version,
            task=promise.task,
            modality=promise.modality,
            overview=promise.overview,
            accuracy=promise.accuracy,
            arguments=promise.arguments,
            labels=dict(promise.labels),
            weights_sha256={entry.path: entry.sha256 for entry in promise.files},
            licence=promise.licence,
            demonstration=promise.demonstration,
            research_only=promise.research_only,
            code_family=_CODE_FAMILY[promise.kind],
            regulatory=promise.regulatory.known(),
        )

    def path(self, name: str) -> Path:
        """Return the path of a file the manifest lists.

        Raises:
            ModelPackageError: the manifest does not list it.
        """
        if name not in {entry.path for entry in self.manifest.files}:
            raise ModelPackageError(f"{self.folder.name}: {name} is not a file of the manifest")
        return self.folder / name

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            ModelPackageError: a file is missing, altered or surplus; the message names it.
        """
        listed = {entry.path: entry.sha256 for entry in self.manifest.files}
        present = {path.name for path in self.folder.iterdir()} - {MANIFEST}
        for name in sorted(set(listed) - present):
            raise ModelPackageError(f"{self.folder.name}: {name} is missing")
        for name in sorted(present - set(listed)):
            raise ModelPackageError(f"{self.folder.name}: {name} is surplus: the manifest does not list it")
        for name, expected in sorted(listed.items()):
            if file_sha256(self.folder / name) != expected:
                raise ModelPackageError(f"{self.folder.name}: {name} is altered: its SHA-256 differs")


def open_package(folder: Path) -> ModelPackage:
    """Read the manifest of ``folder``; the files are checked by ``ModelPackage.verify``.

    Raises:
        ModelPackageError: no folder, no manifest, or a manifest that is not one.
    """
    try:
        content = yaml.safe_load((folder / MANIFEST).read_text(encoding="utf-8"))
        return ModelPackage(folder=folder, manifest=Manifest.model_validate(content))
    except FileNotFoundError as exc:
        raise ModelPackageError(f"{folder.name}: {MANIFEST} is missing") from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as exc:
        raise ModelPackageError(f"{folder.name}: {MANIFEST} is not a manifest: {exc}") from exc


def seal_package(folder: Path, promise: Mapping[str, Any]) -> ModelPackage:
    """Write the manifest of ``folder``: ``promise`` plus every file found there with its SHA-256.

    Args:
        folder: holds the weight files.
        promise: the manifest without ``files``.

    Raises:
        ModelPackageError: the folder holds no file, or the promise makes no manifest.
    """
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    if not names:
        raise ModelPackageError(f"{folder.name}: no weight file to seal")
    files = [{"path": name, "sha256": file_sha256(folder / name)} for name in names]
    text = yaml.safe_dump({**promise, "files": files}, sort_keys=False, allow_unicode=True, width=110)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return open_package(folder)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of one file in hex; a folder or unreadable file is a broken package.

    Raises:
        ModelPackageError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
    except OSError as exc:
        raise ModelPackageError(f"{path.parent.name}: {path.name} cannot be read") from exc
    return digest.hexdigest()
