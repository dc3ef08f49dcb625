"""What makes the model faster changes no draft: each optimisation off gives the same report, token for token."""

from dataclasses import dataclass, field

import pytest
import torch

from config.settings import ROOT
from phantoms.brain_mr import make_brain_mr
from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from phantoms.dicom import write_brain_mr, write_ct, write_radiograph
from phantoms.patients import make_patient
from worker.conversation import Bench
from worker.drafting import draft_study
from worker.experts.base import ExpertResult
from worker.experts.registry import ExpertRegistry
from worker.intake import gate
from worker.profiles import BRAIN_MR, CHEST_XRAY, CT_TORSO
from worker.vlm.vila_m3 import VilaM3

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


@dataclass
class OneByOne:
    """The model without batches: every conversation is answered alone."""

    vlm: VilaM3

    @property
    def card(self):
        return self.vlm.card

    @property
    def runtime(self):
        return self.vlm.runtime

    def generate_batch(self, conversations, *, max_new_tokens):
        return [self.vlm.generate(c.messages, c.images, max_new_tokens=max_new_tokens) for c in conversations]

    def generate(self, messages, images, *, max_new_tokens):
        return self.vlm.generate(messages, images, max_new_tokens=max_new_tokens)

    def answer_each(self, messages, images, questions):
        return self.vlm.answer_each(messages, images, questions)


@dataclass
class Once:
    """The real Experts, each asked once for the same of the same study: it is the model that is compared."""

    registry: ExpertRegistry
    answers: dict[tuple[int, str, str], ExpertResult] = field(default_factory=dict)

    def get(self, name):
        return _Asked(self, name)


@dataclass
class _Asked:
    once: Once
    name: str

    def __getattr__(self, attribute):
        return getattr(self.once.registry.get(self.name), attribute)

    def run(self, study, argument):
        key = (id(study), self.name, argument)
        if key not in self.once.answers:
            self.once.answers[key] = self.once.registry.get(self.name).run(study, argument)
        return self.once.answers[key]


@pytest.fixture(scope="module")
def experts():
    return Once(ExpertRegistry.open(ROOT / "config" / "models.yaml", plugins=False, remotes=False))


@pytest.fixture(scope="module")
def models(demo_model):
    """The demonstration model in float32: as shipped, keeping nothing, and without batches."""
    kept = VilaM3.load(demo_model, dtype=torch.float32)
    forgetful = VilaM3.load(demo_model, dtype=torch.float32, kv_cache_mb=0)
    return {"shipped": kept, "nothing kept": forgetful, "no batch": OneByOne(forgetful)}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    xray = make_chest_xray(21, findings=frozenset({"Effusion"}), size=512)
    ct = make_ct(22, lesions=frozenset({"hepatic tumor"}), voxel_mm=(5.0, 2.0, 2.0))
    mr = make_brain_mr(23, tumour=True, voxel_mm=(4.0, 2.0, 2.0))
    return {
        "CXR": (
            gate(
                write_radiograph(
                    xray.pixels, make_patient(1), folder / "cxr", view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm
                ),
                CHEST_XRAY,
            ),
            CHEST_XRAY,
        ),
        "CT": (gate(write_ct(ct.hu, ct.affine, make_patient(2), folder / "ct"), CT_TORSO), CT_TORSO),
        "MR": (gate(write_brain_mr(mr.channels, mr.affine, make_patient(3), folder / "mr"), BRAIN_MR), BRAIN_MR),
    }


def drafted(vlm, experts, intake, profile):
    bench = Bench(
        vlm=vlm,
        cards=experts.registry.cards(),
        expert=experts.get,
        study=intake.study,
        modality=profile.prompt_modality,
        max_new_tokens=256,
    )
    content = draft_study(intake, profile, bench)
    said = [turn["answer"] for turn in content.provenance["conversations"]]
    return (
        said,
        content.sections,
        [(f.label, f.is_present) for f in content.findings],
        [f.margin for f in content.findings],
    )


@pytest.mark.parametrize(
    ("name", "others"),
    [("CXR", ("nothing kept", "no batch")), ("CT", ("no batch",)), ("MR", ("nothing kept",))],
    ids=["CXR", "CT", "MR"],
)
def test_every_optimisation_gives_the_same_report_token_for_token(name, others, models, experts, studies):
    shipped = drafted(models["shipped"], experts, *studies[name])
    assert "trigger <" in shipped[0][0]
    for other in others:
        slow = drafted(models[other], experts, *studies[name])
        assert slow[:3] == shipped[:3], other
        assert slow[3] == pytest.approx(shipped[3], abs=1e-3), other
