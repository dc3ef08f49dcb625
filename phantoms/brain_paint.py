"""The brain inside the skull: folded cortex, ventricles, deep grey matter, hindbrain, dura and vessels."""

import numpy as np
from numpy.typing import NDArray

from phantoms.brain_anatomy import (
    Build,
    Field,
    Grid,
    Hulls,
    Push,
    Space,
    Tissue,
    ellipsoid,
    hulls,
    paint_head,
    smooth_noise,
    sulcal_sheets,
    tentorium_z,
    tube,
)

TissueMap = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_CORTEX_MM = 2.9
_SULCUS_DEPTH_MM = 18.0


def paint_tissues(
    seed: int, grid: Grid, space: Space, build: Build, push: Push | None
) -> tuple[TissueMap, Mask, Field]:
    """Return the tissue map of one head, its brain mask, and each voxel's depth below the cerebral surface.

    Args:
        seed: of the folds and textures.
        grid: voxel centres.
        space: where they lie in the average head.
        build: of this head.
        push: mass effect, which also closes the sulci around it.

    Returns:
        Tissue values ``(slices, rows, columns)``, a mask of brain with its ventricles, depth in mm.
    """
    rng = np.random.default_rng([seed, 20])
    hull = hulls(space)
    tissue: TissueMap = np.empty(grid.shape, np.uint8)
    paint_head(tissue, space, hull, build, smooth_noise(rng, grid, 6.0))
    tissue[hull.intracranial > 0] = Tissue.CSF
    depth = _pial_depth(space, hull, build)
    nuclei = ellipsoid(np.abs(space.u), space.v, space.w, (14, 0, 1), (24, 33, 17)) > 0
    sheets = sulcal_sheets(rng, space, (depth > 0) & (depth < _SULCUS_DEPTH_MM + 2) & ~nuclei)
    _paint_cerebrum(tissue, space, depth, build, sheets, push)
    _paint_hyperintensities(tissue, space, depth, build, smooth_noise(rng, grid, 5.0))
    _paint_deep_grey(tissue, space)
    _paint_ventricles(tissue, space, build)
    _paint_hindbrain(tissue, space, smooth_noise(rng, grid, 7.0))
    brain = np.isin(tissue, _BRAIN) | _ventricle_region(space, tissue) | ((tissue == Tissue.CSF) & (depth > 0))
    brain &= hull.intracranial > 0
    _paint_dura_and_vessels(tissue, space, hull)
    return tissue, brain, depth


_BRAIN = (
    Tissue.GREY,
    Tissue.WHITE,
    Tissue.STRIATUM,
    Tissue.THALAMUS,
    Tissue.PALLIDUS,
    Tissue.CHOROID,
    Tissue.HYPERINTENSITY,
)


def _callosum_top(y: Field) -> Field:
    return np.asarray(27 - np.float32(0.016) * (y - 2) ** 2, dtype=np.float32)


def _pial_depth(space: Space, hull: Hulls, build: Build) -> Field:
    """Return the depth in mm below the cerebral surface: its hull, the great fissure and the Sylvian fissures."""
    x, y, z = space.u, space.v, space.w
    ax = np.abs(x)
    fissure = np.hypot(x, np.clip(_callosum_top(y) - z, 0, 30)) - np.float32(1.3)
    sylvian_z = np.float32(0.33) * y - 3
    sylvian = np.hypot(np.clip(37 - ax, 0, 40), z - sylvian_z)
    sylvian = np.hypot(sylvian, np.clip(np.abs(y + 2) - 34, 0, 60)) - np.float32(0.6 + build.sulcus_mm)
    return np.asarray(np.minimum(np.minimum(hull.cerebrum, fissure), sylvian), dtype=np.float32)


def _paint_cerebrum(
    tissue: TissueMap, space: Space, depth: Field, build: Build, sheets: Field, push: Push | None
) -> None:
    """Paint cortex, sulci and white matter."""
    x, y, z = space.u, space.v, space.w
    narrow: Field = np.full((1, 1, 1), build.sulcus_mm, np.float32)
    if push is not None:
        r2 = sum((p - np.float32(c)) ** 2 for p, c in zip((x, y, z), push.centre, strict=True))
        narrow = narrow * (1 - np.float32(0.9) * np.exp(-r2 / np.float32(2.2 * push.reach_mm**2)))
    taper = np.clip((_SULCUS_DEPTH_MM - depth) / 6, 0, 1)  # a sulcus narrows towards its floor
    in_brain = depth > 0
    cortex = (depth < _CORTEX_MM) | ((sheets < _CORTEX_MM + narrow) & (depth < _SULCUS_DEPTH_MM + 1.5))
    tissue[in_brain] = Tissue.WHITE
    tissue[in_brain & cortex] = Tissue.GREY
    tissue[in_brain & (sheets < narrow * taper)] = Tissue.CSF


def _paint_hyperintensities(tissue: TissueMap, space: Space, depth: Field, build: Build, noise: Field) -> None:
    """Paint caps at the horns and foci in deep white matter, as age brings them."""
    if build.lesion_load <= 0.05:
        return
    ax = np.abs(space.u)
    caps = np.maximum(
        ellipsoid(ax, space.v, space.w, (14, -36, 8), (6, 7, 8)),
        ellipsoid(ax, space.v, space.w, (26, 44, 10), (7, 9, 8)),
    )
    foci = (noise > 3.1 - 1.1 * build.lesion_load) & (depth > 7) & (space.w > 5)
    here = foci | (caps > (1 - build.lesion_load) * 4)
    tissue[here & (tissue == Tissue.WHITE)] = Tissue.HYPERINTENSITY


def _paint_deep_grey(tissue: TissueMap, space: Space) -> None:
    x, y, z = space.u, space.v, space.w
    ax = np.abs(x)
    tissue[ellipsoid(ax, y, z, (26, -2, 1), (6.5, 17, 9)) > 0] = Tissue.STRIATUM
    tissue[ellipsoid(ax, y, z, (19, 1, 0), (4.5, 9.5, 6.5)) > 0] = Tissue.PALLIDUS
    caudate = [(13, -22, 4, 6.5), (14, -14, 12, 5.5), (17, 2, 20, 3.5), (21, 20, 19, 2.5)]
    tissue[tube(ax, y, z, [(float(a), float(b), float(c), r) for a, b, c, r in caudate]) > 0] = Tissue.STRIATUM
    tissue[ellipsoid(ax, y, z, (11, 9, 5), (9, 15, 9)) > 0] = Tissue.THALAMUS
    tissue[ellipsoid(ax, y, z, (26, 4, -17), (6, 16, 5)) > 0] = Tissue.GREY  # hippocampus
    tissue[ellipsoid(ax, y, z, (23, -12, -18), (7, 7, 7)) > 0] = Tissue.GREY  # amygdala
    claustrum = np.abs(ellipsoid(ax, y, z, (27, -2, 1), (9.5, 21, 14)))
    tissue[(claustrum < 0.6) & (ax > 31) & (tissue == Tissue.WHITE)] = Tissue.GREY


def _lateral_ventricle(space: Space, width: float) -> Field:
    """Return the depth in mm inside the lateral ventricles (negative outside)."""
    x, y, z = np.abs(space.u), space.v, space.w
    body = [(9, -32, 6, 3.0), (8, -20, 13, 5.0), (9, 0, 20, 4.6), (14, 20, 20, 5.2), (23, 32, 11, 6.6)]
    horns = [(23, 32, 11, 6.6), (30, 22, -6, 4.0), (31, 4, -15, 3.0), (29, -8, -17, 2.0)]
    rear = [(23, 32, 11, 6.6), (20, 48, 7, 3.6), (17, 60, 6, 1.6)]
    paths = [[(a, b, c, r * width) for a, b, c, r in path] for path in (body, horns, rear)]
    depth = np.maximum.reduce([tube(x, y, z, path) for path in paths])
    septum = x - np.float32(0.9)
    return np.asarray(np.minimum(depth, septum))


def _third_ventricle(space: Space, width: float) -> Field:
    return ellipsoid(space.u, space.v, space.w, (0, 2, 0), (2.4 * width, 15, 12))


def _fourth_ventricle(space: Space) -> Field:
    return ellipsoid(space.u, space.v, space.w, (0, 27, -33), (7.5, 6, 11))


def _paint_ventricles(tissue: TissueMap, space: Space, build: Build) -> None:
    x, y, z = space.u, space.v, space.w
    lateral = _lateral_ventricle(space, build.ventricles)
    tissue[(lateral > -1.2) & (np.abs(x) < 3) & (y < 18) & (z < 18) & (z > 8)] = Tissue.WHITE  # septum, fornix
    tissue[lateral > 0] = Tissue.CSF
    tissue[_third_ventricle(space, build.ventricles) > 0] = Tissue.CSF
    glomus = ellipsoid(np.abs(x), y, z, (24, 31, 8), (2.6, 5.5, 4))
    strand = tube(np.abs(x), y, z, [(10, 4, 17.5, 1.1), (15, 20, 17, 1.2), (24, 30, 9, 1.6)])
    tissue[(np.maximum(glomus, strand) > 0) & (lateral > 0)] = Tissue.CHOROID


def _ventricle_region(space: Space, tissue: TissueMap) -> Mask:
    """Return CSF that the brain encloses, by a generous box around the ventricles."""
    near = (np.abs(space.u) < 38) & (np.abs(space.v - 8) < 50) & (np.abs(space.w - 2) < 28)
    low = (np.abs(space.u) < 8) & (np.abs(space.v - 27) < 8) & (np.abs(space.w + 33) < 13)
    return np.asarray((near | low) & (tissue == Tissue.CSF))


def _paint_hindbrain(tissue: TissueMap, space: Space, noise: Field) -> None:
    """Paint the brainstem and the cerebellum with its folia."""
    x, y, z = space.u, space.v, space.w
    ax = np.abs(x)
    lobe = ellipsoid(ax, y, z, (22, 45, -32), (30, 29, 25))
    vermis = ellipsoid(x, y, z, (0, 45, -28), (12, 25, 24))
    tent = tentorium_z(ax, y) - np.float32(2.5) - z  # below the tentorium
    cerebellum = np.minimum(np.maximum(lobe, vermis), tent)
    inside = cerebellum > 0
    phase = cerebellum * np.float32(0.35) + (z + 34) * np.float32(0.8) + np.float32(0.9) * noise
    folia = np.cos(phase * np.float32(1.25))
    core = cerebellum + np.float32(1.6) * noise
    tissue[inside] = Tissue.GREY
    tissue[inside & (folia > 0.45) & (cerebellum > 2.5)] = Tissue.WHITE
    tissue[inside & (core > 9.5)] = Tissue.WHITE
    tissue[inside & (folia < -0.9) & (cerebellum < 7)] = Tissue.CSF
    tissue[(ellipsoid(ax, y, z, (14, 42, -34), (7, 7, 5)) > 0) & inside] = Tissue.PALLIDUS  # dentate nucleus
    stem = np.maximum.reduce(
        [
            ellipsoid(x, y, z, (0, 12, -32), (17, 13, 14)),
            tube(x, y, z, [(0, 16, -44, 9.5), (0, 22, -62, 7.5), (0, 26, -100, 6.0)]),
            tube(ax, y, z, [(9, 6, -18, 6.5), (13, 3, -8, 6.5), (18, 0, 2, 4)]),
            ellipsoid(x, y, z, (0, 16, -16), (14, 9, 8)),
        ]
    )
    tissue[(stem > 0) & (ax < 19) & (z < -4)] = Tissue.WHITE
    tissue[tube(ax, y, z, [(15, 20, -33, 5.5), (20, 36, -34, 5.0)]) > 0] = Tissue.WHITE  # middle peduncles
    for centre in ((5.0, 12.0, -14.0), (9.0, 8.0, -13.0)):  # red nucleus, substantia nigra
        tissue[ellipsoid(ax, y, z, centre, (3.2, 3.2, 3.0)) > 0] = Tissue.PALLIDUS
    tissue[_fourth_ventricle(space) > 0] = Tissue.CSF
    tissue[tube(x, y, z, [(0, 15, -5, 1.3), (0, 25, -24, 1.3)]) > 0] = Tissue.CSF  # aqueduct
    tissue[ellipsoid(x, y, z, (0, 22, -3), (4, 4, 4)) > 0] = Tissue.GREY  # pineal gland


def _paint_dura_and_vessels(tissue: TissueMap, space: Space, hull: Hulls) -> None:
    x, y, z, u = space.x, space.y, space.z, space.u
    ax, inner = np.abs(x), hull.intracranial
    csf = tissue == Tissue.CSF
    falx = (np.abs(u) < 0.8) & (space.w > _callosum_top(space.v) + 5) & (inner > 0)
    tissue[falx & (csf | (tissue == Tissue.GREY))] = Tissue.DURA
    tissue[csf & (inner < 1.2) & (z > 8)] = Tissue.DURA
    tent = np.abs(tentorium_z(ax, y) - np.float32(1.2) - z)
    tissue[(tent < 0.7) & csf & (y > 18) & (inner > 0)] = Tissue.DURA
    sinus = (np.hypot(x, np.clip(inner, 0, None)) < 4.2) & (inner > 0) & ((z > 10) | (y > 45)) & (z > -4)
    transverse = (tent < 2.6) & (y > 22) & (inner > 0) & (inner < 4.5)
    tissue[(sinus | transverse) & (hull.cerebrum < 4)] = Tissue.VESSEL
    arteries = [
        tube(x, y, z, [(0, 4, -60, 1.7), (0, -2, -30, 1.8), (0, -4, -18, 1.6)]),
        tube(ax, y, z, [(14, -8, -40, 2.4), (12, -14, -24, 2.4), (13, -16, -14, 2.0)]),
        tube(ax, y, z, [(12, -16, -14, 1.7), (28, -14, -10, 1.6), (38, -6, -5, 1.4), (42, 16, 2, 1.2)]),
        tube(ax, y, z, [(12, -16, -14, 1.5), (1, -28, -10, 1.5), (1, -44, 6, 1.3), (1, -20, 29, 1.2)]),
        tube(ax, y, z, [(0, -4, -18, 1.5), (14, 4, -17, 1.4), (22, 24, -12, 1.2)]),
    ]
    for artery in arteries:
        tissue[(artery > 0) & (tissue != Tissue.WHITE)] = Tissue.VESSEL
    tissue[tube(x, y, z, [(0, 28, 7, 1.8), (0, 50, 2, 1.8), (0, 76, -3, 2.2)]) > 0] = Tissue.VESSEL  # straight sinus
    tissue[ellipsoid(x, y, z, (0, -18, -24), (6, 5, 4)) > 0] = Tissue.MUCOSA  # pituitary gland enhances alike
