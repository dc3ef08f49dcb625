"""The chest radiograph phantom: each finding changes the picture where it should, against its own control."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from config.errors import RefusedInputError
from phantoms.chest_findings import IMPLIED
from phantoms.chest_xray import (
    NOT_SIMULATED,
    SIMULATED,
    TXRV_LABELS,
    ChestXray,
    draw_findings,
    make_chest_xray,
)
from phantoms.fields import Physique

SEEDS = (21, 22, 23)
SIZE = 224


@cache
def picture(seed: int, *findings: str) -> ChestXray:
    return make_chest_xray(seed, findings=frozenset(findings), size=SIZE)


def change(seed: int, finding: str) -> np.ndarray:
    """Grey levels the finding adds; the overall shift of automatic windowing removed."""
    with_it, control = picture(seed, finding), picture(seed)
    difference = with_it.pixels.astype(float) - control.pixels.astype(float)
    return difference - np.median(difference[control.pixels > 0])


def zone(seed: int, side: str, x_mm: tuple[float, float], z_mm: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of a region given in standard-patient mm, on the patient's ``side``."""
    spacing, scale = picture(seed).pixel_spacing_mm, Physique.draw(seed).scale
    rows = sorted(round(SIZE / 2 - (z - 303.0) * scale[0] / spacing) for z in z_mm)
    sign = 1 if side == "left" else -1
    columns = sorted(round(SIZE / 2 + sign * x * scale[2] / spacing) for x in x_mm)
    return slice(*rows), slice(*columns)


def sides_of(seed: int, finding: str) -> tuple[list[str], list[str]]:
    """Affected and unaffected sides."""
    side = picture(seed, finding).sides[finding]
    affected = ["left", "right"] if side == "bilateral" else [side]
    return affected, [s for s in ("left", "right") if s not in affected]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("finding", "x_mm", "z_mm", "at_least"),
    [
        ("Effusion", (70, 112), (205, 235), 400),
        ("Atelectasis", (50, 85), (246, 262), 200),
        ("Pleural_Thickening", (102, 122), (270, 340), 60),
        ("Consolidation", (45, 110), (260, 400), 120),
        ("Pneumonia", (45, 110), (250, 350), 40),
        ("Infiltration", (45, 110), (250, 390), 40),
        ("Edema", (35, 75), (310, 350), 150),
        ("Fibrosis", (75, 115), (235, 275), 120),
        ("Enlarged Cardiomediastinum", (30, 45), (360, 385), 300),
    ],
)
def test_an_opacity_is_brighter_where_it_lies(
    seed: int, finding: str, x_mm: tuple[float, float], z_mm: tuple[float, float], at_least: float
) -> None:
    added = change(seed, finding)
    affected, spared = sides_of(seed, finding)
    for side in affected:
        assert added[zone(seed, side, x_mm, z_mm)].mean() > at_least
    for side in spared:
        assert abs(added[zone(seed, side, x_mm, z_mm)].mean()) < 20 + 0.4 * at_least  # windowing shifts a little


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pleural_space_of_a_pneumothorax_is_darker(seed: int) -> None:
    added = change(seed, "Pneumothorax")
    affected, spared = sides_of(seed, "Pneumothorax")
    for side in affected:
        assert added[zone(seed, side, (97, 108), (335, 375))].mean() < -60
    for side in spared:
        assert abs(added[zone(seed, side, (97, 108), (335, 375))].mean()) < 40


@pytest.mark.parametrize("seed", SEEDS)
def test_cardiomegaly_moves_the_left_heart_border_outwards(seed: int) -> None:
    added = change(seed, "Cardiomegaly")
    assert added[zone(seed, "left", (75, 95), (255, 290))].mean() > 300


@pytest.mark.parametrize("seed", SEEDS)
def test_emphysema_lowers_the_diaphragm_and_darkens_the_bases(seed: int) -> None:
    added = change(seed, "Emphysema")
    for side in ("left", "right"):
        bases = added[zone(seed, side, (55, 95), (195, 255))].mean(axis=1)
        assert bases.min() < -400


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("finding", "peak"), [("Nodule", 250), ("Mass", 500), ("Fracture", 150)])
def test_a_focal_finding_lies_on_its_side_alone(seed: int, finding: str, peak: float) -> None:
    added = np.abs(ndimage.gaussian_filter(change(seed, finding), 0.7))
    affected, spared = sides_of(seed, finding)
    lung = (30, 135), (215, 405)
    assert added[zone(seed, affected[0], *lung)].max() > peak
    assert added[zone(seed, spared[0], *lung)].max() < 0.4 * peak


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hiatal_hernia_shows_gas_over_fluid_behind_the_heart(seed: int) -> None:
    added = change(seed, "Hernia")
    middle = slice(SIZE // 2 - 25, SIZE // 2 + 30)
    profile = added[:, middle].mean(axis=1)
    gas = int(profile.argmin())
    rows = zone(seed, "left", (0, 10), (225, 330))[0]
    assert profile[gas] < -50
    assert rows.start <= gas <= rows.stop


def test_the_same_seed_gives_the_same_pixels() -> None:
    a, b = (make_chest_xray(5, size=128) for _ in range(2))
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert (a.findings, a.sides, a.view, a.truth) == (b.findings, b.sides, b.view, b.truth)
    assert (a.pixels != make_chest_xray(6, size=128).pixels).any()


def test_pixels_are_twelve_bits_with_bright_bone_and_dark_lung() -> None:
    image = picture(21)
    assert image.pixels.dtype == np.uint16
    assert image.pixels.shape == (SIZE, SIZE)
    assert image.pixels.max() < 4096
    spine = image.pixels[zone(21, "left", (-8, 8), (280, 330))].mean()
    for side in ("left", "right"):
        assert image.pixels[zone(21, side, (60, 100), (300, 380))].mean() < 0.7 * spine


def test_the_heart_and_the_marker_lie_on_the_right_of_the_image() -> None:
    image = picture(22).pixels.astype(float)
    left, right = (image[zone(22, side, (45, 60), (255, 290))].mean() for side in ("left", "right"))
    assert left > 1.1 * right
    rows, columns = np.nonzero(image >= 4030)
    assert rows.max() < 0.2 * SIZE
    assert columns.min() > 0.85 * SIZE


def test_every_label_is_simulated_or_listed() -> None:
    implied = {extra for extras in IMPLIED.values() for extra in extras}
    assert set(SIMULATED) | implied | NOT_SIMULATED == set(TXRV_LABELS)
    assert len(TXRV_LABELS) == 18


def test_implied_labels_come_with_their_finding_and_side() -> None:
    image = picture(21, "Mass", "Pneumonia")
    assert image.findings == {"Mass", "Lung Lesion", "Pneumonia", "Infiltration", "Lung Opacity"}
    assert image.truth.findings == image.findings == set(image.sides)
    assert image.sides["Lung Lesion"] == image.sides["Mass"]
    assert picture(21).findings == frozenset()
    assert picture(21).sides == {}


def test_both_sides_and_both_views_and_sexes_occur() -> None:
    images = [make_chest_xray(s, findings=frozenset({"Nodule"}), size=64) for s in range(5)]
    assert {i.sides["Nodule"] for i in images} == {"left", "right"}
    assert {i.view for i in images} == {"PA", "AP"}
    assert {i.sex for i in images} == {"M", "F"}


def test_the_draw_of_findings_is_varied() -> None:
    drawn = [draw_findings(seed) for seed in range(600)]
    assert 0.2 < sum(not d for d in drawn) / 600 < 0.3
    assert max(map(len, drawn)) == 3
    for finding in SIMULATED:
        assert sum(finding in d for d in drawn) > 20, finding


@pytest.mark.parametrize("finding", ["Lung Opacity", "effusion", "COVID-19"])
def test_a_finding_nobody_can_draw_is_refused(finding: str) -> None:
    with pytest.raises(RefusedInputError, match="allowed"):
        make_chest_xray(1, findings=frozenset({finding}))


def test_the_truth_counts_nodules_and_broken_ribs() -> None:
    counts = [make_chest_xray(s, findings=frozenset({"Nodule", "Fracture"}), size=64).truth.counts for s in range(4)]
    assert all(set(c) == {"Nodule", "Fracture"} and 1 <= c["Nodule"] <= 3 and 2 <= c["Fracture"] <= 4 for c in counts)
    assert len({c["Nodule"] for c in counts} | {c["Fracture"] for c in counts}) > 1


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(RefusedInputError, match="negative"):
        make_chest_xray(-1)


@pytest.mark.parametrize("size", [0, 32, 100_000])
def test_an_absurd_size_is_refused(size: int) -> None:
    with pytest.raises(RefusedInputError, match="size"):
        make_chest_xray(1, size=size)
