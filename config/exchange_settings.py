"""The knobs of the exchange with RIS and EHR by HL7 v2 messages."""

from pydantic import BaseModel, Field


class Hl7Settings(BaseModel, frozen=True, extra="forbid"):
    """HL7 v2.5.1 over MLLP: who we are, and the listener for orders and patient updates."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; only loopback without hl7.tls.")
    port: int | None = Field(
        default=None, ge=0, le=65535, description="Listen here for orders and patient updates; off when empty."
    )
    tls: bool = Field(default=False, description="Listen with mutual TLS, by the certificate of dicom.tls.")
    application: str = Field(default="FIRSTREAD", max_length=64, description="Our application (MSH-3).")
    facility: str = Field(default="", max_length=64, description="Our facility (MSH-4).")
    authority: str = Field(
        default="",
        pattern=r"^[^|^~\\&\r\n]*(&[^|^~\\&\r\n]*&ISO)?$",
        description="Assigning authority of Patient IDs without an issuer: a name, or NAME&OID&ISO (PID-3.4).",
    )
    processing: str = Field(default="P", pattern="^[PTD]$", description="Processing ID (MSH-11): P, T or D.")
    timeout_s: float = Field(default=30.0, gt=0, description="An acknowledgement that takes longer is not waited for.")
    idle_s: float = Field(default=300.0, gt=0, description="A connection without a message for this long is closed.")
    max_message_bytes: int = Field(default=8 * 1024**2, ge=1024, description="Longer messages are refused.")
