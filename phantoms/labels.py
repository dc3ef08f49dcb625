"""Label identifiers of the CT phantoms: those of VISTA3D's label table, so masks compare without a map."""

LIVER, SPLEEN, PANCREAS, RIGHT_KIDNEY, AORTA, IVC = 1, 3, 4, 5, 6, 7
RIGHT_ADRENAL, LEFT_ADRENAL, GALLBLADDER, ESOPHAGUS, STOMACH = 8, 9, 10, 11, 12
DUODENUM, LEFT_KIDNEY, PORTAL_VEIN, SMALL_BOWEL = 13, 14, 17, 19
LUNG_TUMOR, PANCREATIC_TUMOR, HEPATIC_TUMOR = 23, 24, 26
LEFT_UPPER, LEFT_LOWER, RIGHT_UPPER, RIGHT_MIDDLE, RIGHT_LOWER = 28, 29, 30, 31, 32
LUNG_LOBES = (LEFT_UPPER, LEFT_LOWER, RIGHT_UPPER, RIGHT_MIDDLE, RIGHT_LOWER)
L5, T1, C7, C6 = 33, 49, 50, 51
TRACHEA, COLON = 57, 62
LEFT_RIB_1, RIGHT_RIB_1 = 63, 75
LEFT_HUMERUS, RIGHT_HUMERUS, LEFT_SCAPULA, RIGHT_SCAPULA, LEFT_CLAVICLE, RIGHT_CLAVICLE = 87, 88, 89, 90, 91, 92
LEFT_AUTOCHTHON, RIGHT_AUTOCHTHON, LEFT_ILIOPSOAS, RIGHT_ILIOPSOAS = 104, 105, 106, 107
COSTAL_CARTILAGE, HEART, SPINAL_CORD, STERNUM, SUPERIOR_VENA_CAVA, BONE_LESION = 114, 115, 121, 122, 125, 128

LESION_LABELS: dict[str, int] = {
    "hepatic tumor": HEPATIC_TUMOR,
    "pancreatic tumor": PANCREATIC_TUMOR,
    "lung tumor": LUNG_TUMOR,
    "bone lesion": BONE_LESION,
}


def _names() -> dict[int, str]:
    names = {
        1: "liver", 3: "spleen", 4: "pancreas", 5: "right kidney", 6: "aorta", 7: "inferior vena cava",
        8: "right adrenal gland", 9: "left adrenal gland", 10: "gallbladder", 11: "esophagus", 12: "stomach",
        13: "duodenum", 14: "left kidney", 17: "portal vein and splenic vein", 19: "small bowel",
        28: "left lung upper lobe", 29: "left lung lower lobe", 30: "right lung upper lobe",
        31: "right lung middle lobe", 32: "right lung lower lobe", 50: "vertebrae C7", 51: "vertebrae C6",
        57: "trachea", 62: "colon", 87: "left humerus", 88: "right humerus", 89: "left scapula",
        90: "right scapula", 91: "left clavicula", 92: "right clavicula", 104: "left autochthon",
        105: "right autochthon", 106: "left iliopsoas", 107: "right iliopsoas", 114: "costal cartilages",
        115: "heart", 121: "spinal cord", 122: "sternum", 125: "superior vena cava",
    }  # fmt: skip
    names |= {label: name for name, label in LESION_LABELS.items()}
    names |= {L5 + k: f"vertebrae L{5 - k}" for k in range(5)}
    names |= {L5 + 5 + k: f"vertebrae T{12 - k}" for k in range(12)}
    names |= {LEFT_RIB_1 + k: f"left rib {k + 1}" for k in range(12)}
    names |= {RIGHT_RIB_1 + k: f"right rib {k + 1}" for k in range(12)}
    return dict(sorted(names.items()))


LABEL_NAMES: dict[int, str] = _names()
