"""Vision-language model packages: a checkpoint folder in VILA-M3's published layout plus ``manifest.json``.

manifest.json          what it is, and the SHA-256 of every other file
llm/                   LlamaForCausalLM and its tokenizer
vision_tower/          SiglipVisionModel and preprocessor_config.json
mm_projector/          model.safetensors with layers.1, layers.2, layers.4
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.errors import ModelPackageError
from worker.experts.packages import Regulatory, file_sha256
from worker.vlm.backends import VlmCard
from worker.vlm.prompts import Style
from worker.vlm.templates import template

MANIFEST = "manifest.json"
BosRule = Literal["published", "lossless"]
Backend = Literal["vila_m3", "hf", "openai"]


class ServerAddress(BaseModel):
    """An OpenAI-compatible server that runs the model.

    Attributes:
        url: base address, up to and including ``/v1``.
        model: the model's name there.
        api_key_env: environment variable that holds the key; ``""`` for none.
        timeout_s: longest wait for one answer.
        allow_plain_http: pictures of patients may travel unencrypted, on a network the site vouches for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    api_key_env: str = ""
    timeout_s: float = Field(default=120.0, gt=0)
    allow_plain_http: bool = False


class VlmManifest(BaseModel):
    """The manifest of a vision-language model package.

    Attributes:
        kind: always ``"vlm"``.
        name, version, licence, base, demonstration, intended_use, modalities, template, style,
            published_cards, research_only, backend, revision, regulatory: as on the `VlmCard`. ``template`` is
            empty for backends that bring their own chat template.
        bos_rule: what happens to the text after an image, see `vila_m3.tokenise`.
        overlay_placeholder: what stands for the overlay in an Expert's feedback; the weights published in 2024
            may have seen ``<segmentation>``, which their public loader never replaced by an image.
        server: where the model runs, for backend ``openai``.
        files: path relative to the folder → SHA-256 in hex.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vlm"]
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    base: str
    demonstration: bool
    intended_use: str = Field(min_length=1)
    modalities: tuple[str, ...] = Field(min_length=1)
    template: str = ""
    style: Style = "trained"
    published_cards: bool = False
    research_only: bool = False
    backend: Backend = "vila_m3"
    revision: str = ""
    bos_rule: BosRule = "published"
    overlay_placeholder: Literal["<image>", "<segmentation>"] = "<image>"
    server: ServerAddress | None = None
    regulatory: Regulatory = Regulatory()
    files: Mapping[str, str]

    def card(self) -> VlmCard:
        """Return the promise of this package."""
        return VlmCard(
            name=self.name,
            version=self.version,
            licence=self.licence,
            base=self.base,
            template=self.template,
            style=self.style,
            published_cards=self.published_cards,
            weights_sha256=dict(self.files),
            intended_use=self.intended_use,
            modalities=self.modalities,
            demonstration=self.demonstration,
            research_only=self.research_only,
            backend=self.backend,
            revision=self.revision,
            overlay_placeholder=self.overlay_placeholder,
            regulatory=self.regulatory.known(),
        )


def open_vlm_package(folder: Path) -> VlmManifest:
    """Read the manifest of ``folder`` without reading the weights.

    Raises:
        ModelPackageError: no folder, no manifest, or a manifest that is not one.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = VlmManifest.model_validate(content)
    except FileNotFoundError as exc:
        raise ModelPackageError(f"{folder.name}: {MANIFEST} is missing") from exc
    except (OSError, ValueError, ValidationError) as exc:
        raise ModelPackageError(f"{folder.name}: {MANIFEST} is not a manifest: {exc}") from exc
    if manifest.backend == "vila_m3":
        template(manifest.template)
    if (manifest.backend == "openai") != (manifest.server is not None):
        raise ModelPackageError(f"{folder.name}: backend openai, and no other, names a server")
    return manifest


def verify_vlm_package(folder: Path) -> VlmManifest:
    """Compare every file of ``folder`` with its manifest and return the manifest.

    Raises:
        ModelPackageError: a file is missing, altered or surplus; the message names it.
    """
    manifest = open_vlm_package(folder)
    present = files_of(folder)
    for name in sorted(set(manifest.files) - present):
        raise ModelPackageError(f"{folder.name}: {name} is missing")
    for name in sorted(present - set(manifest.files)):
        raise ModelPackageError(f"{folder.name}: {name} is surplus: the manifest does not list it")
    for name, expected in sorted(manifest.files.items()):
        if file_sha256(folder / name) != expected:
            raise ModelPackageError(f"{folder.name}: {name} is altered: its SHA-256 differs")
    return manifest


def seal_vlm_package(folder: Path, promise: Mapping[str, Any]) -> VlmManifest:
    """Write the manifest of ``folder``: ``promise`` plus every file found there with its SHA-256."""
    files = {name: file_sha256(folder / name) for name in sorted(files_of(folder))}
    manifest = VlmManifest.model_validate({**promise, "kind": "vlm", "files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def files_of(folder: Path) -> set[str]:
    """Return the files below ``folder``, relative, without the manifest."""
    every = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return every - {MANIFEST}
