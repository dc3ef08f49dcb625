"""Rigid registration of one MR contrast to another, with its own judgement of the result.

Nothing is interpolated here: a registered Volume is the same voxels with another affine, so the one
resampling to the network's grid stays the only one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import SimpleITK as sitk  # noqa: N813 the name all of its documentation uses
from numpy.typing import NDArray
from scipy import ndimage

from config.errors import ExpertError
from worker.experts import grid
from worker.experts.brain_mask import foreground
from worker.volume import Volume

_WORKING_MM = 2.0  # finest grid registration looks at
TOLERANCE_MM = 0.5  # mean displacement below which the geometry of the scanner is left as it is …
_TOLERANCE_SLICES = 1 / 6  # … or this part of the thicker slices: less is not found reliably
_MASK_SHRINK = 3  # of the working grid, where the masks are brought together
_JUDGE_SHRINK = 2  # … and where their overlap is measured
# shrink factor, longest step, shortest step (mm) and share of voxels sampled, coarse to fine
_LEVELS = ((3, 2.0, 0.02, 1.0), (2, 1.0, 0.01, 0.5), (1, 0.5, 0.01, 0.1))
_BINS = 32
_SEED = 1
_APART = 0.5  # masks that overlap less than this start from their centres, not from the scanner's geometry
_MOST_DEG = 45.0  # heads turn less in a coil
_MOST_MM = 80.0  # and move less, when the scanner says that the coordinates are the same
_LEAST_DICE = 0.8
_LEAST_INFORMATION = 0.05  # nats; noise against a head stays below 0.02
_LEAST_SHOWN = 0.75  # of the reference's mask


@dataclass(frozen=True)
class Contrast:
    """One Volume as registration looks at it: isotropic, coarse, with its head or brain.

    Attributes:
        array: ``(a, b, c)`` at 2 mm along the axes of the Volume; the first voxel is the Volume's first.
        mask: on that grid; the same organ as in the other contrast.
        affine: ``(4, 4)`` of that grid, index → LPS mm.
        slice_mm: largest spacing of the Volume.
        frame_of_reference_uid: of the Volume.
    """

    array: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    slice_mm: float
    frame_of_reference_uid: str

    @classmethod
    def of(cls, volume: Volume, brain: NDArray[np.bool_] | None) -> Self:
        """Return the contrast of ``volume``, with ``brain`` (on its grid) or else the whole head."""
        target = (_WORKING_MM,) * 3
        shape = grid.resampled_shape(volume.array.shape, volume.spacing_mm, target)
        array = grid.resample(volume.array, volume.spacing_mm, target, shape=shape, antialias=True)
        if brain is None:
            mask = foreground(array)
        else:
            soft = grid.resample(brain.astype(np.float32), volume.spacing_mm, target, shape=shape, antialias=True)
            mask = soft >= 0.5
        affine = with_spacing(volume, target)
        return cls(array, mask, affine, max(volume.spacing_mm), volume.frame_of_reference_uid)

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """Centre of the mask, LPS."""
        index = np.append(np.argwhere(self.mask).mean(axis=0), 1.0)
        centre: NDArray[np.float64] = (self.affine @ index)[:3]
        return centre


def with_spacing(volume: Volume, target_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the affine of the grid that starts where ``volume`` starts, with another spacing."""
    affine = volume.affine.copy()
    affine[:3, :3] *= np.array(target_mm) / np.array(volume.spacing_mm)
    return affine


@dataclass(frozen=True)
class Registration:
    """Where the points of the reference lie in the moving contrast, and how well that fits.

    Attributes:
        to_moving: ``(4, 4)``, LPS mm of the reference → LPS mm of the moving contrast.
        rotation_deg: total angle.
        translation_mm: of the centre of the reference's mask, LPS.
        displacement_mm: mean over the reference's mask.
        information: mutual information in nats before and after.
        overlap: Dice of the two masks before and after, where both fields of view reach.
        start: ``"geometry"`` of the scanner, or ``"centres"`` of the masks.
        applied: False when the scanner's geometry was good enough, or better.
    """

    to_moving: NDArray[np.float64]
    rotation_deg: float
    translation_mm: tuple[float, float, float]
    displacement_mm: float
    information: tuple[float, float]
    overlap: tuple[float, float]
    start: str
    applied: bool

    def moved(self, volume: Volume, reference: Volume) -> Volume:
        """Return ``volume`` with its geometry in the frame of ``reference``; its voxels are not touched."""
        if not self.applied:
            return replace(volume, frame_of_reference_uid=reference.frame_of_reference_uid)
        affine = np.linalg.inv(self.to_moving) @ volume.affine
        return replace(volume, affine=affine, frame_of_reference_uid=reference.frame_of_reference_uid)

    def record(self) -> Mapping[str, Any]:
        """Return what belongs into the provenance record, as JSON values."""
        return {
            "applied": self.applied,
            "start": self.start,
            "rotation_deg": round(self.rotation_deg, 2),
            "translation_mm": [round(part, 2) for part in self.translation_mm],
            "displacement_mm": round(self.displacement_mm, 2),
            "mutual_information": [round(part, 4) for part in self.information],
            "mask_dice": [round(part, 4) for part in self.overlap],
            "to_moving": [[round(float(value), 6) for value in row] for row in self.to_moving],
        }


def register(reference: Contrast, moving: Contrast) -> Registration:
    """Find the rigid transform between two contrasts of one head.

    The masks are brought together first (from the scanner's geometry, or from their centres when that
    leaves them apart), then Mattes' mutual information inside the reference's mask decides, coarse to
    fine. One thread, one seed: the same input gives the same transform again, to the bit.

    Raises:
        ExpertError: "not registered", and why: nothing to align, an implausible transform, masks that
            do not meet, or images that share no information.
    """
    if not reference.mask.any() or not moving.mask.any():
        raise ExpertError("not registered: there is no head in the image")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums of several threads come in any order
    judge = _Judge(reference, moving)
    unmoved = _rigid(judge.centre_mm)
    start, name = unmoved, "geometry"
    if judge.dice(unmoved) < _APART:
        start, name = _rigid(judge.centre_mm, moving.centre_mm - judge.centre_mm), "centres"
    aligned = _align_masks(reference, moving, start)
    if judge.dice(aligned) > judge.dice(start) + 0.01:
        start = aligned
    before, after, found = _maximise_information(reference, moving, start, unmoved)
    tolerance_mm = max(TOLERANCE_MM, _TOLERANCE_SLICES * max(reference.slice_mm, moving.slice_mm))
    applied = after > before and judge.displacement_mm(found) >= tolerance_mm
    rotation = np.array(found.GetMatrix()).reshape(3, 3)
    used = found if applied else unmoved
    result = Registration(
        to_moving=_matrix(used),
        rotation_deg=float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))),
        translation_mm=found.GetTranslation(),
        displacement_mm=judge.displacement_mm(found),
        information=(before, after if applied else before),
        overlap=(judge.dice(unmoved), judge.dice(used)),
        start=name,
        applied=applied,
    )
    same_frame = reference.frame_of_reference_uid == moving.frame_of_reference_uid != ""
    _require_plausible(result, judge.shown(used), same_frame=same_frame)
    return result


def _require_plausible(result: Registration, shown: float, *, same_frame: bool) -> None:
    if shown < _LEAST_SHOWN:
        raise ExpertError(f"not registered: it shows {shown:.0%} of the head in T1c")
    if result.overlap[1] < _LEAST_DICE:
        raise ExpertError(f"not registered: the outlines agree to {result.overlap[1]:.2f}, {_LEAST_DICE:.2f} is needed")
    if result.information[1] < _LEAST_INFORMATION:
        raise ExpertError("not registered: the images share no information")
    if not result.applied:
        return
    distance = float(np.linalg.norm(result.translation_mm))
    if result.rotation_deg > _MOST_DEG or (same_frame and distance > _MOST_MM):
        raise ExpertError(
            f"not registered: turned by {result.rotation_deg:.0f} degrees and moved by {distance:.0f} mm is implausible"
        )


class _Judge:
    """Compares the two masks under a transform, on a coarse grid of the reference."""

    def __init__(self, reference: Contrast, moving: Contrast) -> None:
        self._mask = _image(reference, reference.mask, _JUDGE_SHRINK)
        self._fixed = sitk.GetArrayViewFromImage(self._mask) >= 0.5
        self._moving = _image(moving, moving.mask, _JUDGE_SHRINK)
        self._everywhere = _image(moving, np.ones_like(moving.mask), _JUDGE_SHRINK)
        self.centre_mm = reference.centre_mm
        points = np.argwhere(reference.mask)[:: max(1, int(reference.mask.sum()) // 2000)]
        self._points = points @ reference.affine[:3, :3].T + reference.affine[:3, 3]

    def _seen(self, image: sitk.Image, transform: sitk.Transform) -> NDArray[np.bool_]:
        seen = sitk.Resample(image, self._mask, transform, sitk.sitkLinear, 0.0)
        reached: NDArray[np.bool_] = sitk.GetArrayViewFromImage(seen) >= 0.5
        return reached

    def dice(self, transform: sitk.Transform) -> float:
        """Return the Dice coefficient inside the field of view of the moving contrast."""
        moved = self._seen(self._moving, transform)
        fixed = self._fixed & self._seen(self._everywhere, transform)
        return 2.0 * float((moved & fixed).sum()) / max(1.0, float(moved.sum() + fixed.sum()))

    def shown(self, transform: sitk.Transform) -> float:
        """Return the part of the reference's mask that the moving contrast shows."""
        return float(self._seen(self._everywhere, transform)[self._fixed].mean())

    def displacement_mm(self, transform: sitk.Transform) -> float:
        """Return how far the points of the reference's mask move on average."""
        matrix = _matrix(transform)
        moved = self._points @ matrix[:3, :3].T + matrix[:3, 3]
        return float(np.linalg.norm(moved - self._points, axis=1).mean())


def _align_masks(reference: Contrast, moving: Contrast, start: sitk.Transform) -> sitk.Transform:
    """Bring the blurred masks together; their shapes find large turns that intensities miss."""
    fixed, other = (_soft_mask(contrast, _MASK_SHRINK) for contrast in (reference, moving))
    method = _method(longest=3.0, shortest=0.02)
    method.SetMetricAsMeanSquares()
    method.SetMetricFixedMask(fixed > 0.01)
    found = sitk.Euler3DTransform(start)
    method.SetInitialTransform(found, inPlace=True)
    _execute(method, fixed, other)
    return found


def _maximise_information(
    reference: Contrast, moving: Contrast, start: sitk.Transform, unmoved: sitk.Transform
) -> tuple[float, float, sitk.Transform]:
    """Return mutual information without a transform and with the best one, and that transform."""
    found = sitk.Euler3DTransform(start)
    for shrink, longest, shortest, share in _LEVELS:
        fixed, other = (_image(contrast, _clipped(contrast), shrink) for contrast in (reference, moving))
        method = _method(longest=longest, shortest=shortest)
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricFixedMask(_soft_mask(reference, shrink) > 0.05)
        method.SetMetricSamplingStrategy(method.RANDOM if share < 1 else method.NONE)
        method.SetMetricSamplingPercentage(share, seed=_SEED)
        method.SetInitialTransform(found, inPlace=True)
        _execute(method, fixed, other)
    method.SetInitialTransform(unmoved)
    return _information(method, fixed, other), -float(method.GetMetricValue()), found


def _method(*, longest: float, shortest: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        longest, shortest, numberOfIterations=100, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _execute(method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image) -> None:
    try:
        method.Execute(fixed, moving)
    except RuntimeError as exc:  # how ITK says that no sample falls into the moving image
        raise ExpertError("not registered: the images do not overlap") from exc


def _information(method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image) -> float:
    try:
        return -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # no overlap: nothing is shared
        return 0.0


def _clipped(contrast: Contrast) -> NDArray[np.float32]:
    """Return the voxels without the brightest: vessels and fat would leave few bins for the brain."""
    brightest = np.percentile(contrast.array[contrast.mask], 99.5)
    return np.clip(contrast.array, 0, brightest).astype(np.float32)


def _soft_mask(contrast: Contrast, shrink: int) -> sitk.Image:
    """Return the mask blurred by 4 mm."""
    image = _image(contrast, contrast.mask, shrink)
    sigma = 4.0 / (shrink * _WORKING_MM)
    blurred = sitk.GetImageFromArray(ndimage.gaussian_filter(sitk.GetArrayFromImage(image), sigma))
    blurred.CopyInformation(image)
    return blurred


def _image(contrast: Contrast, array: NDArray[Any], shrink: int) -> sitk.Image:
    """Return ``array`` (on the grid of ``contrast``), averaged over blocks of voxels, in patient coordinates."""
    image = sitk.GetImageFromArray(array.astype(np.float32))
    directions = contrast.affine[:3, :3] / _WORKING_MM
    image.SetSpacing((_WORKING_MM,) * 3)
    image.SetOrigin(contrast.affine[:3, 3].tolist())
    image.SetDirection(directions[:, ::-1].ravel().tolist())  # ITK counts columns first
    return sitk.BinShrink(image, [min(shrink, size) for size in image.GetSize()])


def _rigid(centre_mm: NDArray[np.float64], shift_mm: NDArray[np.float64] | None = None) -> sitk.Euler3DTransform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre_mm.tolist())
    if shift_mm is not None:
        transform.SetTranslation(shift_mm.tolist())
    return transform


def _matrix(transform: sitk.Euler3DTransform) -> NDArray[np.float64]:
    """Return the transform as one ``(4, 4)`` matrix."""
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre + shift - rotation @ centre
    return matrix
