"""A VILA-M3 of middle size with random weights: every part as published, only narrower and shallower.

The decoder has 14 layers of width 1024 with grouped queries and 32,000 tokens, the tower 12 layers over the real
27 × 27 patches. They stand to each other as in the published 8B: one picture costs as many operations as about 49
tokens of a prompt. (In the 3B it is 132, in the 13B 27. The dearer a picture, the less reuse can save, because a
new overlay must always be encoded: counting operations, 3B comes to 3.0, 8B to 3.3 and 13B to 3.4.)
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from config.errors import GenerationBudgetError, ModelError, RepetitionError
from worker.rendering import overlay, rgb
from worker.vlm.backends import Conversation, Generation
from worker.vlm.front_end import Prompt
from worker.vlm.generation import Answering
from worker.vlm.kv_cache import Kept
from worker.vlm.package import VlmManifest
from worker.vlm.projector import Projector
from worker.vlm.prompts import (
    TRAINED_ORDER,
    brats_legend,
    first_message,
    overlay_message,
    prediction_lines,
    structure_legend,
)
from worker.vlm.templates import TEMPLATES, Message
from worker.vlm.vila_m3 import VilaM3

DOCS = Path(__file__).resolve().parents[2] / "docs"
CARDS = (
    "Here is a list of available expert models:\n<BRATS(args)> Modality: MRI, Task: segmentation, Overview: A "
    "pre-trained model for volumetric (3D) segmentation of brain tumor subregions from multimodal MRIs based on "
    "BraTS 2018 data, Accuracy: Tumor core (TC): 0.8559 - Whole tumor (WT): 0.9026 - Enhancing tumor (ET): 0.7905 - "
    "Average: 0.8518, Valid args are: None\n<VISTA3D(args)> Modality: CT, Task: segmentation, Overview: "
    "domain-specialized interactive foundation model developed for segmenting and annotating human anatomies with "
    "precision, Accuracy: 127 organs: 0.792 Dice on average, Valid args are: 'everything', 'hepatic tumor', "
    "'pancreatic tumor', 'lung tumor', 'bone lesion', 'organs', 'cardiovascular', 'gastrointestinal', 'skeleton', or "
    "'muscles'\n<VISTA2D(args)> Modality: cell imaging, Task: segmentation, Overview: model for cell segmentation, "
    "which was trained on a variety of cell imaging outputs, including brightfield, phase-contrast, fluorescence, "
    "confocal, or electron microscopy, Accuracy: Good accuracy across several cell imaging datasets, Valid args are: "
    "None\n<CXR(args)> Modality: chest x-ray (CXR), Task: classification, Overview: pre-trained model which are "
    "trained on large cohorts of data, Accuracy: Good accuracy across several diverse chest x-rays datasets, Valid "
    "args are: None\nGive the model <NAME(args)> when selecting a suitable expert model.\n"
)
CARDS_SHA256 = "c0e10e631e87a7da0873be4f94e5aa560529f751638016cb37347ebd3a6945b6"
TRIGGER = "This looks like a CT image. Let me trigger <VISTA3D(hepatic tumor)>. "
LEGEND = structure_legend([("red", "liver"), ("blue", "hepatic tumor")])
QUESTION = "Is there any evidence of a hepatic tumor in this image?"
FILM_QUESTION = "Describe the image in detail."
FILM_TRIGGER = "This looks like an chest x-ray. Let me first trigger <CXR()>."
ANALYSE = ". Analyze the image and take these predictions into account when responding to this prompt:\n"
BRAIN_QUESTION = "What glioma grade is shown in the image?"
BRAIN_TRIGGER = "This looks like an MRI image sequence. Let me first trigger <BRATS()>."

Picture = NDArray[np.uint8]


class Unstopped(VilaM3):
    """Writes exactly the tokens it is allowed: random weights know no stop token, and may write what they like."""

    def _stops(self) -> frozenset[int]:
        return frozenset()

    def _outcome(self, prompt: Prompt, answer: Answering) -> Generation | ModelError:
        if isinstance(answer.error, RepetitionError) or not isinstance(answer.error, GenerationBudgetError):
            return answer.error or ModelError("random weights stopped")
        text = self.tokenizer.decode(answer.produced)
        return Generation(text, len(answer.produced), True, tuple(answer.produced), prompt.text)

    def forget(self) -> None:
        """Start cold: nothing is kept of earlier calls."""
        self._known.clear()
        self._rows.clear()

    def recall(self, first: Conversation, answer: str) -> None:
        """Keep exactly what a first round leaves that wrote ``answer``; random weights would write another one."""
        self.forget()
        (prompt,) = self._writer.prompts(first.messages, first.images, [("", 0)])
        written = [*prompt.elements, *self._writer.answer_ids(answer)]
        with torch.inference_mode():
            read = self._read(Prompt("", written, prompt.pictures, 0), room=0)
        _, layers = self._known.longest(written, [read.known()])
        self._known.keep(Kept(tuple(written[:-1]), [(keys.clone(), values.clone()) for keys, values in layers]))


def build(*, kv_cache_mb: float, parts: tuple[Any, Any, Any, Projector] | None = None) -> Unstopped:
    """Return the model; with ``parts``, another front end over the same weights."""
    manifest = VlmManifest(
        kind="vlm", name="mid-size", version="0", licence="none", base="random", demonstration=True,
        intended_use="benchmark", modalities=("CT",), template="llama_3", files={},
    )  # fmt: skip
    return Unstopped(manifest, parts or random_parts(), context_tokens=4096, kv_cache_mb=kv_cache_mb)


def random_parts() -> tuple[Any, Any, Any, Projector]:
    """Return tokenizer, decoder, tower and projector, float32."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=14, num_attention_heads=16,
            num_key_value_heads=4, max_position_embeddings=4096, rope_theta=5e5, rms_norm_eps=1e-5,
            tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            # wider than a trained model's start, so that what is written depends on everything that was read
            initializer_range=0.06,
        )
    )  # fmt: skip
    tower = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=216, intermediate_size=807, num_hidden_layers=12, num_attention_heads=3, image_size=384,
            patch_size=14,
        )
    )  # fmt: skip
    projector = Projector(216, 1024)
    for module in (llm, tower, projector):
        module.requires_grad_(requires_grad=False).eval()
    return tokenizer, llm, tower, projector


def studies(count: int) -> list[Conversation]:
    """Return the first turns of ``count`` CT studies: the same cards and question, different pictures."""
    opening = first_message(QUESTION, cards=CARDS, modality="CT")
    return [Conversation((opening,), (rgb(slice_of(number)),)) for number in range(count)]


@dataclass(frozen=True)
class TrainedRounds:
    """The two rounds VILA-M3 was trained on for one modality.

    Attributes:
        name: of the modality.
        first: the first turn.
        answer: the Trigger sentence the model answers with.
        second: the conversation after the Expert ran.
    """

    name: str
    first: Conversation
    answer: str
    second: Conversation


def trained_rounds() -> list[TrainedRounds]:
    """Return the rounds of the three Experts: one image and an overlay, one image and 18 lines, four and an overlay."""
    labels = np.zeros((512, 512), np.uint8)
    labels[150:330, 120:300] = 1
    labels[200:240, 160:200] = 26
    painted = overlay(slice_of(0), labels)
    lines = prediction_lines((label, number % 5 == 0) for number, label in enumerate(TRAINED_ORDER))
    chest = Message("user", f"{lines}{ANALYSE}{FILM_QUESTION}")
    brain = overlay_message(brats_legend({1: "red", 2: "blue", 4: "yellow"}), BRAIN_QUESTION)
    return [
        _rounds("CT", QUESTION, 1, TRIGGER, overlay_message(LEGEND, QUESTION), (painted,)),
        _rounds("CXR", FILM_QUESTION, 1, FILM_TRIGGER, chest, ()),
        _rounds("MRI", BRAIN_QUESTION, 4, BRAIN_TRIGGER, brain, (painted,)),
    ]


def _rounds(
    modality: str, question: str, images: int, answer: str, feedback: Message, overlays: tuple[Picture, ...]
) -> TrainedRounds:
    opening = first_message(question, cards=CARDS, modality=modality, images=images)
    first = Conversation((opening,), tuple(rgb(slice_of(number)) for number in range(images)))
    said = (*first.messages, Message("assistant", answer), feedback)
    return TrainedRounds(modality, first, answer, Conversation(said, (*first.images, *overlays)))


def slice_of(number: int) -> Picture:
    """Return ``(512, 512)`` 8-bit grey: an ellipse with smooth texture, another one for every number."""
    rows, columns = np.mgrid[:512, :512] / 512.0
    texture = sum(
        math.sin(number + k) * np.sin(2 * math.pi * (k * rows + (number % 5 + 1) * columns + number / 7))
        for k in range(1, 6)
    )
    body = ((rows - 0.5) / 0.4) ** 2 + ((columns - 0.5) / 0.45) ** 2 < 1
    return np.where(body, np.clip(128 + 25 * texture, 0, 255), 0).astype(np.uint8)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE that makes about as many tokens of the cards as the published ones (330 to 400)."""
    if hashlib.sha256(CARDS.encode()).hexdigest() != CARDS_SHA256:
        raise ModelError("the card text is not the trained one")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))]
    trainer = trainers.BpeTrainer(
        vocab_size=7000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=2
    )
    said = [TEMPLATES["llama_3"].system, ANALYSE, QUESTION, FILM_QUESTION, BRAIN_QUESTION]
    said += [TRIGGER, FILM_TRIGGER, BRAIN_TRIGGER, overlay_message(LEGEND, QUESTION).text]
    said.append(prediction_lines((label, False) for label in TRAINED_ORDER))
    core.train_from_iterator([*texts, CARDS, CARDS[:500], *said, *said], trainer)
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=special[0], eos_token=special[1])
