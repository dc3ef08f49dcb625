"""The knobs of the audit trail: its keys, its seal and where its heads go."""

from pathlib import Path

from pydantic import BaseModel, Field

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
