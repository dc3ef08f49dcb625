"""The gate before inference: what of a Study is read, or the reason why it is not.

A gate that fails ends in "no draft: reason", never in a weak draft (design section 6).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from config.errors import GeometryError, OutsideIntendedUseError, UndecodablePixelsError
from worker.ct_stacks import ct_refusal, preference
from worker.decoding import load_radiograph, read_headers
from worker.experts.base import ExpertInput
from worker.frames import SLICE_CLASSES, is_multi_frame
from worker.grayscale import unusual_bits
from worker.mr_roles import assign_roles
from worker.profiles import Profile
from worker.stacking import Stack, load_stack, read_stack
from worker.views import view_position

_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UNNAMED = "image without the UIDs that name it"
_FRONTAL = {"PA", "AP"}


@dataclass(frozen=True)
class Intake:
    """What the gate let through.

    Attributes:
        study: arrays for the Experts.
        headers: Series Instance UID → headers of the Instances used, each once, in array order: one per slice, or
            the one multi-frame object whose frames the Volume names.
        excluded: (Series Instance UID, reason) of what was not read.
        unchecked: gates that could not be applied, in words for a person.
    """

    study: ExpertInput
    headers: dict[str, list[Dataset]]
    excluded: list[tuple[str, str]] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def first(self) -> Dataset:
        """Any header of the Study, for patient and study attributes."""
        return next(iter(self.headers.values()))[0]


def gate(paths: Sequence[Path], profile: Profile) -> Intake:
    """Read the headers of a Study, check the intended use, and load what the profile reads.

    Raises:
        OutsideIntendedUseError: the Study is not what the models are for; the reason is for people.
        RefusedInputError: geometry or pixels that cannot be read.
    """
    headers = read_headers(paths)
    images = [ds for ds in headers if str(ds.get("Modality", "")) in profile.modalities and "Rows" in ds]
    if not images:
        raise OutsideIntendedUseError(f"no {' or '.join(sorted(profile.modalities))} image in the study")
    unchecked = _check_patient(images, profile)
    if profile.name == "chest-xray":
        return _complete(_gate_radiograph(images, unchecked), headers, [])
    series, dropped = _image_series(images, profile)
    if profile.name == "brain-mr":
        return _complete(_gate_brain(series, profile, unchecked), headers, dropped)
    return _complete(_gate_ct(series, profile, unchecked), headers, dropped)


def _complete(intake: Intake, headers: Sequence[Dataset], dropped: Sequence[tuple[str, str]]) -> Intake:
    """Account for every Series of the Study, and say what must be known of the images that are read."""
    excluded = [*intake.excluded, *dropped]
    known = {uid for uid, _ in excluded} | set(intake.headers)
    for ds in headers:
        uid = str(ds.get("SeriesInstanceUID", ""))
        if uid not in known:
            known.add(uid)
            excluded.append((uid, f"{_class_name(ds)} is not read for this kind of study"))
    unchecked = [*intake.unchecked, *_lossy([ds for used in intake.headers.values() for ds in used])]
    return replace(intake, excluded=list(dict.fromkeys(excluded)), unchecked=unchecked)


def _class_name(ds: Dataset) -> str:
    uid = UID(str(ds.get("SOPClassUID") or ""))
    return uid.name if uid.is_valid else "an object without SOP Class"


def _lossy(used: Sequence[Dataset]) -> list[str]:
    """Return a note when images were ever lossily compressed (PS3.3 C.7.6.1.1.5); no gate can judge the loss."""
    ratios = []
    for ds in used:
        if str(ds.get("LossyImageCompression") or "") == "01":
            stated = ds.get("LossyImageCompressionRatio")
            values = stated if isinstance(stated, MultiValue) else [stated]
            ratios.append(max((float(v) for v in values if isinstance(v, float | int)), default=0.0))
    if not ratios:
        return []
    ratio = f"ratio {max(ratios):.1f}" if max(ratios) > 0 else "ratio unknown"
    return [f"{len(ratios)} of {len(used)} images were lossily compressed ({ratio})"]


def _check_patient(images: Sequence[Dataset], profile: Profile) -> list[str]:
    """Refuse two patients in one Study and patients outside the age range; return what is unknown."""
    if len({str(ds.get("PatientID", "")) for ds in images}) > 1:
        raise OutsideIntendedUseError("the images of the study carry different Patient IDs")
    require_age(images[0], profile)
    return ["the patient's age is unknown"] if age_years(images[0]) is None else []


def require_age(ds: Dataset, profile: Profile) -> None:
    """Refuse a patient outside the age range; an unknown age is let through.

    Raises:
        OutsideIntendedUseError: too young.
    """
    age = age_years(ds)
    if age is not None and age < profile.minimum_age_years:
        raise OutsideIntendedUseError(f"patients under {profile.minimum_age_years} are outside the intended use")


def age_years(ds: Dataset) -> float | None:
    """Return the age from Patient's Age (VR AS) or the dates, None when neither says."""
    match = re.fullmatch(r"(\d{3})([DWMY])", str(ds.get("PatientAge", "") or "").strip())
    if match and int(match[1]) > 0:
        return int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]]
    birth, studied = (
        re.fullmatch(r"(\d{4})\d{4}", str(ds.get(k, "") or "")) for k in ("PatientBirthDate", "StudyDate")
    )
    return float(int(studied[1]) - int(birth[1])) if birth and studied else None


def _gate_radiograph(images: Sequence[Dataset], unchecked: list[str]) -> Intake:
    """Choose the frontal chest image."""
    excluded: list[tuple[str, str]] = []
    usable: list[Dataset] = []
    for ds in images:
        reason = _radiograph_refusal(ds)
        if reason:
            excluded.append((str(ds.get("SeriesInstanceUID", "")), reason))
        else:
            usable.append(ds)
    if not usable:
        raise OutsideIntendedUseError(f"no frontal chest radiograph: {'; '.join(sorted({r for _, r in excluded}))}")
    # PA before AP: the heart is not magnified
    usable.sort(key=lambda d: (view_position(d) != "PA", str(d.SOPInstanceUID)))
    chosen = usable[0]
    excluded += [(str(ds.SeriesInstanceUID), "another frontal view was read") for ds in usable[1:]]
    radiograph = load_radiograph(Path(str(chosen.filename)))
    if min(radiograph.pixels.shape) < 224:
        raise OutsideIntendedUseError(f"image of {radiograph.pixels.shape} pixels is too small to read")
    return Intake(ExpertInput(radiograph=radiograph), {str(chosen.SeriesInstanceUID): [chosen]}, excluded, unchecked)


def _radiograph_refusal(ds: Dataset) -> str:
    """Return why an image is not a frontal chest radiograph for presentation, or an empty string."""
    view = view_position(ds)
    body_part = str(ds.get("BodyPartExamined", "") or "").upper()
    if not _is_named(ds):
        return _UNNAMED
    if str(ds.get("PresentationIntentType", "")) == "FOR PROCESSING":
        return "image is for processing, not for presentation"
    if "LOCALIZER" in str(ds.get("ImageType", "")):
        return "image is a localizer"
    if body_part and body_part not in {"CHEST", "THORAX"}:
        return f"body part is {body_part[:16]}"
    if view not in _FRONTAL:
        return f"view position is {view[:16] or 'unknown'}"
    return ""


def _image_series(
    images: Sequence[Dataset], profile: Profile
) -> tuple[dict[str, list[Dataset]], list[tuple[str, str]]]:
    """Group slices and multi-frame objects by Series; return what is neither with the reason."""
    grouped: dict[str, list[Dataset]] = {}
    dropped: list[tuple[str, str]] = []
    for ds in images:
        uid = str(ds.get("SeriesInstanceUID", ""))
        reason = _slice_refusal(ds)
        if reason:
            dropped.append((uid, reason))
        else:
            grouped.setdefault(uid, []).append(ds)
    if not grouped:
        reasons = "; ".join(sorted({reason for _, reason in dropped}))
        raise OutsideIntendedUseError(f"no series of {' or '.join(sorted(profile.modalities))} slices: {reasons}")
    return grouped, dropped


def _is_named(ds: Dataset) -> bool:
    return all(UID(str(ds.get(keyword) or "")).is_valid for keyword in _IDENTITY)


def _slice_refusal(ds: Dataset) -> str:
    """Return why an image is no slice of a Volume, or an empty string."""
    kind = str(ds.get("ImageType", "")).upper()
    if not _is_named(ds):
        return _UNNAMED
    if ds.get("SOPClassUID") not in SLICE_CLASSES.get(str(ds.Modality), frozenset()):
        return f"{_class_name(ds)} holds no slices of a volume"
    if "LOCALIZER" in kind:
        return "image is a localizer"
    if "MOSAIC" in kind:
        return "image is a mosaic of slices"
    if str(ds.get("SamplesPerPixel", 1)) != "1":
        return "colour images are not slices of a volume"
    return unusual_bits(ds)


def _read_stack(headers: Sequence[Dataset], profile: Profile) -> Stack:
    """Return the stack of a Series, if a Volume of this profile can be made of it."""
    try:
        stack = read_stack(headers)
    except GeometryError:
        # three slices are a survey, and no matter of geometry
        if not any(is_multi_frame(ds) for ds in headers) and len(headers) < profile.minimum_slices:
            raise _too_few(len(headers), profile) from None
        raise
    if len(stack.frames) < profile.minimum_slices:
        raise _too_few(len(stack.frames), profile, stack.left_out)
    step_mm = float(np.linalg.norm(stack.affine[:3, 0]))
    if step_mm > profile.maximum_slice_mm:
        raise OutsideIntendedUseError(
            f"slices {step_mm:.1f} mm apart, at most {profile.maximum_slice_mm:.0f} mm is read"
        )
    return stack


def _too_few(count: int, profile: Profile, left_out: Sequence[str] = ()) -> OutsideIntendedUseError:
    rest = f" ({'; '.join(left_out)})" if left_out else ""
    return OutsideIntendedUseError(f"{count} slices, at least {profile.minimum_slices} are needed{rest}")


def _gate_ct(series: dict[str, list[Dataset]], profile: Profile, unchecked: list[str]) -> Intake:
    """Read one Series: axial before others, original before derived, then the one with most slices."""
    excluded: list[tuple[str, str]] = []
    stacks: dict[str, Stack] = {}
    for uid, headers in series.items():
        try:
            stack = _read_stack(headers, profile)
        except (GeometryError, OutsideIntendedUseError) as exc:
            excluded.append((uid, str(exc)))
            continue
        reason = ct_refusal(stack)
        if reason:
            excluded.append((uid, reason))
        else:
            stacks[uid] = stack
    if not stacks:
        raise OutsideIntendedUseError(f"no series can be read as a volume: {'; '.join(r for _, r in excluded)}")
    chosen = max(stacks, key=lambda uid: (*preference(stacks[uid]), uid))
    excluded += [(uid, "a series better suited was read") for uid in stacks if uid != chosen]
    excluded += [(chosen, reason) for reason in stacks[chosen].left_out]
    volume = load_stack(stacks[chosen])
    if float(np.mean(volume.array > -300)) < 0.05 or float(volume.array.max()) < 50:
        raise OutsideIntendedUseError("the image holds no body in Hounsfield units")
    return Intake(ExpertInput(volume=volume), {chosen: stacks[chosen].headers}, excluded, unchecked)


def _gate_brain(series: dict[str, list[Dataset]], profile: Profile, unchecked: list[str]) -> Intake:
    """Read the four sequences; BRATS registers them, whatever their Frames of Reference."""
    stacks: dict[str, Stack] = {}
    unreadable: dict[str, str] = {}
    for uid, headers in series.items():
        try:
            stacks[uid] = _read_stack(headers, profile)
        except (GeometryError, OutsideIntendedUseError) as exc:
            unreadable[uid] = str(exc)
    try:
        roles = assign_roles({uid: series[uid] for uid in stacks})
    except OutsideIntendedUseError as exc:
        raise OutsideIntendedUseError("; ".join([str(exc), *dict.fromkeys(unreadable.values())])) from exc
    chosen = {role: stacks[uid] for role, uid in roles.chosen.items()}
    try:
        volumes = {role: load_stack(stack) for role, stack in chosen.items()}
    except UndecodablePixelsError as exc:
        raise UndecodablePixelsError(f"a sequence cannot be read: {exc}") from exc
    excluded = [*unreadable.items(), *roles.excluded]
    excluded += [(roles.chosen[role], reason) for role, stack in chosen.items() for reason in stack.left_out]
    frames = {volume.frame_of_reference_uid for volume in volumes.values()}
    notes = [*unchecked, *roles.unchecked]
    if len(frames) > 1 or "" in frames:
        notes.append("the sequences do not share one frame of reference: their positions rest on registration alone")
    used = {roles.chosen[role]: stack.headers for role, stack in chosen.items()}
    return Intake(ExpertInput(brain_mr=volumes), used, excluded, notes)
