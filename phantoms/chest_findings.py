"""What each chest finding does to the patient before the radiograph is taken.

Findings carry TorchXRayVision's label spellings. Each has a painter that changes the thorax in three dimensions
(or leaves thin structures as point clouds), so a finding projects through ribs and heart as it would in a person.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from phantoms import labels as ids
from phantoms.airspace import inside_lungs
from phantoms.anatomy import CAGE_A, CAGE_B, CAGE_Y, CAGE_Z, Alterations, Canvas, Mask, Point, ellipsoid
from phantoms.fields import Box, Floats, stream

Points = NDArray[np.float64]
SOFT_TISSUE_HU = 40.0

IMPLIED: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": ("Enlarged Cardiomediastinum",),
    "Nodule": ("Lung Lesion",),
    "Mass": ("Lung Lesion",),
    "Consolidation": ("Lung Opacity",),
    "Pneumonia": ("Lung Opacity", "Infiltration"),
    "Infiltration": ("Lung Opacity",),
    "Edema": ("Lung Opacity",),
}
"""Labels that come with a finding, as CheXpert's hierarchy and NIH's reading practice have them."""

BILATERAL = frozenset({"Cardiomegaly", "Edema", "Emphysema", "Fibrosis", "Enlarged Cardiomediastinum", "Hernia"})
"""Findings without a side of their own; recorded as "bilateral"."""


@dataclass
class Scene:
    """A thorax about to be radiographed.

    Attributes:
        canvas: the patient; painters change ``hu`` and take diseased lung out of ``lungs``.
        sides: finding to ``"left"``, ``"right"`` or ``"bilateral"``.
        clouds: points ``(n, 3)`` in standard mm with ``(n,)`` extra water-equivalent volume, mm3.
        vessel_gain: calibre of lung vessels relative to normal.
        broken: rib label to (fraction of its length, step in mm).
        counts: finding to number of lesions, where there can be several.
    """

    canvas: Canvas
    sides: dict[str, str]
    clouds: list[tuple[Points, NDArray[np.float64]]] = field(default_factory=list)
    vessel_gain: float = 1.0
    broken: dict[int, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def signs(self, finding: str) -> tuple[float, ...]:
        """Return the signs of x on which ``finding`` lies: +1 left, -1 right."""
        return {"left": (1.0,), "right": (-1.0,), "bilateral": (-1.0, 1.0)}[self.sides[finding]]

    def half(self, sign: float) -> Mask:
        """Return where the patient's left (+1) or right (-1) half is."""
        found: Mask = self.canvas.frame.x * np.float32(sign) > 0
        return found

    def fill(self, box: Box, share: Floats, hu: float) -> None:
        """Replace ``share`` (0-1) of each lung voxel in ``box`` by tissue of ``hu``; dense lung shows no vessels."""
        lungs = self.canvas.lungs[box]
        part = np.where(lungs, np.clip(share, 0, 1), 0).astype(np.float32)
        self.canvas.hu[box] += part * (np.float32(hu) - self.canvas.hu[box])
        self.canvas.lungs[box] &= part < 0.6

    def everywhere(self) -> Box:
        """Return the box of the whole grid."""
        n = self.canvas.frame.grid.shape
        return slice(0, n[0]), slice(0, n[1]), slice(0, n[2])


def alter(seed: int, sides: dict[str, str], base: Alterations) -> Alterations:
    """Return the changes of shape that the findings make."""
    rng = stream(seed, "alterations")
    heart, wide, collapse, shrink, sink = (float(v) for v in rng.uniform(0, 1, 5))
    result = base
    if "Cardiomegaly" in sides:
        result = replace(result, heart=result.heart * (1.30 + 0.22 * heart))
    if "Enlarged Cardiomediastinum" in sides:
        result = replace(result, mediastinum=1.7 + 0.5 * wide)
    if "Emphysema" in sides:
        lower = -24.0 - 12.0 * sink
        result = replace(
            result, heart=result.heart * 0.84, dome=0.42, diaphragm_left_mm=lower, diaphragm_right_mm=lower
        )
    loss = 15.0 + 14.0 * collapse
    if sides.get("Atelectasis") in ("right", "bilateral"):
        result = replace(result, diaphragm_right_mm=result.diaphragm_right_mm + loss)
    if sides.get("Atelectasis") in ("left", "bilateral"):
        result = replace(result, diaphragm_left_mm=result.diaphragm_left_mm + loss)
    if "Fibrosis" in sides:
        rise = 10.0 + 10.0 * shrink
        result = replace(
            result,
            diaphragm_left_mm=result.diaphragm_left_mm + rise,
            diaphragm_right_mm=result.diaphragm_right_mm + rise,
        )
    return result


def _spot(scene: Scene, name: str, sign: float, z_range: tuple[float, float]) -> Point:
    """Return a point in well-aerated lung that ribs and mediastinum do not hide."""
    canvas = scene.canvas
    frame, rng = canvas.frame, canvas.rng(name)
    x = frame.x * np.float32(sign)
    good = canvas.lungs & (x > 54) & (canvas.rho < 0.78) & (frame.z > z_range[0]) & (frame.z < z_range[1])
    cells = np.flatnonzero(good)
    if cells.size == 0:
        cells = np.flatnonzero(scene.half(sign))
    at = int(cells[rng.integers(cells.size)])
    return float(frame.x.flat[at]), float(frame.y.flat[at]), float(frame.z.flat[at])


def _blob(scene: Scene, name: str, centre: Point, semi: Point, rough: float) -> tuple[Box, Floats]:
    canvas = scene.canvas
    reach = 1.6 * max(semi)
    low, high = np.array(centre) - reach, np.array(centre) + reach
    box = canvas.frame.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    level = ellipsoid(canvas.frame, box, centre, semi)
    return box, level + rough * canvas.rough(name, max(9.0, 0.6 * min(semi)), box)


def _effusion(scene: Scene) -> None:
    canvas = scene.canvas
    for sign in scene.signs("Effusion"):
        rng = canvas.rng(f"effusion-{sign}")
        level = float(canvas.dome[scene.half(sign)].max()) + rng.uniform(-14, 55)
        climb = 46.0 * np.clip((canvas.rho - 0.55) / 0.42, 0, 1) ** 2  # the meniscus climbs the chest wall
        fluid = canvas.lungs & scene.half(sign) & (canvas.frame.z < level + climb)
        canvas.hu[fluid] = 12.0
        canvas.lungs[fluid] = False


def _pneumothorax(scene: Scene) -> None:
    canvas, frame = scene.canvas, scene.canvas.frame
    for sign in scene.signs("Pneumothorax"):
        rng = canvas.rng(f"pneumothorax-{sign}")
        size = rng.uniform(0.16, 0.40)
        apex = 428.0 - 130.0 * size

        def rim(z: Floats | Points, size: float = size, apex: float = apex) -> Points | Floats:
            base = 1.0 - size * (0.45 + 0.75 * np.clip((z - 230.0) / 170.0, 0, 1))
            return base * np.sqrt(np.clip(1.0 - np.clip((z - 280.0) / (apex - 280.0), 0, 1) ** 4, 0, 1))

        side = canvas.lungs & scene.half(sign)
        air = side & ((canvas.rho > rim(frame.z)) | (frame.z > apex))
        canvas.hu[side & ~air] += 55.0 + 260.0 * size  # the collapsed lung is denser
        canvas.hu[air] = -1000.0
        canvas.lungs[air] = False
        z, angle = np.meshgrid(np.arange(215.0, apex, 1.2), np.arange(0.05, 3.1, 0.008))
        z, angle = z.ravel(), angle.ravel()
        a, b, yc = (np.interp(z, CAGE_Z, t) * s for t, s in ((CAGE_A, 1), (CAGE_B, 1), (CAGE_Y, 1)))
        r = rim(z)
        pleura = np.stack([sign * r * a * np.sin(angle), yc + r * b * np.cos(angle), z], axis=1)
        keep = (np.abs(pleura[:, 0]) > 34) & (np.sin(angle) > 0.4)
        scene.clouds.append((pleura[keep], np.full(int(keep.sum()), 1.2 * 0.008 * 100.0 * 1.3)))


def _lumps(scene: Scene, finding: str, radii: tuple[float, float], count: int, rough: float) -> None:
    canvas = scene.canvas
    scene.counts[finding] = count * len(scene.signs(finding))
    for sign in scene.signs(finding):
        rng = canvas.rng(f"{finding}-{sign}")
        for n in range(count):
            radius = float(rng.uniform(*radii))
            name = f"{finding}-{sign}-{n}"
            centre = _spot(scene, name, sign, (280.0, 388.0))
            semi = tuple(radius * rng.uniform(0.88, 1.14, 3))
            box, level = _blob(scene, name, centre, (semi[0], semi[1], semi[2]), rough)
            scene.fill(box, 0.5 + (1.0 - level) * np.float32(radius / 2.0), SOFT_TISSUE_HU + 90.0)


def _nodule(scene: Scene) -> None:
    count = int(scene.canvas.rng("nodule-count").choice([1, 1, 2, 3]))
    _lumps(scene, "Nodule", (9.5, 15.0), count, 0.05)


def _mass(scene: Scene) -> None:
    _lumps(scene, "Mass", (19.0, 31.0), 1, 0.09)


def _consolidation(scene: Scene) -> None:
    canvas = scene.canvas
    lobes = {-1.0: (ids.RIGHT_UPPER, ids.RIGHT_MIDDLE, ids.RIGHT_LOWER), 1.0: (ids.LEFT_UPPER, ids.LEFT_LOWER)}
    for sign in scene.signs("Consolidation"):
        rng = canvas.rng(f"consolidation-{sign}")
        name = f"consolidation-{sign}"
        lobe = int(rng.choice(lobes[sign]))
        own = canvas.lungs & (canvas.labels == lobe)
        cells = np.argwhere(own)
        middle = tuple(np.median(cells, axis=0).astype(int)) if len(cells) else (0, 0, 0)
        frame = canvas.frame
        centre = (float(frame.x[middle]), float(frame.y[middle]), float(frame.z[middle]))
        semi = tuple(rng.uniform(0.85, 1.2, 3) * np.array([46.0, 62.0, 44.0]))
        box, level = _blob(scene, name, centre, (semi[0], semi[1], semi[2]), 0.10)
        share = np.where(canvas.labels[box] == lobe, np.clip((1.15 - level) * 4.0, 0, 0.93), 0)
        scene.fill(box, share.astype(np.float32), 25.0)


def _patches(scene: Scene, finding: str) -> None:
    canvas = scene.canvas
    for sign in scene.signs(finding):
        rng = canvas.rng(f"{finding}-{sign}")
        x, y, z = _spot(scene, f"{finding}-{sign}", sign, (262.0, 325.0))
        for n in range(int(rng.integers(8, 13))):
            dx, dy, dz = rng.normal(0, 1, 3) * np.array([22.0, 26.0, 26.0])
            radius = float(rng.uniform(15, 24))
            name = f"{finding}-{sign}-{n}"
            box, level = _blob(scene, name, (x + dx, y + dy, z + dz), (radius, 1.4 * radius, radius), 0.2)
            scene.fill(box, (1.3 - level) * np.float32(rng.uniform(0.7, 1.1)), -20.0)


def _pneumonia(scene: Scene) -> None:
    _patches(scene, "Pneumonia")


def _infiltration(scene: Scene) -> None:
    canvas = scene.canvas
    box = scene.everywhere()
    mottle = canvas.rough("infiltration", 13.0, box)
    for sign in scene.signs("Infiltration"):
        rng = canvas.rng(f"infiltration-{sign}")
        z = float(rng.uniform(275, 350))
        level = ellipsoid(canvas.frame, box, (sign * 78.0, 5.0, z), (52, 85, 62))
        share = np.clip(1.15 - level, 0, 0.6) * (0.42 + 0.30 * mottle) * 0.85
        scene.fill(box, np.where(scene.half(sign), share, 0).astype(np.float32), 0.0)


def _atelectasis(scene: Scene) -> None:
    canvas, frame = scene.canvas, scene.canvas.frame
    for sign in scene.signs("Atelectasis"):
        rng = canvas.rng(f"atelectasis-{sign}")
        base = float(canvas.dome[scene.half(sign)].max())
        for n in range(int(rng.integers(2, 4))):
            centre: Point = (sign * rng.uniform(62, 92), rng.uniform(-25, 30), base + 12 + 15 * n + rng.uniform(-3, 3))
            half = (float(rng.uniform(28, 46)), float(rng.uniform(13, 20)), float(rng.uniform(2.6, 4.2)))
            box, _ = _blob(scene, "plate", centre, half, 0.0)
            tilt = float(rng.uniform(-0.28, 0.28))
            dx, dy = frame.x[box] - centre[0], frame.y[box] - centre[1]
            dz = frame.z[box] - centre[2] - tilt * dx
            disc = np.sqrt((dx / half[0]) ** 2 + (dy / half[1]) ** 2)
            share = np.clip((1.0 - disc) * 5, 0, 1) * np.clip((half[2] - np.abs(dz)) / 3.0 + 0.5, 0, 1)
            scene.fill(box, share.astype(np.float32), SOFT_TISSUE_HU)


def _edema(scene: Scene) -> None:
    canvas, frame = scene.canvas, scene.canvas.frame
    box = scene.everywhere()
    severity = canvas.rng("edema").uniform(0.75, 1.2)
    mottle = canvas.rough("edema", 14.0, box)
    dx = np.abs(frame.x) - 52.0
    near = np.exp(-((dx / 48.0) ** 2) - ((frame.y - 5) / 75.0) ** 2 - ((frame.z - 325.0) / 70.0) ** 2)
    share = severity * (0.40 * near + 0.05) * (0.8 + 0.35 * mottle)
    scene.fill(box, np.clip(share, 0, 0.55).astype(np.float32), 0.0)
    scene.vessel_gain *= 1.3
    for sign in (-1.0, 1.0):  # septal (Kerley B) lines at the lateral bases
        rng = canvas.rng(f"kerley-{sign}")
        for z in np.arange(232.0, 300.0, 6.5) + rng.normal(0, 1, 11):
            t = np.arange(0, rng.uniform(12, 20), 0.8)
            rim = float(np.interp(z, CAGE_Z, CAGE_A)) * 0.955
            line = np.stack([sign * (rim - t), np.full_like(t, rng.uniform(-15, 15)), z + 0.08 * t], axis=1)
            scene.clouds.append((line, np.full(len(t), 7.0)))


def _emphysema(scene: Scene) -> None:
    canvas = scene.canvas
    canvas.hu[canvas.lungs] -= 62.0
    scene.vessel_gain *= 0.72
    for sign in (-1.0, 1.0):
        rng = canvas.rng(f"bullae-{sign}")
        for n in range(int(rng.integers(2, 5))):
            centre = _spot(scene, f"bulla-{sign}-{n}", sign, (330.0, 415.0))
            radius = float(rng.uniform(13, 26))
            box, level = _blob(scene, f"bulla-{sign}-{n}", centre, (radius, radius, radius), 0.04)
            hollow = canvas.lungs[box] & (level < 1)
            canvas.paint(box, canvas.lungs[box] & (level < 1.10) & ~hollow, -700.0)
            canvas.paint(box, hollow, -995.0)
            canvas.lungs[box] &= ~hollow


def _fracture(scene: Scene) -> None:
    for sign in scene.signs("Fracture"):
        rng = scene.canvas.rng(f"fracture-{sign}")
        first = int(rng.integers(4, 8))
        place = float(rng.uniform(0.36, 0.5))
        for number in range(first, min(10, first + int(rng.integers(2, 5)))):
            label = (ids.LEFT_RIB_1 if sign > 0 else ids.RIGHT_RIB_1) + number - 1
            step = float(rng.uniform(8.0, 12.0) * rng.choice([-1.0, 1.0]))
            scene.counts["Fracture"] = scene.counts.get("Fracture", 0) + 1
            scene.broken[label] = (place + float(rng.normal(0, 0.02)), step)


def _fibrosis(scene: Scene) -> None:
    canvas, frame = scene.canvas, scene.canvas.frame
    box = scene.everywhere()
    rim = np.clip((canvas.rho - 0.45) / 0.35, 0, 1) * np.clip((350.0 - frame.z) / 70.0, 0, 1)
    net = canvas.rough("fibrosis", 8.0, box)
    scene.fill(box, (rim * (0.10 + 0.10 * net)).astype(np.float32), 0.0)
    rng = canvas.rng("honeycomb")
    cells = np.flatnonzero(canvas.lungs & (rim > 0.45))
    if cells.size == 0:
        return
    cells = rng.choice(cells, 1000)
    centre = np.stack([frame.x.flat[cells], frame.y.flat[cells], frame.z.flat[cells]], axis=1).astype(float)
    centre += rng.uniform(-2, 2, centre.shape)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    radius = rng.uniform(2.6, 5.2, (len(cells), 1, 1))
    ring = radius * np.stack([np.cos(turn), np.zeros_like(turn), np.sin(turn)], axis=1)[None]
    points = (centre[:, None] + ring).reshape(-1, 3)
    scene.clouds.append((points, np.full(len(points), 5.0)))


def _pleural_thickening(scene: Scene) -> None:
    canvas, frame = scene.canvas, scene.canvas.frame
    wave = canvas.rough("pleura", 24.0, scene.everywhere())
    a = np.interp(frame.z, CAGE_Z, CAGE_A).astype(np.float32)
    for sign in scene.signs("Pleural_Thickening"):
        rng = canvas.rng(f"pleura-{sign}")
        thick = rng.uniform(10, 15)
        bottom, top = rng.uniform(215, 250), rng.uniform(350, 425)
        span = np.clip((frame.z - bottom) / 12.0, 0, 1) * np.clip((top - frame.z) / 12.0, 0, 1)
        rind = (0.965 - canvas.rho) * a < (thick + 3.0 * wave) * span
        rind &= canvas.lungs & scene.half(sign) & (np.abs(frame.x) > 0.45 * a)
        canvas.hu[rind] = SOFT_TISSUE_HU
        canvas.lungs[rind] = False


def _hernia(scene: Scene) -> None:
    canvas = scene.canvas
    rng = canvas.rng("hernia")
    radius = float(rng.uniform(33, 43))
    base = float(canvas.dome[np.abs(canvas.frame.x) < 20].max())
    centre: Point = (float(rng.uniform(4, 22)), 8.0, base + 0.72 * radius)
    box, level = _blob(scene, "hernia", centre, (1.1 * radius, 0.75 * radius, radius), 0.04)
    spine = (canvas.labels[box] >= ids.L5) & (canvas.labels[box] <= ids.C6)
    sac = (level < 1) & ~spine & (canvas.rho[box] < 0.97)
    canvas.paint(box, sac, 35.0)
    canvas.paint(box, sac & (level < 0.88) & (canvas.frame.z[box] > centre[2] + 2), -985.0)
    canvas.lungs[box] &= ~sac


def _no_change(scene: Scene) -> None:
    """Leave the scene: these findings are changes of shape, made by :func:`alter`."""


PAINTERS: dict[str, Callable[[Scene], None]] = {
    "Cardiomegaly": _no_change,
    "Enlarged Cardiomediastinum": _no_change,
    "Emphysema": _emphysema,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Infiltration": _infiltration,
    "Pneumonia": _pneumonia,
    "Consolidation": _consolidation,
    "Nodule": _nodule,
    "Mass": _mass,
    "Atelectasis": _atelectasis,
    "Pleural_Thickening": _pleural_thickening,
    "Pneumothorax": _pneumothorax,
    "Effusion": _effusion,
    "Hernia": _hernia,
    "Fracture": _fracture,
}
"""Findings that can be asked for, in the order in which they are painted."""

__all__ = ["BILATERAL", "IMPLIED", "PAINTERS", "Scene", "alter", "inside_lungs"]
