"""Phantoms as the Experts see them: Volumes in, network grids out, kept in a cache folder."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from phantoms.brain_mr import BrainMr, make_brain_mr
from phantoms.ct import make_ct
from worker.experts import brats, grid, vista3d
from worker.volume import Volume

log = structlog.get_logger()

# phantoms name the channels in lower case, the BraTS bundle does not
ROLES = {"T1c": "t1c", "T1": "t1", "T2": "t2", "FLAIR": "flair"}


def as_volume(array: NDArray[np.generic], affine: NDArray[np.float64], modality: str) -> Volume:
    """Wrap a phantom's array as the Volume of one Series."""
    count = array.shape[0]
    return Volume(
        array=np.ascontiguousarray(array, dtype=np.float32),
        affine=affine,
        sop_instance_uids=tuple(f"2.25.{index + 1}" for index in range(count)),
        frame_numbers=(1,) * count,
        series_instance_uid="2.25.1000",
        frame_of_reference_uid="2.25.2000",
        modality=modality,
    )


def brain_volumes(phantom: BrainMr) -> dict[str, Volume]:
    """Return role → Volume of one brain phantom."""
    return {role: as_volume(phantom.channels[key], phantom.affine, "MR") for role, key in ROLES.items()}


# Slices as departments acquire them; the network sees all of them at its own spacing.
MR_VOXELS_MM = ((2.0, 2.0, 2.0), (3.0, 1.0, 1.0), (2.0, 2.0, 2.0), (5.0, 1.0, 1.0), (2.0, 2.0, 2.0))


def brain_cache(folder: Path, seeds: Iterable[int], config: brats.BratsConfig) -> list[Path]:
    """Return one file per seed: ``image`` ``(4, x, y, z)`` float16 and ``labels`` ``(x, y, z)`` uint8.

    Every fourth head is healthy. Prepared as the Expert prepares four Volumes, from phantoms of
    several slice thicknesses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in seeds:
        path = folder / f"brain_{seed:07d}.npz"
        paths.append(path)
        if path.exists():
            continue
        phantom = make_brain_mr(seed, tumour=seed % 4 != 0, voxel_mm=MR_VOXELS_MM[seed % len(MR_VOXELS_MM)])
        volumes = brain_volumes(phantom)
        ready = brats.prepared(volumes, config)
        labels = on_coarse_grid(phantom.labels, volumes["T1c"].spacing_mm, config.spacing_mm, ready.shape)
        save(path, image=ready.image.astype(np.float16), labels=ready.axes.apply(labels[ready.box]))
    log.info("phantoms.cached", count=len(paths))
    return paths


# Voxels of what a department sends; the network sees all of them at its own spacing.
CT_VOXELS_MM = ((4.0, 4.0, 4.0), (3.0, 2.0, 2.0), (4.0, 4.0, 4.0), (5.0, 2.5, 2.5))


def ct_cache(folder: Path, seeds: Iterable[int], config: vista3d.Vista3dConfig) -> list[Path]:
    """Return one file per seed: ``image`` and ``labels``, ``(x, y, z)`` float16 and uint8, axes RAS.

    Prepared as the Expert prepares a Volume, from phantoms of several voxel sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in seeds:
        path = folder / f"ct_{seed:07d}.npz"
        paths.append(path)
        if path.exists():
            continue
        phantom = make_ct(seed, voxel_mm=CT_VOXELS_MM[seed % len(CT_VOXELS_MM)])
        volume = as_volume(phantom.hu, phantom.affine, "CT")
        ready = vista3d.prepared(volume, config)
        labels = on_coarse_grid(phantom.labels, volume.spacing_mm, config.spacing_mm, ready.shape)
        save(path, image=ready.image.astype(np.float16), labels=ready.axes.apply(labels[ready.box]))
    log.info("phantoms.cached", count=len(paths))
    return paths


def on_coarse_grid(
    labels: NDArray[np.uint8], spacing_mm: tuple[float, ...], target_mm: float, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Return a label map at the centres of the resampled grid, nearest neighbour."""
    picks = [grid.nearest_indices(shape[axis], target_mm, labels.shape[axis], spacing_mm[axis]) for axis in range(3)]
    return labels[np.ix_(*picks)]


def read_case(path: Path) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return ``image`` and ``labels`` of one cache file."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["image"], stored["labels"]


def save(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write a cache file whole or not at all."""
    partial = path.with_suffix(".part.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.rename(path)
