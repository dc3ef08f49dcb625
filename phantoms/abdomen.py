"""The organs of the abdomen, drawn into a :class:`~phantoms.anatomy.Canvas` (portal venous phase)."""

import numpy as np
from scipy import ndimage

from phantoms import labels as ids
from phantoms.anatomy import Canvas, Point, box_of, ellipsoid, tube


def paint_abdomen(canvas: Canvas) -> None:
    """Paint the abdominal organs, solid ones first; what is left over is fat with bowel in it."""
    _muscles(canvas)
    _kidneys(canvas)
    _liver(canvas)
    _spleen(canvas)
    _stomach(canvas)
    _pancreas(canvas)
    _bowel(canvas)


def _muscles(canvas: Canvas) -> None:
    frame = canvas.frame
    for side, psoas, back in (
        (1.0, ids.LEFT_ILIOPSOAS, ids.LEFT_AUTOCHTHON),
        (-1.0, ids.RIGHT_ILIOPSOAS, ids.RIGHT_AUTOCHTHON),
    ):
        nodes: list[Point] = [(side * 30, 40, 145), (side * 38, 38, 80), (side * 48, 30, 0)]
        box = box_of(frame, nodes, 24)
        canvas.claim(box, tube(frame, box, nodes, [9, 18, 23]), None, 58.0, psoas)
        nodes = [(side * 30, 92, 420), (side * 34, 100, 250), (side * 34, 92, 0)]
        box = box_of(frame, nodes, 22)
        level = tube(frame, box, nodes, [14, 17, 21])
        mask = (level < 1) & (canvas.labels[box] == 0) & (canvas.rho[box] > 0.9) & (canvas.hu[box] > -500)
        canvas.paint(box, mask, 56.0, back)


def _kidneys(canvas: Canvas) -> None:
    frame, rng = canvas.frame, canvas.rng("kidneys")
    stature = float(np.prod(canvas.physique.scale))
    for side, z, label in ((1.0, 138.0, ids.LEFT_KIDNEY), (-1.0, 124.0, ids.RIGHT_KIDNEY)):
        centre = (side * 64.0, 46.0, z + rng.normal(0, 5))
        box = box_of(frame, [centre], 66)
        level = ellipsoid(frame, box, centre, (56, 27, 30), (-side * 0.22, 0.12, 1.0))
        hilum: Point = (centre[0] - side * 26, centre[1] - 8, centre[2])
        level += 0.9 * np.clip(1.0 - ellipsoid(frame, box, hilum, (15, 17, 17)), 0, 1)
        level += 0.04 * canvas.rough(f"kidney-{side}", 24.0, box)
        mask = canvas.claim(box, level, float(np.clip(rng.normal(168, 14) * stature, 118, 225)), 178.0, label)
        sinus = mask & (ellipsoid(frame, box, hilum, (24, 14, 26)) < 1)
        canvas.paint(box, sinus, 60.0)
        adrenal: Point = (side * 40.0, 30.0, centre[2] + 52)
        box = box_of(frame, [adrenal], 16)
        fin = ellipsoid(frame, box, adrenal, (4.0, 11.0, 13.0))
        canvas.claim(box, fin, None, 60.0, ids.LEFT_ADRENAL if side > 0 else ids.RIGHT_ADRENAL)


def _liver(canvas: Canvas) -> None:
    frame, rng = canvas.frame, canvas.rng("liver")
    box = frame.box((-136, -92, 70), (75, 92, 262))
    x, y, z = frame.x[box], frame.y[box], frame.z[box]
    level = ellipsoid(frame, box, (-66, 4, 190), (78, 92, 96))
    left_lobe = ellipsoid(frame, box, (-2, -46, 212), (72, 44, 36))
    # the visceral surface: below it lie kidney, gallbladder, duodenum and bowel
    floor = 138.0 + 0.62 * (x + 66.0) - 0.12 * y
    level = np.minimum(level, left_lobe) + np.clip((floor - z) / 45.0, 0, 3)
    level += 0.05 * canvas.rough("liver-surface", 40.0, box)
    kidney = canvas.labels[box] == ids.RIGHT_KIDNEY
    reach = max(1, round(7.0 / float(canvas.frame.grid.voxel_mm.mean())))
    fat = ndimage.binary_dilation(kidney, iterations=reach)
    level[np.logical_or.accumulate(fat, axis=1)] += 3.0  # the kidney lies in fat, and no liver behind it
    stature = float(np.prod(canvas.physique.scale))
    volume = float(np.clip(rng.normal(1560, 170) * stature, 1080, 2080))
    mask = canvas.claim(box, level, volume, float(rng.normal(108, 7)), ids.LIVER)
    texture = canvas.rough("liver-texture", 9.0, box)
    canvas.hu[box][mask] += 3.0 * texture[mask]
    veins: list[tuple[list[Point], list[float]]] = [
        ([(-22, 0, 222), (-60, 10, 214), (-95, 15, 200)], [6.0, 4.5, 2.0]),
        ([(-22, -2, 224), (-45, -40, 216), (-62, -62, 200)], [5.5, 4.0, 2.0]),
        ([(-22, -2, 224), (5, -40, 220), (30, -55, 214)], [5.0, 3.5, 2.0]),
        ([(-30, -14, 165), (-58, -8, 180), (-92, 20, 172)], [6.5, 5.0, 2.0]),
    ]
    for nodes, radii in veins:
        vein = tube(frame, box, nodes, radii) < 1
        canvas.paint(box, mask & vein, 142.0)
    bladder: Point = (-52, -56, 128)
    box = box_of(frame, [bladder], 36)
    canvas.claim(box, ellipsoid(frame, box, bladder, (32, 15, 16), (0.2, -0.5, -0.8)), None, 8.0, ids.GALLBLADDER)


def _spleen(canvas: Canvas) -> None:
    frame, rng = canvas.frame, canvas.rng("spleen")
    centre: Point = (96, 42, 192)
    box = box_of(frame, [centre], 66)
    level = ellipsoid(frame, box, centre, (58, 30, 44), (0.15, -0.35, -0.9))
    level += 0.5 * np.clip(1.0 - ellipsoid(frame, box, (62, 20, 185), (28, 34, 50)), 0, 1)
    level += 0.05 * canvas.rough("spleen-surface", 30.0, box)
    canvas.claim(box, level, float(np.clip(rng.normal(205, 50), 115, 360)), float(rng.normal(122, 7)), ids.SPLEEN)


def _stomach(canvas: Canvas) -> None:
    frame = canvas.frame
    nodes: list[Point] = [(60, 6, 208), (62, -22, 180), (44, -50, 150), (8, -58, 134), (-16, -48, 136)]
    box = box_of(frame, nodes, 42)
    level = tube(frame, box, nodes, [37, 34, 27, 20, 12]) + 0.06 * canvas.rough("stomach", 30.0, box)
    mask = canvas.claim(box, level, None, 62.0, ids.STOMACH)
    lumen = mask & (level < 0.86)
    canvas.paint(box, lumen, 22.0)
    air = frame.z[box] > 216 if canvas.upright else frame.y[box] < -44 + canvas.rng("gas").normal(0, 6)
    canvas.paint(box, lumen & air, -960.0)


def _pancreas(canvas: Canvas) -> None:
    frame = canvas.frame
    duodenum: list[Point] = [(-18, -44, 134), (-42, -24, 138), (-46, -8, 110), (-38, -4, 88), (0, -10, 84)]
    gland: list[Point] = [(-26, -10, 108), (-24, -14, 128), (-6, -26, 138), (22, -22, 150), (56, 6, 164), (72, 22, 172)]
    portal: list[Point] = [(-2, -16, 100), (-8, -16, 134), (-30, -14, 162)]
    splenic: list[Point] = [(-8, -16, 136), (22, -12, 152), (60, 18, 170)]
    box = box_of(frame, gland + duodenum + portal, 22)
    vein = np.minimum(tube(frame, box, portal, [6, 6, 6]), tube(frame, box, splenic, [5, 4.5, 4]))
    canvas.claim(box, vein, None, 148.0, ids.PORTAL_VEIN)
    lobulated = 0.14 * canvas.rough("pancreas", 11.0, box)
    volume = float(np.clip(canvas.rng("pancreas-size").normal(78, 11), 52, 105))
    level = tube(frame, box, gland, [14, 16, 11, 11, 11, 8]) + lobulated
    canvas.claim(box, level, volume, 94.0, ids.PANCREAS)
    canvas.claim(box, tube(frame, box, duodenum, [12, 13, 13, 12, 11]), None, 48.0, ids.DUODENUM)


def _bowel(canvas: Canvas) -> None:
    frame = canvas.frame
    colon: list[Point] = [
        (-98, 14, -10), (-100, 18, 92), (-62, -58, 96), (0, -64, 88), (64, -58, 108), (102, 26, 132), (104, 30, -10),
    ]  # fmt: skip
    box = box_of(frame, colon, 30)
    haustra = 0.12 * canvas.rough("haustra", 16.0, box)
    level = tube(frame, box, colon, [27, 24, 19, 19, 18, 17, 17]) + haustra
    mask = canvas.claim(box, level, None, 48.0, ids.COLON)
    content = canvas.rough("stool", 13.0, box)
    lumen = mask & (level < 0.82)
    canvas.hu[box][lumen] = np.where(content[lumen] > 0.2, -900.0, 20.0 + 30 * content[lumen])
    box = frame.box((-88, -72, -20), (88, 20, 112))
    coils = canvas.rough("small-bowel", 17.0, box)
    level = np.abs(coils) * 2.2 + 0.5 * ellipsoid(frame, box, (0, -28, 45), (84, 44, 66)) ** 4
    mask = canvas.claim(box, level, None, 62.0, ids.SMALL_BOWEL)
    canvas.paint(box, mask & (np.abs(coils) < 0.2), 25.0)
    air = frame.z[box] if canvas.upright else -frame.y[box]
    canvas.paint(box, mask & (np.abs(coils) < 0.14) & (air > 55) & (frame.z[box] < 110), -880.0)
