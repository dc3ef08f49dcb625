"""Synthetic contrast-enhanced CT of chest and abdomen (portal venous phase), with every organ's mask."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from config.errors import RefusedInputError
from phantoms import labels as ids
from phantoms.abdomen import paint_abdomen
from phantoms.airspace import grow_vessels, paint_vessels
from phantoms.anatomy import Alterations, Canvas, heart, lungs, trunk, vessels
from phantoms.fields import Floats, Frame, Grid, Physique, stream
from phantoms.skeleton import humeri, spine, stamp, struts
from phantoms.truth import Truth, label_volumes_ml

DEFAULT_VOXEL_MM = (4.0, 4.0, 4.0)
DEFAULT_SIZE_MM = (464.0, 316.0, 432.0)
LESION_KINDS: tuple[str, ...] = tuple(ids.LESION_LABELS)


@dataclass(frozen=True)
class CtPhantom:
    """One synthetic CT with its truth.

    Attributes:
        hu: ``(slices, rows, columns)`` int16 Hounsfield units, as a scanner would deliver them.
        labels: same shape, uint8, VISTA3D label ids (``phantoms.labels``); 0 is everything unnamed.
        affine: ``(4, 4)`` homogeneous (slice, row, column) to mm, LPS. Slices run feet to head, rows front
            to back, columns right to left.
        lesions: which of ``LESION_KINDS`` are present.
        sex: ``"M"`` or ``"F"``.
        truth: findings, volumes and lesion counts.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    lesions: frozenset[str]
    sex: str
    truth: Truth


def draw_lesions(seed: int) -> frozenset[str]:
    """Return a random set of lesions: none in a quarter of patients, else each in about 45 %."""
    rng = stream(seed, "lesion-kinds")
    if rng.random() < 0.22:
        return frozenset()
    return frozenset(kind for kind in LESION_KINDS if rng.random() < 0.45)


def paint_patient(canvas: Canvas) -> None:
    """Paint a whole healthy patient."""
    trunk(canvas)
    spine(canvas)
    heart(canvas)
    vessels(canvas)
    lungs(canvas)
    paint_vessels(canvas, grow_vessels(canvas))
    paint_abdomen(canvas)
    humeri(canvas)
    for strut in struts(canvas, step_mm=max(1.5, 0.6 * float(canvas.frame.grid.voxel_mm.min()))):
        stamp(canvas, strut)


def make_ct(
    seed: int,
    *,
    lesions: frozenset[str] | None = None,
    voxel_mm: tuple[float, float, float] = DEFAULT_VOXEL_MM,
    size_mm: tuple[float, float, float] = DEFAULT_SIZE_MM,
) -> CtPhantom:
    """Return the CT of synthetic patient ``seed``; the same arguments give the same arrays.

    Args:
        seed: non-negative; decides anatomy, lesions and noise.
        lesions: subset of ``LESION_KINDS``; None draws at random.
        voxel_mm: voxel size along (slices, rows, columns).
        size_mm: extent along the same axes; the slices start just below L5.

    Raises:
        RefusedInputError: unknown lesion, or sizes that make no sense.
    """
    chosen = draw_lesions(seed) if lesions is None else lesions
    unknown = chosen - set(LESION_KINDS)
    if unknown:
        raise RefusedInputError(f"unknown lesions {sorted(unknown)}; allowed: {list(LESION_KINDS)}")
    if min(voxel_mm) < 0.5 or max(voxel_mm) > 12 or min(size_mm) < 100 or max(size_mm) > 700:
        raise RefusedInputError(f"voxel_mm {voxel_mm} must lie in 0.5-12 and size_mm {size_mm} in 100-700")
    physique = Physique.draw(seed)
    grid = Grid.spanning((0.0, -size_mm[1] / 2 + 6.0, -size_mm[2] / 2), size_mm, voxel_mm)
    canvas = Canvas(Frame(grid, physique, seed), physique, seed, Alterations(), upright=False)
    paint_patient(canvas)
    counts = {kind: _LESION_PAINTERS[kind](canvas) for kind in LESION_KINDS if kind in chosen}
    present = frozenset(kind for kind, count in counts.items() if count)
    truth = Truth(
        modality="CT",
        findings=present,
        label_names=ids.LABEL_NAMES,
        volumes_ml=label_volumes_ml(canvas.labels, ids.LABEL_NAMES, grid.voxel_ml),
        counts={kind: counts[kind] for kind in sorted(present)},
    )
    return CtPhantom(_scan(canvas), canvas.labels, grid.affine(), present, physique.sex, truth)


def _scan(canvas: Canvas) -> NDArray[np.int16]:
    """Blur and add noise as a scanner does; noise is grainy in plane and grows with girth."""
    rng = canvas.rng("scanner")
    voxel = canvas.frame.grid.voxel_mm
    hu = ndimage.gaussian_filter(canvas.hu, np.clip(1.1 / voxel, 0.25, 0.9))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0.0, 0.6, 0.6))
    level = 9.0 + 0.25 * canvas.physique.fat_mm
    hu += noise * np.float32(level / max(float(noise.std()), 1e-6))
    scanned: NDArray[np.int16] = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return scanned


def _place(canvas: Canvas, name: str, host: tuple[int, ...], radius_mm: float) -> NDArray[np.float64] | None:
    """Return a world point (z, y, x) well inside one of the host labels, or None if nothing is left of it."""
    mask = np.isin(canvas.labels, host)
    if not mask.any():
        return None
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1), sampling=canvas.frame.grid.voxel_mm)[1:-1, 1:-1, 1:-1]
    wanted = min(radius_mm + 1.0, 0.92 * float(depth.max()))
    cells = np.argwhere(depth >= wanted)
    cell = cells[canvas.rng(name).integers(len(cells))] + [s.start for s in box]
    point: NDArray[np.float64] = canvas.frame.grid.origin_mm + cell * canvas.frame.grid.voxel_mm
    return point


def _lump(
    canvas: Canvas, name: str, centre: NDArray[np.float64], radius_mm: float, rough: float
) -> tuple[tuple[slice, slice, slice], Floats]:
    """Return the box around a lesion and its level set, 1 on an irregular surface."""
    grid = canvas.frame.grid
    low = np.floor((centre - 1.7 * radius_mm - grid.origin_mm) / grid.voxel_mm).astype(int)
    high = np.ceil((centre + 1.7 * radius_mm - grid.origin_mm) / grid.voxel_mm).astype(int) + 1
    box = tuple(slice(max(0, int(a)), max(0, int(b))) for a, b in zip(low, high, strict=True))
    gap = np.zeros((1, 1, 1), np.float32)
    stretch = canvas.rng(name + "-shape").uniform(0.88, 1.14, 3)
    for k, axis in enumerate((grid.zs, grid.ys, grid.xs)):
        d = (axis[box[k]] - np.float32(centre[k])) / np.float32(radius_mm * stretch[k])
        gap = gap + (d**2).reshape([-1 if i == k else 1 for i in range(3)])
    region = (box[0], box[1], box[2])
    return region, np.sqrt(gap) + rough * canvas.rough(name, max(5.0, 0.8 * radius_mm), region)


def _hepatic(canvas: Canvas) -> int:
    rng = canvas.rng("hepatic-tumor")
    darker = rng.uniform(22, 48)
    placed = 0
    for n in range(int(rng.choice([1, 1, 2, 3]))):
        radius = rng.uniform(8, 22)
        centre = _place(canvas, f"hepatic-{n}", (ids.LIVER,), radius)
        if centre is None:
            continue
        box, level = _lump(canvas, f"hepatic-{n}", centre, radius, 0.07)
        mask = (level < 1) & (canvas.labels[box] == ids.LIVER)
        liver = float(np.median(canvas.hu[canvas.labels == ids.LIVER]))
        canvas.paint(box, mask, liver - darker, ids.HEPATIC_TUMOR)
        canvas.paint(box, mask & (level < 0.5), liver - 1.35 * darker)
        placed += 1
    return placed


def _pancreatic(canvas: Canvas) -> int:
    rng = canvas.rng("pancreatic-tumor")
    radius = rng.uniform(8, 16)
    centre = _place(canvas, "pancreatic", (ids.PANCREAS,), radius)
    if centre is None:
        return 0
    box, level = _lump(canvas, "pancreatic", centre, radius, 0.08)
    allowed = np.isin(canvas.labels[box], (0, ids.PANCREAS)) & canvas.cavity[box]
    canvas.paint(box, (level < 1) & allowed, 94.0 - rng.uniform(26, 46), ids.PANCREATIC_TUMOR)
    return 1


def _pulmonary(canvas: Canvas) -> int:
    rng = canvas.rng("lung-tumor")
    placed = 0
    for n in range(int(rng.choice([1, 1, 1, 2, 3]))):
        radius = rng.uniform(6.5, 20)
        centre = _place(canvas, f"lung-{n}", ids.LUNG_LOBES, radius)
        if centre is None:
            continue
        box, level = _lump(canvas, f"lung-{n}", centre, radius, 0.12)
        mask = (level < 1) & np.isin(canvas.labels[box], ids.LUNG_LOBES)
        canvas.paint(box, mask, float(rng.normal(45, 8)), ids.LUNG_TUMOR)
        placed += 1
    return placed


def _osseous(canvas: Canvas) -> int:
    rng = canvas.rng("bone-lesion")
    sclerotic = rng.random() < 0.4
    placed = 0
    vertebrae = [int(v) for v in rng.permutation(np.arange(ids.L5, ids.T1))]
    for n, vertebra in enumerate(vertebrae[: int(rng.choice([1, 1, 2]))]):
        radius = rng.uniform(8, 12)
        centre = _place(canvas, f"bone-{n}", (vertebra,), radius)
        if centre is None:
            continue
        box, level = _lump(canvas, f"bone-{n}", centre, radius, 0.1)
        mask = (level < 1) & (canvas.labels[box] == vertebra)
        canvas.paint(box, mask, 780.0 if sclerotic else 45.0, ids.BONE_LESION)
        placed += 1
    return placed


_LESION_PAINTERS: dict[str, Callable[[Canvas], int]] = {
    "hepatic tumor": _hepatic,
    "pancreatic tumor": _pancreatic,
    "lung tumor": _pulmonary,
    "bone lesion": _osseous,
}
