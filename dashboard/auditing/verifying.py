"""Verifying a stretch of the log from its question's page, where it is short enough to wait for."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from audit.keys import SealKeys
from audit.reading import source_of
from audit.verify import Terms, Verdict, verify
from config.errors import RefusedInputError
from config.settings import Settings
from db.origin import read_keys
from db.queries.audit.integrity import MOST_COUNTED, interval, sealed_to
from db.queries.audit.parameters import read
from db.queries.audit.questions import Question


@dataclass(frozen=True)
class Verified:
    """What verifying a stretch of the log gave."""

    first: int
    end: int
    verdict: Verdict

    def said(self) -> dict[str, Any]:
        """Return what the event of it says."""
        bad = self.verdict.first_bad
        return {
            "from": self.verdict.first,
            "to": self.verdict.end,
            "holds": self.verdict.holds,
            "root": self.verdict.root.hex(),
            "first_bad": None if bad is None else {"check": bad.check, "position": bad.position, "seq": bad.seq},
            "where": "page",
        }


def verified(db: Session, settings: Settings, question: Question, given: dict[str, str]) -> Verified:
    """Hash every event of the period again, and compare with chain, tree and heads.

    Raises:
        RefusedInputError: nothing of the period is sealed, or it has more than 200 000 places.
        ConfigurationError: the keys or the database cannot be read.
    """
    found = interval(db, *read(question, given).period())
    if found.first is None:
        raise RefusedInputError("since: the events of this time are not sealed, or there are none")
    # what happened a moment ago waits for the seal; all before it is verified
    last = found.last if found.last is not None else sealed_to(db)
    first, end = min(found.first, last), max(found.first, last) + 1
    if end - first > MOST_COUNTED:
        raise RefusedInputError(f"since: more than {MOST_COUNTED} events; use firstread audit verify")
    terms = Terms(
        public_keys=SealKeys(settings.key_dir).public(),
        origin_keys=read_keys(settings.key_dir).keys,
        first=first,
        end=end,
        processes=1,
    )
    return Verified(first, end, verify(source_of(settings.database), terms))
