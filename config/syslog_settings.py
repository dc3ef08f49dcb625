"""The knobs of the audit record repository: where audit messages go, and how they get there."""

from pathlib import Path

from pydantic import BaseModel, Field


class SyslogSettings(BaseModel, frozen=True, extra="forbid"):
    """How audit messages are sent by syslog over TLS (RFC 5424, RFC 5425; PS3.15 A.6)."""

    host: str = Field(
        default="",
        description="Audit record repository that every event is sent to by syslog over TLS; off when empty.",
    )
    port: int = Field(default=6514, ge=1, le=65535, description="Its port.")
    server_name: str = Field(
        default="", description="Name that its certificate must show, when that is not the host's name."
    )
    authorities: Path | None = Field(
        default=None, description="Certificate authorities its certificate is checked against; the system's when empty."
    )
    certificate: Path | None = Field(default=None, description="Certificate we show it (PEM, with its chain).")
    key: Path | None = Field(default=None, description="Private key of that certificate (PEM, not encrypted).")
    timeout_s: float = Field(default=10.0, gt=0, le=120, description="How long it may take for each step.")
    resend_s: float = Field(
        default=30.0,
        ge=0,
        description="Syslog knows no receipts: what was written so many seconds before a connection breaks, or later, "
        "is sent again.",
    )
    most_octets: int = Field(
        default=32768,
        ge=4096,
        description="Longest message; of a longer one the longest details are replaced by their SHA-256. Receivers "
        "must take 32768 (PS3.15 A.6); rsyslog must be told to.",
    )
    alarm_s: float = Field(
        default=900.0, gt=0, description="An event that waits longer than this is a problem that a person is shown."
    )

    @property
    def sink(self) -> str:
        """Name of the repository where how far it was told is kept; empty when there is none."""
        return f"syslog://{self.host}:{self.port}" if self.host else ""
