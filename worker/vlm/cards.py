"""The list of experts a vision-language model is told of, printed from the ModelCards that really exist."""

from collections.abc import Sequence

from worker.experts.base import ModelCard

_HEADER = "Here is a list of available expert models:\n"
_FOOTER = "Give the model <NAME(args)> when selecting a suitable expert model.\n"
_MODALITY = {"CXR": "chest x-ray (CXR)"}

PUBLISHED_CARDS = (
    _HEADER + "<BRATS(args)> Modality: MRI, Task: segmentation, Overview: A pre-trained model for volumetric (3D) "
    "segmentation of brain tumor subregions from multimodal MRIs based on BraTS 2018 data, Accuracy: Tumor core "
    "(TC): 0.8559 - Whole tumor (WT): 0.9026 - Enhancing tumor (ET): 0.7905 - Average: 0.8518, Valid args are: "
    "None\n"
    "<VISTA3D(args)> Modality: CT, Task: segmentation, Overview: domain-specialized interactive foundation model "
    "developed for segmenting and annotating human anatomies with precision, Accuracy: 127 organs: 0.792 Dice on "
    "average, Valid args are: 'everything', 'hepatic tumor', 'pancreatic tumor', 'lung tumor', 'bone lesion', "
    "'organs', 'cardiovascular', 'gastrointestinal', 'skeleton', or 'muscles'\n"
    "<VISTA2D(args)> Modality: cell imaging, Task: segmentation, Overview: model for cell segmentation, which was "
    "trained on a variety of cell imaging outputs, including brightfield, phase-contrast, fluorescence, confocal, "
    "or electron microscopy, Accuracy: Good accuracy across several cell imaging datasets, Valid args are: None\n"
    "<CXR(args)> Modality: chest x-ray (CXR), Task: classification, Overview: pre-trained model which are trained "
    "on large cohorts of data, Accuracy: Good accuracy across several diverse chest x-rays datasets, Valid args "
    "are: None\n" + _FOOTER
)
"""The text every published VILA-M3 checkpoint was trained with (1373 characters); VISTA2D never existed."""

_PUBLISHED_EXPERTS = frozenset({"CXR", "VISTA3D", "BRATS"})


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
        published_wording: the model is a published VILA-M3 checkpoint. Its trained text is used, to the
            character, when the three experts it names are all present; otherwise what is there is printed.
    """
    if not cards:
        return ""
    if published_wording and {card.name for card in cards} >= _PUBLISHED_EXPERTS:
        return PUBLISHED_CARDS
    lines = [
        f"<{card.name}(args)> Modality: {_MODALITY.get(card.modality, card.modality)}, Task: {card.task}, "
        f"Overview: {card.overview}, Accuracy: {card.accuracy}, Valid args are: {print_arguments(card.arguments)}\n"
        for card in cards
    ]
    return "".join([_HEADER, *lines, _FOOTER])
