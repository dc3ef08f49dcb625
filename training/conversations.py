"""Expert-guided conversations, built from synthetic patients and synthetic Expert answers.

What an Expert says in training is drawn at random, often against the picture: a model that only repeats what it
sees in the image cannot answer, so it has to read the feedback. Without an Expert the answers are the truth.

A conversation is a trunk (turns every question shares) and branches: questions that continue the trunk's last
user turn, each with its answer, none seeing another. That is how questions are asked in use, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training import wording
from training.balance import balanced
from training.patients import BRAIN_TUMOUR, TRAINED_ARGUMENTS, Patient, Scene
from worker.composition import FindingAnswer, compose
from worker.experts.base import ModelCard
from worker.experts.vista3d_labels import NAMES, prompts_for
from worker.rendering import legend, overlay, rgb
from worker.vlm.prompts import (
    LESION_ARGUMENTS,
    TRAINED_ORDER,
    brats_legend,
    finding_name,
    first_message,
    overlay_message,
    prediction_lines,
    structure_legend,
)
from worker.vlm.templates import Message

Image = NDArray[np.uint8]

CXR_TRIGGER: Final = "This looks like an chest x-ray. Let me first trigger <CXR()>."
CT_TRIGGER: Final = "This looks like a CT image. Let me trigger <VISTA3D({argument})>."
CT_SEGMENTED: Final = "I segmented {x} using <VISTA3D({argument})>."
MR_TRIGGER: Final = "This looks like an MRI image sequence. Let me first trigger <BRATS()>."
MR_SEGMENTED: Final = "I segmented any brain tumors using <BRATS()>."
MR_DONE: Final = "All tumors were segmented."
STRUCTURES: Final = "This a CT image. It contains several anatomical structures such as identified by VISTA3D: {x}."
NOTHING: Final = "None of the findings is present."
EXPERT_OF: Final = {"CXR": "CXR", "CT": "VISTA3D", "MRI": "BRATS"}
_LEAD = ". Analyze the image and take these predictions into account when responding to this prompt:\n"
_LESION_VALUES: Final = {"hepatic tumor": 26, "pancreatic tumor": 24, "lung tumor": 23, "bone lesion": 128}


@dataclass(frozen=True)
class Branch:
    """One question at the end of a trunk and its answer; ``key`` says what it tests."""

    question: str
    answer: str
    key: str


@dataclass(frozen=True)
class Conversation:
    """A trunk, its pictures and its branches.

    Attributes:
        kind: ``"trigger"``, ``"feedback"`` or ``"direct"`` (without the Expert), after the modality.
        turns: messages of the trunk; the last is a user message that questions continue.
        images: pictures in order of their placeholders.
        branches: questions and answers.
    """

    kind: str
    turns: tuple[Message, ...]
    images: tuple[Image, ...]
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Offer:
    """What the conversations of one batch are told of: the printed cards and the Experts they name."""

    text: str
    experts: frozenset[str]


def trigger_conversation(rng: np.random.Generator, patient: Patient, offer: Offer, *, held_out: bool) -> Conversation:
    """Return first turns that must call the patient's Expert: several requests about one picture."""
    make = {"CXR": _chest_requests, "CT": _body_requests, "MRI": _brain_requests}[patient.modality]
    scene = patient.scenes[int(rng.integers(min(2, len(patient.scenes))))]
    opening = first_message("", cards=offer.text, modality=patient.modality, images=len(scene.greys))
    branches = make(rng, held_out)
    return Conversation(f"{patient.modality} trigger", (opening,), pictures(scene), tuple(branches))


def _chest_requests(rng: np.random.Generator, held_out: bool) -> list[Branch]:
    asked = [wording.REPORT.draw(rng, held_out=held_out) for _ in range(3)]
    label = TRAINED_ORDER[int(rng.integers(len(TRAINED_ORDER)))]
    asked.append(wording.FINDING.draw(rng, held_out=held_out, x=finding_name(label)))
    return [Branch(question, CXR_TRIGGER, "trigger") for question in asked]


def _body_requests(rng: np.random.Generator, held_out: bool) -> list[Branch]:
    branches = []
    for argument in LESION_ARGUMENTS:
        name = _pick(rng, wording.LESION_NAMES[argument])
        question = wording.LESION.draw(rng, held_out=held_out, x=name)
        branches.append(Branch(question, CT_TRIGGER.format(argument=argument), "trigger"))
    for argument in rng.permutation(list(wording.WHAT))[:3]:
        question = wording.WHAT[argument].draw(rng, held_out=held_out)
        branches.append(Branch(question, CT_TRIGGER.format(argument=argument), "trigger"))
    for argument in rng.permutation(TRAINED_ARGUMENTS)[:2]:
        thing = _pick(rng, wording.GROUP_NAMES[argument])
        question = wording.SEGMENT.draw(rng, held_out=held_out, x=thing)
        branches.append(Branch(question, CT_SEGMENTED.format(x=thing, argument=argument), "segment"))
    return branches


def _brain_requests(rng: np.random.Generator, held_out: bool) -> list[Branch]:
    asked = [wording.BRAIN_TUMOUR.draw(rng, held_out=held_out) for _ in range(2)]
    asked += [wording.ENHANCING.draw(rng, held_out=held_out), wording.BRAIN_REPORT.draw(rng, held_out=held_out)]
    branches = [Branch(question, MR_TRIGGER, "trigger") for question in asked]
    branches.append(Branch(wording.BRAIN_SEGMENT.draw(rng, held_out=held_out), MR_SEGMENTED, "segment"))
    return branches


def feedback_conversation(rng: np.random.Generator, patient: Patient, offer: Offer, *, held_out: bool) -> Conversation:
    """Return request, trigger and a synthetic Expert's answer, with questions that can only be read from it."""
    make = {"CXR": _chest_feedback, "CT": _body_feedback, "MRI": _brain_feedback}[patient.modality]
    return make(rng, patient, offer, held_out)


def _chest_feedback(rng: np.random.Generator, patient: Patient, offer: Offer, held_out: bool) -> Conversation:
    calls = random_predictions(rng, patient.findings)
    request = wording.REPORT.draw(rng, held_out=held_out)
    turns = (
        first_message(request, cards=offer.text, modality="CXR"),
        Message("assistant", CXR_TRIGGER),
        Message("user", prediction_lines(calls) + _LEAD),
    )
    asked = balanced(rng, dict(calls), each=4)
    branches = [
        Branch(wording.FINDING.draw(rng, held_out=held_out, x=finding_name(label)), _yes_no(positive), "yes/no")
        for label, positive in asked
    ]
    branches.append(Branch(wording.REPORT.draw(rng, held_out=held_out), short_report(calls), "report"))
    if rng.random() < 0.15:
        branches.append(Branch(wording.SYSTEMATIC.draw(rng, held_out=held_out), full_report(calls), "systematic"))
    return Conversation("CXR feedback", turns, pictures(patient.scenes[0]), tuple(branches))


def random_predictions(rng: np.random.Generator, findings: frozenset[str]) -> list[tuple[str, bool]]:
    """Return a classifier's answer: half the time unrelated to the picture, sometimes with findings left out."""
    rate = float(rng.choice([0.0, 0.1, 0.2, 0.35, 0.6]))
    if rng.random() < 0.5:
        calls = [(label, bool(rng.random() < rate)) for label in TRAINED_ORDER]
    else:
        calls = [(label, (label in findings) ^ bool(rng.random() < 0.12)) for label in TRAINED_ORDER]
    order = rng.random()
    if order < 0.25:
        calls.sort(key=lambda call: finding_name(call[0]))
    elif order < 0.4:
        calls = [calls[i] for i in rng.permutation(len(calls))]
    if rng.random() < 0.3:
        kept = sorted(rng.permutation(len(calls))[: int(rng.integers(6, len(calls)))])
        calls = [calls[i] for i in kept]
    return calls


def short_report(calls: Sequence[tuple[str, bool]]) -> str:
    """Return the positives as sentences, in the order of the predictions."""
    positives = [FindingAnswer(label, True) for label, positive in calls if positive]
    return compose(positives).findings_text if positives else NOTHING


def full_report(calls: Sequence[tuple[str, bool]]) -> str:
    """Return one statement for every finding, in the order of the predictions."""
    statements = [f"{finding_name(label)} is {'present' if positive else 'absent'}" for label, positive in calls]
    return ". ".join(statement[:1].upper() + statement[1:] for statement in statements) + "."


def _body_feedback(rng: np.random.Generator, patient: Patient, offer: Offer, held_out: bool) -> Conversation:
    if rng.random() < 0.3:
        return _body_structures(rng, patient, offer, held_out)
    argument = _pick(rng, tuple(LESION_ARGUMENTS))
    scene = scene_for(patient, argument)
    labels = random_lesion(rng, only(scene.labels, argument), _LESION_VALUES[argument])
    entries = [(colour, NAMES[value]) for colour, value in legend(labels)]
    question = wording.LESION.draw(rng, held_out=held_out, x=_pick(rng, wording.LESION_NAMES[argument]))
    turns = (
        first_message(question, cards=offer.text, modality="CT"),
        Message("assistant", CT_TRIGGER.format(argument=argument)),
        _open_ended(overlay_message(structure_legend(entries), "")),
    )
    found = bool((labels == _LESION_VALUES[argument]).any())
    branches = [Branch(f"{question}.", _yes_no(found), "yes/no")]
    for name in _pick(rng, (LESION_ARGUMENTS[argument],)), _pick(rng, wording.LESION_NAMES[argument]):
        again = wording.LESION.draw(rng, held_out=held_out, x=name)
        branches.append(Branch(f"{again}.", _yes_no(found), "yes/no"))
    branches += _legend_questions(rng, entries, held_out)
    images = (*pictures(patient.scenes[0]), overlay(scene.greys[0], labels))
    return Conversation("CT feedback", turns, images, tuple(branches))


def _body_structures(rng: np.random.Generator, patient: Patient, offer: Offer, held_out: bool) -> Conversation:
    argument = _pick(rng, tuple(wording.WHAT))
    scene = scene_for(patient, argument)
    labels = thinned(rng, only(scene.labels, argument), at_most=8)
    entries = [(colour, NAMES[value]) for colour, value in legend(labels)]
    question = wording.WHAT[argument].draw(rng, held_out=held_out)
    turns = (
        first_message(question, cards=offer.text, modality="CT"),
        Message("assistant", CT_TRIGGER.format(argument=argument)),
        _open_ended(overlay_message(structure_legend(entries), "")),
    )
    described = ", ".join(f"{colour}: {name}" for colour, name in entries)
    branches = [Branch(f"{question}.", STRUCTURES.format(x=described), "structures")]
    branches += _legend_questions(rng, entries, held_out)
    images = (*pictures(patient.scenes[0]), overlay(scene.greys[0], labels))
    return Conversation("CT feedback", turns, images, tuple(branches))


def _legend_questions(rng: np.random.Generator, entries: Sequence[tuple[str, str]], held_out: bool) -> list[Branch]:
    listed = [name for _, name in entries]
    absent = [name for name in ("liver", "spleen", "aorta", "heart", "lung tumor", "pancreas") if name not in listed]
    asked = [_pick(rng, tuple(absent))] if absent else []
    asked += [_pick(rng, tuple(listed))] if listed else []
    return [
        Branch(wording.LABELLED.draw(rng, held_out=held_out, x=name) + ".", _yes_no(name in listed), "legend")
        for name in asked
    ]


def _brain_feedback(rng: np.random.Generator, patient: Patient, offer: Offer, held_out: bool) -> Conversation:
    scene = patient.scenes[-1]
    labels = random_glioma(rng, scene.labels)
    colours = {value: colour for colour, value in legend(labels)}
    asks_segmentation = rng.random() < 0.2
    form = wording.BRAIN_SEGMENT if asks_segmentation else wording.BRAIN_TUMOUR
    question = form.draw(rng, held_out=held_out)
    turns = (
        first_message(question, cards=offer.text, modality="MRI", images=4),
        Message("assistant", MR_SEGMENTED if asks_segmentation else MR_TRIGGER),
        _open_ended(overlay_message(brats_legend(colours), "")),
    )
    branches = [
        Branch(wording.BRAIN_TUMOUR.draw(rng, held_out=held_out) + ".", _yes_no(bool(colours)), "yes/no"),
        Branch(wording.BRAIN_TUMOUR.draw(rng, held_out=held_out) + ".", _yes_no(bool(colours)), "yes/no"),
        Branch(wording.ENHANCING.draw(rng, held_out=held_out) + ".", _yes_no(4 in colours), "yes/no"),
    ]
    if asks_segmentation:
        branches.append(Branch(f"{question}.", MR_DONE, "segment"))
    images = (*pictures(patient.scenes[0]), overlay(scene.greys[0], labels))
    return Conversation("MRI feedback", turns, images, tuple(branches))


def direct_conversation(rng: np.random.Generator, patient: Patient, offer: Offer, *, held_out: bool) -> Conversation:
    """Return questions answered from the picture alone; ``offer`` does not name the patient's Expert."""
    if patient.modality == "CXR":
        asked = balanced(rng, {label: label in patient.findings for label in TRAINED_ORDER}, each=5)
        branches = [
            Branch(wording.FINDING.draw(rng, held_out=held_out, x=finding_name(label)), _yes_no(truth), "direct")
            for label, truth in asked
        ]
    elif patient.modality == "CT":
        branches = [
            Branch(
                wording.LESION.draw(rng, held_out=held_out, x=LESION_ARGUMENTS[argument]),
                _yes_no(argument in patient.findings),
                "direct",
            )
            for argument in LESION_ARGUMENTS
        ]
    else:
        truth = _yes_no(BRAIN_TUMOUR in patient.findings)
        questions = [wording.BRAIN_TUMOUR.draw(rng, held_out=held_out) for _ in range(2)]
        branches = [Branch(question, truth, "direct") for question in questions]
    scene = patient.scenes[0]
    opening = first_message("", cards=offer.text, modality=patient.modality, images=len(scene.greys))
    return Conversation(f"{patient.modality} direct", (opening,), pictures(scene), tuple(branches))


def pictures(scene: Scene) -> tuple[Image, ...]:
    """Return a scene's pictures as the model is shown them, three equal channels each."""
    return tuple(rgb(grey) for grey in scene.greys)


def scene_for(patient: Patient, purpose: str) -> Scene:
    """Return the scene that shows ``purpose``; the first one when there is none."""
    return next((scene for scene in patient.scenes if scene.purpose == purpose), patient.scenes[0])


def only(labels: NDArray[np.uint8], argument: str) -> NDArray[np.uint8]:
    """Return ``labels`` without everything ``argument`` does not ask for."""
    return np.where(np.isin(labels, prompts_for(argument)), labels, 0).astype(np.uint8)


def random_lesion(rng: np.random.Generator, labels: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
    """Return ``labels`` with the lesion ``value`` there or not, at evens, whatever was there before."""
    cleared = np.where(labels == value, 0, labels).astype(np.uint8)
    if rng.random() < 0.5:
        return cleared
    if (labels == value).any() and rng.random() < 0.7:
        return labels
    rows, columns = np.nonzero(cleared) if cleared.any() else np.nonzero(np.ones_like(cleared))
    place = int(rng.integers(len(rows)))
    radius = float(rng.uniform(1.5, 6.0))
    grid_rows, grid_columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    disc = (grid_rows - rows[place]) ** 2 + (grid_columns - columns[place]) ** 2 <= radius**2
    return np.where(disc, value, cleared).astype(np.uint8)


def random_glioma(rng: np.random.Generator, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return BraTS labels that are whole, partly missing, invented or absent."""
    if rng.random() < 0.45:
        return np.zeros_like(labels)
    made = labels.copy()
    if not made.any():
        row, column = (int(rng.integers(size // 3, size * 2 // 3)) for size in labels.shape)
        grid_rows, grid_columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
        distance = np.hypot(grid_rows - row, grid_columns - column)
        for value, radius in ((2, 14.0), (4, 9.0), (1, 6.0)):
            made[distance <= radius * rng.uniform(0.6, 1.2)] = value
    for value, chance in ((4, 0.3), (1, 0.2), (2, 0.05)):
        if rng.random() < chance:
            made[made == value] = 0
    return made


def thinned(rng: np.random.Generator, labels: NDArray[np.uint8], *, at_most: int) -> NDArray[np.uint8]:
    """Return ``labels`` with at most that many structures, so that a legend stays readable."""
    values = [value for value in np.unique(labels) if value]
    kept = list(rng.permutation(values)[: int(rng.integers(1, at_most + 1))]) if values else []
    return np.where(np.isin(labels, kept), labels, 0).astype(np.uint8)


def _open_ended(message: Message) -> Message:
    """Return the feedback without the full stop that follows its question: branches bring both."""
    return Message(message.role, message.text.removesuffix("."))


def _yes_no(positive: bool) -> str:
    return "yes" if positive else "no"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return str(options[int(rng.integers(len(options)))])


def training_cards(rng: np.random.Generator) -> tuple[ModelCard, ...]:
    """Return the Experts of one batch: usually all three, in any order and wording, sometimes fewer or none."""
    from worker.experts.vista3d_labels import GROUPS

    names = [str(name) for name in rng.permutation(list(wording.OVERVIEWS))]
    missing = rng.random()
    if missing < 0.25:
        names = names[: int(rng.integers(0, 3))]
    tasks = {"CXR": ("classification", "CXR"), "VISTA3D": ("segmentation", "CT"), "BRATS": ("segmentation", "MRI")}
    arguments = tuple(argument for argument in GROUPS if argument != "hepatoma")
    return tuple(
        ModelCard(
            name=name,
            version="training",
            task=tasks[name][0],
            modality=tasks[name][1],
            overview=_pick(rng, wording.OVERVIEWS[name]),
            accuracy=_pick(rng, wording.ACCURACIES).format(a=f"{rng.uniform(0.5, 0.99):.2f}"),
            arguments=arguments if name == "VISTA3D" else (),
            labels={},
            weights_sha256={},
            licence="Apache-2.0",
            demonstration=True,
        )
        for name in names
    )
