"""Tables of the exchange with the RIS: what it sent, and whose identity it corrected."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Json, Key, Sha256
from db.types import UtcDateTime, utcnow


class Hl7Message(Base):
    """One HL7 message that was received, and how it was answered; its bytes are kept under ``path``.

    The same bytes sent again are the same row. ``is_reuse`` marks a control id that came before with other bytes.
    """

    __tablename__ = "hl7_message"
    id: Mapped[Key]
    sender: Mapped[str] = mapped_column(String(200))  # application|facility (MSH-3, MSH-4)
    control_id: Mapped[str] = mapped_column(String(200))  # MSH-10
    message_type: Mapped[str] = mapped_column(String(32), default="")  # MSH-9: ORM^O01
    sha256: Mapped[Sha256]
    path: Mapped[str] = mapped_column(String(400))  # relative to the data folder
    acknowledgement: Mapped[str] = mapped_column(String(2))  # AA, AE, AR
    error: Mapped[str] = mapped_column(String(200), default="")
    is_reuse: Mapped[bool] = mapped_column(default=False)
    times: Mapped[int] = mapped_column(default=1)  # it was sent
    received_at: Mapped[Instant] = mapped_column(index=True)
    last_received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    __table_args__ = (UniqueConstraint("sender", "control_id", "sha256"),)


class IdentityCorrection(Base):
    """A Study whose patient the RIS corrected: its rows say the new identity, its images the old one."""

    __tablename__ = "identity_correction"
    study_id: Mapped[UUID] = mapped_column(ForeignKey("study.id"), primary_key=True)
    message_id: Mapped[UUID | None] = mapped_column(ForeignKey("hl7_message.id"))  # the last one
    as_received: Mapped[Json]  # patient_id, patient_name … before the first correction
    after_signing: Mapped[bool] = mapped_column(default=False)  # a report was signed under the old identity
    corrected_at: Mapped[Instant]
