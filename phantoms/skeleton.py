"""The bones of the trunk: a spine of separate vertebrae, twelve pairs of ribs, sternum and shoulder girdle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phantoms import labels as ids
from phantoms.anatomy import BOXY, CAGE_A, CAGE_B, CAGE_Y, CAGE_Z, Canvas, Mask, Point, ellipsoid
from phantoms.fields import Floats, profile

Points = NDArray[np.float64]

# Vertebra with disc, mm, from L5 upwards to C5; L5 rests on z = 6.
LEVELS = (33, 33.5, 33, 32, 31, 27, 26, 25, 24, 23, 22.5, 22, 21.5, 21, 20.5, 20, 19, 18, 17, 16)
EDGES = 6.0 + np.concatenate([[0.0], np.cumsum(LEVELS)])
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2
NAMED = 19  # L5 to C6
SPINE_Z = np.array([0, 60, 120, 200, 280, 340, 390, 430, 500], dtype=float)
SPINE_Y = np.array([38, 30, 33, 44, 53, 54, 48, 36, 20], dtype=float)

SIZE_Z = np.array([0.0, 100.0, 200.0, 440.0, 500.0])
SIZE = np.array([1.0, 0.94, 0.8, 0.58, 0.5])


@dataclass(frozen=True)
class Strut:
    """A bone drawn along a curve.

    Attributes:
        label: VISTA3D label.
        points: ``(n, 3)`` standard-patient mm (x, y, z).
        normals: ``(n, 3)`` unit vectors of the thin direction.
        half_mm: half thickness along the normal and half width across it.
        hu: cortex and marrow.
        sheet: the points fill a flat bone instead of following a shaft.
    """

    label: int
    points: Points
    normals: Points
    half_mm: tuple[float, float]
    hu: tuple[float, float]
    sheet: bool = False


def level_z(name: str) -> float:
    """Return the centre height of a vertebra: ``"T1"`` … ``"L5"``."""
    index = 5 - int(name[1:]) if name[0] == "L" else 17 - int(name[1:])
    return float(CENTRES[index])


def spine(canvas: Canvas) -> None:
    """Paint vertebrae with bodies, arches, processes; discs between; the cord in its canal."""
    frame = canvas.frame
    box = frame.box((-46, 5, -20), (46, 118, 500))
    x, z = frame.x[box], frame.z[box]
    y = frame.y[box] - profile(z, SPINE_Z, SPINE_Y)
    index = np.clip(np.searchsorted(EDGES, z) - 1, 0, len(LEVELS) - 1)
    height = np.array(LEVELS, np.float32)[index]
    offset = ((z - CENTRES[index]) / height).astype(np.float32)  # -0.5 … 0.5 within a level
    size = profile(z, SIZE_Z, SIZE)
    waist = size * (0.93 + 0.28 * np.abs(offset))
    body = np.sqrt((x / (26 * waist)) ** 2 + (y / (18.5 * waist)) ** 2)
    ring = np.sqrt(x**2 + (y - 18.5 * size - 9) ** 2)
    canal = ring < 8.5
    bone = ((body < 1) & (np.abs(offset) < 0.4)) | _arch(x, y - 18.5 * size, offset, height, size)
    disc = (body < 0.97) & ~bone
    canvas.paint(box, disc, 85.0)
    canvas.paint(box, canal & (ring < 5.2), 38.0, ids.SPINAL_CORD)
    canvas.paint(box, bone, 620.0)
    density = canvas.rng("bone-density").normal(1.0, 0.12)
    marrow = (body < 0.86) & (np.abs(offset) < 0.34)
    canvas.hu[box][marrow] = (210.0 * density + 35 * canvas.rough("trabeculae", 6.0, box))[marrow]
    canvas.labels[box][bone] = np.where(index < NAMED, ids.L5 + index, 0)[bone]
    canvas.labels[box][disc] = 0
    beside = (np.abs(x) < 24 * size + 9) & (y > 4) & ~bone & ~canal & (body > 1) & (canvas.rho[box] < 1)
    canvas.paint(box, beside, 52.0)
    canvas.cavity[box] &= ~(bone | disc | canal | beside)


def _arch(x: Floats, behind: Floats, offset: Floats, height: Floats, size: Floats) -> Mask:
    """Return the neural arches with spinous and transverse processes; ``behind`` is mm behind the body."""
    ring = np.sqrt(x**2 + (behind - 9) ** 2)
    canal = ring < 8.5
    arch = (ring < 14.5) & (behind > -4) & (np.abs(offset + 0.05) < 0.34)
    sag = offset * height + 0.45 * (behind - 18)
    spinous = (np.abs(x) < 3.8) & (behind > 16) & (behind < 16 + 26 * size**0.5) & (np.abs(sag) < 6.5)
    transverse = (np.abs(x) < 20 + 18 * size) & (np.abs(behind - 8 - 0.15 * np.abs(x)) < 4.5)
    transverse &= np.abs(offset - 0.12) < 0.18
    found: Mask = (arch | spinous | transverse) & ~canal
    return found


def on_cage(angle: Points, z: Points, outside_mm: float) -> tuple[Points, Points]:
    """Return points on a shell around the rib cage and their outward normals.

    Args:
        angle: ``(n,)`` 0 at the spine, pi at the sternum, positive towards the left.
        z: ``(n,)`` heights.
        outside_mm: distance outside the inner surface.
    """
    a, b, yc = (np.interp(z, CAGE_Z, t) for t in (CAGE_A, CAGE_B, CAGE_Y))
    s, c = np.sin(angle), np.cos(angle)
    q = 1.0 / np.sqrt(1.0 - BOXY * s * s * c * c)  # see anatomy.boxy_radius
    normal = np.stack([s / a, c / b, np.zeros_like(s)], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    points = np.stack([q * s * a, yc + q * c * b, z], axis=1) + outside_mm * normal
    return points, normal


RIB_END = np.array([0.80, 0.82, 0.83, 0.83, 0.82, 0.81, 0.79, 0.75, 0.70, 0.64, 0.48, 0.34]) * np.pi
RIB_DROP = np.array([34, 46, 58, 70, 80, 88, 92, 92, 88, 80, 58, 36], dtype=float)


def rib(number: int, side: float, step_mm: float = 2.0) -> tuple[Points, Points]:
    """Return curve and normals of rib ``number`` (1-12); ``side`` is +1 for left, -1 for right."""
    end, drop = RIB_END[number - 1], RIB_DROP[number - 1]
    start_z = CENTRES[17 - number] + 0.35 * LEVELS[17 - number]
    count = int((60 + 95 * end) / step_mm)
    angle = np.linspace(0.13, end, count)
    t = angle / np.pi
    # the rib leaves the spine almost level, then slopes down faster towards the front
    z = start_z + 6 * np.sin(np.clip(t * 8, 0, np.pi)) - drop * np.clip(t / 0.83, 0, 1) ** 1.25
    points, normals = on_cage(side * angle, z, 5.0)
    head = np.array([side * 17.0, float(np.interp(start_z, SPINE_Z, SPINE_Y)) + 12.0, start_z])
    blend = np.clip(1.0 - (angle - 0.13) / 0.35, 0, 1)[:, None] ** 1.5
    return points * (1 - blend) + head * blend, normals


def struts(canvas: Canvas, step_mm: float = 2.0) -> list[Strut]:
    """Return ribs, costal cartilages, sternum, clavicles, scapulae and humeral heads of this patient."""
    density = float(canvas.rng("bone-density").normal(1.0, 0.12))
    hard = (720.0 * density, 260.0 * density)
    bones: list[Strut] = []
    for side, first in ((1.0, ids.LEFT_RIB_1), (-1.0, ids.RIGHT_RIB_1)):
        for number in range(1, 13):
            points, normals = rib(number, side, step_mm)
            bones.append(Strut(first + number - 1, points, normals, (3.6, 6.6 if number < 12 else 5.0), hard))
            if number <= 10:
                bones.append(_cartilage(points, number, side))
        bones += _shoulder(canvas, side, hard, step_mm)
    bones.append(_sternum(hard, step_mm))
    return bones


def _line(nodes: list[Point], step_mm: float) -> Points:
    corners = np.array(nodes)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    where = np.linspace(0, length[-1], max(2, int(length[-1] / step_mm)))
    return np.stack([np.interp(where, length, corners[:, k]) for k in range(3)], axis=1)


def _cartilage(points: Points, number: int, side: float) -> Strut:
    target_z = 392 - 17.0 * min(number, 7)
    front = float(np.interp(target_z, CAGE_Z, CAGE_Y) - np.interp(target_z, CAGE_Z, CAGE_B)) - 5
    end = (points[-1][0], points[-1][1], points[-1][2])
    middle = (0.55 * end[0] + side * 8, 0.3 * end[1] + 0.7 * front, 0.6 * end[2] + 0.4 * target_z)
    curve = _line([end, middle, (side * 17.0, front, target_z)], 2.5)
    normal = np.tile([0.0, -1.0, 0.0], (len(curve), 1))
    return Strut(ids.COSTAL_CARTILAGE, curve, normal, (3.4, 5.5), (105.0, 90.0))


def _sternum(hard: tuple[float, float], step_mm: float) -> Strut:
    z = np.arange(262.0, 392.0, step_mm)
    y = np.interp(z, CAGE_Z, CAGE_Y) - np.interp(z, CAGE_Z, CAGE_B) - 5
    half = np.interp(z, [262, 285, 350, 365, 390], [5, 15, 13, 16, 24])
    across = np.linspace(-1, 1, max(5, int(30 / step_mm)))
    points = np.stack([np.outer(half, across).ravel(), np.repeat(y, len(across)), np.repeat(z, len(across))], axis=1)
    normals = np.tile([0.0, -1.0, 0.0], (len(points), 1))
    return Strut(ids.STERNUM, points, normals, (5.5, 3.0), (0.75 * hard[0], 0.7 * hard[1]), sheet=True)


def _shoulder(canvas: Canvas, side: float, hard: tuple[float, float], step_mm: float) -> list[Strut]:
    left = side > 0
    soft = (0.5 * hard[0], 0.6 * hard[1])
    raise_mm = canvas.rng("shoulders").normal(0, 4) + canvas.rng(f"shoulder-{side}").normal(0, 2)
    clavicle = _line(
        [
            (side * 20, -42, 396), (side * 50, -46, 402 + raise_mm / 2), (side * 95, -20, 412 + raise_mm),
            (side * 140, 6, 416 + raise_mm), (side * 152, 10, 413 + raise_mm),
        ],
        step_mm,
    )  # fmt: skip
    out = np.tile([0.0, -1.0, 0.0], (len(clavicle), 1))
    collar = Strut(ids.LEFT_CLAVICLE if left else ids.RIGHT_CLAVICLE, clavicle, out, (5.0, 5.4), hard)
    blade_z, across = np.meshgrid(np.arange(285.0, 402.0, step_mm), np.linspace(0, 1, int(95 / step_mm)))
    inner = np.interp(blade_z, [285, 300, 380, 402], [106, 88, 74, 84])
    outer = np.interp(blade_z, [285, 300, 380, 402], [110, 112, 142, 146])
    x = inner + (outer - inner) * across
    depth = np.interp(blade_z, CAGE_Z, CAGE_B) * np.sqrt(np.clip(1 - (x / 168) ** 2, 0, 1))
    y = np.minimum(np.interp(blade_z, CAGE_Z, CAGE_Y) + depth + 18, 84)
    points = np.stack([side * x, y, blade_z + raise_mm], axis=-1).reshape(-1, 3)
    back = np.tile([side * 0.45, 0.89, 0.0], (len(points), 1))
    thin = Strut(ids.LEFT_SCAPULA if left else ids.RIGHT_SCAPULA, points, back, (1.8, 2.4), hard, sheet=True)
    ridge = _line([(side * 78, 84, 384), (side * 120, 80, 398), (side * 158, 46, 412)], step_mm)
    ridge[:, 2] += raise_mm
    crest = Strut(thin.label, ridge, np.tile([0.0, 1.0, 0.0], (len(ridge), 1)), (4.0, 4.0), soft)
    rim = _line([(side * 110, 74, 296), (side * 140, 52, 372), (side * 148, 34, 396)], step_mm)
    rim[:, 2] += raise_mm
    edge = Strut(thin.label, rim, np.tile([side * 1.0, 0.0, 0.0], (len(rim), 1)), (3.0, 3.0), soft)
    return [collar, thin, crest, edge]


def stamp(canvas: Canvas, strut: Strut) -> None:
    """Paint one strut into the canvas: cortex outside, marrow within."""
    grid = canvas.frame.grid
    voxel = grid.voxel_mm
    world = canvas.frame.to_world(strut.points)[:, ::-1]
    reach = max(strut.half_mm)
    spans = [np.arange(-np.ceil(reach / v), np.ceil(reach / v) + 1) for v in voxel]
    offsets = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = np.rint((world - grid.origin_mm) / voxel)
    cells = (nearest[:, None, :] + offsets[None]).reshape(-1, 3)
    gap = (cells * voxel + grid.origin_mm).reshape(len(world), -1, 3) - world[:, None, :]
    along = np.einsum("nmk,nk->nm", gap, strut.normals[:, ::-1])
    across = np.maximum((gap**2).sum(axis=2) - along**2, 0.0)
    thin, wide = (max(h, 0.36 * float(voxel.max())) for h in strut.half_mm)
    level = ((along / thin) ** 2 + across / wide**2).ravel()
    inside = np.all((cells >= 0) & (cells < np.array(grid.shape)), axis=1) & (level < 1.0)
    where = np.ravel_multi_index(tuple(cells[inside].astype(np.int64).T), grid.shape)
    nearest_level = np.full(canvas.hu.size, np.inf, np.float32)
    np.minimum.at(nearest_level, where, level[inside])
    where = np.unique(where)
    core = (1.0 - 1.3 / min(thin, wide)) ** 2 if min(thin, wide) > 2.0 else 0.0
    canvas.hu.reshape(-1)[where] = np.where(nearest_level[where] < core, strut.hu[1], strut.hu[0])
    canvas.labels.reshape(-1)[where] = strut.label


def humeri(canvas: Canvas) -> None:
    """Paint the humeral heads with the upper shafts."""
    frame = canvas.frame
    for side, label in ((1.0, ids.LEFT_HUMERUS), (-1.0, ids.RIGHT_HUMERUS)):
        centre: Point = (side * 166, 18, 398)
        box = frame.box((centre[0] - 30, -20, 360), (centre[0] + 30, 56, 440))
        level = ellipsoid(frame, box, centre, (23, 23, 23))
        canvas.paint(box, level < 1, 480.0, label)
        canvas.paint(box, level < 0.88, 180.0)
