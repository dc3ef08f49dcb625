"""The knobs of critical results: what is one, who hears of it, and how long it may wait."""

from pydantic import BaseModel, Field, SecretStr


class CriticalSettings(BaseModel, frozen=True, extra="forbid"):
    """Alerts of findings that somebody has to be told about."""

    labels: tuple[str, ...] = Field(
        default=("Pneumothorax",), description="Labels of Findings that are critical when a model asserts them."
    )
    escalate_s: float = Field(
        default=1800.0, gt=0, description="An alert nobody answered is escalated after this, and again each time."
    )
    communicate_s: float = Field(
        default=3600.0,
        gt=0,
        description="A confirmed critical result of category 1 has to be communicated within this.",
    )
    communicate_2_s: float = Field(
        default=21600.0, gt=0, description="The same for category 2: hours. It is escalated after this, and again."
    )
    communicate_3_s: float = Field(default=259200.0, gt=0, description="The same for category 3: days.")
    webhook_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Address that alerts are posted to as JSON; off when empty.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Key of the HMAC-SHA256 in X-Firstread-Signature; no signature when empty."
    )
    smtp_host: str = Field(default="", description="Mail server that alerts are sent through; off when empty.")
    smtp_port: int = Field(default=25, ge=1, le=65535, description="Its port.")
    smtp_starttls: bool = Field(default=False, description="Speak TLS to it, and refuse to go on without.")
    smtp_user: str = Field(default="", description="Login at the mail server; none when empty.")
    smtp_password: SecretStr | None = Field(default=None, description="Password at the mail server.")
    mail_from: str = Field(default="firstread@localhost", description="Sender of alerts.")
    mail_to: tuple[str, ...] = Field(default=(), description="Who is mailed when an alert is raised.")
    escalate_to: tuple[str, ...] = Field(default=(), description="Who is mailed when nobody answered.")
    patient_in_messages: bool = Field(
        default=False, description="Name the patient in mails and posts; they leave the protected network."
    )
    send_timeout_s: float = Field(
        default=20.0, gt=0, le=120, description="How long a mail server or the webhook may take for each answer."
    )

    def communicate_within_s(self, category: int) -> float:
        """Return the seconds in which a confirmed result of ``category`` 1, 2 or 3 has to be told."""
        return (self.communicate_s, self.communicate_2_s, self.communicate_3_s)[category - 1]
