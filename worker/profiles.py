"""Pipeline profiles: what each kind of Study is asked, and the intended use its gate enforces."""

from collections.abc import Mapping
from dataclasses import dataclass

from config.errors import ConfigurationError
from worker.selection import Region
from worker.vlm.prompts import ANATOMY_REQUEST, BRAIN_TUMOUR_REQUEST, REPORT_REQUEST, lesion_question


@dataclass(frozen=True)
class LesionQuestion:
    """One yes/no question about a lesion that an Expert must segment first.

    Attributes:
        finding: label of the Finding, as in config/codes.yaml.
        question: what the model is asked.
        segment: label value of the lesion in the Expert's label map; 0 stands for any label.
        region: what the first picture is to show, see `worker.selection`.
    """

    finding: str
    question: str
    segment: int
    region: Region = "body"


@dataclass(frozen=True)
class Profile:
    """How one kind of Study is drafted.

    Attributes:
        name: as routing rules name it.
        modalities: Modality (0008,0060) values accepted.
        prompt_modality: the word in ``This is a … image.``
        expert: the Expert that findings of this profile are gated on.
        minimum_age_years: younger patients are outside the intended use; an unknown age is let
            through, since many archives strip it, and is listed as not checked.
        minimum_slices, maximum_slice_mm: what a Volume must offer.
        lesions: questions asked one conversation each (Volumes).
        largest_lesion_ml: a segmentation above this volume is a failure of the Expert, not a finding.
        overview_question: what opens the conversation.
    """

    name: str
    modalities: frozenset[str]
    prompt_modality: str
    expert: str
    minimum_age_years: int
    minimum_slices: int
    maximum_slice_mm: float
    lesions: tuple[LesionQuestion, ...]
    largest_lesion_ml: float
    overview_question: str


CHEST_XRAY = Profile(
    name="chest-xray",
    modalities=frozenset({"CR", "DX"}),
    prompt_modality="CXR",
    expert="CXR",
    minimum_age_years=18,
    minimum_slices=1,
    maximum_slice_mm=0.0,
    lesions=(),
    largest_lesion_ml=0.0,
    overview_question=REPORT_REQUEST,
)
CT_TORSO = Profile(
    name="ct-torso",
    modalities=frozenset({"CT"}),
    prompt_modality="CT",
    expert="VISTA3D",
    minimum_age_years=18,
    minimum_slices=16,
    maximum_slice_mm=8.0,
    lesions=(
        LesionQuestion("hepatic tumor", lesion_question("hepatic tumor"), 26),
        LesionQuestion("pancreatic tumor", lesion_question("pancreatic tumor"), 24),
        LesionQuestion("lung tumor", lesion_question("lung tumor"), 23, region="lung"),
        LesionQuestion("bone lesion", lesion_question("bone lesion"), 128),
    ),
    largest_lesion_ml=3000.0,
    overview_question=ANATOMY_REQUEST,
)
BRAIN_MR = Profile(
    name="brain-mr",
    modalities=frozenset({"MR"}),
    prompt_modality="MRI",
    expert="BRATS",
    minimum_age_years=18,
    minimum_slices=16,
    maximum_slice_mm=8.0,
    lesions=(LesionQuestion("brain tumor", BRAIN_TUMOUR_REQUEST, 0),),
    largest_lesion_ml=600.0,
    overview_question=ANATOMY_REQUEST,
)
PROFILES: Mapping[str, Profile] = {p.name: p for p in (CHEST_XRAY, CT_TORSO, BRAIN_MR)}


def profile(name: str) -> Profile:
    """Return the profile a routing rule named.

    Raises:
        ConfigurationError: this worker knows no such profile.
    """
    if name not in PROFILES:
        raise ConfigurationError(f"unknown pipeline profile {name!r}; known: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
