"""May a CT stack be read as Hounsfield units in the patient's axes, and which of several is read?"""

import numpy as np

from worker.stacking import Stack
from worker.upright import LARGEST_TILT_DEGREES

_UNITS = {"US", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"}  # PS3.3 C.11.1.1.2; other text is not repeated
_FEWEST_BITS = 9  # eight bits span the range from air to bone in steps of more than 10 HU


def ct_refusal(stack: Stack) -> str:
    """Return why a stack is not read as CT, or an empty string."""
    if not stack.frames[0].header.get("FrameOfReferenceUID"):
        return "no Frame of Reference UID: results could not be placed on the images"
    return hounsfield_refusal(stack) or obliquity_refusal(stack)


def hounsfield_refusal(stack: Stack) -> str:
    """Return why the values of a stack are no Hounsfield units, or an empty string.

    MONOCHROME1 changes how an image is shown, not its values, and is read.
    """
    for frame in stack.frames:
        transform = frame.transform
        if "ModalityLUTSequence" not in transform and (
            transform.get("RescaleSlope") is None or transform.get("RescaleIntercept") is None
        ):
            return "no Rescale Slope and Intercept: the values are no Hounsfield units"
        unit = str(transform.get("RescaleType") or "HU")
        if unit != "HU":
            return f"Rescale Type is {unit if unit in _UNITS else 'another'}, not HU"
        if int(frame.header.get("BitsStored") or 0) < _FEWEST_BITS:
            return "images of 8 bits do not hold Hounsfield units"
    return ""


def obliquity_refusal(stack: Stack) -> str:
    """Return why a stack is turned too far against the patient's axes, or an empty string.

    The published preprocessing turns axes by right angles only: an oblique grid stays oblique, and the network
    sees a turned patient. Gantries tilt by up to 30 degrees, so much is read; an oblique reformat is not.
    """
    turned = obliquity_degrees(stack)
    if turned <= LARGEST_TILT_DEGREES:
        return ""
    return (
        f"slices turned by {turned:.0f} degrees against the patient's axes, at most {LARGEST_TILT_DEGREES:.0f} are read"
    )


def obliquity_degrees(stack: Stack) -> float:
    """Return the largest angle between an axis of the straightened grid and the patient axis nearest to it."""
    row, column = stack.affine[:3, 2], stack.affine[:3, 1]
    axes = np.stack([np.cross(row, column), column, row])
    cosines = np.abs(axes / np.linalg.norm(axes, axis=1, keepdims=True)).max(axis=1)
    return float(np.degrees(np.arccos(np.clip(cosines.min(), 0.0, 1.0))))


def preference(stack: Stack) -> tuple[bool, bool, int]:
    """Return what orders stacks of a Study: axial, original, number of slices."""
    normal = np.cross(stack.affine[:3, 2], stack.affine[:3, 1])
    return int(np.argmax(np.abs(normal))) == 2, stack.frames[0].is_original, len(stack.frames)
