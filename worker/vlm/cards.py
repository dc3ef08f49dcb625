"""The list of experts a vision-language model is told of, printed from the ModelCards that really exist.

A card comes from whoever made the package. Names and arguments outside the Trigger grammar never reach the registry
(`worker.experts.contract`); what its free sentences hold of markup is removed here.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from worker.experts.base import ModelCard
from worker.vlm.templates import plain_text

_HEADER = "Here is a list of available expert models:\n"
_FOOTER = "Give the model <NAME(args)> when selecting a suitable expert model.\n"
_MODALITY = {"CXR": "chest x-ray (CXR)"}

TRAINED_SHA256: Final = "c0e10e631e87a7da0873be4f94e5aa560529f751638016cb37347ebd3a6945b6"
"""SHA-256 of the 1373 characters every published VILA-M3 checkpoint was trained with."""

_TRAINED_ORDER = ("BRATS", "VISTA3D", "CXR")
_VISTA2D = (
    "<VISTA2D(args)> Modality: cell imaging, Task: segmentation, Overview: model for cell segmentation, which was "
    "trained on a variety of cell imaging outputs, including brightfield, phase-contrast, fluorescence, confocal, "
    "or electron microscopy, Accuracy: Good accuracy across several cell imaging datasets, Valid args are: None\n"
)
# Stands third in the trained text. No such expert was ever published; a Trigger for it is refused like any unknown one.

_BRACKETS = re.compile(r"[<>\[\]|]")


def print_arguments(arguments: Sequence[str]) -> str:
    """Return valid arguments as the cards name them: quoted, the last one after ``or``; ``None`` when empty."""
    quoted = [f"'{argument}'" for argument in arguments]
    if not quoted:
        return "None"
    if len(quoted) <= 2:
        return " or ".join(quoted)
    return ", ".join(quoted[:-1]) + f", or {quoted[-1]}"


def print_cards(cards: Sequence[ModelCard], *, published_wording: bool = False) -> str:
    """Return the expert list for the first user message; ``""`` when there is no expert.

    Args:
        cards: what the registry offers for this Reading, in printing order.
        published_wording: the model is a published VILA-M3 checkpoint. The cards are printed in the order it was
            trained with; when they are exactly the three published ones, the line of VISTA2D that stood in the
            trained text joins them, and the result is that text to the byte. Any other list is what is there.
    """
    if not cards:
        return ""
    if not published_wording:
        return _HEADER + "".join(map(_line, cards)) + _FOOTER
    ordered = sorted(cards, key=lambda card: _place(card.name))
    lines = [_line(card) for card in ordered]
    trained = _HEADER + "".join([*lines[:2], _VISTA2D, *lines[2:]]) + _FOOTER
    if hashlib.sha256(trained.encode()).hexdigest() == TRAINED_SHA256:
        return trained
    return _HEADER + "".join(lines) + _FOOTER


def _place(name: str) -> int:
    return _TRAINED_ORDER.index(name) if name in _TRAINED_ORDER else len(_TRAINED_ORDER)


def _line(card: ModelCard) -> str:
    return (
        f"<{card.name}(args)> Modality: {_MODALITY.get(card.modality, card.modality)}, Task: {card.task}, "
        f"Overview: {_sentence(card.overview)}, Accuracy: {_sentence(card.accuracy)}, "
        f"Valid args are: {print_arguments(card.arguments)}\n"
    )


def _sentence(text: str) -> str:
    """Return free text on one line, without markup and without anything that could look like a Trigger."""
    return " ".join(_BRACKETS.sub(" ", plain_text(text)).split())
