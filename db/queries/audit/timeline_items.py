"""One thing that happened to a Study."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Item:
    """One line of a timeline; ``source`` and ``key`` together are its own."""

    at: datetime
    source: str
    key: str
    what: str
    who: str
    outcome: str
    about: str
    sha256: str
    said: str

    def order(self) -> tuple[datetime, str, str]:
        """Return its place in the timeline."""
        return self.at, self.source, self.key
