"""When a Study that is being received is whole: arithmetic over what is known of it, no database and no clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

PATIENCE = 10.0  # quiet times a Study waits for announced Instances, where no rule says how long
SOURCES = {"mpps": "MPPS", "ian": "instance availability notification", "c-find": "the archive's count"}

Cause = Literal["quiet", "announced", "patience", "person"]


@dataclass(frozen=True)
class Announcement:
    """What modalities and archives said of a Study, against what is here."""

    expected: int = 0  # Instances; 0 when nobody gave a number
    by: str = ""  # who gave it: mpps, ian, c-find
    missing: int = 0
    unannounced: int = 0  # here, and named by nobody
    is_final: bool = False  # every Instance is named, and no procedure step goes on
    in_progress: bool = False  # a procedure step goes on
    discontinued: bool = False  # one was given up

    @property
    def is_satisfied(self) -> bool:
        """Whether what is here is exactly what was announced, so that silence need not prove it."""
        return self.is_final and self.missing == 0 and self.unannounced == 0

    @property
    def words(self) -> str:
        """What is missing."""
        return f"{self.missing} of {self.expected} Instances announced by {SOURCES.get(self.by, self.by)}"


@dataclass(frozen=True)
class Situation:
    """All that decides when reception of a Study ends."""

    last_received_at: datetime
    quiet_s: float
    announcement: Announcement = Announcement()
    lacking: tuple[str, ...] = ()  # required series that are not here
    rule: str = ""  # the completeness rule that counts
    wait_s: float | None = None  # of that rule
    holds: bool = False  # that rule holds a Study that lacks a series
    complete_now: bool = False
    priors_pending: bool = False
    priors_wait_s: float = 0.0


@dataclass(frozen=True)
class Timer:
    """When reception ends, and what it waits for.

    ``due_at`` is when it ends if nothing happens any more, ``latest_at`` when no wait is left whatever is missing;
    both move with every new Instance. ``short_of`` is what a Study that ended now would lack, in words.
    """

    is_due: bool
    cause: Cause
    quiet_until: datetime
    due_at: datetime
    latest_at: datetime
    waits_for: tuple[str, ...]
    short_of: tuple[str, ...]


def judge(situation: Situation, now: datetime) -> Timer:
    """Return where the timer of a Study stands at ``now``."""
    last = situation.last_received_at
    quiet_until = last + timedelta(seconds=situation.quiet_s)
    is_whole = situation.announcement.is_satisfied and not situation.lacking
    earliest = last if is_whole else quiet_until
    waits = _waits(situation, quiet_until)
    latest = max([earliest, *(until for _, until in waits)])
    pending = tuple((words, until) for words, until in waits if now < until)
    short_of = _short_of(situation)
    unmet = bool(_unfinished(situation.announcement) or situation.lacking)
    cause: Cause = "announced" if is_whole else "patience" if unmet else "quiet"
    if situation.complete_now:
        return Timer(True, "person", quiet_until, now, now, (), short_of)
    return Timer(
        is_due=now >= earliest and not pending,
        cause=cause,
        quiet_until=quiet_until,
        due_at=max([earliest, *(until for _, until in pending)]),
        latest_at=latest,
        waits_for=tuple(words for words, _ in pending),
        short_of=short_of,
    )


def _waits(situation: Situation, quiet_until: datetime) -> list[tuple[str, datetime]]:
    """Return what is waited for and until when; a wait that is shorter than the quiet time adds nothing."""
    said = situation.announcement
    wait_s = situation.quiet_s * PATIENCE if situation.wait_s is None else situation.wait_s
    patience = max(quiet_until, situation.last_received_at + timedelta(seconds=wait_s))
    waits = [(words, patience) for words in (*_unfinished(said), *situation.lacking)]
    if situation.priors_pending:
        waits.append(("earlier studies of this patient", quiet_until + timedelta(seconds=situation.priors_wait_s)))
    return waits


def _unfinished(said: Announcement) -> list[str]:
    words = []
    if said.missing:
        words.append(said.words)
    if said.in_progress:
        words.append("the modality's procedure step, which goes on (MPPS)")
    return words


def _short_of(situation: Situation) -> tuple[str, ...]:
    given_up = ["what the modality gave up: it discontinued the procedure step (MPPS)"]
    said = situation.announcement
    return (*_unfinished(said), *(given_up if said.discontinued else []), *situation.lacking)
