"""The words reports use: for findings, organs of one sex, regions of the body, methods of imaging."""

import re
from collections.abc import Mapping
from functools import cache

# label of a finding, lower case -> what a report may call it
_TERMS: Mapping[str, str] = {
    "atelectasis": r"atelecta(?:sis|ses|tic)|volume loss|collapse",
    "consolidation": r"consolidat\w+|air ?space disease",
    "infiltration": r"infiltrat(?:ion|ions|e|es)",
    "pneumothorax": r"(?:hydro)?pneumothora(?:x|ces)",
    "edema": r"(?:pulmonary |interstitial |alveolar )?o?edema",
    "emphysema": r"emphysema(?:tous)?",
    "fibrosis": r"fibro(?:sis|tic)",
    "effusion": r"(?:pleural )?effusions?|pleural fluid|hydropneumothora(?:x|ces)",
    "pleural effusion": r"(?:pleural )?effusions?|pleural fluid|hydropneumothora(?:x|ces)",
    "pneumonia": r"pneumonias?|pneumonic",
    "pleural thickening": r"pleural thickening|thickened pleura",
    "cardiomegaly": r"cardiomegaly|enlarged (?:heart|cardiac silhouette)"
    r"|(?:heart|cardiac silhouette) is (?:\w+ )?enlarged",
    "nodule": r"nodul(?:e|es|ar)",
    "mass": r"mass(?:es)?\b(?! effect)",
    "hernia": r"hernias?",
    "lung lesion": r"(?:lung|pulmonary) (?:lesions?|nodules?|mass(?:es)?)",
    "fracture": r"fractures?",
    "lung opacity": r"(?:lung |air ?space |pulmonary )?opacit(?:y|ies)",
    "enlarged cardiomediastinum": r"(?:enlarged|widened) (?:cardio)?mediastin(?:um|al silhouette)|mediastinal widening",
    "hepatic tumor": r"(?:hepatic|liver) (?:tumou?rs?|lesions?|mass(?:es)?|metastas[ie]s|neoplasms?)",
    "pancreatic tumor": r"pancrea(?:tic|s) (?:tumou?rs?|lesions?|mass(?:es)?|neoplasms?)",
    "lung tumor": r"(?:lung|pulmonary) (?:tumou?rs?|lesions?|mass(?:es)?|nodules?|neoplasms?)"
    r"|(?:tumou?rs?|mass(?:es)?|neoplasms?) (?:of|in) the (?:\w+ ){0,3}(?:lungs?|lobe)",
    "kidney tumor": r"(?:renal|kidney) (?:tumou?rs?|lesions?|mass(?:es)?|neoplasms?)",
    "colon tumor": r"(?:colon(?:ic)?|colorectal) (?:tumou?rs?|lesions?|mass(?:es)?|neoplasms?)",
    "bone lesion": r"(?:bone|osseous|bony|lytic|sclerotic) lesions?",
    "brain tumor": r"(?:brain|intra-?axial|cerebral|intracranial) (?:tumou?rs?|mass(?:es)?|lesions?|neoplasms?)"
    r"|gliomas?",
    "enhancing tumor": r"enhanc(?:ing|ement)(?: tumou?r)?",
    "intracranial hemorrhage": r"(?:intracranial |subdural |subarachnoid |epidural |cerebral )?h(?:a?e)morrhages?",
    "pulmonary embolism": r"(?:pulmonary )?embol(?:ism|us|i)",
    "aortic dissection": r"(?:aortic )?dissection",
    "free air": r"free (?:intraperitoneal )?(?:air|gas)|pneumoperitoneum",
}  # fmt: skip
CRITICAL = re.compile(
    r"\b(?:tension pneumothorax|pneumothora(?:x|ces)|(?:intracranial|subdural|subarachnoid|epidural) h(?:a?e)morrhage"
    r"|pulmonary embol(?:ism|us|i)|aortic dissection|free (?:intraperitoneal )?air|pneumoperitoneum|cord compression"
    r"|ruptured? aneurysm)\b"
)
TOLD = re.compile(
    r"\b(?:discussed with|communicated (?:to|with|by)|notified|informed|telephoned|phoned|called to|reported to"
    r"|verbally|read[- ]back|by (?:tele)?phone)\b"
)
FEMALE = re.compile(
    r"\b(?:uterus|uterine|ovar(?:y|ies|ian)|vagina(?:l)?|endometri\w+|myometri\w+|adnexa(?:l)?|cervix uteri|fallopian"
    r"|gestational sac)\b"
)
MALE = re.compile(
    r"\b(?:prostat(?:e|ic|omegaly)|seminal vesicles?|testi(?:s|cle|cles|cular)|scrot(?:um|al)|penile|penis)\b"
)
WOMAN = re.compile(r"\b(?:she|her|woman|lady|female)\b")
MAN = re.compile(r"\b(?:he|his|him|man|gentleman|male)\b")
AGE = re.compile(r"\b(\d{1,3})[- ](?:years?|yrs?)[- ]old\b|\b(\d{1,3}) ?y/?o\b")

COMPARES = re.compile(
    r"\b(?:unchanged|no (?:\w+ ){0,3}changes?\b|interval changes?|significant change|(?:has|have) (?:not )?changed"
    r"|(?:is|are|remains?|appears?) stable|stable (?:since|compared|appearance|in (?:size|appearance))"
    r"|compar(?:ed|ison|ing) (?:with|to)|in comparison|redemonstrat\w*"
    r"|interval (?:development|resolution|increase|decrease|improvement|worsening|growth)"
    r"|(?:since|from|than) (?:the )?(?:prior|previous|last|earlier)|new since|newly|no longer"
    r"|(?:in|de)creas(?:ed|ing) in size|(?:has|have) (?:grown|shrunk|resolved|progressed|regressed)"
    r"|improved|worsened|worsening|again (?:seen|noted|demonstrated)|(?:is|are) persistent|persists?"
    r"|prior (?:study|exam\w*|ct|mri?|radiographs?|films?)|previous (?:study|exam\w*|ct|mri?|radiographs?|films?))\b"
)
# comparisons that need no earlier images
NOT_EARLIER = re.compile(
    r"\b(?:compar(?:ed|ison|ing) (?:with|to)|than) (?:the )?(?:contralateral|opposite|other|left|right|normal|expected"
    r"|adjacent|remaining|liver|spleen|muscle|grey|gray|white)"
    r"|\bno (?:\w+ ){0,2}(?:degenerative|ischa?emic|inflammatory|fibrotic|focal|structural|destructive|postoperative"
    r"|signal|arthritic|cystic|parenchymal|emphysematous|interstitial|acute|bony|osseous) (?:\w+ )?changes?\b"
    r"|\bpersistent (?:left|right|foramen|ductus|fetal)|\bno (?:comparison|prior|previous|earlier)\b"
    r"|\bno (?:\w+ ){0,3}(?:are|is|were|was) available"
)
PLACEHOLDER = re.compile(
    r"\[\s*\]|\[[\s_?.…xX*-]+\]|\[(?:side|left/right|right/left|number|size|date|name|enter|insert|fill|select|tbd"
    r"|ai answer)[^\]\n]{0,40}\]|_{3,}|\*{3,}|\bxx+\b(?! male)|\?\?+|\{[^}\n]{0,40}\}",
    re.IGNORECASE,
)

METHODS: Mapping[str, re.Pattern[str]] = {  # DICOM Modality -> what the report calls the method itself
    "CT": re.compile(r"\b(?:ct|computed tomograph\w+)\b"),
    "MR": re.compile(r"\b(?:mri?|magnetic resonance\w*)\b"),
    "XR": re.compile(r"\b(?:radiographs?|x-?rays?|chest film)\b"),
    "US": re.compile(r"\b(?:ultrasound|sonograph\w+|doppler)\b"),
    "MG": re.compile(r"\bmammogra\w+\b"),
}
ONLY_IN: Mapping[str, re.Pattern[str]] = {  # words that make no sense of another method's images
    "MR": re.compile(r"\b(?:t[12][- ]?(?:weighted|w|hyper\w+|hypo\w+|signal)|flair|adc|restricted diffusion"
                     r"|hyperintens\w+|hypointens\w+|gadolinium)\b"),
    "CT": re.compile(r"\b(?:hounsfield|\d+ hu|hyperdens\w+|hypodens\w+|hypoattenuat\w+|hyperattenuat\w+)\b"),
}  # fmt: skip
OF_MODALITY: Mapping[str, str] = {"CT": "CT", "MR": "MR", "DX": "XR", "CR": "XR", "RG": "XR", "US": "US", "MG": "MG"}

REGIONS: Mapping[str, re.Pattern[str]] = {
    "head": re.compile(r"\b(?:brain|cerebr\w+|intracranial|sella\w*|basal ganglia|corpus callosum|midline shift)\b"),
    "chest": re.compile(r"\b(?:lungs?|pulmonary|pleural?|mediastin\w+|pneumothorax|costophrenic)\b"),
    "abdomen": re.compile(r"\b(?:liver|hepatic|spleen|splenic|pancrea\w+|kidneys?|gallbladder|adrenals?|bowel)\b"),
    "pelvis": re.compile(r"\b(?:urinary bladder|uterus|uterine|prostate|ovar(?:y|ies)|rectum|adnexal?)\b"),
    "spine": re.compile(r"\b(?:disc (?:protrusion|herniation|bulge)|spinal cord|neural foram\w+|ligamentum flavum)\b"),
    "leg": re.compile(r"\b(?:knees?|menisc\w+|patell\w+|cruciate|ankles?|tibia\w*|fibula\w*|malleol\w+|calcane\w+)\b"),
    "hip": re.compile(r"\b(?:hips?|femoral (?:head|neck)|acetabul\w+)\b"),
    "arm": re.compile(r"\b(?:wrists?|elbows?|scaphoid|metacarp\w+|olecranon|carpal)\b"),
}
# what a study of one region may also show, or its report name
_SEEN_WITH: Mapping[str, frozenset[str]] = {
    "head": frozenset({"head", "spine"}),
    "chest": frozenset({"chest", "abdomen", "spine"}),
    "abdomen": frozenset({"abdomen", "chest", "pelvis", "spine", "hip"}),
    "pelvis": frozenset({"pelvis", "abdomen", "hip", "spine"}),
    "spine": frozenset({"spine", "head", "chest", "abdomen", "pelvis", "hip"}),
    "hip": frozenset({"hip", "pelvis", "leg", "abdomen", "spine"}),
    "leg": frozenset({"leg", "hip"}),
    "arm": frozenset({"arm"}),
}
_EXAMINED: Mapping[str, re.Pattern[str]] = {
    "head": re.compile(r"\b(?:head|brain|skull|cranium)\b"),
    "chest": re.compile(r"\b(?:chest|thorax|lungs?)\b"),
    "abdomen": re.compile(r"\b(?:abdomen|abdominal|liver|kidneys?)\b"),
    "pelvis": re.compile(r"\b(?:pelvis|prostate|uterus)\b"),
    "spine": re.compile(r"\b(?:spine|[clt]spine)\b"),
    "hip": re.compile(r"\bhips?\b"),
    "leg": re.compile(r"\b(?:knee|leg|ankle|foot|tibia|extremity)\b"),
    "arm": re.compile(r"\b(?:hand|wrist|elbow|arm|shoulder|extremity)\b"),
}
PAIRED = re.compile(r"\b(?:knees?|ankles?|foot|feet|hands?|wrists?|elbows?|shoulders?|hips?|legs?|arms?)\b")


@cache
def term(label: str) -> re.Pattern[str]:
    """Return the pattern of what a report may call a finding; unknown labels are looked for as they are."""
    name = plain(label)
    words = _TERMS.get(name) or r"\s+".join(re.escape(word) for word in name.split()) + "(?:s|es)?"
    return re.compile(rf"\b(?:{words})(?!\w)")


def plain(label: str) -> str:
    """Return a label as it is read: lower case, blanks for underscores."""
    return " ".join(label.replace("_", " ").lower().split())


def examined(body_part: str) -> frozenset[str]:
    """Return every region that a study of ``body_part`` may show; empty when that is not known, or the whole body."""
    said = body_part.lower().replace("_", " ")
    if "whole" in said:
        return frozenset()
    found = [name for name, pattern in _EXAMINED.items() if pattern.search(said)]
    return frozenset().union(*(_SEEN_WITH[name] for name in found))
