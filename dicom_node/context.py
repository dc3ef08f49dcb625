"""What the handlers of one node share, and who may come in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from instances.storing import Keeper


@dataclass(frozen=True)
class Asking:
    """An A-ASSOCIATE-RQ, as far as it decides whether the caller may come in."""

    calling_ae: str
    called_ae: str
    address: str
    tls_subject: str = ""  # RFC 4514; empty without TLS
    is_tls: bool = False
    identity_type: int = 0  # PS3.7 D.3.3.7: 1 user name, 2 with passcode, 3 Kerberos, 4 SAML, 5 JWT; 0 none given
    user: str = ""
    passcode: str = field(default="", repr=False)
    stores: bool = True  # it proposes a storage SOP Class


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 section 9.3.4), the reason for our own record, and what would let the caller in."""

    result: int
    source: int
    diagnostic: int
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class Admission:
    """The answer: come in (``rejection`` is None), under this id; ``sop_classes`` empty means every one of ours."""

    association_id: UUID
    rejection: Rejection | None = None
    sop_classes: frozenset[str] = frozenset()
    is_identified: bool = False  # the user identity given is the one asked for


class Doorkeeper(Protocol):
    """Decides over associations and records them, for all receivers of a node together."""

    def enter(self, asking: Asking) -> Admission:
        """Judge, count and record one request."""

    def leave(
        self,
        association_id: UUID,
        *,
        how: str,
        instances: int = 0,
        size_bytes: int = 0,
        answered: Mapping[str, int] | None = None,
    ) -> None:
        """Record the end of an accepted association: ``how`` is released, aborted or lost.

        ``answered`` says how many of what else was answered on it, by name.
        """


@dataclass(frozen=True)
class NodeContext:
    """What every handler of one node shares."""

    inbox: Keeper
    door: Doorkeeper
    sessions: sessionmaker[Session]
    settings: Settings


@dataclass
class Tally:
    """What one association brought so far; kept on pynetdicom's Association object."""

    association_id: UUID
    instances: int = 0
    size_bytes: int = 0
    echoes: int = 0
    refused: int = 0  # requests that were not answered Success

    @property
    def answered(self) -> dict[str, int]:
        """What else was answered, by name; without what there was none of."""
        return {name: count for name in ("echoes", "refused") if (count := getattr(self, name))}


def tally(assoc: Any) -> Tally | None:
    """Return the tally of an admitted association."""
    found: Tally | None = getattr(assoc, "firstread_tally", None)
    return found
