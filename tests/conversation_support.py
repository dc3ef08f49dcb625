"""Studies, Experts and questions that the tests of conversations share."""

from functools import cache
from pathlib import Path

from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.dicom import write_ct, write_radiograph
from phantoms.patients import make_patient
from tests.fakes import BoxSegmenter, card
from worker.conversation import Bench
from worker.intake import Intake, gate
from worker.profiles import CHEST_XRAY, CT_TORSO

LESIONS = ("hepatic tumor", "pancreatic tumor", "lung tumor", "bone lesion")
LIVER = {1: ("liver", (slice(10, 34), slice(18, 30), slice(12, 24)))}
TUMOUR = {26: ("hepatic tumor", (slice(20, 24), slice(20, 26), slice(15, 20)))}
CXR_TRIGGER = "This looks like an chest x-ray. Let me first trigger <CXR()>."


@cache
def _ct():
    return make_ct(12, lesions=frozenset({"hepatic tumor"}), voxel_mm=(7.0, 5.0, 5.0))


@cache
def _film():
    return make_chest_xray(11, findings=frozenset({"Effusion"}), size=256)


def write_torso(folder: Path) -> list[Path]:
    return write_ct(_ct().hu, _ct().affine, make_patient(2), folder)


def write_chest(folder: Path) -> list[Path]:
    return write_radiograph(_film().pixels, make_patient(1), folder, view=_film().view)


def torso_intake(folder: Path) -> Intake:
    return gate(write_torso(folder), CT_TORSO)


def chest_intake(folder: Path) -> Intake:
    return gate(write_chest(folder), CHEST_XRAY)


def vista(arguments=("hepatic tumor", "organs"), **boxes):
    drawn = {argument: dict(LIVER) for argument in (*LESIONS, "organs", "skeleton", "everything", "muscles")}
    drawn["hepatic tumor"] |= TUMOUR
    return BoxSegmenter(drawn | boxes, card("VISTA3D", "CT", arguments=arguments))


def bench(intake, vlm, *experts, **limits):
    by_name = {expert.card.name: expert for expert in experts}
    modality = "CT" if intake.study.volume is not None else "CXR"
    return Bench(
        vlm, [e.card for e in experts], by_name.__getitem__, intake.study, modality, max_new_tokens=32, **limits
    )


def asks(**answers):
    """Return first answers by the question in the message; whatever is not named triggers what the profile wants."""
    own = {"hepatic": "hepatic tumor", "organs": "organs"} | {lesion.split()[0]: lesion for lesion in LESIONS}

    def answer(message):
        asked = message.rsplit("\n", 1)[-1]
        key = next(key for key in own if key in asked)
        return answers.get(key, f"This looks like a CT image. Let me trigger <VISTA3D({own[key]})>.")

    return answer


def conversation(content, word):
    return next(one for one in content.provenance["conversations"] if word in one["question"])
