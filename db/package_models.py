"""Tables of the model store: the packages of this site, and the licences people accepted for them."""

from sqlalchemy import Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, Key, MaybeInstant, Sha256
from db.types import PackageKind, PackageState, choice

_ACTIVE = text(f"state = '{PackageState.ACTIVE}'")


class Package(Base):
    """One model package in the store; ``folder`` is relative to it.

    ``place`` is what the package does when it is ACTIVE, such as ``vlm`` or ``expert:VISTA3D``; the database
    lets one package be ACTIVE in a place.
    """

    __tablename__ = "model_package"
    id: Mapped[Key]
    kind: Mapped[PackageKind] = mapped_column(choice(PackageKind))
    place: Mapped[str] = mapped_column(String(80))
    name: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[str] = mapped_column(String(64))
    revision: Mapped[str] = mapped_column(String(64), default="")  # commit of the repository; "" when unknown
    folder: Mapped[str] = mapped_column(String(200), unique=True)
    manifest_sha256: Mapped[Sha256]
    licence: Mapped[str] = mapped_column(String(128))
    licence_sha256: Mapped[Sha256]  # of the text that was shown
    research_only: Mapped[bool]
    demonstration: Mapped[bool]
    state: Mapped[PackageState] = mapped_column(choice(PackageState), default=PackageState.IMPORTED)
    imported_by: Mapped[str] = mapped_column(String(64))
    imported_at: Mapped[Instant]
    activated_by: Mapped[str] = mapped_column(String(64), default="")
    activated_at: Mapped[MaybeInstant]
    retired_by: Mapped[str] = mapped_column(String(64), default="")
    retired_at: Mapped[MaybeInstant]
    version_id: Mapped[int] = mapped_column(default=1)
    __table_args__ = (
        Index(
            "uq_model_package_active",
            "place",
            unique=True,
            sqlite_where=_ACTIVE,
            postgresql_where=_ACTIVE,
        ),
    )
    __mapper_args__ = {"version_id_col": version_id}  # noqa: RUF012 a stale writer loses


class LicenceAcceptance(Base):
    """A person accepted a licence for a package of this name; append-only by trigger."""

    __tablename__ = "licence_acceptance"
    id: Mapped[Key]
    package: Mapped[str] = mapped_column(String(64), index=True)  # its name
    licence: Mapped[str] = mapped_column(String(128))
    text_sha256: Mapped[Sha256]
    text: Mapped[str] = mapped_column(Text)  # as shown
    accepted_by: Mapped[str] = mapped_column(String(64))
    accepted_at: Mapped[Instant]
