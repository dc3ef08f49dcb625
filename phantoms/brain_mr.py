"""A synthetic brain MR: co-registered T1c, T1, T2 and FLAIR of one head, with or without a glioma, and its truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from phantoms.brain_anatomy import Build, Field, Grid, Push, Space, Tissue, anatomical_space, smooth_noise
from phantoms.brain_paint import TissueMap, paint_tissues
from phantoms.truth import Truth, label_volumes_ml

CHANNELS = ("t1c", "t1", "t2", "flair")
LABEL_NAMES = {1: "non-enhancing tumor core", 2: "peritumoral edema", 4: "enhancing tumor"}  # config/codes.yaml

_FIELD_OF_VIEW_MM = ((-84.0, 96.0), (-114.0, 114.0), (-96.0, 96.0))  # z, y, x
_TUMOUR_RATE = 0.6

# Signal of each tissue at 1.5-3 T relative to fat on T1 and CSF on T2, per channel t1c, t1, t2, flair.
_SIGNAL: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.AIR: (0.0, 0.0, 0.0, 0.0),
    Tissue.SKIN: (0.55, 0.50, 0.30, 0.32),
    Tissue.FAT: (0.98, 1.00, 0.62, 0.58),
    Tissue.MUSCLE: (0.46, 0.42, 0.18, 0.24),
    Tissue.BONE: (0.07, 0.06, 0.04, 0.05),
    Tissue.MARROW: (0.62, 0.62, 0.36, 0.34),
    Tissue.CSF: (0.19, 0.19, 1.00, 0.08),
    Tissue.GREY: (0.55, 0.53, 0.56, 0.52),
    Tissue.WHITE: (0.73, 0.72, 0.40, 0.41),
    Tissue.STRIATUM: (0.59, 0.58, 0.52, 0.50),
    Tissue.THALAMUS: (0.64, 0.63, 0.47, 0.47),
    Tissue.PALLIDUS: (0.67, 0.66, 0.33, 0.38),
    Tissue.DURA: (0.72, 0.34, 0.20, 0.26),
    Tissue.EYE: (0.20, 0.20, 0.95, 0.12),
    Tissue.LENS: (0.45, 0.45, 0.18, 0.25),
    Tissue.VESSEL: (1.10, 0.26, 0.10, 0.14),
    Tissue.CHOROID: (1.02, 0.44, 0.70, 0.48),
    Tissue.MUCOSA: (0.92, 0.46, 0.72, 0.60),
    Tissue.HYPERINTENSITY: (0.60, 0.59, 0.68, 0.72),
    Tissue.NECROSIS: (0.30, 0.29, 0.86, 0.45),
    Tissue.OEDEMA: (0.53, 0.52, 0.80, 0.90),
    Tissue.ENHANCING: (1.08, 0.49, 0.66, 0.74),
}

# Where gliomas sit: lobe -> distance from the midline, y, z in anatomical mm, and relative frequency.
_LOBES: dict[str, tuple[float, float, float, float]] = {
    "frontal": (27.0, -42.0, 22.0, 0.38),
    "temporal": (43.0, -2.0, -21.0, 0.27),
    "parietal": (31.0, 30.0, 34.0, 0.23),
    "occipital": (25.0, 56.0, 14.0, 0.12),
}


@dataclass(frozen=True)
class Glioma:
    """One tumour before it is voxels.

    Attributes:
        side: of the patient, ``"left"`` or ``"right"``.
        lobe: a key of the lobes above.
        centre: anatomical mm.
        radius_mm: of necrosis and rim together.
        rim_mm: thickness of the enhancing rim.
        oedema_mm: reach of the oedema beyond the rim.
        low_grade: mostly non-enhancing, as lower grade gliomas are.
    """

    side: str
    lobe: str
    centre: tuple[float, float, float]
    radius_mm: float
    rim_mm: float
    oedema_mm: float
    low_grade: bool


@dataclass(frozen=True)
class BrainMr:
    """Four co-registered sequences of one synthetic head.

    Attributes:
        channels: ``t1c``, ``t1``, ``t2``, ``flair`` -> ``(slices, rows, columns)`` float32 scanner units, >= 0.
        labels: BraTS convention, uint8: 0 background, 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing.
        brain_mask: brain with its ventricles, as a skull-stripping step would leave it.
        affine: ``(4, 4)`` from ``(slice, row, column)`` to mm in LPS (PS3.3 C.7.6.2.1.1); slices run
            inferior to superior, rows anterior to posterior, columns patient right to left.
        has_tumour: whether ``labels`` has any.
        side: the tumour's side of the patient, ``"left"``, ``"right"`` or None.
        lobe: the tumour's lobe or None.
        sex: ``"F"`` or ``"M"``.
        truth: what a perfect reader would report.
    """

    channels: dict[str, NDArray[np.float32]]
    labels: NDArray[np.uint8]
    brain_mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    has_tumour: bool
    side: str | None
    lobe: str | None
    sex: str
    truth: Truth


def make_brain_mr(
    seed: int, *, tumour: bool | None = None, voxel_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
) -> BrainMr:
    """Return the brain MR of synthetic patient ``seed``; the same seed is the same head at every resolution.

    Args:
        seed: >= 0.
        tumour: with a glioma or without; None leaves it to chance (60 % with).
        voxel_mm: distance of voxel centres along (slices, rows, columns).

    Returns:
        Arrays in one frame, with truth.
    """
    rng = np.random.default_rng([seed, 1])
    sex = "F" if rng.random() < 0.5 else "M"
    build = _draw_build(rng, sex)
    chance = bool(rng.random() < _TUMOUR_RATE)
    drawn = _draw_glioma(rng)  # always drawn, so that later draws do not depend on it
    glioma = drawn if (chance if tumour is None else tumour) else None
    grid, affine = _make_grid(voxel_mm)
    push = None
    if glioma is not None:
        push = Push(glioma.centre, float(rng.uniform(0.25, 0.5)), 1.7 * glioma.radius_mm)
    space = anatomical_space(np.random.default_rng([seed, 2]), grid, build, push)
    tissue, brain, depth = paint_tissues(seed, grid, space, build, push)
    labels = np.zeros(grid.shape, np.uint8)
    if glioma is not None:
        labels = _paint_glioma(seed, grid, space, tissue, depth, glioma)
        brain |= labels > 0
    channels = _acquire(seed, grid, tissue, glioma)
    truth = _make_truth(labels, voxel_mm, glioma)
    side, lobe = (glioma.side, glioma.lobe) if glioma else (None, None)
    return BrainMr(channels, labels, brain, affine, glioma is not None, side, lobe, sex, truth)


def _make_grid(voxel_mm: tuple[float, float, float]) -> tuple[Grid, NDArray[np.float64]]:
    axes, affine = [], np.zeros((4, 4))
    affine[3, 3] = 1
    for i, ((low, high), step) in enumerate(zip(_FIELD_OF_VIEW_MM, voxel_mm, strict=True)):
        count = round((high - low) / step)
        first = (low + high) / 2 - (count - 1) / 2 * step
        axes.append((first + step * np.arange(count)).astype(np.float32))
        affine[2 - i, i], affine[2 - i, 3] = step, first
    return Grid(*axes), affine


def _draw_build(rng: np.random.Generator, sex: str) -> Build:
    size = (0.965 if sex == "F" else 1.0) * rng.normal(1.0, 0.02)
    scale = np.clip(size * rng.normal(1.0, 0.018, 3), 0.9, 1.07)
    turn = np.clip(rng.normal(0, (0.07, 0.05, 0.05)), -0.14, 0.14)
    shift = rng.normal(0, 1.5, 3)
    age = rng.random()
    return Build(
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        rotation_rad=(float(turn[0]), float(turn[1]), float(turn[2])),
        shift_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
        ventricles=float(np.clip(0.75 + 0.55 * age + rng.normal(0, 0.12), 0.6, 1.55)),
        sulcus_mm=float(np.clip(0.55 + 0.75 * age + rng.normal(0, 0.1), 0.4, 1.5)),
        scalp_mm=float(rng.uniform(4.0, 7.0)),
        skull_mm=float(rng.uniform(5.5, 8.0)),
        lesion_load=float(max(0.0, age * rng.uniform(-0.2, 1.0))),
    )


def _draw_glioma(rng: np.random.Generator) -> Glioma:
    side = "left" if rng.random() < 0.5 else "right"
    lobe = str(rng.choice(list(_LOBES), p=[row[3] for row in _LOBES.values()]))
    x, y, z, _ = _LOBES[lobe]
    jitter = rng.uniform(-1, 1, 3) * (5.0, 10.0, 6.0)
    low_grade = bool(rng.random() < 0.18)
    radius = float(rng.uniform(9, 21))
    return Glioma(
        side=side,
        lobe=lobe,
        centre=((x + jitter[0]) * (1 if side == "left" else -1), y + jitter[1], z + jitter[2]),
        radius_mm=radius,
        rim_mm=float(rng.uniform(0.22, 0.48) * radius),
        oedema_mm=float(rng.uniform(5, 12) if low_grade else rng.uniform(9, 26)),
        low_grade=low_grade,
    )


def _paint_glioma(
    seed: int, grid: Grid, space: Space, tissue: TissueMap, depth: Field, glioma: Glioma
) -> NDArray[np.uint8]:
    """Paint the tumour into ``tissue`` and return its BraTS labels.

    Oedema spreads through white matter and spares cortex, deep nuclei and the other hemisphere.
    """
    rng = np.random.default_rng([seed, 30])
    lobed, fine, spread = (smooth_noise(rng, grid, mm) for mm in (11.0, 5.0, 12.0))
    cx, cy, cz = (np.float32(c) for c in glioma.centre)
    sign = np.float32(1 if glioma.side == "left" else -1)
    radius = np.sqrt((space.x - cx) ** 2 + (space.y - cy) ** 2 + (space.z - cz) ** 2)
    outside = radius - np.float32(glioma.radius_mm) * (1 + np.float32(0.16) * lobed + np.float32(0.05) * fine)
    own_side = (space.u * sign > 1.0) & (depth > 0.4)
    host = own_side & np.isin(tissue, _HOST)
    tumour = host & (outside < 0)
    rim = np.float32(glioma.rim_mm) * (1 + np.float32(0.35) * spread + np.float32(0.25) * fine)
    enhancing = tumour & (outside > -np.clip(rim, 1.2, None))
    if glioma.low_grade:
        enhancing = tumour & (lobed + fine > 1.3) & (outside < -2)
    reach = np.float32(glioma.oedema_mm) * (1 + np.float32(0.45) * spread)
    oedema = own_side & (outside >= 0) & np.isin(tissue, (Tissue.WHITE, Tissue.HYPERINTENSITY))
    oedema &= outside < np.clip(reach, 2.0, None)
    oedema |= host & (outside >= 0) & (outside < np.clip(reach * np.float32(0.25), 1.5, None))
    labels = np.zeros(grid.shape, np.uint8)
    labels[oedema], labels[tumour], labels[enhancing] = 2, 1, 4
    for value, kind in ((2, Tissue.OEDEMA), (1, Tissue.NECROSIS), (4, Tissue.ENHANCING)):
        tissue[labels == value] = kind
    return labels


_HOST = (
    Tissue.WHITE,
    Tissue.GREY,
    Tissue.STRIATUM,
    Tissue.PALLIDUS,
    Tissue.HYPERINTENSITY,
    Tissue.CSF,
    Tissue.DURA,
)


def _acquire(seed: int, grid: Grid, tissue: TissueMap, glioma: Glioma | None) -> dict[str, NDArray[np.float32]]:
    """Return each channel as a scanner would: contrast, texture, coil bias, blur, Rician noise, arbitrary scale."""
    rng = np.random.default_rng([seed, 40])
    table = np.array([_SIGNAL[kind] for kind in Tissue], np.float32)  # (tissues, channels)
    table *= np.exp(rng.normal(0, 0.035, table.shape)).astype(np.float32)
    necrosis_flair = 0.72 if glioma and glioma.low_grade else rng.uniform(0.18, 0.62)
    table[Tissue.NECROSIS, 3] = necrosis_flair
    table[Tissue.FAT] *= rng.uniform(0.45, 1.0, 4).astype(np.float32)  # fat suppression of varied quality
    texture = smooth_noise(rng, grid, 4.0)
    coil = smooth_noise(rng, grid, 55.0)
    channels = {}
    for index, name in enumerate(CHANNELS):
        clean = table[:, index][tissue]
        clean *= 1 + np.float32(0.025) * texture
        clean = ndimage.gaussian_filter(clean, 0.55, truncate=2.5)
        bias = np.exp(np.float32(rng.uniform(0.05, 0.16)) * (coil + smooth_noise(rng, grid, 70.0)))
        sigma = np.float32(rng.uniform(0.007, 0.022))
        real, imaginary = rng.standard_normal((2, *grid.shape), dtype=np.float32) * sigma
        scale = np.float32(np.exp(rng.uniform(np.log(250), np.log(1500))))
        channels[name] = np.hypot(clean * bias + real, imaginary) * scale
    return channels


def _make_truth(labels: NDArray[np.uint8], voxel_mm: tuple[float, float, float], glioma: Glioma | None) -> Truth:
    ml = float(np.prod(voxel_mm)) / 1000.0
    return Truth(
        modality="MR",
        findings=frozenset({"brain tumor"} if glioma else ()),
        label_names=dict(LABEL_NAMES),
        volumes_ml=label_volumes_ml(labels, LABEL_NAMES, ml),
        counts={"brain tumor": 1} if glioma else {},
    )
