"""Numbers of a draft, read by programs that are not ours: the SR by DCMTK, the Segmentation by dcmqi."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 its own name for itself

from db.lifecycle import NewFinding
from phantoms.ct import make_ct
from phantoms.dicom import write_ct
from phantoms.patients import make_patient
from reports.values import Equipment
from tests.dcmtk import tool
from tests.fakes import BoxSegmenter, ScriptedVlm, card, reads_feedback
from worker.conversation import Bench
from worker.drafting import draft_study
from worker.intake import gate
from worker.outputs import Made, Place, identity, write_outputs
from worker.profiles import CT_TORSO

LESIONS = ("hepatic tumor", "pancreatic tumor", "lung tumor", "bone lesion")
# slices, rows, columns of the lesion the expert draws; voxels are 7 x 5 x 5 mm
BOX = (slice(20, 24), slice(20, 26), slice(15, 20))
VOLUME_ML = 4 * 6 * 5 * (7.0 * 5.0 * 5.0) / 1000


class Number(NamedTuple):
    """One NUM item: code of its name, value, UCUM unit."""

    code: str
    value: float
    unit: str


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """The objects of a CT draft with one hepatic tumour of known size, and where they are."""
    folder = tmp_path_factory.mktemp("draft")
    ct = make_ct(12, lesions=frozenset({"hepatic tumor"}), voxel_mm=(7.0, 5.0, 5.0))
    intake = gate(write_ct(ct.hu, ct.affine, make_patient(2), folder / "ct"), CT_TORSO)
    organs = {1: ("liver", (slice(18, 28), slice(18, 30), slice(12, 24)))}
    boxes = dict.fromkeys((*LESIONS, "organs"), organs) | {"hepatic tumor": organs | {26: ("hepatic tumor", BOX)}}
    expert = BoxSegmenter(boxes, card("VISTA3D", "CT", arguments=(*LESIONS, "organs")))
    vlm = ScriptedVlm("Let me trigger <VISTA3D(hepatic tumor)>.", reads_feedback)
    bench = Bench(vlm, [expert.card], {"VISTA3D": expert}.__getitem__, intake.study, "CT", max_new_tokens=32)
    content = draft_study(intake, CT_TORSO, bench)
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC)
    fixed = identity(str(intake.first.StudyInstanceUID), "reading-1", content, moment)
    made = write_outputs(content, intake, vlm.card, Place(folder, "made", fixed, Equipment()))
    return made, folder


def path_of(draft: tuple[Made, Path], kind: str) -> Path:
    made, folder = draft
    (found,) = [folder / one.path for one in made.objects if one.kind == kind]
    return found


def finding_of(draft: tuple[Made, Path]) -> NewFinding:
    (found,) = [one for one in draft[0].findings if one.label == "hepatic tumor"]
    return found


def groups_read_by_dcmtk(path: Path) -> dict[str, dict[str, Number | str]]:
    """Return Tracking UID → the group's numbers and codes by meaning, as dsr2xml prints them."""
    done = subprocess.run([tool("dsr2xml"), path], capture_output=True, check=True)
    groups: dict[str, dict[str, Number | str]] = {}
    for container in ElementTree.fromstring(done.stdout).iter("container"):
        if container.findtext("concept/meaning") != "Measurement Group":
            continue
        said: dict[str, Number | str] = {}
        for item in container:
            name = item.findtext("concept/meaning") or ""
            if item.tag == "num":
                unit = item.findtext("unit/value") or ""
                said[name] = Number(item.findtext("concept/value") or "", float(item.findtext("value") or "nan"), unit)
            elif item.tag == "uidref":
                said[name] = item.findtext("value") or ""
            elif item.tag == "code":
                said[name] = f"{item.findtext('value')} {item.findtext('scheme/designator') or ''}".strip()
        groups[str(said["Tracking Unique Identifier"])] = said
    return groups


@pytest.mark.requirement("REQ-TEXT-4")
def test_dcmtk_reads_the_volume_and_diameter_that_the_radiologist_is_shown(draft):
    finding = finding_of(draft)
    group = groups_read_by_dcmtk(path_of(draft, "FINDINGS_SR"))[finding.tracking_uid]
    shown = {one["name"]: one["value"] for one in finding.measurements}
    assert group["Volume"] == Number("118565006", pytest.approx(VOLUME_ML), "cm3")
    assert shown["volume"] == pytest.approx(VOLUME_ML)
    axis = group["Long axis"]
    assert axis == Number("103339001", pytest.approx(shown["longest axial diameter"]), "mm")
    # between the centres of opposite corner voxels and their far corners
    assert np.hypot(5 * 5, 4 * 5) <= axis.value <= np.hypot(6 * 5, 5 * 5)


def test_dcmtk_reads_presence_and_code_of_every_finding(draft):
    groups = groups_read_by_dcmtk(path_of(draft, "FINDINGS_SR"))
    said = {groups[one.tracking_uid]["Presence of property"] for one in draft[0].findings if one.presence == "absent"}
    assert {one.label for one in draft[0].findings if one.presence == "absent"} == set(LESIONS) - {"hepatic tumor"}
    assert said == {"121054 DCM"}
    assert groups[finding_of(draft).tracking_uid]["Presence of property"] == "121053 DCM"
    assert (
        groups[finding_of(draft).tracking_uid]["Finding"] == "108369006 SCT"
    )  # Neoplasm: never "malignant" from a mask


def test_dcmqi_finds_the_same_volume_in_the_segment_that_shares_the_tracking_uid(draft, tmp_path):
    path = path_of(draft, "SEG")
    program = Path(sys.executable).with_name("segimage2itkimage")
    command = [program, "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nii"]
    subprocess.run(command, capture_output=True, check=True)
    segments = {
        str(item.TrackingUID): int(item.SegmentNumber)
        for item in pydicom.dcmread(path, stop_before_pixels=True).SegmentSequence
    }
    image = sitk.ReadImage(tmp_path / f"{segments[finding_of(draft).tracking_uid]}.nii.gz")
    voxels = np.count_nonzero(sitk.GetArrayFromImage(image))
    assert voxels * np.prod(image.GetSpacing()) / 1000 == pytest.approx(VOLUME_ML, rel=1e-4)
