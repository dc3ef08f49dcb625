"""Synthetic patients as the pictures a vision-language model is shown, rendered once and kept in small files.

Training draws seeds below `EVALUATION_SEED`, evaluation from there on: they share no anatomy.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phantoms.brain_mr import make_brain_mr
from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.labels import LESION_LABELS
from worker.experts.vista3d_labels import GROUPS, prompts_for
from worker.rendering import ct_grey, mr_grey, widest_slice
from worker.vlm.prompts import MR_ROLES

Modality = Literal["CXR", "CT", "MRI"]
MODALITIES: Final[tuple[Modality, ...]] = ("CXR", "CT", "MRI")
EVALUATION_SEED: Final = 1_000_000
BRAIN_TUMOUR: Final = "brain tumor"

TRAINED_ARGUMENTS: Final = tuple(argument for argument in GROUPS if argument != "hepatoma")
"""Arguments conversations ask for: all of VISTA3D's but the second name of one."""

_CXR_SIDE = 208
_MR_VOXEL_MM = (4.0, 2.0, 2.0)
_CHUNK = 50


@dataclass(frozen=True)
class Scene:
    """One slice (or radiograph) of a patient.

    Attributes:
        greys: ``(images, rows, columns)`` uint8: 1 image, or 4 for MR in the order of `MR_ROLES`.
        labels: ``(rows, columns)`` uint8 true labels; all 0 for a radiograph.
        purpose: ``"middle"``, ``"random"`` or the Trigger argument this slice shows best.
    """

    greys: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    purpose: str


@dataclass(frozen=True)
class Patient:
    """One synthetic patient: scenes and truth.

    Attributes:
        modality: word of the prompts.
        seed: of the anatomy.
        findings: what is really there: TorchXRayVision labels, lesion names, or ``{"brain tumor"}``.
        scenes: the first is the one a Reading starts with.
    """

    modality: Modality
    seed: int
    findings: frozenset[str]
    scenes: tuple[Scene, ...]


def render_patient(modality: Modality, seed: int) -> Patient:
    """Make one phantom and render the scenes conversations need."""
    if modality == "CXR":
        return _chest(seed)
    return _body(seed) if modality == "CT" else _brain(seed)


def _chest(seed: int) -> Patient:
    film = make_chest_xray(seed)
    grey = (film.pixels.astype(np.float32) * (255.0 / 4095.0)).clip(0, 255).astype(np.uint8)
    small = Image.fromarray(grey).resize((_CXR_SIDE, _CXR_SIDE), Image.Resampling.BICUBIC)
    picture = np.asarray(small, dtype=np.uint8)
    scene = Scene(picture[None], np.zeros_like(picture), "middle")
    return Patient("CXR", seed, frozenset(film.findings), (scene,))


def _body(seed: int) -> Patient:
    rng = np.random.default_rng([seed, 77])
    phantom = make_ct(seed)
    grey = ct_grey(phantom.hu.astype(np.float32))
    count = grey.shape[0]
    indices = {"middle": count // 2, "random": int(rng.integers(count // 5, count * 4 // 5))}
    for argument in TRAINED_ARGUMENTS:
        lesion = LESION_LABELS.get(argument)
        wanted = frozenset(prompts_for(argument) if argument not in phantom.lesions or lesion is None else (lesion,))
        indices[argument] = widest_slice(phantom.labels, wanted)
    scenes = tuple(Scene(grey[i][None], phantom.labels[i], purpose) for purpose, i in indices.items())
    return Patient("CT", seed, frozenset(phantom.lesions), scenes)


def _brain(seed: int) -> Patient:
    rng = np.random.default_rng([seed, 78])
    phantom = make_brain_mr(seed, voxel_mm=_MR_VOXEL_MM)
    stacks = []
    for role in MR_ROLES:
        signal = phantom.channels[role.lower()]
        stacks.append(mr_grey(signal, low=float(signal.min()), high=float(signal.max())))
    greys = np.stack(stacks)
    count = greys.shape[1]
    indices = {
        "middle": count // 2,
        "random": int(rng.integers(count // 4, count * 3 // 4)),
        "widest": widest_slice(phantom.labels),
    }
    scenes = tuple(Scene(greys[:, i], phantom.labels[i], purpose) for purpose, i in indices.items())
    return Patient("MRI", seed, frozenset({BRAIN_TUMOUR} if phantom.has_tumour else ()), scenes)


def write_patients(folder: Path, modality: Modality, seeds: range) -> int:
    """Render the patients of ``seeds`` that ``folder`` does not hold yet; returns how many were made.

    Patients are kept in files of 50, each written whole, so that an interrupted run goes on where it stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = 0
    for start in range(seeds.start, seeds.stop, _CHUNK):
        target = folder / f"{modality}-{start:07d}.npz"
        if target.exists():
            continue
        patients = [render_patient(modality, seed) for seed in range(start, min(start + _CHUNK, seeds.stop))]
        _save(target, patients)
        made += len(patients)
    return made


def read_patients(folder: Path, modality: Modality, *, limit: int | None = None) -> list[Patient]:
    """Return the patients kept in ``folder``, by seed."""
    patients: list[Patient] = []
    for path in sorted(folder.glob(f"{modality}-*.npz")):
        patients.extend(_load(path))
        if limit is not None and len(patients) >= limit:
            return patients[:limit]
    return patients


def _save(target: Path, patients: list[Patient]) -> None:
    arrays: dict[str, Any] = {}
    described = []
    for number, patient in enumerate(patients):
        for place, scene in enumerate(patient.scenes):
            arrays[f"g{number}_{place}"] = scene.greys
            arrays[f"l{number}_{place}"] = scene.labels
        purposes = [scene.purpose for scene in patient.scenes]
        described.append([patient.modality, patient.seed, sorted(patient.findings), purposes])
    part = target.with_suffix(".part.npz")
    np.savez(part, index=np.array(json.dumps(described)), **arrays)
    part.rename(target)


def _load(path: Path) -> Iterator[Patient]:
    with np.load(path, allow_pickle=False) as kept:
        for number, (modality, seed, findings, purposes) in enumerate(json.loads(str(kept["index"]))):
            scenes = tuple(
                Scene(kept[f"g{number}_{place}"], kept[f"l{number}_{place}"], purpose)
                for place, purpose in enumerate(purposes)
            )
            yield Patient(modality, seed, frozenset(findings), scenes)
