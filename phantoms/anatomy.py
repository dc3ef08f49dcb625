"""The soft tissues of the trunk, drawn as implicit surfaces in the standard patient.

A :class:`Canvas` holds Hounsfield units and labels. Organs are painted in order; ``claim`` gives an organ only the
voxels nobody owns yet, so organs never overlap. All coordinates are standard-patient mm (see ``fields``).
Sizes follow adult reference anatomy (ICRP Publication 89, Table 2.8: liver 1.4-1.8 kg, spleen 130-150 g …).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from phantoms import labels as ids
from phantoms.fields import Box, Floats, Frame, Physique, SmoothNoise, profile, stream

Mask = NDArray[np.bool_]
Doubles = NDArray[np.float64]
Point = tuple[float, float, float]

# Inner surface of the rib cage and abdominal wall: half width, half depth, centre y, by z.
CAGE_Z = np.array([-20, 60, 150, 200, 260, 320, 370, 395, 412, 424, 433, 440], dtype=float)
CAGE_A = np.array([118, 121, 130, 138, 140, 135, 120, 105, 88, 70, 49, 26], dtype=float)
CAGE_B = np.array([84, 82, 87, 95, 97, 91, 77, 63, 51, 41, 32, 20], dtype=float)
CAGE_Y = np.array([-4, -2, 0, 0, 0, 2, 8, 14, 19, 23, 26, 28], dtype=float)
BOXY = 0.5  # 0: elliptical cross-sections; larger: flatter front and sides
# Outer surface of the muscles: half width, half depth.
BODY_Z = np.array([-20, 100, 200, 300, 350, 385, 405, 420, 434, 448, 465, 520], dtype=float)
BODY_A = np.array([140, 143, 156, 164, 171, 184, 187, 172, 128, 84, 62, 58], dtype=float)
BODY_B = np.array([112, 108, 116, 117, 112, 103, 94, 84, 74, 66, 62, 62], dtype=float)
FAT_Z = np.array([0.0, 150.0, 300.0, 420.0])
FAT_SHARE = np.array([1.15, 1.0, 0.75, 0.5])
# Half width of the mediastinum, from front to back.
MIDDLE_Y = np.array([-95, -70, -45, 15, 50, 70, 110], dtype=float)
MIDDLE_HALF = np.array([4, 6, 22, 26, 23, 22, 34], dtype=float)


@dataclass(frozen=True)
class Alterations:
    """Changes of shape that a finding makes to the thorax; the defaults are a healthy chest.

    Attributes:
        heart: size of the heart relative to normal.
        mediastinum: width of the upper mediastinum relative to normal.
        diaphragm_right_mm, diaphragm_left_mm: how far the domes are raised (+) or lowered (-).
        dome: curvature of the domes relative to normal (below 1: flattened).
    """

    heart: float = 1.0
    mediastinum: float = 1.0
    diaphragm_right_mm: float = 0.0
    diaphragm_left_mm: float = 0.0
    dome: float = 1.0


@dataclass
class Canvas:
    """A patient under construction.

    Attributes:
        hu: ``(slices, rows, columns)`` float32 Hounsfield units.
        labels: same shape, uint8, see ``labels``.
        rho: same shape; 1 on the inner wall of the rib cage, below 1 inside.
        cavity: inside the trunk wall and not spine.
        lungs: aerated lung, both sides.
        dome: height of the diaphragm (standard mm) above each voxel's x and y.
    """

    frame: Frame
    physique: Physique
    seed: int
    alterations: Alterations
    upright: bool
    hu: Floats = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)
    rho: Floats = field(init=False)
    cavity: Mask = field(init=False)
    lungs: Mask = field(init=False)
    dome: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.hu = np.full(self.frame.grid.shape, -1000.0, np.float32)
        self.labels = np.zeros(self.frame.grid.shape, np.uint8)

    def rng(self, name: str) -> np.random.Generator:
        """Return this patient's random stream ``name``."""
        return stream(self.seed, name)

    def rough(self, name: str, scale_mm: float, box: Box) -> Floats:
        """Return smooth noise for the surface of ``name`` inside ``box``."""
        return SmoothNoise(self.rng(name), scale_mm).on_grid(self.frame.grid, box)

    def paint(self, box: Box, mask: Mask, hu: float, label: int | None = None) -> None:
        """Set Hounsfield units, and the label if one is given, where ``mask`` holds."""
        self.hu[box][mask] = hu
        if label is not None:
            self.labels[box][mask] = label

    def claim(self, box: Box, level: Floats, volume_ml: float | None, hu: float, label: int) -> Mask:
        """Give unowned cavity voxels to an organ: those with ``level`` below 1, or the lowest to fill a volume."""
        free = self.cavity[box] & (self.labels[box] == 0)
        mask = free & (level < 1.0)
        wanted = 0 if volume_ml is None else round(volume_ml / self.frame.grid.voxel_ml)
        values = level[free]
        if 0 < wanted < values.size:
            threshold = float(np.partition(values, wanted)[wanted])
            mask = free & (level < threshold)
        self.paint(box, mask, hu, label)
        return np.asarray(mask)


def whole(frame: Frame) -> Box:
    """Return the box that covers the grid."""
    n = frame.grid.shape
    return slice(0, n[0]), slice(0, n[1]), slice(0, n[2])


def cage_at(z: Floats) -> tuple[Floats, Floats, Floats]:
    """Return half width, half depth and centre y of the rib cage's inner surface at height ``z``."""
    a, b, y = (profile(z, CAGE_Z, table) for table in (CAGE_A, CAGE_B, CAGE_Y))
    return a, b, y


def boxy_radius(u: Floats | Doubles, v: Floats | Doubles) -> Floats:
    """Return the radius of the unit curve between ellipse and rectangle on which (u, v) lies."""
    uu, vv = (u * u).astype(np.float32), (v * v).astype(np.float32)
    both = uu + vv
    radius: Floats = np.sqrt(both - BOXY * uu * vv / np.maximum(both, 1e-6))
    return radius


def ellipsoid(frame: Frame, box: Box, centre: Point, semi: Point, axis: Point | None = None) -> Floats:
    """Return a level set, 1 on the surface; ``semi[0]`` lies along ``axis`` (default: x)."""
    d = [frame.x[box] - centre[0], frame.y[box] - centre[1], frame.z[box] - centre[2]]
    if axis is None:
        return np.sqrt(sum((c / s) ** 2 for c, s in zip(d, semi, strict=True)))
    e1 = np.array(axis) / np.linalg.norm(axis)
    e2 = np.cross([0.0, 0.0, 1.0], e1) if abs(e1[2]) < 0.95 else np.array([0.0, 1.0, 0.0])
    e2 = e2 / np.linalg.norm(e2)
    e3 = np.cross(e1, e2)
    total = np.zeros_like(d[0])
    for e, s in zip((e1, e2, e3), semi, strict=True):
        along = d[0] * np.float32(e[0]) + d[1] * np.float32(e[1]) + d[2] * np.float32(e[2])
        total += (along / np.float32(s)) ** 2
    return np.sqrt(total)


def tube(frame: Frame, box: Box, nodes: list[Point], radii: list[float]) -> Floats:
    """Return a level set, 1 on the wall, of a tube through ``nodes`` with linearly changing radius."""
    x, y, z = frame.x[box], frame.y[box], frame.z[box]
    level = np.full(x.shape, np.inf, np.float32)
    for a, b, ra, rb in zip(nodes[:-1], nodes[1:], radii[:-1], radii[1:], strict=True):
        step = np.array(b) - np.array(a)
        dx, dy, dz = x - a[0], y - a[1], z - a[2]
        t = (dx * step[0] + dy * step[1] + dz * step[2]) / float(step @ step)
        t = np.clip(t, 0.0, 1.0).astype(np.float32)
        gap = (dx - t * step[0]) ** 2 + (dy - t * step[1]) ** 2 + (dz - t * step[2]) ** 2
        np.minimum(level, gap / (ra + t * (rb - ra)) ** 2, out=level, casting="unsafe")
    return np.sqrt(level)


def box_of(frame: Frame, nodes: list[Point], reach: float) -> Box:
    """Return the box around ``nodes`` widened by ``reach`` mm."""
    points = np.array(nodes)
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    return frame.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def trunk(canvas: Canvas) -> None:
    """Paint skin, fat and wall muscles, and find the cavity."""
    frame, fat = canvas.frame, canvas.physique.fat_mm
    everywhere = whole(frame)
    x, y, z = frame.x, frame.y, frame.z
    a, b, yc = cage_at(z)
    canvas.rho = boxy_radius(x / a, (y - yc) / b)
    a = profile(z, BODY_Z, BODY_A)
    b = profile(z, BODY_Z, BODY_B)
    yc = (0.6 * yc + 4.0).astype(np.float32)
    # fat lies thicker on the belly than on the chest, thinnest over the shoulders
    layer = np.float32(fat) * profile(z, FAT_Z, FAT_SHARE)
    muscle = boxy_radius(x / a, (y - yc) / b)
    radius = np.sqrt(x * x + (y - yc) ** 2)
    outer = np.where(muscle > 0, radius * (1.0 - 1.0 / np.maximum(muscle, 1e-3)), -50.0)  # mm outside the muscle
    body = outer < layer
    body |= breasts(canvas)
    canvas.paint(everywhere, body, -102.0)
    canvas.paint(everywhere, body & (outer > layer - 2.0) & (outer < layer), 20.0)
    planes = canvas.rough("muscle-planes", 16.0, everywhere)
    wall = (outer < 0) & ((canvas.rho > 1.0) | (z > 436))
    canvas.paint(everywhere, wall, 55.0)
    canvas.hu[wall & (planes > 1.15)] = -75.0  # fat between muscles
    canvas.cavity = (canvas.rho < 1.0) & (z < 438)
    canvas.paint(everywhere, canvas.cavity, -98.0)


def breasts(canvas: Canvas) -> Mask:
    """Return the breasts of a woman (an empty mask for a man)."""
    mask = np.zeros(canvas.frame.grid.shape, bool)
    if canvas.physique.sex != "F":
        return mask
    size = canvas.rng("breasts").uniform(0.75, 1.2)
    for side in (-1.0, 1.0):
        centre = (side * 76.0, -104.0, 284.0)
        box = box_of(canvas.frame, [centre], 60 * size)
        dz = (canvas.frame.z[box] - centre[2]) / (58 * size)
        rest = np.clip(1 - ((canvas.frame.x[box] - centre[0]) / (54 * size)) ** 2 - dz**2, 0, 1)
        # full below, running out gently above
        fullness = np.where(dz > 0, rest**1.5, np.sqrt(rest)) * (1 - 0.4 * dz)
        mask[box] |= (canvas.frame.y[box] > centre[1] - 40 * size * fullness) & (rest > 0)
        mask[box] &= canvas.frame.y[box] < 0
    return mask


def diaphragm(canvas: Canvas) -> Floats:
    """Return the height (standard mm) of the diaphragm above each voxel's x and y."""
    x, y, alt = canvas.frame.x, canvas.frame.y, canvas.alterations
    breath = canvas.rng("breath").normal(0.0, 6.0)
    right, left = 246.0 + alt.diaphragm_right_mm + breath, 236.0 + alt.diaphragm_left_mm + breath
    mix = 1.0 / (1.0 + np.exp(-np.clip(x / 12.0, -30, 30)))
    top = right + (left - right) * mix
    aside = np.abs(x) - 66.0
    drop = 62.0 * (np.maximum(aside, 0) / 68.0) ** 2 + 14.0 * (np.minimum(aside, 0) / 66.0) ** 2
    drop += 78.0 * (np.maximum(y + 8, 0) / 98.0) ** 2 + 34.0 * (np.minimum(y + 8, 0) / 84.0) ** 2
    result: Floats = (top - alt.dome * drop).astype(np.float32)
    return result


def mediastinum(canvas: Canvas) -> Mask:
    """Return the space between the lungs, heart excluded."""
    x, y, z, wide = canvas.frame.x, canvas.frame.y, canvas.frame.z, canvas.alterations.mediastinum
    half = profile(y, MIDDLE_Y, MIDDLE_HALF)
    upper = np.clip((z - 300) / 60.0, 0, 1)
    if wide > 1.2:
        wave = 1.0 + 0.22 * canvas.rough("mediastinum", 34.0, whole(canvas.frame))
        bulge = np.exp(-(((z - 372.0) / 40.0) ** 2))
        half *= 1.0 + np.float32(wide - 1.0) * bulge * wave
    half -= np.float32(4.0) * (1 - upper) * (y < 10)
    return np.abs(x - 2.0) < half


def lungs(canvas: Canvas) -> None:
    """Paint both lungs with their five lobes, sparing mediastinum, heart and spine."""
    frame = canvas.frame
    canvas.dome = diaphragm(canvas)
    above = frame.z > canvas.dome
    chest = canvas.cavity & above & (canvas.rho < 0.965) & ~mediastinum(canvas)
    chest &= (canvas.labels == 0) & (canvas.hu < -50)
    canvas.lungs = chest
    box = whole(frame)
    x, y, z = frame.x, frame.y, frame.z
    wave = canvas.rough("fissures", 60.0, box) * 4.0
    upper = z > 288.0 + 0.95 * (y + 8.0) + wave  # the oblique fissure climbs towards the back
    middle = upper & (z < 322.0 + 0.15 * (y + 40) + wave)  # below the horizontal fissure
    left = x > 0
    names = np.where(left, np.where(upper, ids.LEFT_UPPER, ids.LEFT_LOWER), ids.RIGHT_LOWER)
    names = np.where(~left & upper, np.where(middle, ids.RIGHT_MIDDLE, ids.RIGHT_UPPER), names)
    canvas.labels[chest] = names[chest]
    depth = canvas.rng("inspiration").normal(-855.0, 15.0) + 10 * canvas.rough("lung", 22.0, box)
    downwards = 300.0 - z if canvas.upright else y  # dependent lung holds more blood
    canvas.hu[chest] = (depth + 0.25 * downwards)[chest]


def heart(canvas: Canvas) -> None:
    """Paint the heart: myocardium with blood in ventricles and right atrium."""
    frame, size = canvas.frame, canvas.alterations.heart
    own = canvas.rng("heart").normal(1.04, 0.035)
    k = size * own

    def at(x: float, y: float, z: float) -> Point:
        return 6 + (x - 6) * k, -12 + (y + 12) * min(k, 1.25), 246 + (z - 254) * (1 + 0.75 * (k - 1))

    axis = (0.74, -0.42, -0.52)
    box = box_of(frame, [at(16, -28, 290)], 78 * k)
    level = ellipsoid(frame, box, at(17, -28, 287), (66 * k, 46 * k, 46 * k), axis)
    level = np.minimum(level, ellipsoid(frame, box, at(-19, -18, 292), (33 * k, 34 * k, 38 * k)))
    level += 0.04 * canvas.rough("heart-surface", 30.0, box)
    inside = (level < 1) & canvas.cavity[box] & (canvas.labels[box] == 0)
    canvas.paint(box, inside, 92.0, ids.HEART)
    for centre, semi in (
        (at(32, -20, 280), (44 * k, 21 * k, 21 * k)),
        (at(8, -46, 288), (44 * k, 16 * k, 26 * k)),
        (at(-19, -18, 292), (28 * k, 29 * k, 33 * k)),
        (at(14, 10, 305), (26 * k, 18 * k, 22 * k)),
    ):
        canvas.paint(box, inside & (ellipsoid(frame, box, centre, semi, axis) < 1), 148.0)


AORTA_NODES: list[Point] = [
    (4, -22, 318), (-14, -32, 345), (-10, -22, 370), (8, -2, 386), (26, 18, 380), (30, 34, 360), (27, 32, 300),
    (20, 25, 240), (10, 16, 190), (6, 8, 120), (5, 8, 55),
]  # fmt: skip
IVC_NODES: list[Point] = [(-20, 16, 10), (-20, 14, 60), (-22, 10, 150), (-22, 2, 220), (-20, -6, 268)]


def vessels(canvas: Canvas) -> None:
    """Paint the great vessels, trachea, oesophagus, and the pulmonary trunk (unlabelled)."""
    frame, wide = canvas.frame, 1.0 + 0.5 * (canvas.alterations.mediastinum - 1.0)
    calibre = canvas.rng("aorta").normal(1.0, 0.07) * wide
    enhanced = canvas.rng("contrast").normal(150.0, 10.0)
    fork: list[Point] = [(0, 22, 500), (0, 18, 420), (3, 14, 362)]
    plan: list[tuple[list[Point], list[float], float, int | None]] = [
        ([(-20, 0, 330), (-34, 2, 344), (-44, 4, 340)], [11, 9, 7], enhanced, None),
        ([(16, -40, 318), (18, -22, 350), (34, 4, 352), (48, 10, 344)], [14, 13, 10, 7], enhanced, None),
        ([(18, -22, 348), (-20, -8, 346)], [11, 10], enhanced, None),
        ([(-26, -20, 300), (-30, -16, 350), (-25, -14, 400)], [10, 10, 9], enhanced, ids.SUPERIOR_VENA_CAVA),
        (IVC_NODES, [10, 10.5, 11.5, 12, 12], enhanced - 8, ids.IVC),
        (AORTA_NODES, [15, 16, 15.5, 14, 13.5, 13, 12.5, 12, 11, 9.5, 8.5], enhanced, ids.AORTA),
        ([(4, 30, 440), (6, 32, 360), (8, 24, 270), (16, 6, 232)], [7, 7, 7, 8], 42.0, ids.ESOPHAGUS),
        (fork, [9.5, 9.5, 9.5], -990.0, ids.TRACHEA),
        ([fork[2], (-30, 12, 340)], [8, 6.5], -990.0, ids.TRACHEA),
        ([fork[2], (38, 14, 334)], [8, 6], -990.0, ids.TRACHEA),
    ]
    for nodes, radii, hu, label in plan:
        k = calibre if label == ids.AORTA else 1.0
        box = box_of(frame, nodes, max(radii) * k)
        mask = (tube(frame, box, nodes, [r * k for r in radii]) < 1) & (canvas.hu[box] > -500)
        mask &= (canvas.cavity[box] & (canvas.labels[box] != ids.HEART)) | (label == ids.TRACHEA)
        canvas.paint(box, mask, hu, label)
