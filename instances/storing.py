"""One Data Set that has arrived, by C-STORE or STOW-RS: keep it or refuse it, and say which, in DIMSE's words."""

from typing import Protocol

import structlog

from config.errors import (
    AppError,
    ConflictingInstanceError,
    InvalidUidError,
    LifecycleError,
    MissingUidError,
    NotAuthorisedError,
    OutOfSpaceError,
    SopMismatchError,
    TransientError,
    UnreadableDatasetError,
    UnsupportedSopClassError,
)
from db.lifecycle import Received
from instances.arrival import Announced, Arrival

log = structlog.get_logger()
SUCCESS = 0x0000
INTERNAL_ERROR = (0xC0FF, "Internal error")

# PS3.4 table B.2-1, PS3.7 section 9.1.1.1.9. First match wins. The comment (0000,0902) is fixed text,
# at most 64 characters, so nothing about a patient can get into it.
STATUS: dict[type[AppError], tuple[int, str]] = {
    UnsupportedSopClassError: (0x0122, "SOP Class was not negotiated"),
    MissingUidError: (0xC001, "Study, Series, SOP Instance or SOP Class UID is missing"),
    InvalidUidError: (0x0117, "A UID is malformed"),
    SopMismatchError: (0xA900, "Data Set is not what the command announced"),
    UnreadableDatasetError: (0xC002, "Data Set cannot be parsed or ends too early"),
    ConflictingInstanceError: (0xC003, "Other content is stored under this SOP Instance UID"),
    NotAuthorisedError: (0x0124, "Not authorised"),
    OutOfSpaceError: (0xA700, "Not enough space left"),
    TransientError: (0xA700, "Temporarily unable to store"),
    LifecycleError: (0xA700, "Temporarily unable to store"),
    AppError: (0xC000, "Cannot understand"),
}
Answer = tuple[int, str]
"""Status (0000,0900) and Error Comment (0000,0902), which is empty for Success."""


class Keeper(Protocol):
    """Where Instances go; :class:`instances.inbox.Inbox`, or what stands for it in a receiver process."""

    def open(self, announced: Announced) -> Arrival:
        """Return the file an announced Data Set is written into."""

    def keep(self, arrival: Arrival) -> Received:
        """Make a finished Arrival durable and indexed; afterwards it may be acknowledged."""

    def refuse(self, announced: Announced, arrival: Arrival | None, error: AppError | None, status: int) -> None:
        """Keep what was refused, with its reason."""


def keep(keeper: Keeper, arrival: Arrival, *, abstract_syntax: str) -> Answer:
    """Answer one C-STORE whose bytes are all in ``arrival``; Success only once it is safe on disk and in the database.

    Never raises: whatever happened, the peer gets an answer.
    """
    try:
        arrival.flush()
        if arrival.announced.sop_class_uid != abstract_syntax:
            raise UnsupportedSopClassError("the command's SOP Class is not the context's")  # noqa: TRY301
        arrival.read()
        keeper.keep(arrival)
    except Exception as exc:  # noqa: BLE001 the process edge: whatever it is, the peer gets an answer
        return refuse(keeper, arrival.announced, arrival, exc)
    return SUCCESS, ""


def refuse(keeper: Keeper, announced: Announced, arrival: Arrival | None, exc: Exception) -> Answer:
    """Return the status for an error, after keeping what was refused where the sender is not told to come back."""
    error = exc if isinstance(exc, AppError) else None
    if error is None:
        log.error("instance.failed", error=type(exc).__name__, calling_ae=announced.calling_ae)
        status, comment = INTERNAL_ERROR
    else:
        status, comment = next(answer for kind, answer in STATUS.items() if isinstance(error, kind))
    log.warning(
        "instance.refused", error=error or "InternalError", status=f"{status:04X}", calling_ae=announced.calling_ae
    )
    if 0xA700 <= status <= 0xA7FF:
        return status, comment
    try:
        keeper.refuse(announced, arrival, error, status)
    except Exception as failed:  # noqa: BLE001 nothing was recorded, so the sender has to keep its copy
        log.error("instance.refusal_not_recorded", error=type(failed).__name__)  # noqa: TRY400
        return STATUS[TransientError]
    return status, comment
