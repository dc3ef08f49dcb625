"""Triggers: the model's requests for an Expert, read by one closed grammar.

    trigger  = "<" NAME "(" [ argument ] ")" ">"
    NAME     = the name of an offered Expert, exactly
    argument = one of that Expert's arguments, exactly; empty only where the Expert takes none,
               or where it offers "everything"; "hepatoma" where the published label groups are in use,
               for which it is a second name of "hepatic tumor"

Only what the model itself wrote is read, never a user's text, DICOM text or a prompt. Text in angle brackets
that starts like a Trigger and is none is an error, so an echoed card (``<CXR(args)>``) starts nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from config.errors import TriggerSyntaxError
from worker.experts.base import ModelCard

EVERYTHING = "everything"

LABEL_GROUPS = "vista3d"
"""Code family of Experts whose arguments are the published label groups."""

ALIASES: Final[Mapping[str, str]] = {"hepatoma": "hepatic tumor"}
"""Arguments those groups have beside the ones the cards print → what they stand for."""

_OPENING = re.compile(r"<(?=[A-Za-z_])")
_TRIGGER = re.compile(r"<([A-Za-z_][A-Za-z0-9_]*)\(([^()<>]*)\)>")
_TERMINAL = re.compile(r"\busing\s+$", re.IGNORECASE)


@dataclass(frozen=True)
class Trigger:
    """One request for an Expert.

    Attributes:
        expert: name of the Expert.
        argument: one of the card's arguments; ``""`` for an Expert without arguments.
        terminal: the model has answered already (``I segmented … using <…>``) and expects no feedback.
    """

    expert: str
    argument: str
    terminal: bool


def parse_triggers(generated: str, cards: Sequence[ModelCard]) -> tuple[Trigger, ...]:
    """Return the Triggers in a model's answer, in order, each once.

    Args:
        generated: text the model generated, and nothing else.
        cards: the Experts it was offered in this conversation.

    Raises:
        TriggerSyntaxError: a Trigger is malformed, or names an Expert or argument that was not offered.
    """
    offered = {card.name: card for card in cards}
    found: dict[tuple[str, str], Trigger] = {}
    for opening in _OPENING.finditer(generated):
        match = _TRIGGER.match(generated, opening.start())
        if match is None:
            raise TriggerSyntaxError("the model wrote something in angle brackets that is no trigger")
        expert, argument = _checked(match.group(1), match.group(2), offered)
        terminal = _TERMINAL.search(generated, 0, match.start()) is not None
        found.setdefault((expert, argument), Trigger(expert, argument, terminal))
    return tuple(found.values())


def _checked(name: str, argument: str, offered: dict[str, ModelCard]) -> tuple[str, str]:
    if name not in offered:
        raise TriggerSyntaxError(f"expert {name!r} was not offered; offered: {', '.join(offered) or 'none'}")
    arguments = offered[name].arguments
    if offered[name].code_family == LABEL_GROUPS and ALIASES.get(argument) in arguments:
        argument = ALIASES[argument]
    if argument in arguments or (not argument and not arguments):
        return name, argument
    if not argument and EVERYTHING in arguments:
        return name, EVERYTHING
    allowed = ", ".join(arguments) or "none"
    raise TriggerSyntaxError(f"{name} has no argument {argument!r}; allowed: {allowed}")
