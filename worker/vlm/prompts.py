"""What is said to the model: first user message, expert feedback, and the questions a draft is made of.

Two styles: ``"trained"`` writes every message as VILA-M3 saw it in training, ``"demo"`` as the published
demonstration wrote it. The difference is white space around images, the order of the 18 chest findings, and
the sentence that repeats the question.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from config.errors import ModelError
from worker.experts.base import Classification, SegmentationResult
from worker.rendering import legend
from worker.vlm.templates import IMAGE, Message, as_trained, plain_name, plain_text

Style = Literal["trained", "demo"]

MR_IMAGES = f"T1(contrast enhanced): {IMAGE}, T1: {IMAGE}, T2: {IMAGE}, FLAIR: {IMAGE}"
"""Lead-in of the four brain MR images; the images follow in this order."""

MR_ROLES = ("T1c", "T1", "T2", "FLAIR")
"""Roles of the four MR Series in the order their images are given."""

TRAINED_ORDER = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
    "Pneumothorax",
)
"""TorchXRayVision's 18 labels in the order of VILA-M3's training data; Pneumothorax came last there."""

REPORT_REQUEST = "Describe the image in detail."
"""The request VILA-M3 was trained to answer with a report."""

_ANALYSE = ". Analyze the image and take these predictions into account when responding to this prompt:\n"
_USE = ".Use this result to respond to this prompt:\n"

LESION_ARGUMENTS: Mapping[str, str] = {
    "hepatic tumor": "hepatic tumor",
    "pancreatic tumor": "pancreatic tumor",
    "lung tumor": "lung tumor",
    "bone lesion": "bone lesion",
}
"""Trigger argument → name of the lesion in questions, legends and answers."""

BRAIN_TUMOUR_REQUEST = "Does this brain contain a tumor?"
ANATOMY_REQUEST = "Which organs can be seen here?"


def finding_name(label: str) -> str:
    """Return a classifier's label as prompts write it: lower case, spaces for underscores."""
    return plain_name(label.lower().replace("_", " "))


def finding_question(label: str) -> str:
    """Return the question a draft asks about one chest finding."""
    return f"Does the film show {finding_name(label)}?"


def lesion_question(argument: str) -> str:
    """Return the question a draft asks about one kind of lesion on CT."""
    return f"Can a {LESION_ARGUMENTS[argument]} be seen?"


def first_message(question: str, *, cards: str, modality: str, images: int = 1, style: Style = "trained") -> Message:
    """Return the first user message of a conversation.

    Args:
        question: the request; markup in it is removed. Empty when questions follow one by one, see
            `VisionLanguageModel.answer_each`.
        cards: text of `cards.print_cards`; ``""`` when no Expert is offered.
        modality: word of the prompt: ``"CT"``, ``"CXR"`` or ``"MRI"``.
        images: 1, or 4 for the brain MR sequences.
        style: white space as in training or as in the published demonstration.

    Raises:
        ModelError: another number of images.
    """
    asked = plain_text(question)
    if images == 1:
        text = f"{cards}{IMAGE}This is a {modality} image.\n{asked}"
    elif images == len(MR_ROLES):
        text = f"{cards}{MR_IMAGES} These are different {modality} modalities.\n{asked}"
    else:
        raise ModelError(f"a first message holds 1 or {len(MR_ROLES)} images, not {images}")
    if style == "trained":
        # Trailing space is stripped there, but a question that follows later needs its line break.
        text = as_trained(text) + ("" if asked else "\n")
    return Message("user", text)


@dataclass(frozen=True)
class Overlay:
    """A segmentation as one turn shows it.

    Attributes:
        result: what the Expert returned.
        shown: ``(rows, columns)`` labels of the slice whose overlay is the image.
    """

    result: SegmentationResult
    shown: NDArray[np.uint8]


def feedback(
    results: Sequence[Classification | Overlay], question: str, *, style: Style = "trained", placeholder: str = IMAGE
) -> Message:
    """Return what one or several Experts answered as one user turn, and the question it is to be used for.

    One result reads exactly as VILA-M3 was trained; several follow each other in one turn, as the published
    demonstration joins consecutive Expert messages, and the question stands once, at the end.

    Args:
        results: at least one, in the order of their Triggers.
        question: the request being answered; markup in it is removed. Empty where questions continue the turn.
        style: wording as in training or as in the published demonstration.
        placeholder: what stands for an overlay, see `VlmCard.overlay_placeholder`.
    """
    blocks = "".join(_block(one, style, placeholder) for one in results)
    asked = plain_text(question)
    if isinstance(results[-1], Overlay):
        text = f"{blocks}Use this result to respond to this prompt:\n{asked}" + ("." if style == "trained" else "")
        return Message("user", as_trained(text) if style == "trained" else text)
    text = blocks + (_ANALYSE if style == "trained" else _USE) + asked
    if style == "demo" or IMAGE not in text:
        return Message("user", text)
    return Message("user", as_trained(text) + ("" if asked else "\n"))


def _block(one: Classification | Overlay, style: Style, placeholder: str) -> str:
    """Return one Expert's answer without the sentence that repeats the question."""
    if isinstance(one, Overlay):
        return f"The results are {placeholder}. The colors in this image describe{legend_text(one, style=style)}"
    calls = predictions(one)
    if style == "trained":
        known = [label for label in TRAINED_ORDER if label in calls]
        labels = known + [label for label in calls if label not in TRAINED_ORDER]
    else:
        labels = sorted(calls, key=finding_name)
    return prediction_lines((label, calls[label]) for label in labels)


def legend_text(one: Overlay, *, style: Style = "trained") -> str:
    """Return what the colours of an overlay stand for, as the feedback says it."""
    colours = {value: colour for colour, value in legend(one.shown)}
    if one.result.card.code_family == "brats":
        return brats_legend(colours, style=style)
    return structure_legend([(colours[value], plain_name(one.result.names[value])) for value in sorted(colours)])


def classification_feedback(result: Classification, question: str, *, style: Style = "trained") -> Message:
    """Return a classifier's answer as the model reads it: one ``name: yes|no`` line per assessed finding.

    A finding the Expert did not assess has no line: missing is not negative.
    """
    return feedback([result], question, style=style)


def predictions(result: Classification) -> dict[str, bool]:
    """Return label → positive for every finding the Expert assessed; at the threshold counts as positive."""
    return {
        label: probability >= result.threshold
        for label, probability in result.probabilities.items()
        if probability is not None
    }


def prediction_lines(calls: Iterable[tuple[str, bool]]) -> str:
    """Return the predictions block of a classifier's feedback, up to its last newline."""
    lines = [f"{finding_name(label)}: {'yes' if positive else 'no'}\n" for label, positive in calls]
    return "The resulting predictions are:\n" + "".join(lines)


def overlay_message(description: str, question: str, *, style: Style = "trained") -> Message:
    """Return the feedback message for an overlay image described by ``description``."""
    asked = plain_text(question)
    stop = "." if style == "trained" else ""
    text = f"The results are {IMAGE}. The colors in this image describe{description}"
    text += f"Use this result to respond to this prompt:\n{asked}{stop}"
    return Message("user", as_trained(text) if style == "trained" else text)


def structure_legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return the legend of (colour, structure) pairs, in order of label value."""
    return " " + ", ".join(f"{colour}: {name}" for colour, name in entries) + ". "


def brats_legend(colours: Mapping[int, str], *, style: Style = "trained") -> str:
    """Return BRATS's legend for BraTS label value → colour (1 core, 2 oedema, 4 enhancing)."""
    text = "\n"
    if 1 in colours and 4 in colours:
        pair = (4, 1) if style == "trained" else (1, 4)
        text += f"{colours[pair[0]]} and {colours[pair[1]]}: tumor core, "
    if 4 in colours:
        text += f"only {colours[4]}: enhancing tumor, "
    if colours:
        text += "all colors: whole tumor\n"
    return text
