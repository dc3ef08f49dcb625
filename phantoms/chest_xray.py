"""Synthetic frontal chest radiographs, projected from the CT phantom's anatomy.

The line integral of attenuation along y (Beer-Lambert), on which ribs, vessels and other thin structures are laid at
the detector's own resolution; then scatter, quantum noise, logarithm, edge enhancement, marker and collimation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from config.errors import RefusedInputError
from phantoms import labels as ids
from phantoms.airspace import grow_vessels, inside_lungs
from phantoms.anatomy import Alterations, Canvas, box_of, heart, lungs, trunk, tube, vessels
from phantoms.chest_findings import BILATERAL, IMPLIED, PAINTERS, Scene, alter
from phantoms.fields import Floats, Frame, Grid, Physique, splat, stream
from phantoms.skeleton import Strut, humeri, spine, struts
from phantoms.truth import Truth

TXRV_LABELS: tuple[str, ...] = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion",
    "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture",
    "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
NOT_SIMULATED: frozenset[str] = frozenset()
"""TorchXRayVision labels no phantom ever shows: none ("Lung Lesion" and "Lung Opacity" come as implied labels)."""

SIMULATED: tuple[str, ...] = tuple(PAINTERS)
_CONFLICTS = {
    "Emphysema": {"Edema", "Fibrosis", "Atelectasis", "Cardiomegaly", "Infiltration"},
    "Edema": {"Infiltration", "Pneumonia", "Fibrosis"},
    "Pneumonia": {"Infiltration", "Consolidation"},
    "Pneumothorax": {"Pleural_Thickening"},
    "Effusion": {"Pleural_Thickening"},
}
WATER_PER_MM = 0.0185  # linear attenuation of water at the mean energy of a 120 kVp chest beam
VOXEL_MM = (3.0, 6.0, 3.0)


@dataclass(frozen=True)
class ChestXray:
    """One synthetic frontal chest radiograph with its truth.

    Attributes:
        pixels: ``(rows, columns)`` uint16, 12 bits, MONOCHROME2 (bone is bright). The image's left is the
            patient's right.
        view: ``"PA"`` or ``"AP"``.
        findings: TorchXRayVision labels present, implied ones included; empty when normal.
        sides: finding to ``"left"``, ``"right"`` (the patient's) or ``"bilateral"``.
        pixel_spacing_mm: distance between pixel centres at the detector, both directions.
        sex: ``"M"`` or ``"F"``.
        truth: the same findings, for the truth file.
    """

    pixels: NDArray[np.uint16]
    view: str
    findings: frozenset[str]
    sides: dict[str, str]
    pixel_spacing_mm: float
    sex: str
    truth: Truth


def draw_findings(seed: int) -> frozenset[str]:
    """Return random findings of patient ``seed``, without implied ones: none in a quarter, else one to three."""
    rng = stream(seed, "finding-kinds")
    if rng.random() < 0.25:
        return frozenset()
    wanted = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    chosen: set[str] = set()
    for name in rng.permutation(SIMULATED):
        clash = _CONFLICTS.get(name, set()) & chosen or any(name in _CONFLICTS.get(c, set()) for c in chosen)
        if not clash and len(chosen) < wanted:
            chosen.add(str(name))
    return frozenset(chosen)


def _draw_sides(seed: int, findings: frozenset[str]) -> dict[str, str]:
    sides = {}
    for name in PAINTERS:
        if name in findings:
            both = 0.3 if name == "Effusion" else 0.0
            drawn = stream(seed, f"side-{name}").random()
            one = "left" if drawn < both + (1 - both) / 2 else "right"
            sides[name] = "bilateral" if name in BILATERAL or drawn < both else one
    return sides


def make_chest_xray(seed: int, *, findings: frozenset[str] | None = None, size: int = 512) -> ChestXray:
    """Return the radiograph of synthetic patient ``seed``; the same arguments give the same pixels.

    Anatomy, view and noise depend on ``seed`` alone, so the same seed without a finding is its own control.

    Args:
        seed: non-negative.
        findings: subset of ``SIMULATED`` (implied labels are added); None draws at random.
        size: rows and columns.

    Raises:
        RefusedInputError: a label that cannot be simulated by itself, or a size outside 64-4096.
    """
    chosen = draw_findings(seed) if findings is None else findings
    unknown = chosen - set(SIMULATED)
    if unknown:
        raise RefusedInputError(f"cannot simulate {sorted(unknown)}; allowed: {list(SIMULATED)}")
    if not 64 <= size <= 4096:
        raise RefusedInputError(f"size {size} must lie in 64-4096")
    sides = _draw_sides(seed, chosen)
    physique = Physique.draw(seed)
    view = "PA" if stream(seed, "view").random() < 0.7 else "AP"
    base = Alterations() if view == "PA" else Alterations(1.05, 1.05, 6.0, 6.0)
    width = 392.0 * max(0.94, physique.scale[2])
    middle = 303.0 * physique.scale[0]
    grid = Grid.spanning((middle - width / 2, -160.0, -width / 2), (width, 330.0, width), VOXEL_MM)
    canvas = Canvas(Frame(grid, physique, seed, dither=True), physique, seed, alter(seed, sides, base), upright=True)
    scene = Scene(canvas, sides)
    _paint_thorax(canvas)
    for name, painter in PAINTERS.items():
        if name in sides:
            painter(scene)
    attenuation = _project(scene, size, width)
    shown = frozenset(sides) | {extra for name in sides for extra in IMPLIED.get(name, ())}
    for name, side in list(sides.items()):
        for extra in IMPLIED.get(name, ()):
            sides[extra] = side if sides.get(extra, side) == side else "bilateral"
    counts = {name: scene.counts.get(name, 1) for name in sorted(shown & set(PAINTERS))}
    truth = Truth("DX", shown, {}, {}, counts)
    return ChestXray(_expose(canvas, attenuation, width), view, shown, sides, width / size, physique.sex, truth)


def _paint_thorax(canvas: Canvas) -> None:
    """Paint the patient as far as a radiograph shows it; ribs follow at the detector's resolution."""
    trunk(canvas)
    spine(canvas)
    heart(canvas)
    vessels(canvas)
    lungs(canvas)
    frame = canvas.frame
    blood = np.isin(canvas.labels, (ids.HEART, ids.AORTA, ids.IVC, ids.SUPERIOR_VENA_CAVA))
    canvas.hu[blood] = 45.0  # no contrast medium
    below = canvas.cavity & (frame.z < canvas.dome) & (canvas.labels == 0)
    canvas.hu[below] = 40.0
    middle = canvas.cavity & ~below & ~canvas.lungs & (canvas.labels == 0) & (canvas.hu < -50)
    canvas.hu[middle] = -15.0  # fat with vessels, nodes and thymus
    nodes = [(62.0, 0.0, 204.0), (58.0, -14.0, 186.0)]
    box = box_of(frame, nodes, 32)
    bubble = (tube(frame, box, nodes, [30, 26]) < 1) & below[box]
    level = float(canvas.rng("gastric-air").uniform(196, 222))
    canvas.paint(box, bubble & (frame.z[box] > level), -970.0)
    humeri(canvas)


def _project(scene: Scene, size: int, width_mm: float) -> Floats:
    """Return the attenuation integral ``(rows, columns)``, rows from head to foot."""
    canvas = scene.canvas
    grid = canvas.frame.grid
    water = np.maximum(1.0 + canvas.hu / 1000.0, 0.0)
    # a voxel's worth of cortex is several times thicker than the real one
    water = np.where(canvas.hu > 250.0, 1.0 + 0.45 * canvas.hu / 1000.0, water)
    coarse = water.sum(axis=1) * np.float32(grid.voxel_mm[1])
    coarse = ndimage.gaussian_filter(coarse, 0.85)  # averages the dithered columns
    pixel = width_mm / size
    low = lower_edge(canvas, width_mm)
    z = (low + width_mm - (np.arange(size) + 0.5) * pixel - grid.zs[0]) / grid.voxel_mm[0]
    x = (-width_mm / 2 + (np.arange(size) + 0.5) * pixel - grid.xs[0]) / grid.voxel_mm[2]
    where = np.stack(np.meshgrid(z, x, indexing="ij"))
    total = ndimage.map_coordinates(coarse, where, order=3, mode="nearest")
    fine = [_vessel_cloud(scene), *((canvas.frame.to_world(p), w) for p, w in scene.clouds)]
    fine += [_bone_cloud(scene, strut) for strut in struts(canvas, step_mm=max(0.8, 0.9 * pixel))]
    points = np.concatenate([p for p, _ in fine])
    weights = np.concatenate([w for _, w in fine]) / pixel**2
    place = np.stack(
        [(low + width_mm - points[:, 2]) / pixel - 0.5, (points[:, 0] + width_mm / 2) / pixel - 0.5], axis=1
    )
    detail = splat(place, weights, (size, size))
    total += ndimage.gaussian_filter(detail, 0.45 / pixel + 0.25)
    result: Floats = (total * WATER_PER_MM).astype(np.float32)
    return result


def lower_edge(canvas: Canvas, width_mm: float) -> float:
    """Return the height of the lower edge of the detector, world mm."""
    return 303.0 * canvas.physique.scale[0] - width_mm / 2


def _vessel_cloud(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    canvas = scene.canvas
    tree = grow_vessels(canvas, generations=7, step_mm=1.5)
    world = canvas.frame.to_world(tree.points)
    kept = inside_lungs(canvas, canvas.frame.grid.index_of(world))
    count = np.ceil(2.0 + 3.0 * tree.radius_mm).astype(int)  # wide vessels need more points to look smooth
    jitter = canvas.rng("vessel-jitter").uniform(-1.0, 1.0, (int(count.sum()), 3))
    drawn = np.repeat(kept, count)
    radius = np.repeat(tree.radius_mm, count)[drawn] * scene.vessel_gain
    points = np.repeat(world, count, axis=0)[drawn] + jitter[drawn] * radius[:, None]
    weight = np.repeat(tree.volume_mm3 / count, count)[drawn]
    return points, weight * scene.vessel_gain**2 * 0.85


def _bone_cloud(scene: Scene, strut: Strut) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return world points in cortex and marrow of one bone with their surplus over muscle, mm3 of water."""
    world = scene.canvas.frame.to_world(strut.points)
    thin, wide = strut.half_mm
    if strut.sheet:
        area = 1.0 if strut.label == ids.STERNUM else 1.6
        return world, np.full(len(world), area * 2 * thin * strut.hu[1] / 1000.0 * 1.5)
    world, normals, step = _broken(scene, strut, world)
    along = np.gradient(world, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    across = np.cross(along, normals)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    inner = np.array([0.0, 0.25, 0.5, 0.75]) * 2 * np.pi
    ring = np.concatenate([np.stack([np.cos(turn), np.sin(turn)]), 0.5 * np.stack([np.cos(inner), np.sin(inner)])], 1)
    points = world[:, None] + thin * ring[0][None, :, None] * normals[:, None]
    points = points + wide * ring[1][None, :, None] * across[:, None]
    shell = np.pi * (thin + wide) * 1.2 * strut.hu[0] / 1000.0 * 2.5  # 1.2 mm of cortex, denser than a CT voxel
    core = np.pi * thin * wide * strut.hu[1] / 1000.0
    share = np.concatenate([np.full(20, shell / 20), np.full(4, core / 4)])
    step = step * np.clip(np.arange(len(step)) / (0.13 * len(step)), 0.15, 1.0)  # rib necks are slender
    return points.reshape(-1, 3), (step[:, None] * share[None]).ravel()


def _broken(
    scene: Scene, strut: Strut, world: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return points, normals and step length of a shaft, with its fracture if it has one."""
    step = np.linalg.norm(np.gradient(world, axis=0), axis=1)
    if strut.label not in scene.broken:
        return world, strut.normals, step
    place, offset = scene.broken[strut.label]
    travelled = np.cumsum(step)
    distance = travelled - place * travelled[-1]
    moved = world.copy()
    moved[:, 2] += np.where(distance > 0, offset * np.exp(-np.maximum(distance, 0) / 55.0), 0.0)
    return moved, strut.normals, np.where(np.abs(distance) < 3.0, 0.0, step)


def _expose(canvas: Canvas, attenuation: Floats, width_mm: float) -> NDArray[np.uint16]:
    """Return the 12-bit picture a detector and its processing make of an attenuation integral."""
    rng = canvas.rng("detector")
    size = attenuation.shape[0]
    pixel = width_mm / size
    primary = np.exp(-attenuation)
    inside = np.minimum(primary, 0.35)  # raw beam beside the patient scatters little into the picture
    signal = primary + 0.35 * _blur(inside, 28.0 / pixel) + 0.004
    quanta = 1.1e5 * pixel**2
    signal *= 1.0 + rng.standard_normal(signal.shape, dtype=np.float32) / np.sqrt(quanta * signal)
    density = -np.log(np.maximum(signal, 1e-4))
    density += 0.9 * (density - _blur(density, 24.0 / pixel)) + 0.5 * (density - _blur(density, 1.6 / pixel))
    middle = slice(size // 8, size - size // 8)
    body = density[middle, middle][attenuation[middle, middle] > 0.9]  # neither raw beam nor skin line
    low, high = np.percentile(body, (1.0, 99.5))
    shade = np.clip((density - low) / (high - low) * 0.88 + 0.09, 0, 1)
    shade = (1.0 - np.exp(-1.1 * shade)) / (1.0 - np.exp(-1.1))  # most grey levels go to the lungs
    shade = shade ** float(rng.uniform(1.25, 1.5))
    picture = np.clip(shade * 4000.0, 0, 4095)
    _mark(picture, rng)
    edge = (rng.uniform(0.0, 0.022, 4) * size).astype(int)
    frame = np.zeros_like(picture, dtype=bool)
    frame[edge[0] : size - edge[1], edge[2] : size - edge[3]] = True
    return np.where(frame, np.rint(picture), 0).astype(np.uint16)


def _blur(image: Floats, sigma: float) -> Floats:
    result: Floats = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0)
    return result


def _mark(picture: Floats, rng: np.random.Generator) -> None:
    """Burn in the lead letter L beside the patient's left shoulder."""
    size = picture.shape[0]
    tall, stroke = max(6, size // 22), max(2, size // 110)
    top = int(size * rng.uniform(0.05, 0.11))
    left = int(size * rng.uniform(0.89, 0.93))
    picture[top : top + tall, left : left + stroke] = 4030
    picture[top + tall - stroke : top + tall, left : left + int(0.6 * tall)] = 4030
