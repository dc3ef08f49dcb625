"""The CT phantom: organs where and as large as they are in people."""

import numpy as np
import pytest

from config.errors import RefusedInputError
from phantoms import labels as ids
from phantoms.ct import LESION_KINDS, CtPhantom, draw_lesions, make_ct

ALL_LESIONS = frozenset(LESION_KINDS)
SEEDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def patients() -> dict[int, CtPhantom]:
    return {seed: make_ct(seed, lesions=frozenset()) for seed in SEEDS}


@pytest.fixture(scope="module")
def sick() -> CtPhantom:
    return make_ct(12, lesions=ALL_LESIONS)


def centre_lps(patient: CtPhantom, *labels: int) -> np.ndarray:
    cells = np.argwhere(np.isin(patient.labels, labels))
    assert len(cells), labels
    return (patient.affine @ [*cells.mean(axis=0), 1.0])[:3]


def test_the_same_seed_gives_the_same_patient_and_another_seed_another() -> None:
    a, b, c = (make_ct(seed, voxel_mm=(6.0, 5.0, 5.0)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a.hu, b.hu)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert a.truth == b.truth
    assert (a.hu != c.hu).mean() > 0.3


# ICRP Publication 89 reference adults, widened to what healthy people show.
@pytest.mark.parametrize(
    ("organ", "low_ml", "high_ml"),
    [
        ("liver", 1000, 2200),
        ("spleen", 100, 400),
        ("left kidney", 100, 250),
        ("right kidney", 100, 250),
        ("pancreas", 40, 120),
        ("heart", 380, 1000),
        ("aorta", 80, 350),
        ("gallbladder", 8, 70),
        ("trachea", 15, 90),
        ("vertebrae L3", 25, 110),
        ("vertebrae T1", 8, 50),
    ],
)
def test_organs_have_plausible_volumes(
    patients: dict[int, CtPhantom], organ: str, low_ml: float, high_ml: float
) -> None:
    volumes = [patient.truth.volumes_ml[organ] for patient in patients.values()]
    assert low_ml < min(volumes) < max(volumes) < high_ml, volumes


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_lung_holds_a_plausible_volume(patients: dict[int, CtPhantom], side: str) -> None:
    for patient in patients.values():
        lobes = [v for k, v in patient.truth.volumes_ml.items() if k.startswith(f"{side} lung")]
        assert len(lobes) == (2 if side == "left" else 3)
        assert 1300 < sum(lobes) < 4000
        assert min(lobes) > 100


def test_volumes_in_the_truth_are_those_of_the_mask(patients: dict[int, CtPhantom]) -> None:
    patient = patients[1]
    voxel_ml = 4.0**3 / 1000
    assert patient.truth.volumes_ml["liver"] == pytest.approx((patient.labels == 1).sum() * voxel_ml)


def test_patients_differ(patients: dict[int, CtPhantom]) -> None:
    livers = {patient.truth.volumes_ml["liver"] for patient in patients.values()}
    assert len(livers) == len(SEEDS)
    assert max(livers) / min(livers) > 1.05
    assert {make_ct(s, voxel_mm=(12, 12, 12)).sex for s in range(8)} == {"M", "F"}


def test_sides_follow_the_lps_frame(patients: dict[int, CtPhantom]) -> None:
    for patient in patients.values():
        assert centre_lps(patient, ids.LIVER)[0] < -20
        assert centre_lps(patient, ids.SPLEEN)[0] > 40
        assert centre_lps(patient, ids.STOMACH)[0] > 10
        assert centre_lps(patient, ids.LEFT_KIDNEY)[0] > 30 > -30 > centre_lps(patient, ids.RIGHT_KIDNEY)[0]
        assert centre_lps(patient, ids.AORTA)[0] > centre_lps(patient, ids.IVC)[0]
        assert centre_lps(patient, 28, 29)[0] > 0 > centre_lps(patient, 30, 31, 32)[0]
        for rib in range(12):
            assert centre_lps(patient, ids.LEFT_RIB_1 + rib)[0] > 0 > centre_lps(patient, ids.RIGHT_RIB_1 + rib)[0]


def test_front_and_back_follow_the_lps_frame(patients: dict[int, CtPhantom]) -> None:
    for patient in patients.values():
        spine = centre_lps(patient, *range(ids.L5, ids.T1 + 1))[1]
        assert centre_lps(patient, ids.STERNUM)[1] < centre_lps(patient, ids.HEART)[1] < spine
        assert centre_lps(patient, ids.LEFT_SCAPULA)[1] > centre_lps(patient, ids.LEFT_CLAVICLE)[1]


def test_head_and_feet_follow_the_lps_frame(patients: dict[int, CtPhantom]) -> None:
    for patient in patients.values():
        heights = [centre_lps(patient, label)[2] for label in range(ids.L5, ids.T1 + 1)]
        assert all(np.diff(heights) > 12)
        assert centre_lps(patient, ids.LIVER)[2] < centre_lps(patient, ids.HEART)[2]
        lungs = np.argwhere(np.isin(patient.labels, ids.LUNG_LOBES))[:, 0]
        kidneys = np.argwhere(np.isin(patient.labels, (ids.LEFT_KIDNEY, ids.RIGHT_KIDNEY)))[:, 0]
        assert lungs.max() < patient.hu.shape[0] - 1
        assert kidneys.min() > 0


def test_most_of_the_heart_lies_left_of_the_midline(patients: dict[int, CtPhantom]) -> None:
    for patient in patients.values():
        columns = np.argwhere(patient.labels == ids.HEART)[:, 2]
        x = patient.affine[0, 3] + columns * patient.affine[0, 2]
        assert 0.55 < (x > 0).mean() < 0.85


def test_tissues_have_their_hounsfield_units(patients: dict[int, CtPhantom]) -> None:
    for patient in patients.values():

        def median(*labels: int, patient: CtPhantom = patient) -> float:
            return float(np.median(patient.hu[np.isin(patient.labels, labels)]))

        assert -900 < median(*ids.LUNG_LOBES) < -780
        assert 85 < median(ids.LIVER) < 130
        assert median(ids.LEFT_KIDNEY) > median(ids.AORTA) > median(ids.LIVER)
        assert median(ids.TRACHEA) < -700
        assert median(*range(ids.L5, ids.T1 + 1)) > 180
        assert patient.hu.dtype == np.int16
        assert patient.labels.dtype == np.uint8


def test_every_named_structure_is_there_and_no_lesion_unasked(patients: dict[int, CtPhantom]) -> None:
    lesions = set(ids.LESION_LABELS.values())
    for patient in patients.values():
        present = set(np.unique(patient.labels)) - {0}
        assert present <= set(ids.LABEL_NAMES)
        assert not present & lesions
        assert patient.lesions == patient.truth.findings == frozenset()
        ribs = set(range(ids.LEFT_RIB_1, ids.LEFT_RIB_1 + 12)) | set(range(ids.RIGHT_RIB_1, ids.RIGHT_RIB_1 + 12))
        assert ribs | set(range(ids.L5, ids.T1 + 1)) | set(ids.LUNG_LOBES) <= present


def test_every_lesion_asked_for_is_there_and_counted(sick: CtPhantom) -> None:
    assert sick.lesions == sick.truth.findings == ALL_LESIONS
    assert set(sick.truth.counts) == ALL_LESIONS
    for kind in ALL_LESIONS:
        assert sick.truth.volumes_ml[kind] > 0.2
        assert sick.truth.counts[kind] >= 1


@pytest.mark.parametrize(
    ("lesion", "host"),
    [
        (ids.HEPATIC_TUMOR, (ids.LIVER,)),
        (ids.PANCREATIC_TUMOR, (ids.PANCREAS,)),
        (ids.LUNG_TUMOR, ids.LUNG_LOBES),
        (ids.BONE_LESION, tuple(range(ids.L5, ids.T1 + 1))),
    ],
)
def test_a_lesion_lies_in_its_organ(sick: CtPhantom, lesion: int, host: tuple[int, ...]) -> None:
    healthy = make_ct(12, lesions=frozenset())
    assert np.isin(healthy.labels[sick.labels == lesion], (*host, 0)).all()
    inside = np.isin(healthy.labels[sick.labels == lesion], host).mean()
    assert inside > (0.3 if lesion == ids.PANCREATIC_TUMOR else 0.999)  # a pancreatic mass outgrows the gland


def test_a_hepatic_tumor_is_a_little_darker_than_the_liver() -> None:
    for seed in range(20, 24):
        patient = make_ct(seed, lesions=frozenset({"hepatic tumor"}), voxel_mm=(5.0, 4.0, 4.0))
        liver = np.median(patient.hu[patient.labels == ids.LIVER])
        tumor = np.median(patient.hu[patient.labels == ids.HEPATIC_TUMOR])
        assert 12 < liver - tumor < 60


def test_a_lesion_changes_nothing_far_from_itself() -> None:
    with_it, without = (make_ct(30, lesions=kinds) for kinds in (frozenset({"lung tumor"}), frozenset()))
    changed = np.argwhere(with_it.hu != without.hu)
    tumor = np.argwhere(with_it.labels == ids.LUNG_TUMOR)
    assert (changed.min(axis=0) >= tumor.min(axis=0) - 5).all()
    assert (changed.max(axis=0) <= tumor.max(axis=0) + 5).all()


def test_the_draw_of_lesions_is_varied() -> None:
    drawn = [draw_lesions(seed) for seed in range(400)]
    assert 0.18 < sum(not d for d in drawn) / 400 < 0.34
    for kind in LESION_KINDS:
        assert 0.28 < sum(kind in d for d in drawn) / 400 < 0.42


def test_the_grid_is_the_one_asked_for() -> None:
    patient = make_ct(5, voxel_mm=(8.0, 6.0, 5.0), size_mm=(464.0, 312.0, 430.0))
    assert patient.hu.shape == patient.labels.shape == (58, 52, 86)
    np.testing.assert_allclose(np.linalg.norm(patient.affine[:3, :3], axis=0), (8, 6, 5))
    np.testing.assert_array_equal(patient.affine[:3, :3] != 0, np.fliplr(np.eye(3)) == 1)


def test_an_organ_keeps_its_volume_at_another_resolution(patients: dict[int, CtPhantom]) -> None:
    coarse = make_ct(2, lesions=frozenset(), voxel_mm=(6.0, 5.0, 5.0)).truth.volumes_ml
    for organ in ("liver", "heart", "left kidney", "left lung upper lobe"):
        assert coarse[organ] == pytest.approx(patients[2].truth.volumes_ml[organ], rel=0.06)


def test_an_unknown_lesion_is_refused() -> None:
    with pytest.raises(RefusedInputError, match="allowed"):
        make_ct(1, lesions=frozenset({"renal cyst"}))


@pytest.mark.parametrize("voxel_mm", [(0.0, 4.0, 4.0), (4.0, 40.0, 4.0)])
def test_an_absurd_voxel_is_refused(voxel_mm: tuple[float, float, float]) -> None:
    with pytest.raises(RefusedInputError, match="voxel_mm"):
        make_ct(1, voxel_mm=voxel_mm)
