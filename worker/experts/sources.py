"""Where Experts come from: model packages of this site, installed plug-ins, other machines."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.errors import ConfigurationError, ModelPackageError
from worker.experts.base import Expert, ModelCard
from worker.experts.packages import IntendedUse, ModelPackage

ENTRY_POINT_GROUP = "firstread.experts"


@runtime_checkable
class ExpertSource(Protocol):
    """Where one Expert comes from; what a ``firstread.experts`` entry point's callable returns."""

    @property
    def card(self) -> ModelCard:
        """The promise, readable without loading weights."""
        ...

    @property
    def intended_use(self) -> IntendedUse:
        """What it may be used on."""
        ...

    @property
    def memory_mb(self) -> float:
        """Memory it holds while loaded and running; 0 when it runs elsewhere."""
        ...

    def load(self, device: str) -> Expert:
        """Build the Expert on ``device``; checks every file first."""
        ...


@dataclass(frozen=True)
class PackageSource:
    """An Expert that lives in a model package."""

    package: ModelPackage

    @property
    def card(self) -> ModelCard:
        """The promise of the manifest."""
        return self.package.card

    @property
    def intended_use(self) -> IntendedUse:
        """The manifest's intended use."""
        return self.package.manifest.intended_use

    @property
    def memory_mb(self) -> float:
        """The manifest's memory budget."""
        return self.package.manifest.budget.memory_mb

    def load(self, device: str) -> Expert:
        """Check every hash and build the Expert.

        Raises:
            ModelPackageError: files or weights are not what the manifest says.
        """
        self.package.verify()
        return _build(self.package, device)


def _build(package: ModelPackage, device: str) -> Expert:
    # torch, monai and torchxrayvision take seconds to import: only the class that is needed is.
    match package.manifest.kind:
        case "torchxrayvision":
            from worker.experts.cxr import ChestXrayExpert

            return ChestXrayExpert.load(package, device=device)
        case "vista3d":
            from worker.experts.vista3d import Vista3dExpert

            return Vista3dExpert.load(package, device=device)
        case "brats":
            from worker.experts.brats import BratsExpert

            return BratsExpert.load(package, device=device)


class RemoteEntry(BaseModel):
    """One Expert that runs on another machine, behind ``firstread experts serve``.

    Attributes:
        name: the Trigger's name of the Expert there.
        url: of the server; ``https`` unless it is this machine.
        timeout_s: one answer, with every repetition, takes no longer.
        token_env: environment variable that holds the bearer token; ``""`` for none.
        ca_file: PEM of the authorities that may have signed the server's certificate; ``""`` for the system's.
        client_certificate, client_key: PEM files that identify this machine; ``""`` for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Z][A-Z0-9]*$")
    url: str
    timeout_s: float = Field(default=300.0, gt=0)
    token_env: str = ""
    ca_file: str = ""
    client_certificate: str = ""
    client_key: str = ""

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        # asking for the port refuses one that is none
        whole = host and host.isascii() and parts.port != 0
        if parts.scheme not in {"http", "https"} or not whole or parts.username or parts.query or parts.fragment:
            raise ValueError(f"remote {self.name}: url must be https://host[:port][/path]")
        if parts.scheme == "http" and not is_loopback(host):
            raise ValueError(f"remote {self.name}: studies leave this machine over https only")
        if bool(self.client_certificate) != bool(self.client_key):
            raise ValueError(f"remote {self.name}: client_certificate and client_key belong together")
        return self


class ModelsFile(BaseModel):
    """``config/models.yaml``: which Experts this site uses.

    Attributes:
        experts: package folders, absolute or relative to the file.
        remotes: Experts on other machines.
        accepted_licences: licences of weights the site has accepted; a package with another is refused.
        memory_mb: how much memory of ``device`` the models may hold together.
        device: torch device the Experts run on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: tuple[str, ...] = ()
    remotes: tuple[RemoteEntry, ...] = ()
    accepted_licences: tuple[str, ...] = ()
    memory_mb: float = Field(default=8192, gt=0)
    device: str = "cpu"


def read_models_file(path: Path) -> ModelsFile:
    """Read ``config/models.yaml``.

    Raises:
        ConfigurationError: it is missing or is no models file.
    """
    try:
        content: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelsFile.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as exc:
        raise ConfigurationError(f"{path.name} is no models file: {exc}") from exc


def installed_sources() -> list[ExpertSource]:
    """Return what the installed ``firstread.experts`` entry points offer, by entry point name.

    Raises:
        ModelPackageError: a plug-in cannot be imported, fails, or returns no source; the message names it.
    """
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return [_plugin_source(point) for point in found]


def _plugin_source(point: EntryPoint) -> ExpertSource:
    try:
        source: ExpertSource = point.load()()
        complete = isinstance(source, ExpertSource) and isinstance(source.intended_use, IntendedUse)
        complete = complete and isinstance(source.memory_mb, int | float) and source.memory_mb >= 0
    # anybody's code: it may raise anything
    except Exception as exc:
        raise ModelPackageError(f"plug-in {point.name} ({point.value}) failed: {type(exc).__name__}: {exc}") from exc
    if not complete:
        raise ModelPackageError(
            f"plug-in {point.name} ({point.value}) returned {type(source).__name__}, "
            "which has no card, intended_use, memory_mb and load"
        )
    return source


def origin(source: ExpertSource) -> str:
    """Return where an Expert comes from, in words for people."""
    from worker.experts.remote import RemoteSource

    if isinstance(source, PackageSource):
        return f"package {source.package.folder.name}"
    if isinstance(source, RemoteSource):
        return f"remote {source.entry.url}"
    return f"plug-in {type(source).__module__}"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
