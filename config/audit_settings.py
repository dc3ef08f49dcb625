"""The knobs of the audit trail: its keys, its seal and where its heads go."""

from pathlib import Path

from pydantic import BaseModel, Field

from config.archive_settings import ArchiveSettings
from config.syslog_settings import SyslogSettings


class AuditSettings(BaseModel, frozen=True, extra="forbid"):
    """How the audit trail is marked, sealed and anchored."""

    key_dir: Path | None = Field(
        default=None,
        description="Folder of the audit trail's keys, which belongs outside the database's host; `keys` in data_dir, "
        "filled at the first start, when empty. One that is named must hold `origin.key` (`firstread audit keys`).",
    )
    seal_every_s: float = Field(default=1.0, gt=0, le=60, description="Seconds between two rounds of the sealer.")
    head_every_s: float = Field(
        default=3600.0, gt=0, description="A tree head is signed at the latest so many seconds after the last one."
    )
    head_every_events: int = Field(default=1000, ge=1, description="... or after so many sealed events.")
    source_id: str = Field(
        default="firstread",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of this system in audit messages (AuditSourceID), and the domain of its people's logins "
        "there.",
    )
    syslog: SyslogSettings = SyslogSettings()
    archive: ArchiveSettings = ArchiveSettings()
    origin: str = Field(
        default="firstread.audit",
        pattern=r"^[^\s+]{1,128}$",
        description="Name of this log in its signed heads; give each installation its own, as a URL without scheme.",
    )
    clock_tolerance_s: float = Field(
        default=300.0,
        gt=0,
        description="An event that says an instant so long before an earlier one shows a clock set back.",
    )
    unsealed_alarm_s: float = Field(
        default=600.0, gt=0, description="An event that waits for its seal longer than this is named by verification."
    )
    anchor_dir: Path | None = Field(
        default=None,
        description="Folder outside this host (WORM, object lock) that gets a file of every head; none when empty.",
    )
    anchor_every_s: float = Field(default=15.0, gt=0, description="Seconds between two looks for heads to anchor.")
    timestamp_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Time-stamping authority (RFC 3161) that is asked for a token on every head; none when empty.",
    )
    timestamp_certificate: Path | None = Field(
        default=None, description="PEM file of the certificates that its tokens are checked against, the root last."
    )
    verify_every_s: float = Field(
        default=86400.0,
        ge=0,
        description="Seconds between two verifications of the whole log by the sealer; 0 for none.",
    )
