"""HL7 messages that came in: each is a row, and the same one sent again is the same row."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import exists, select

from db.audit import AuditTag
from db.message_models import Hl7Message
from db.types import utcnow
from db.uow import UnitOfWork


@dataclass(frozen=True)
class NewMessage:
    """A message as it came: who sent it under which number, what it is, and where its bytes are kept."""

    sender: str
    control_id: str
    message_type: str
    sha256: str
    path: str


def taken_before(uow: UnitOfWork, new: NewMessage) -> bool:
    """Return whether these very bytes were answered AA before; that they came again is recorded."""
    kept = _kept(uow, new)
    if kept is None or kept.acknowledgement != "AA":
        return False
    kept.times += 1
    kept.last_received_at = utcnow()
    _record(uow, AuditTag.MESSAGE_RECEIVED, kept, {"repeated": True})
    return True


def keep_message(uow: UnitOfWork, new: NewMessage, acknowledgement: str, error: str = "") -> UUID:
    """Keep a message and how it is answered, AA, AE or AR; return its id.

    One that was refused before and comes again is judged anew, on the same row.
    """
    kept = _kept(uow, new)
    if kept is None:
        other = exists().where(Hl7Message.sender == new.sender, Hl7Message.control_id == new.control_id)
        is_reuse = bool(new.control_id) and bool(uow.session.scalar(select(other)))
        kept = Hl7Message(id=uuid4(), acknowledgement=acknowledgement, is_reuse=is_reuse, times=0, **vars(new))
        uow.session.add(kept)
    kept.acknowledgement, kept.error = acknowledgement, error[:200]
    kept.times += 1
    kept.last_received_at = utcnow()
    uow.session.flush()
    if acknowledgement == "AA":
        _record(uow, AuditTag.MESSAGE_RECEIVED, kept, {"repeated": False, "reused_control_id": kept.is_reuse})
    else:
        _record(uow, AuditTag.MESSAGE_REFUSED, kept, {"acknowledgement": acknowledgement, "reason": kept.error})
    return kept.id


def _kept(uow: UnitOfWork, new: NewMessage) -> Hl7Message | None:
    return uow.session.scalar(
        select(Hl7Message)
        .where(
            Hl7Message.sender == new.sender,
            Hl7Message.control_id == new.control_id,
            Hl7Message.sha256 == new.sha256,
        )
        .with_for_update(key_share=True)
    )


def _record(uow: UnitOfWork, tag: AuditTag, kept: Hl7Message, detail: dict[str, object]) -> None:
    about = {
        "control_id": kept.control_id,
        "type": kept.message_type,
        "sender": kept.sender,
        "sha256": kept.sha256,
    }
    outcome = "success" if tag is AuditTag.MESSAGE_RECEIVED else "failure"
    uow.audit(tag, outcome=outcome, object_type="message", object_id=str(kept.id), detail={**about, **detail})
