"""Table of how far each audit record repository was told of the record."""

from datetime import datetime

from sqlalchemy import BigInteger, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from db.models import Base
from db.types import UtcDateTime

_BIG = BigInteger().with_variant(Integer, "sqlite")


class AuditForwarding(Base):
    """One audit record repository; what lies beyond its positions waits in the record itself, which is the buffer."""

    __tablename__ = "audit_forwarding"
    sink: Mapped[str] = mapped_column(String(200), primary_key=True)  # where to, such as syslog://host:6514
    position: Mapped[int] = mapped_column(_BIG)  # of audit_seal: all before it count as received
    sent: Mapped[int] = mapped_column(_BIG)  # all before it were written; from position on again when it breaks
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_error: Mapped[str] = mapped_column(String(200))  # empty while it goes well
