"""The paraphrase grammar of the training conversations, our own words, with wordings kept for evaluation.

Every list has a training part and a held-out part that no training conversation uses. The questions a Draft is
made of (`worker.vlm.prompts`) belong to the held-out part, so evaluation measures exactly what is asked in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.vlm.prompts import ANATOMY_REQUEST, BRAIN_TUMOUR_REQUEST, REPORT_REQUEST


@dataclass(frozen=True)
class Wordings:
    """Ways to say one thing; ``{x}`` stands for what it is about."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    def draw(self, rng: np.random.Generator, *, held_out: bool, x: str = "") -> str:
        """Return one wording at random."""
        forms = self.held_out if held_out else self.training
        return str(forms[int(rng.integers(len(forms)))]).format(x=x)


def _cross(starts: Sequence[str], objects: Sequence[str], ends: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{start} {thing}{end}" for start in starts for thing in objects for end in ends)


FINDING: Final = Wordings(
    training=(
        "Is there {x}?", "Is there any {x}?", "Is {x} present?", "Do you see {x}?", "Does this patient have {x}?",
        "Is there evidence of {x}?", "Any sign of {x}?", "Can you identify {x}?", "Is {x} visible on this radiograph?",
        "Are there signs of {x}?", "{x}?", "Would you report {x}?", "Check for {x}.", "Is {x} seen here?",
        "Tell me whether {x} is present.", "Is this {x}?", "Do the findings include {x}?", "Answer yes or no: {x}.",
        "Did you find {x}?", "Should {x} be mentioned?", "Is the image positive for {x}?",
    ),
    held_out=(
        "Does the film show {x}?", "Does this image demonstrate {x}?", "Has {x} been found?",
        "Could one diagnose {x} here?",
    ),
)  # fmt: skip

REPORT: Final = Wordings(
    training=_cross(
        ("Report", "Read", "Interpret", "Summarize", "Analyze", "Review", "Assess", "Comment on", "Write a report for",
         "Give your impression of", "List the findings of", "Tell me about"),
        ("this chest x-ray", "this radiograph", "the picture", "this image", "the film", "this chest image"),
        (".", " briefly.", " for the clinician.", ", please."),
    ),
    held_out=(REPORT_REQUEST, "What does this study reveal?", "Please dictate the findings.", "What do you see?"),
)  # fmt: skip

SYSTEMATIC: Final = Wordings(
    training=("Go through the findings one by one.", "State for each finding whether it is present.",
              "Give a complete list of findings, present and absent.", "Write a systematic report."),
    held_out=("Report every finding in order, positive or negative.",),
)  # fmt: skip

LESION: Final = Wordings(
    training=(
        "Is there a {x}?", "Is there any {x} in this CT?", "Do you see a {x}?", "Does this scan contain a {x}?",
        "Check for {x}.", "Any {x} here?", "Are there signs of a {x}?", "Is a {x} present?", "Look for a {x}.",
        "Does this patient have a {x}?", "Tell me whether there is a {x}.", "Is this positive for {x}?",
        "Could there be a {x}?", "Did you find a {x}?",
    ),
    held_out=("Can a {x} be seen?", "Has the patient got a {x}?", "Does the image demonstrate a {x}?"),
)  # fmt: skip

LESION_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "hepatic tumor": ("hepatic tumor", "hepatic tumor", "liver tumor", "hepatic mass", "liver lesion"),
    "pancreatic tumor": ("pancreatic tumor", "pancreatic tumor", "pancreas tumor", "pancreatic mass"),
    "lung tumor": ("lung tumor", "lung tumor", "pulmonary tumor", "lung mass"),
    "bone lesion": ("bone lesion", "bone lesion", "bone metastasis", "osseous lesion"),
}

GROUP_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "everything": ("everything", "all structures", "the whole image", "every structure"),
    "organs": ("the organs", "the abdominal organs", "all organs", "the organs"),
    "cardiovascular": ("the heart and vessels", "the cardiovascular system", "the blood vessels", "the vasculature"),
    "gastrointestinal": ("the digestive tract", "the gastrointestinal tract", "the stomach and bowel", "the gut"),
    "skeleton": ("the bones", "the skeleton", "the bony structures", "all bones"),
    "muscles": ("the muscles", "all muscles", "the muscle groups", "the musculature"),
    "hepatic tumor": ("the hepatic tumor", "any liver tumor", "the liver tumor"),
    "pancreatic tumor": ("the pancreatic tumor", "any tumor of the pancreas"),
    "lung tumor": ("the lung tumor", "any lung tumor", "the tumor in the lung"),
    "bone lesion": ("the bone lesion", "any bone lesions", "the bone metastasis"),
}

SEGMENT: Final = Wordings(
    training=("Segment {x}.", "Outline {x}.", "Delineate {x} for me.", "Please contour {x}.", "Mark {x}.",
              "Can you segment {x}?", "Isolate {x} in this scan.", "Draw the borders of {x}."),
    held_out=("Trace {x}.", "Show me a mask of {x}.", "Please carry out a segmentation of {x}."),
)  # fmt: skip

WHAT: Final[Mapping[str, Wordings]] = {
    "everything": Wordings(
        ("What is in this image?", "What structures are visible?", "Name all structures.", "What does it show?",
         "List everything that is visible.", "Identify the anatomy in this image."),
        ("Which structures does this slice contain?",),
    ),
    "organs": Wordings(
        ("What organs are visible?", "Name the organs in this image.", "List the organs.", "What organs does it show?",
         "Identify the organs shown."),
        (ANATOMY_REQUEST,),
    ),
    "cardiovascular": Wordings(
        ("What vessels are visible?", "Name the cardiovascular structures.", "List the heart and vessels shown.",
         "What blood vessels are in this CT?"),
        ("Which vessels can be seen here?",),
    ),
    "gastrointestinal": Wordings(
        ("What parts of the digestive tract are visible?", "Name the gastrointestinal structures.",
         "List the bowel and stomach parts shown."),
        ("Which parts of the gastrointestinal tract can be seen here?",),
    ),
    "skeleton": Wordings(
        ("What bones are visible?", "Name the bones in this image.", "List the skeletal structures.",
         "What bony structures are in this CT?"),
        ("Which bones can be seen here?",),
    ),
    "muscles": Wordings(
        ("What muscles are visible?", "Name the muscles in this image.", "List the muscles shown."),
        ("Which muscles can be seen here?",),
    ),
}  # fmt: skip

LABELLED: Final = Wordings(
    training=("Is the {x} marked?", "Is {x} in the legend?", "Does the overlay show {x}?", "Is {x} labelled?"),
    held_out=("Has {x} been colored?",),
)

BRAIN_TUMOUR: Final = Wordings(
    training=("Is there a brain tumor?", "Do you see a tumor?", "Does this patient have a glioma?",
              "Is there any tumor in these images?", "Check for a brain tumor.", "Any sign of a tumor?",
              "Are there signs of a glioma?", "Is a tumor present?", "Look for a brain tumor.",
              "Tell me whether there is a tumor."),
    held_out=(BRAIN_TUMOUR_REQUEST, "Has a tumor been found in this head?"),
)  # fmt: skip

ENHANCING: Final = Wordings(
    training=("Is there enhancing tumor?", "Does any tumor enhance?", "Do you see enhancing tumor?",
              "Is an enhancing part present?"),
    held_out=("Does a part of the tumor take up contrast?",),
)  # fmt: skip

BRAIN_REPORT: Final = Wordings(
    training=_cross(
        ("Report", "Read", "Interpret", "Summarize", "Analyze", "Review", "Assess"),
        ("this brain MRI", "these images", "this head scan", "these sequences"),
        (".", " briefly.", ", please."),
    ),
    held_out=("Describe the images in detail.", "What does this study reveal?"),
)

BRAIN_SEGMENT: Final = Wordings(
    training=("Segment any tumors in the image.", "Outline the brain tumor.", "Delineate the glioma.",
              "Please contour any tumor.", "Mark the tumor in these images."),
    held_out=("Trace the brain tumor.", "Show me a mask of the glioma."),
)  # fmt: skip

OVERVIEWS: Final[Mapping[str, tuple[str, ...]]] = {
    "CXR": ("classifier of 18 chest findings", "model for findings on frontal chest radiographs",
            "pre-trained model which are trained on large cohorts of data", "ensemble of chest x-ray classifiers",
            "demonstration classifier trained on synthetic radiographs only"),
    "VISTA3D": ("segments organs, vessels, bones and lesions", "segmentation of human anatomies on CT",
                "domain-specialized interactive foundation model developed for segmenting and annotating human "
                "anatomies with precision", "demonstration segmentation model trained on synthetic CT only"),
    "BRATS": ("segmentation of brain tumor subregions", "volumetric model for gliomas on four MR sequences",
              "A pre-trained model for volumetric (3D) segmentation of brain tumor subregions from multimodal MRIs "
              "based on BraTS 2018 data", "demonstration tumor model trained on synthetic MR only"),
}  # fmt: skip

ACCURACIES: Final = (
    "not measured on patients", "Good accuracy across several datasets", "macro F1 {a} on phantoms",
    "Dice {a} on average", "mean Dice {a} on synthetic volumes", "{a} on held-out phantoms, unknown on patients",
)  # fmt: skip
