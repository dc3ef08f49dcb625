"""Every knob, in one frozen object; docs/settings.md names each field."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from config.audit_settings import AuditSettings
from config.critical_settings import CriticalSettings
from config.destination import Destination
from config.errors import ConfigurationError
from config.exchange_settings import Hl7Settings
from config.identity_settings import IdentitySettings
from config.node_settings import (
    AeProfile,
    DicomSettings,
    Peer,
    PriorSettings,
    PriorSource,
    RetentionSettings,
    TlsSettings,
)
from config.review_settings import ReviewSettings

__all__ = [
    "AeProfile",
    "AuditSettings",
    "CriticalSettings",
    "Destination",
    "DicomSettings",
    "Hl7Settings",
    "IdentitySettings",
    "ModelSettings",
    "Peer",
    "PriorSettings",
    "PriorSource",
    "RetentionSettings",
    "ReviewSettings",
    "Settings",
    "TlsSettings",
    "WebSettings",
    "WorkerSettings",
    "settings",
]

ROOT = Path(__file__).resolve().parent.parent


class WorkerSettings(BaseModel, frozen=True, extra="forbid"):
    """Drafting workers."""

    concurrency: int = Field(default=1, ge=1, description="Worker processes; one per GPU.")
    together: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Readings one process does side by side, their answers generated in one batch; for GPUs.",
    )
    lease_s: float = Field(
        default=120.0, gt=0, description="A Reading whose heartbeat is older is given to another worker."
    )
    heartbeat_s: float = Field(default=15.0, gt=0, description="Seconds between heartbeats.")
    max_attempts: int = Field(default=3, ge=1, description="Attempts before a Reading is FAILED.")
    retry_base_s: float = Field(default=10.0, gt=0, description="First retry delay; doubles each time.")
    soft_time_limit_s: int = Field(default=1500, ge=1, description="The task is told to stop after this.")
    time_limit_s: int = Field(default=1800, ge=1, description="The task is killed after this.")
    device: str = Field(default="auto", description="torch device: auto, cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Arithmetic of the vision-language model; auto takes bfloat16 where fast."
    )
    torch_threads: int = Field(default=0, ge=0, description="CPU threads; 0 leaves the choice to torch.")
    quantization: Literal["none", "8bit", "4bit"] = Field(
        default="none", description="Weights of the language model as bitsandbytes stores them; less memory, slower."
    )
    device_map: str = Field(
        default="", description="auto spreads the language model over all GPUs; empty keeps it on device."
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Tokens one answer may have.")
    max_rounds: int = Field(default=3, ge=1, description="Rounds of Expert feedback in one conversation.")
    max_triggers: int = Field(default=6, ge=1, description="Experts one answer may ask for; more is a storm.")
    kv_cache_mb: float = Field(
        default=2048.0, ge=0, description="Keys and values kept for the next round of a conversation; 0 keeps none."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "WorkerSettings":
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError("worker.lease_s must be at least twice worker.heartbeat_s")
        if self.soft_time_limit_s >= self.time_limit_s:
            raise ValueError("worker.soft_time_limit_s must be below worker.time_limit_s")
        return self


class WebSettings(BaseModel, frozen=True, extra="forbid"):
    """The dashboard."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; only loopback without TLS.")
    port: int = Field(default=8042, ge=0, le=65535, description="Port to listen on.")
    threads: int = Field(default=8, ge=1, description="Request threads.")
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[^/?#\s]+(/[^?#\s]*)?)?$",
        description="Address that clients reach it by, for the addresses in DICOMweb answers; as in the request when "
        "empty. Needed behind a proxy.",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM certificate; required off loopback.")
    tls_key: Path | None = Field(default=None, description="PEM private key.")
    idle_timeout_s: int = Field(default=1800, ge=60, description="A session without requests ends after this.")
    dicomweb: bool = Field(default=True, description="Serve DICOMweb below /dicomweb.")
    fhir: bool = Field(default=True, description="Serve signed reports as FHIR R4 below /fhir.")
    workitems: bool = Field(default=True, description="Serve Readings as UPS-RS workitems below /ups.")
    stow_max_bytes: int = Field(
        default=4 * 1024**3, ge=1024, description="Largest STOW-RS request; each part goes straight to a file."
    )
    lockout_failures: int = Field(default=5, ge=1, description="Failed logins that lock an account.")
    lockout_s: int = Field(default=900, ge=1, description="Seconds an account stays locked.")


class ModelSettings(BaseModel, frozen=True, extra="forbid"):
    """Which models draft."""

    vlm: Path | None = Field(
        default=None,
        description="Checkpoint folder of the vision-language model; the demonstration model when empty.",
    )
    registry: Path = Field(default=ROOT / "config" / "models.yaml", description="List of expert packages.")
    prompt_style: Literal["", "trained", "demo"] = Field(
        default="", description="Wording of prompts; the package's own when empty."
    )
    allow_demonstration: bool = Field(
        default=True, description="Allow DEMONSTRATION packages to draft; off for clinical use."
    )


class Settings(BaseSettings):
    """Service configuration: ``FIRSTREAD_*`` variables, then the YAML file they name, then defaults.

    Nested fields use two underscores: ``FIRSTREAD_DICOM__PORT=104``.
    """

    model_config = SettingsConfigDict(env_prefix="FIRSTREAD_", env_nested_delimiter="__", frozen=True, extra="forbid")

    data_dir: Path = Field(default=ROOT / "var", description="Database, Instances, results, logs, broker folder.")
    settings_file: Path | None = Field(default=None, description="Optional YAML file with any of these fields.")
    database_url: str = Field(default="", description="SQLAlchemy URL; SQLite in data_dir when empty.")
    broker_url: str = Field(default="", description="Celery broker; filesystem transport in data_dir when empty.")
    session_secret: SecretStr | None = Field(
        default=None, description="Signs sessions; generated once into data_dir when empty."
    )
    organization: str = Field(default="Firstread demonstration site", description="Institution in signed reports.")
    image_digest: str = Field(
        default="", description="Digest of the container image this runs in; goes into every draft's provenance."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Log threshold.")
    log_json: bool = Field(default=False, description="One JSON object per log line instead of readable text.")
    routing: Path = Field(default=ROOT / "config" / "routing.yaml", description="Routing rules.")
    destinations: tuple[Destination, ...] = Field(default=(), description="Where results are delivered.")
    dicom: DicomSettings = DicomSettings()
    hl7: Hl7Settings = Hl7Settings()
    priors: PriorSettings = PriorSettings()
    retention: RetentionSettings = RetentionSettings()
    worker: WorkerSettings = WorkerSettings()
    web: WebSettings = WebSettings()
    models: ModelSettings = ModelSettings()
    identity: IdentitySettings = IdentitySettings()
    review: ReviewSettings = ReviewSettings()
    critical: CriticalSettings = CriticalSettings()
    audit: AuditSettings = AuditSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the caller passes all four
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the YAML file below the environment, above the defaults."""
        named = env_settings().get("settings_file") or init_settings().get("settings_file")
        return (init_settings, env_settings, *((_yaml(settings_cls, Path(named)),) if named else ()))

    @model_validator(mode="after")
    def _loopback_without_tls(self) -> "Settings":
        loopback = {"127.0.0.1", "::1", "localhost"}
        if self.dicom.host not in loopback:
            raise ValueError("dicom.host must be loopback: from other machines only TLS is taken, see dicom.tls")
        if self.web.host not in loopback and not (self.web.tls_certificate and self.web.tls_key):
            raise ValueError("web.host off loopback needs web.tls_certificate and web.tls_key")
        if self.hl7.port is not None and self.hl7.host not in loopback and not self.hl7.tls:
            raise ValueError("hl7.host must be loopback without hl7.tls")
        if self.hl7.tls and not self.dicom.tls.certificate:
            raise ValueError("hl7.tls needs dicom.tls.certificate")
        return self

    @model_validator(mode="after")
    def _one_destination_of_a_name(self) -> "Settings":
        names = [one.name for one in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError("two destinations have the same name")
        return self

    @model_validator(mode="after")
    def _certificate_for_calls(self) -> "Settings":
        called: tuple[Destination | PriorSource | Peer, ...] = (
            *self.destinations,
            *self.priors.sources,
            *self.dicom.peers,
        )
        secured = [other.ae_title or other.host for other in called if other.tls]
        if secured and not self.dicom.tls.certificate:
            raise ValueError(f"{secured[0]} is called with tls, which needs dicom.tls.certificate")
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'firstread.db'}"

    @property
    def key_dir(self) -> Path:
        """Where the audit trail's keys are."""
        return self.audit.key_dir or self.data_dir.resolve() / "keys"

    @property
    def audit_archive_dir(self) -> Path:
        """Where audit bundles are kept."""
        return self.audit.archive.folder or self.data_dir.resolve() / "audit-archive"

    @property
    def instances_dir(self) -> Path:
        """Where received Instances are kept."""
        return self.data_dir.resolve() / "instances"

    @property
    def results_dir(self) -> Path:
        """Where result objects and label maps are kept."""
        return self.data_dir.resolve() / "results"

    @property
    def vlm_dir(self) -> Path:
        """The vision-language model's checkpoint folder in force."""
        return self.models.vlm or self.data_dir.resolve() / "models" / "demo-vlm"


def settings(**chosen: Any) -> Settings:
    """Read the environment, with fields ``chosen`` on the command line before it; called by entry points only.

    Raises:
        ConfigurationError: a field is unknown or outside its limits, or the settings file cannot be read. It names
            the field, never the value, which may be a secret. Nothing has been opened yet.
    """
    try:
        return Settings(**chosen)
    except ValidationError as exc:
        faults = (f"{_name(fault['loc'])}: {str(fault['msg']).removeprefix('Value error, ')}" for fault in exc.errors())
        raise ConfigurationError(f"settings cannot be used: {'; '.join(faults)}") from None
    except SettingsError as exc:  # a variable that is no JSON; it names the field only
        raise ConfigurationError(f"settings cannot be used: {exc}") from None


def _yaml(kind: type[BaseSettings], file: Path) -> YamlConfigSettingsSource:
    """Return the settings file as a source; pydantic-settings alone would leave out one that is not there."""
    if not file.is_file():
        raise ConfigurationError(f"settings cannot be used: there is no settings file {file}")
    try:
        return YamlConfigSettingsSource(kind, file)
    except (OSError, ValueError, TypeError, YAMLError) as exc:
        raise ConfigurationError(f"settings cannot be used: {file} is no readable YAML mapping") from exc


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "settings"
