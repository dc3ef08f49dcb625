"""The licence gate: weights under a research licence never draft for clinical use (standards section 7, rule 20)."""

from collections.abc import Iterable
from typing import Protocol

from config.errors import UnlicensedModelError
from db.types import Use


class Licensed(Protocol):
    """What the gate looks at: a VlmCard or a ModelCard."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def licence(self) -> str:
        """Its licence."""
        ...

    @property
    def research_only(self) -> bool:
        """Whether the licence forbids clinical use."""
        ...


def require_licence(use: Use, cards: Iterable[Licensed]) -> None:
    """Let the models draft for this use, or refuse.

    Args:
        use: what the routing rule of the Study says its draft is for (`Claim.use`).
        cards: of every model that may take part.

    Raises:
        UnlicensedModelError: models for research only on a clinical route; the message names them.
    """
    if use is Use.RESEARCH:
        return
    named = [f"{card.name} ({card.licence})" for card in cards if card.research_only]
    if named:
        raise UnlicensedModelError(f"licensed for research only, and this route is clinical: {', '.join(named)}")
