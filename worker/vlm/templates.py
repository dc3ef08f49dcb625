"""The three conversation templates VILA-M3 was trained with, and its rule for text around images.

A rendered prompt is one string with one literal ``<image>`` for every image, in message order. Text that
comes from people or from DICOM must pass `plain_text` first: it could otherwise hold markup of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from config.errors import ModelPackageError

IMAGE = "<image>"
"""Placeholder of one image in a message."""

SEGMENTATION = "<segmentation>"
"""Placeholder of an overlay in VILA-M3's first training data; no image takes its place."""

_MARKUP = re.compile(
    r"<\|[^<>|]*\|>|</?s>|<image\d*>|<segmentation>|<unk>|\[PAD\]|(?:user|assistant|system)\s*:", re.IGNORECASE
)
_NOT_IN_A_NAME = re.compile(r"[^\w \-+/().'%&]")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``"user"`` for what the pipeline says, ``"assistant"`` for what the model said.
        text: the turn's text; every ``<image>`` in a user turn takes the next image.
    """

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Template:
    """How messages become one prompt string; nothing is added between the pieces.

    Attributes:
        name: VILA's name of the template.
        system: everything before the first message.
        user, assistant: (before, after) around a message of that role.
        generate: what opens the answer the model shall write.
        stop_tokens: tokens that end an answer.
    """

    name: str
    system: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    generate: str
    stop_tokens: tuple[str, ...]


_LLAMA_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"

TEMPLATES: dict[str, Template] = {
    "vicuna_v1": Template(
        name="vicuna_v1",
        system="A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. ",
        user=("USER: ", " "),
        assistant=("ASSISTANT: ", "</s>"),
        generate="ASSISTANT:",
        stop_tokens=("</s>",),
    ),
    "llama_3": Template(
        name="llama_3",
        system="<|begin_of_text|>" + _LLAMA_HEADER.format("system") + "You are a helpful language and vision "
        "assistant. You are able to understand the visual content that the user provides, and assist the user "
        "with a variety of tasks using natural language.<|eot_id|>",
        user=(_LLAMA_HEADER.format("user"), "<|eot_id|>"),
        assistant=(_LLAMA_HEADER.format("assistant"), "<|eot_id|>"),
        generate=_LLAMA_HEADER.format("assistant"),
        stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
    ),
    "hermes-2": Template(
        name="hermes-2",
        system="<|im_start|>system\nAnswer the questions.<|im_end|>",
        user=("<|im_start|>user\n", "<|im_end|>"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>"),
        generate="<|im_start|>assistant\n",
        stop_tokens=("<|im_end|>",),
    ),
}


def template(name: str) -> Template:
    """Return the named template.

    Raises:
        ModelPackageError: a package names a template that does not exist.
    """
    if name not in TEMPLATES:
        raise ModelPackageError(f"conversation template {name!r} is unknown; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def plain_text(text: str) -> str:
    """Return ``text`` without image placeholders and without any template's control tokens or role names.

    Removal is repeated until nothing is left to remove, so that a token cannot be built from the halves
    around another one.
    """
    while (cleaned := _MARKUP.sub("", text)) != text:
        text = cleaned
    return text


def plain_name(name: str) -> str:
    """Return a label as a prompt may hold it: one line, only characters of names (no brackets, colons, commas).

    Labels come from packages and other machines; one of them must not write a line or a Trigger of its own.
    """
    return " ".join(_NOT_IN_A_NAME.sub(" ", name).split())


def as_trained(text: str) -> str:
    """Rewrite the text around ``<image>`` as VILA's training did.

    Pieces between images are stripped, each piece before an image gets one trailing space, and exactly one
    newline follows each image; the whole has no leading space. Text without an image is returned unchanged.
    """
    if IMAGE not in text:
        return text
    pieces = [piece.strip() for piece in text.split(IMAGE)]
    return f"{IMAGE}\n".join([*(f"{piece} " for piece in pieces[:-1]), pieces[-1]]).lstrip()


def render(layout: Template, messages: Sequence[Message], *, generate: bool = True) -> str:
    """Return the prompt for ``messages``; with ``generate`` it ends where the model's answer begins."""
    parts = [layout.system]
    for message in messages:
        before, after = layout.user if message.role == "user" else layout.assistant
        parts.append(f"{before}{message.text}{after}")
    if generate:
        parts.append(layout.generate)
    return "".join(parts)
