"""The labels of VISTA3D and the Trigger arguments that ask for groups of them (bundle vista3d 0.5.4)."""

from collections.abc import Iterable, Mapping

NAMES: Mapping[int, str] = dict(
    enumerate(
        (
            "liver", "kidney", "spleen", "pancreas", "right kidney", "aorta", "inferior vena cava",
            "right adrenal gland", "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum",
            "left kidney", "bladder", "prostate or uterus", "portal vein and splenic vein", "rectum", "small bowel",
            "lung", "bone", "brain", "lung tumor", "pancreatic tumor", "hepatic vessel", "hepatic tumor",
            "colon cancer primaries", "left lung upper lobe", "left lung lower lobe", "right lung upper lobe",
            "right lung middle lobe", "right lung lower lobe", "vertebrae L5", "vertebrae L4", "vertebrae L3",
            "vertebrae L2", "vertebrae L1", "vertebrae T12", "vertebrae T11", "vertebrae T10", "vertebrae T9",
            "vertebrae T8", "vertebrae T7", "vertebrae T6", "vertebrae T5", "vertebrae T4", "vertebrae T3",
            "vertebrae T2", "vertebrae T1", "vertebrae C7", "vertebrae C6", "vertebrae C5", "vertebrae C4",
            "vertebrae C3", "vertebrae C2", "vertebrae C1", "trachea", "left iliac artery", "right iliac artery",
            "left iliac vena", "right iliac vena", "colon", "left rib 1", "left rib 2", "left rib 3", "left rib 4",
            "left rib 5", "left rib 6", "left rib 7", "left rib 8", "left rib 9", "left rib 10", "left rib 11",
            "left rib 12", "right rib 1", "right rib 2", "right rib 3", "right rib 4", "right rib 5", "right rib 6",
            "right rib 7", "right rib 8", "right rib 9", "right rib 10", "right rib 11", "right rib 12",
            "left humerus", "right humerus", "left scapula", "right scapula", "left clavicula", "right clavicula",
            "left femur", "right femur", "left hip", "right hip", "sacrum", "left gluteus maximus",
            "right gluteus maximus", "left gluteus medius", "right gluteus medius", "left gluteus minimus",
            "right gluteus minimus", "left autochthon", "right autochthon", "left iliopsoas", "right iliopsoas",
            "left atrial appendage", "brachiocephalic trunk", "left brachiocephalic vein",
            "right brachiocephalic vein", "left common carotid artery", "right common carotid artery",
            "costal cartilages", "heart", "left kidney cyst", "right kidney cyst", "prostate", "pulmonary vein",
            "skull", "spinal cord", "sternum", "left subclavian artery", "right subclavian artery",
            "superior vena cava", "thyroid gland", "vertebrae S1", "bone lesion", "kidney mass", "liver tumor",
            "vertebrae L6", "airway",
        ),
        start=1,
    )
)  # fmt: skip

# The network has an embedding for these, but no training behind a class prompt.
UNSUPPORTED = frozenset({16, 18, 129, 130, 131})
SUPPORTED = frozenset(NAMES) - UNSUPPORTED

# A parent is never segmented itself: its prompt stands for its parts.
PARTS: Mapping[int, tuple[int, ...]] = {
    2: (14, 5),
    20: (28, 29, 30, 31, 32),
    21: (*range(33, 57), *range(63, 98), 114, 120, 122),
}
EVERYTHING = tuple(sorted(set(range(1, 128)) - {2, 16, 18, 20, 21, 23, 24, 25, 26, 27}))
_ORGANS = (1, 2, 3, 4, 5, 8, 9, 10, 14, *range(22, 33), 57, 116, 117, 118, 121, 126, 132)
_VESSELS = (6, 7, 17, *range(58, 62), *range(108, 114), 115, 119, 123, 124, 125)

GROUPS: Mapping[str, tuple[int, ...]] = {
    "everything": EVERYTHING,
    "hepatic tumor": (1, 26),
    "hepatoma": (1, 26),
    "pancreatic tumor": (4, 24),
    "lung tumor": (20, 23, 28, 29, 30, 31, 32),
    "bone lesion": (128,),
    "organs": _ORGANS,
    "cardiovascular": _VESSELS,
    "gastrointestinal": (11, 12, 13, 15, 19, 62),
    "skeleton": (21, *range(33, 57), *range(63, 98), 114, 120, 122, 127, 128),
    "muscles": tuple(range(98, 108)),
}


def prompts_for(argument: str) -> tuple[int, ...]:
    """Return the class prompts an argument stands for: parents expanded, each id once, in order.

    Expansion makes duplicates (every bone appears twice in ``skeleton``); equal prompts give equal
    channels that map to the same id, so dropping them leaves the label map unchanged.

    Raises:
        KeyError: the argument names no group.
    """
    return expand(GROUPS[argument])


def expand(labels: Iterable[int]) -> tuple[int, ...]:
    """Return ``labels`` with parents replaced by their parts and duplicates dropped, order kept."""
    return tuple(dict.fromkeys(part for label in labels for part in PARTS.get(label, (label,))))
