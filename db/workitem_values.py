"""How a Reading looks as a workitem (UPS, PS3.4 Annex CC): pure functions, so that it is true by construction.

A UPS never goes back: IN PROGRESS stays so while a Reading waits for another attempt, and a CANCELED one that is
processed again is a new workitem.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from db.models import Reading
from db.types import Priority, ReadingState
from db.workitem_models import Readiness, StepPriority, StepState

GLOBAL_UID = "1.2.840.10008.5.1.4.34.5"  # the Worklist: everything
FILTERED_UID = "1.2.840.10008.5.1.4.34.5.1"  # what of it matches a filter
UPS_CLASS = "1.2.840.10008.5.1.4.34.6.1"  # UPS Push: all workitems are of it (PS3.4 CC.3.1)
READING_LABEL = "Draft report"
WORKLIST_LABEL = "Firstread"
READING_CODE = ("110004", "DCM", "Computer Aided Detection")  # CID 9231
STATION = ("FIRSTREAD", "99FIRSTREAD", "Firstread")  # Scheduled Station Name Code of what we perform
FINAL = frozenset({StepState.COMPLETED, StepState.CANCELED})
PRIORITIES: Mapping[Priority, StepPriority] = {
    Priority.STAT: StepPriority.HIGH,
    Priority.URGENT: StepPriority.MEDIUM,
    Priority.ROUTINE: StepPriority.LOW,
}
_ENDED = frozenset({ReadingState.NO_DRAFT, ReadingState.FAILED, ReadingState.IGNORED})
_TAKEN_UP = frozenset({ReadingState.QUEUED, ReadingState.RETRYING})
_NOT_READY = frozenset({ReadingState.RECEIVING, ReadingState.COMPLETE, ReadingState.HELD})


@dataclass(frozen=True)
class Step:
    """The two attributes that a UPS State Report tells."""

    state: StepState
    readiness: Readiness


def step_of(state: ReadingState, *, attempts: int, superseded: bool) -> Step:
    """Return a Reading's Procedure Step State and Input Readiness State.

    Args:
        state: of the Reading.
        attempts: how often a worker took it since it was queued by routing or by a person.
        superseded: whether later images took its place; one that is HELD then is held for ever.

    A Reading that a person takes from its worker ends this run; released, it begins another.
    """
    readiness = Readiness.INCOMPLETE if state in _NOT_READY else Readiness.READY
    if state is ReadingState.DRAFTED:
        return Step(StepState.COMPLETED, readiness)
    if state in _ENDED or (state is ReadingState.HELD and (superseded or attempts > 0)):
        return Step(StepState.CANCELED, readiness)
    if state is ReadingState.RUNNING or (state in _TAKEN_UP and attempts > 0):
        return Step(StepState.IN_PROGRESS, readiness)
    return Step(StepState.SCHEDULED, readiness)


def present_step(reading: Reading) -> Step:
    """Return where a Reading stands as a workitem."""
    return step_of(reading.state, attempts=reading.attempts or 0, superseded=bool(reading.superseded))


def run_uid(reading_id: UUID, number: int = 1) -> str:
    """Return the workitem UID of a Reading's run: the first is the Reading's own id (PS3.5 section B.2)."""
    key = reading_id if number == 1 else uuid5(reading_id, f"workitem {number}")
    return f"2.25.{key.int}"


def reading_of(uid: str) -> UUID | None:
    """Return the id that a first run's UID was made of; None when it was made of none."""
    digits = uid.removeprefix("2.25.")
    if digits == uid or not digits.isascii() or not digits.isdigit() or len(digits) > 39 or int(digits) >= 1 << 128:
        return None
    return UUID(int=int(digits))


def text(vr: str, *values: Any) -> dict[str, Any]:
    """Return one element of the DICOM JSON Model."""
    return {"vr": vr, "Value": list(values)} if values and values[0] not in {"", None} else {"vr": vr}


def state_report(step: Step, reason: str = "") -> dict[str, Any]:
    """Return the attributes of a UPS State Report (PS3.4 table CC.2.4-1)."""
    told = {"00404041": text("CS", step.readiness.value), "00741000": text("CS", step.state.value)}
    if step.state is StepState.CANCELED and reason:
        told["00741238"] = text("LT", reason)
    return told
