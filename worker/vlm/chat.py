"""Conversations for models with a chat template of their own: content parts, and text without control tokens.

Such a template is applied by the model's processor or by a server, to messages whose content is a list of
texts and images. The text of a message may come from people or from DICOM: a control token in it would end
the user's turn, or open the system's.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from config.errors import ModelError
from worker.vlm.backends import Conversation
from worker.vlm.templates import IMAGE, Message

_IMAGE = re.compile(re.escape(IMAGE))
_MARKS = re.compile(r"<[|｜][^<>]{0,60}?[|｜]>|</?s>")  # <|im_end|>, <|eot_id|>, <｜User｜>
_UNKNOWN_CONTROL = re.compile(
    _MARKS.pattern + r"|</?[A-Za-z_][A-Za-z0-9_:-]{0,40}>"  # <s>, <bos>, <start_of_turn>, <image_soft_token>, </think>
    r"|<</?[A-Z]{2,12}>>"  # <<SYS>>
    r"|\[/?[A-Z][A-Z_]{1,30}\]"  # [INST], [/INST], [IMG_BREAK], [PAD]
)


def control_tokens(tokenizer: Any, chat_template: str) -> tuple[str, ...]:
    """Return the tokens by which this model tells turns, images and ends apart; longest first.

    These are the tokenizer's special tokens and those of its added tokens that its chat template writes. Words
    and white space that were added to the vocabulary are text.
    """
    found = {str(token) for token in tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        if token.special or token.content in chat_template:
            found.add(token.content)
    return tuple(sorted((token for token in found if token.strip()), key=lambda token: (-len(token), token)))


def control_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return what `spoken` removes, for a model whose control tokens are known."""
    return re.compile("|".join(re.escape(token) for token in tokens) or r"(?!)")


def unknown_control_pattern() -> re.Pattern[str]:
    """Return what `spoken` removes for a model whose tokenizer nobody here has: the forms such tokens have.

    A Trigger or a card has brackets in it and is no such form.
    """
    return _UNKNOWN_CONTROL


def spoken(text: str, control: re.Pattern[str]) -> str:
    """Return ``text`` without control tokens; none can be built from the halves around another one."""
    while (cleaned := control.sub("", text)) != text:
        text = cleaned
    return text


def written(answer: str) -> str:
    """Return an answer as its author meant it: stripped, without control tokens a server left in.

    Only forms no one writes are taken out; anything else in angle brackets may be a Trigger gone wrong.
    """
    return spoken(answer, _MARKS).strip()


def content_parts(message: Message, control: re.Pattern[str]) -> list[str | None]:
    """Return a message as texts and images (None) in order; only a user's message holds images."""
    text = message.text if message.role == "user" else spoken(message.text, _IMAGE)
    parts: list[str | None] = []
    for number, piece in enumerate(text.split(IMAGE)):
        if number:
            parts.append(None)
        if words := spoken(piece, control):
            parts.append(words)
    return parts


def check_places(conversation: Conversation) -> None:
    """Check that there is one picture for every ``<image>``.

    Raises:
        ModelError: there is not.
    """
    places = sum(message.text.count(IMAGE) for message in conversation.messages if message.role == "user")
    if places != len(conversation.images):
        raise ModelError(f"{len(conversation.images)} pictures for {places} places in the prompt")


def with_question(messages: Sequence[Message], question: str) -> tuple[Message, ...]:
    """Return the conversation whose last message, a user's, goes on with ``question``."""
    return (*messages[:-1], Message("user", messages[-1].text + question))
