"""Drafts of phantoms, from gate to files, by Experts that answer what they are told."""

import atexit
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pydicom

from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.dicom import write_ct, write_radiograph
from phantoms.patients import make_patient
from publishing.draft import Place
from reports.values import Equipment
from tests.fakes import BoxSegmenter, FixedClassifier, ScriptedVlm, card, reads_feedback
from worker.conversation import Bench
from worker.drafting import draft_study
from worker.intake import gate
from worker.outputs import identity, write_outputs
from worker.profiles import CHEST_XRAY, CT_TORSO

LESIONS = ("hepatic tumor", "pancreatic tumor", "lung tumor", "bone lesion")


class LookingClassifier(FixedClassifier):
    """Also says where it looked for what it found."""

    def run(self, study, argument):
        result = super().run(study, argument)
        rows, columns = study.radiograph.pixels.shape
        hot = np.zeros((rows, columns), np.float32)
        hot[rows // 2 : rows // 2 + 20, columns // 3 : columns // 3 + 30] = 1.0
        positive = [label for label, p in self.probabilities.items() if p >= 0.5]
        return replace(result, heat_maps=dict.fromkeys(positive, hot))


@cache
def _phantoms():
    return (
        make_ct(12, lesions=frozenset({"hepatic tumor"}), voxel_mm=(7.0, 5.0, 5.0)),
        make_chest_xray(11, findings=frozenset({"Effusion"}), size=256),
    )


@cache
def _ct_files():
    """The CT as files, written once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="firstread-ct-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    phantom = _phantoms()[0]
    write_ct(phantom.hu, phantom.affine, make_patient(2), folder)
    return folder


def bench(intake, modality, expert):
    vlm = ScriptedVlm("nothing" if modality == "CT" else "Let me first trigger <CXR()>.", reads_feedback)
    return Bench(vlm, [expert.card], lambda _: expert, intake.study, modality, max_new_tokens=32)


def ct_draft(folder, *, lesions=True):
    """Return the draft of a CT with a liver, and with a tumour in it, and its intake."""
    shutil.copytree(_ct_files(), folder / "ct")
    intake = gate(sorted((folder / "ct").glob("*")), CT_TORSO)
    liver = {1: ("liver", (slice(18, 28), slice(18, 30), slice(12, 24)))}
    boxes = dict.fromkeys((*LESIONS, "organs"), liver)
    if lesions:
        boxes["hepatic tumor"] = liver | {26: ("hepatic tumor", (slice(20, 24), slice(20, 26), slice(15, 20)))}
    expert = BoxSegmenter(boxes, card("VISTA3D", "CT", arguments=(*LESIONS, "organs")))
    return draft_study(intake, CT_TORSO, bench(intake, "CT", expert)), intake


def cxr_draft(folder, probabilities=None, expert=None):
    """Return the draft of a radiograph with these scores, by default two positive and one negative, and its intake."""
    xray = _phantoms()[1]
    paths = write_radiograph(
        xray.pixels, make_patient(1), folder / "cxr", view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm
    )
    intake = gate(paths, CHEST_XRAY)
    expert = expert or LookingClassifier(probabilities or {"Effusion": 0.9, "Mass": 0.8, "Fracture": 0.1})
    return draft_study(intake, CHEST_XRAY, bench(intake, "CXR", expert)), intake


def publish(drafted, folder, destinations=(), order=None):
    """Write everything that leaves with a draft into ``folder``."""
    content, intake = drafted
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    made_of = identity(str(intake.first.StudyInstanceUID), "r", content, at)
    place = Place(folder, "s/r", made_of, Equipment(institution="General Hospital"), destinations, order)
    return write_outputs(content, intake, ScriptedVlm("", reads_feedback).card, place)


def of_kind(made, kind):
    """Return the rows of one kind."""
    return [one for one in made.objects if one.kind == kind]


def read(made, folder, kind):
    """Return the one object of a kind, as it was written; of the findings SR the form that every draft has."""
    one, *others = of_kind(made, kind)
    assert not others or kind == "FINDINGS_SR"
    return pydicom.dcmread(folder / one.path)
