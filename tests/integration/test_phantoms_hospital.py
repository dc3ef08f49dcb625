"""The synthetic hospital is complete, conformant, repeatable, and keeps its truth out of the DICOM folder."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from config.errors import OutsideIntendedUseError, RefusedInputError
from phantoms.hospital import SyntheticStudy, play_hospital
from phantoms.truth import Truth, load_labels
from tests.judges import DCIODVFY
from worker.intake import gate
from worker.profiles import profile

PROFILE = {"DX": "chest-xray", "CR": "chest-xray", "CT": "ct-torso", "MR": "brain-mr"}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, SyntheticStudy], float]:
    start = time.process_time()
    studies = play_hospital(tmp_path_factory.mktemp("hospital") / "studies", seed=2)
    return {study.name: study for study in studies}, time.process_time() - start


@pytest.fixture(scope="module")
def studies(hospital: tuple[dict[str, SyntheticStudy], float]) -> dict[str, SyntheticStudy]:
    return hospital[0]


def test_every_kind_of_study_is_there(studies: dict[str, SyntheticStudy]) -> None:
    assert sorted(s.modality for s in studies.values()) == ["CR", "CT", "CT", "DX", "DX", "DX", "MR"]
    assert {n for n, s in studies.items() if s.expected == "NO_DRAFT"} == {"cxr-lateral"}
    assert len({s.study_uid for s in studies.values()}) == 7


def test_writing_takes_under_forty_seconds_of_one_core(
    hospital: tuple[dict[str, SyntheticStudy], float],
) -> None:
    assert hospital[1] < 40


def test_folders_hold_nothing_but_the_listed_instances(studies: dict[str, SyntheticStudy]) -> None:
    for study in studies.values():
        assert set(study.files) == {p for p in study.folder.rglob("*") if p.is_file()}
        headers = [dcmread(p, stop_before_pixels=True) for p in study.files]
        assert {ds.StudyInstanceUID for ds in headers} == {study.study_uid}
        assert {ds.Modality for ds in headers} == {study.modality}
        assert len({ds.SOPInstanceUID for ds in headers}) == len(headers)


def test_truth_is_kept_elsewhere_and_reads_back(studies: dict[str, SyntheticStudy]) -> None:
    for study in studies.values():
        assert not study.truth_file.is_relative_to(study.folder.parent)
        assert Truth.from_json(study.truth_file.read_text(encoding="utf-8")) == study.truth
    assert studies["cxr-normal"].truth.findings == frozenset()
    assert {"Effusion", "Cardiomegaly"} <= studies["cxr-effusion-cardiomegaly"].truth.findings
    assert studies["ct-hepatic-tumor"].truth.findings == {"hepatic tumor"}
    assert studies["ct-normal"].truth.findings == frozenset()
    assert studies["mr-glioma"].truth.findings == {"brain tumor"}


@pytest.mark.parametrize(("name", "label"), [("ct-hepatic-tumor", 26), ("mr-glioma", 2)])
def test_label_maps_lie_in_the_space_of_the_images(studies: dict[str, SyntheticStudy], name: str, label: int) -> None:
    study = studies[name]
    labels, affine = load_labels(study.truth_file.with_suffix(".npz"))
    k = int(np.argmax((labels == label).sum(axis=(1, 2))))
    assert (labels[k] == label).any()
    headers = [dcmread(p, stop_before_pixels=True) for p in study.files]
    here = [ds for ds in headers if np.allclose(ds.ImagePositionPatient, affine[:3, 3] + k * affine[:3, 0], atol=1e-3)]
    assert len(here) == (4 if study.modality == "MR" else 1)
    assert (here[0].Rows, here[0].Columns) == labels.shape[1:]


def test_instances_validate(studies: dict[str, SyntheticStudy]) -> None:
    for study in studies.values():
        for path in (study.files[0], study.files[len(study.files) // 2], study.files[-1]):
            done = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, check=False)
            said = (done.stdout + done.stderr).splitlines()
            assert [line for line in said if line.startswith("Error")] == []
            assert done.returncode == 0


def test_the_gate_lets_through_what_should_be_drafted(studies: dict[str, SyntheticStudy]) -> None:
    for study in studies.values():
        wanted = profile(PROFILE[study.modality])
        if study.expected == "DRAFTED":
            assert gate(study.files, wanted).headers
        else:
            with pytest.raises(OutsideIntendedUseError, match="LL"):
                gate(study.files, wanted)


def test_the_same_seed_writes_the_same_bytes(studies: dict[str, SyntheticStudy], tmp_path: Path) -> None:
    name = "cxr-effusion-cardiomegaly"
    (again,) = play_hospital(tmp_path / "again", seed=2, only=frozenset({name}))
    assert [p.read_bytes() for p in again.files] == [p.read_bytes() for p in studies[name].files]
    assert again.truth_file.read_bytes() == studies[name].truth_file.read_bytes()


def test_truth_inside_the_dicom_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInputError, match="outside"):
        play_hospital(tmp_path, truth_folder=tmp_path / "truth")
    with pytest.raises(RefusedInputError, match="unknown studies"):
        play_hospital(tmp_path / "studies", only=frozenset({"us-abdomen"}))
    with pytest.raises(RefusedInputError, match="seed"):
        play_hospital(tmp_path / "studies", seed=1000)
