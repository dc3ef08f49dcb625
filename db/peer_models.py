"""The table of peers that people let in, beside those of the settings."""

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base, Instant, JsonList, Key, MaybeInstant

_PRESENT = text("removed_at IS NULL")


class AddedPeer(Base):
    """A calling AE somebody let in; a row that was removed stays, for the record.

    The database takes no second row that is in force for one AE title, host and certificate subject.
    """

    __tablename__ = "peer"
    id: Mapped[Key]
    ae_title: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255), default="")  # address, network or name; any when empty
    port: Mapped[int | None]  # where it listens itself
    certificate_subject: Mapped[str] = mapped_column(String(400), default="")  # RFC 4514
    called_ae: Mapped[JsonList]  # AE titles of ours it may use; all when empty
    max_associations: Mapped[int | None]
    tls: Mapped[bool] = mapped_column(default=False)  # we call it with TLS
    added_by: Mapped[str] = mapped_column(String(64))
    added_at: Mapped[Instant]
    removed_by: Mapped[str] = mapped_column(String(64), default="")
    removed_at: Mapped[MaybeInstant]
    __table_args__ = (
        Index(
            "uq_peer_in_force",
            "ae_title",
            "host",
            "certificate_subject",
            unique=True,
            sqlite_where=_PRESENT,
            postgresql_where=_PRESENT,
        ),
    )
