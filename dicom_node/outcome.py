"""What became of one thing that was sent: stored, to be tried again, or a matter for a person."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from config.settings import Destination, Settings
from db.lifecycle import DeliveryJob
from dicom_node.sop_classes import advice, name_of

MAX_ATTEMPTS = 12  # with the hour lifecycle allows at most between two attempts: about five hours
DECLINED_ATTEMPTS = 2  # a peer may be starting, or misreport; after that its configuration is what it is
ONCE = 1  # the same bytes would be refused again
DUPLICATE_INSTANCE = 0x0111
_NEVER = {0x0117: "invalid object instance", 0x0119: "class-instance conflict", 0x0122: "SOP Class not supported"}
_WORDS = {
    0x0110: "processing failure",
    DUPLICATE_INSTANCE: "it holds this object already",
    0x0124: "we are not authorised",
    0xC122: "transfer syntax not supported",
    **_NEVER,
}
_RANGES = {0xA7: "out of resources", 0xA9: "the object does not match its SOP Class"}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attempt.

    Attributes:
        job: what was sent.
        accepted: the destination has it.
        error: why not; without text about the patient.
        attempts: it is given up after so many in all.
        wait_s: the destination asked to be left alone for so long.
        said: what it acknowledged with: DIMSE status, HTTP status, or HL7 acknowledgement code and control id.
    """

    job: DeliveryJob
    accepted: bool
    error: str = ""
    attempts: int = MAX_ATTEMPTS
    wait_s: float = 0.0
    said: str = ""


IsWanted = Callable[[DeliveryJob], bool]
Transport = Callable[[Settings, Destination, Sequence[DeliveryJob], IsWanted], Iterator[Outcome]]
"""Send jobs to one destination in their order; each is asked about at the moment it would leave, and passed over
without consent. Raises PeerUnavailableError when the destination is away: what was not yielded was not sent."""


def refused(job: DeliveryJob, status: int, comment: str = "") -> Outcome:
    """Return what a status other than Success or a warning means (PS3.4 table B.2-1, PS3.18 table 10.5.3-2).

    That of an object the destination holds already is an acceptance: its UID is ours, and a resend is the same bytes.
    """
    if status == DUPLICATE_INSTANCE:
        return Outcome(job, True, said=f"0x{status:04X}")
    attempts = MAX_ATTEMPTS
    if status in _NEVER or status >> 8 == 0xA9:
        attempts = ONCE
    elif status >> 12 == 0xC:
        attempts = DECLINED_ATTEMPTS
    text = f"0x{status:04X} {_words(status)}".strip()
    if comment:
        text = f"{text}; it says: {comment}"
    return given_up(job, text, attempts=attempts) if attempts < MAX_ATTEMPTS else Outcome(job, False, text)


def _words(status: int) -> str:
    general = _RANGES.get(status >> 8) or ("it cannot understand the object" if status >> 12 == 0xC else "")
    return _WORDS.get(status) or general


def given_up(job: DeliveryJob, error: str, *, attempts: int) -> Outcome:
    """Return the refusal of an object that waiting does not cure: what it is, and which option would help."""
    name = name_of(job.sop_class_uid) if job.sop_class_uid else job.kind
    text = error if name in error else f"{name}: {error}"
    option = advice(job.kind)
    return Outcome(job, False, f"{text}; {option} may help" if option else text, attempts)
