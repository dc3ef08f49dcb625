"""VISTA3D sees what MONAI's own transforms of the published bundle make, and its labels go back as MONAI's do.

Where a source voxel lies exactly halfway between two voxels of the 1.5 mm grid, MONAI's nearest neighbour is
decided by the last bit of its arithmetic; ours always goes up. Such voxels are compared to within one step.
"""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, ScaleIntensityRanged, Spacingd
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from worker.experts.vista3d import Vista3dConfig, prepared, restored
from worker.volume import Volume

PUBLISHED = Vista3dConfig(weights="w")
AXIAL = ((2, 1), (1, 1), (0, 1))


def along(axes, spacing):
    """(slice, row, column) steps in LPS mm, each along one signed patient axis."""
    matrix = np.zeros((3, 3))
    for column, ((axis, sign), step) in enumerate(zip(axes, spacing, strict=True)):
        matrix[axis, column] = sign * step
    return matrix


def turned(degrees, matrix):
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ matrix


GRIDS = {
    "axial": (along(AXIAL, (2.0, 0.8, 0.8)), (30, 61, 57)),
    "axial, head first": (along(((2, -1), (1, 1), (0, 1)), (2.0, 0.8, 0.8)), (30, 61, 57)),
    "axial, flipped in the plane": (along(((2, 1), (1, -1), (0, -1)), (2.0, 0.8, 0.8)), (31, 60, 57)),
    "sagittal": (along(((0, 1), (2, -1), (1, 1)), (3.0, 0.9, 0.7)), (21, 50, 63)),
    "coronal": (along(((1, 1), (2, -1), (0, 1)), (3.3, 0.9, 0.7)), (21, 50, 64)),
    "oblique": (turned((10, 20, 15), along(AXIAL, (2.2, 0.83, 0.83))), (27, 60, 50)),
    "oblique, nearly between two axes": (turned((44, 0, 0), along(AXIAL, (2.2, 0.83, 0.83))), (27, 60, 50)),
    "anisotropic": (along(AXIAL, (5.0, 0.68, 0.73)), (19, 71, 70)),
    "finer, odd counts": (along(AXIAL, (0.6, 0.31, 0.37)), (69, 75, 73)),
    "almost the network's spacing": (along(AXIAL, (1.5005, 1.5, 0.5)), (33, 33, 37)),
}
HALVES = (along(AXIAL, (3.0, 0.75, 0.75)), (20, 60, 61))  # every other voxel lies halfway


def body(matrix, counts):
    """Smooth random tissue with air around it."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, (-50.0, 30.0, 17.0)
    tissue = gaussian_filter(np.random.default_rng(3).normal(size=counts), 2)
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, count) for count in counts], indexing="ij"), axis=-1)
    array = np.where((np.abs(place) < (0.8, 0.7, 0.9)).all(axis=-1), tissue / tissue.std() * 300 - 100, -1000)
    return Volume(array.astype(np.float32), affine, ("1",) * counts[0], (1,) * counts[0], "1", "1", "CT")


def bundle():
    """The published order and numbers (bundle vista3d 0.5.4, configs/inference.json)."""
    return Compose([
        Spacingd("image", pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
        CropForegroundd("image", source_key="image", margin=10, allow_smaller=True),
        ScaleIntensityRanged(
            "image", a_min=-963.8247715525971, a_max=1053.678477684517, b_min=0.0, b_max=1.0, clip=True
        ),
        Orientationd("image", axcodes="RAS", labels=None),
    ])  # fmt: skip


def as_monai(volume):
    """The same Volume as MONAI reads it: (column, row, slice), RAS."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    pixels = torch.from_numpy(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    return {"image": MetaTensor(pixels[None], affine=torch.from_numpy(affine))}


def inverted(labels, transforms, image):
    seen = MetaTensor(torch.from_numpy(labels.astype(np.float32))[None], affine=image["image"].affine)
    undo = Invertd("pred", transform=transforms, orig_keys="image", nearest_interp=True, to_tensor=True)
    return undo({**image, "pred": seen})["pred"][0].numpy().transpose(2, 1, 0)


@pytest.mark.requirement("REQ-MODEL-11")
@pytest.mark.parametrize("name", GRIDS)
def test_the_network_sees_what_monai_makes_of_the_volume(name):
    volume = body(*GRIDS[name])
    theirs = bundle()(as_monai(volume))["image"][0].numpy()
    ours = prepared(volume, PUBLISHED).image
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-6
    assert ours.std() > 0.05


@pytest.mark.parametrize("name", GRIDS)
def test_labels_come_back_to_the_voxels_monai_puts_them_on(name):
    volume = body(*GRIDS[name])
    transforms = bundle()
    image = transforms(as_monai(volume))
    labels = np.random.default_rng(5).integers(1, 133, image["image"].shape[1:]).astype(np.uint8)
    ours = restored(labels, prepared(volume, PUBLISHED), volume, PUBLISHED)
    assert ours.shape == volume.array.shape
    assert (ours == inverted(labels, transforms, image)).all()
    assert len(np.unique(ours)) > 100


@pytest.mark.parametrize("axis", range(3))
def test_voxels_halfway_between_two_come_back_within_one_step(axis):
    volume = body(*HALVES)
    transforms = bundle()
    image = transforms(as_monai(volume))
    size = image["image"].shape[1:]
    numbers = np.arange(1, size[axis] + 1, dtype=np.uint8).reshape([-1 if k == axis else 1 for k in range(3)])
    labels = np.broadcast_to(numbers, size)
    ready = prepared(volume, PUBLISHED)
    assert ready.size == size
    ours = restored(labels, ready, volume, PUBLISHED).astype(int)
    theirs = inverted(labels, transforms, image).astype(int)
    inside = (ours > 0) & (theirs > 0)
    assert np.abs(ours - theirs)[inside].max() <= 1
    halfway = np.arange(volume.array.shape[2 - axis]) * volume.spacing_mm[2 - axis] / 1.5 % 1 == 0.5
    certain = np.moveaxis(ours == theirs, 2 - axis, 0)[~halfway]
    assert certain.all()
