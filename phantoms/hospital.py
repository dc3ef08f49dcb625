"""A small synthetic hospital: a morning's worth of studies as DICOM files, their truth kept apart from them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEGLSLossless

from config.errors import RefusedInputError
from phantoms.brain_mr import make_brain_mr
from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.dicom import study_uid, write_brain_mr, write_ct, write_radiograph
from phantoms.patients import PatientIdentity, make_patient
from phantoms.truth import Truth, save_labels

Expected = Literal["DRAFTED", "NO_DRAFT"]

FIRST_SEED = 500_000_000  # training and evaluation draw their patients far below
_XRAY_SIZE = 1024
_CT_VOXEL_MM = (3.0, 1.6, 1.6)
_CT_SIZE_MM = (360.0, 409.6, 409.6)
_MR_VOXEL_MM = (3.0, 1.0, 1.0)
_WATER_PER_MM = 0.019  # linear attenuation at about 70 keV


@dataclass(frozen=True)
class SyntheticStudy:
    """One study of the synthetic hospital.

    Attributes:
        name: of the recipe, for example ``"ct-hepatic-tumor"``.
        study_uid: Study Instance UID.
        modality: Modality (0008,0060) of its images.
        folder: holds nothing but its DICOM files.
        files: in the order a modality would send them.
        truth: what is really there.
        truth_file: ``truth`` as JSON, outside ``folder``; a label map ``.npz`` lies beside it for CT and MR.
        expected: the state in which the study should end.
    """

    name: str
    study_uid: str
    modality: str
    folder: Path
    files: tuple[Path, ...]
    truth: Truth
    truth_file: Path
    expected: Expected


@dataclass(frozen=True)
class _Written:
    """What a recipe leaves behind; ``labels`` and ``affine`` only where there are any."""

    patient: PatientIdentity
    files: list[Path]
    truth: Truth
    labels: NDArray[np.uint8] | None = None
    affine: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Recipe:
    name: str
    modality: str
    expected: Expected
    write: Callable[[int, Path], _Written]


def play_hospital(
    folder: Path, *, seed: int = 1, truth_folder: Path | None = None, only: frozenset[str] | None = None
) -> list[SyntheticStudy]:
    """Write the synthetic hospital: radiographs, body CT and brain MR, with one study no model should read.

    Args:
        folder: gets one subfolder of DICOM files per study and nothing else.
        seed: 0 <= seed < 1000; another seed is other patients.
        truth_folder: gets the truths; ``<folder>-truth`` beside ``folder`` when None.
        only: names of the recipes to write; all when None.

    Returns:
        The studies in the order they would arrive.

    Raises:
        RefusedInputError: ``truth_folder`` inside ``folder``, a seed out of range, or an unknown recipe.
    """
    truths = truth_folder or folder.with_name(folder.name + "-truth")
    if truths.resolve().is_relative_to(folder.resolve()):
        raise RefusedInputError("the truth folder must lie outside the DICOM folder")
    if not 0 <= seed < 1000:
        raise RefusedInputError(f"hospital seed is {seed}; allowed: 0..999")
    unknown = (only or frozenset()) - {recipe.name for recipe in RECIPES}
    if unknown:
        raise RefusedInputError(f"unknown studies {sorted(unknown)}; known: {[r.name for r in RECIPES]}")
    truths.mkdir(parents=True, exist_ok=True)
    return [
        _write_study(recipe, FIRST_SEED + seed * 100 + number, folder / f"{number:02d}-{recipe.name}", truths)
        for number, recipe in enumerate(RECIPES, start=1)
        if only is None or recipe.name in only
    ]


def _write_study(recipe: _Recipe, seed: int, folder: Path, truths: Path) -> SyntheticStudy:
    written = recipe.write(seed, folder)
    truth_file = truths / f"{folder.name}.json"
    truth_file.write_text(written.truth.to_json(), encoding="utf-8")
    if written.labels is not None and written.affine is not None:
        save_labels(truth_file.with_suffix(".npz"), written.labels, written.affine)
    return SyntheticStudy(
        name=recipe.name,
        study_uid=study_uid(written.patient),
        modality=recipe.modality,
        folder=folder,
        files=tuple(written.files),
        truth=written.truth,
        truth_file=truth_file,
        expected=recipe.expected,
    )


def _normal_radiograph(seed: int, folder: Path) -> _Written:
    candidates = (make_chest_xray(s, findings=frozenset(), size=_XRAY_SIZE) for s in count(seed, 10))
    xray = next(found for found in candidates if found.view == "PA")  # seven in ten are
    patient = make_patient(seed, sex=xray.sex)
    files = write_radiograph(xray.pixels, patient, folder, view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm)
    return _Written(patient, files, xray.truth)


def _urgent_radiograph(seed: int, folder: Path) -> _Written:
    """Write what somebody has to be told about at once."""
    candidates = (make_chest_xray(s, findings=frozenset({"Pneumothorax"}), size=_XRAY_SIZE) for s in count(seed, 10))
    xray = next(found for found in candidates if found.view == "PA")
    patient = make_patient(seed, sex=xray.sex)
    files = write_radiograph(xray.pixels, patient, folder, view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm)
    return _Written(patient, files, xray.truth)


def _sick_radiograph(seed: int, folder: Path) -> _Written:
    xray = make_chest_xray(seed, findings=frozenset({"Effusion", "Cardiomegaly"}), size=_XRAY_SIZE)
    patient = make_patient(seed, sex=xray.sex)
    files = write_radiograph(
        xray.pixels,
        patient,
        folder,
        view=xray.view,
        pixel_spacing_mm=xray.pixel_spacing_mm,
        modality="CR",
        photometric="MONOCHROME1",
        transfer_syntax=JPEGLSLossless,
    )
    return _Written(patient, files, xray.truth)


def _lateral_radiograph(seed: int, folder: Path) -> _Written:
    """Write a true lateral projection of a CT phantom: nothing that reads frontal images should read it."""
    ct = make_ct(seed, lesions=frozenset(), voxel_mm=(2.0, 2.0, 4.0), size_mm=(464.0, 384.0, 432.0))
    density = np.clip(ct.hu.astype(np.float32) / 1000 + 1, 0, None)
    path = density.sum(axis=2)[::-1] * np.float32(4.0 * _WATER_PER_MM)  # top row is the head's end
    pixels = np.rint(np.clip(path / path.max(), 0, 1) ** 0.7 * 4095).astype(np.uint16)
    patient = make_patient(seed, sex=ct.sex)
    files = write_radiograph(
        pixels.repeat(2, axis=0).repeat(2, axis=1), patient, folder, view="LL", pixel_spacing_mm=1.0
    )
    return _Written(patient, files, Truth("DX", frozenset(), {}, {}, {}))


def _body_ct(lesions: frozenset[str]) -> Callable[[int, Path], _Written]:
    def write(seed: int, folder: Path) -> _Written:
        ct = make_ct(seed, lesions=lesions, voxel_mm=_CT_VOXEL_MM, size_mm=_CT_SIZE_MM)
        patient = make_patient(seed, sex=ct.sex)
        files = write_ct(ct.hu, ct.affine, patient, folder)
        return _Written(patient, files, ct.truth, ct.labels, ct.affine)

    return write


def _brain_mr(seed: int, folder: Path) -> _Written:
    brain = make_brain_mr(seed, tumour=True, voxel_mm=_MR_VOXEL_MM)
    patient = make_patient(seed, sex=brain.sex)
    files = write_brain_mr(brain.channels, brain.affine, patient, folder)
    return _Written(patient, files, brain.truth, brain.labels, brain.affine)


RECIPES: tuple[_Recipe, ...] = (
    _Recipe("cxr-normal", "DX", "DRAFTED", _normal_radiograph),
    _Recipe("cxr-effusion-cardiomegaly", "CR", "DRAFTED", _sick_radiograph),
    _Recipe("cxr-lateral", "DX", "NO_DRAFT", _lateral_radiograph),
    _Recipe("ct-hepatic-tumor", "CT", "DRAFTED", _body_ct(frozenset({"hepatic tumor"}))),
    _Recipe("ct-normal", "CT", "DRAFTED", _body_ct(frozenset())),
    _Recipe("mr-glioma", "MR", "DRAFTED", _brain_mr),
    _Recipe("cxr-pneumothorax", "DX", "DRAFTED", _urgent_radiograph),
)
