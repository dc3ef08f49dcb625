"""Orders, as the RIS announced them by HL7 (ORM^O01, OMI^O23)."""

from sqlalchemy import String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key
from db.types import Priority, choice


class ImagingOrder(Base):
    """One order of an imaging procedure, as last announced; each Study points at the order that asked for it."""

    __tablename__ = "imaging_order"
    id: Mapped[Key]
    sender: Mapped[str] = mapped_column(String(200), default="")  # application|facility (MSH-3, MSH-4)
    placer_order_number: Mapped[str] = mapped_column(String(200), default="", index=True)  # ORC-2
    filler_order_number: Mapped[str] = mapped_column(String(200), default="")  # ORC-3
    accession_number: Mapped[str] = mapped_column(String(64), default="", index=True)  # OBR-18 or IPC-1
    study_instance_uid: Mapped[str] = mapped_column(String(64), default="", index=True)  # IPC-3, ZDS-1
    patient_id: Mapped[str] = mapped_column(String(64), default="", index=True)  # PID-3.1
    issuer_of_patient_id: Mapped[str] = mapped_column(String(200), default="")  # PID-3.4
    patient_name: Mapped[str] = mapped_column(String(324), default="")  # PN, from PID-5
    patient_birth_date: Mapped[str] = mapped_column(String(8), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    procedure_code: Mapped[str] = mapped_column(String(64), default="")  # OBR-4
    procedure_scheme: Mapped[str] = mapped_column(String(64), default="")
    procedure_text: Mapped[str] = mapped_column(String(200), default="")
    indication: Mapped[str] = mapped_column(Text, default="")  # OBR-31, or OBR-13, or NTE
    priority: Mapped[Priority] = mapped_column(choice(Priority), default=Priority.ROUTINE)  # TQ1-9, ORC-7.6, OBR-27.6
    ordering_provider: Mapped[str] = mapped_column(String(324), default="")  # PN, from OBR-16
    ordering_provider_id: Mapped[str] = mapped_column(String(64), default="")  # OBR-16.1
    visit_number: Mapped[str] = mapped_column(String(64), default="")  # PV1-19
    patient_class: Mapped[str] = mapped_column(String(16), default="")  # PV1-2
    patient_location: Mapped[str] = mapped_column(String(200), default="")  # PV1-3
    cancelled: Mapped[bool] = mapped_column(default=False)  # ORC-1 CA
    received_at: Mapped[Instant]
    updated_at: Mapped[Instant]
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (UniqueConstraint("sender", "placer_order_number", "accession_number"),)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 a stale writer loses
