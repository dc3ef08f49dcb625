"""From conversations to tensors: shared prefix once, trunks with pictures, branches that do not see each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from training.conversations import Conversation
from worker.vlm.package import BosRule
from worker.vlm.templates import Message, Template, render
from worker.vlm.vila_m3 import IMAGE_ID, common_prefix, tokenise

ANSWER_WEIGHT: Final = 4.0
"""Weight of a yes/no token: it is one token where a Trigger is twenty."""


@dataclass(frozen=True)
class Packed:
    """One conversation as token ids.

    Attributes:
        trunk: ids, `IMAGE_ID` where a picture goes.
        trunk_weights: loss weight of each trunk token, 0 for what the user says.
        branches: (ids, number of answer ids at their end, weight of those, key) per question.
        conversation: what it was made from.
    """

    trunk: list[int]
    trunk_weights: list[float]
    branches: list[tuple[list[int], int, float, str]]
    conversation: Conversation

    def length(self, rows_per_image: int) -> int:
        """Return how many positions it takes."""
        images = self.trunk.count(IMAGE_ID)
        return len(self.trunk) + images * (rows_per_image - 1) + sum(len(ids) for ids, *_ in self.branches)


class Packer:
    """Turns conversations into ids exactly as the model's own prompt code does in use."""

    def __init__(self, tokenizer: Any, template: Template, *, bos_rule: BosRule) -> None:
        """Take the tokenizer and the wording of prompts."""
        self.tokenizer = tokenizer
        self.template = template
        self.bos_rule: BosRule = bos_rule
        self.stop = template.stop_tokens[0]

    def pack(self, conversation: Conversation) -> Packed:
        """Return the ids of one conversation with branches."""
        head, last = conversation.turns[:-1], conversation.turns[-1]
        prompts = [self._ids([*head, Message("user", last.text + branch.question)]) for branch in conversation.branches]
        shared = common_prefix(prompts) if len(prompts) > 1 else len(prompts[0]) - 1
        branches = []
        for prompt, branch in zip(prompts, conversation.branches, strict=True):
            answer = self._answer(branch.answer)
            weight = ANSWER_WEIGHT if branch.answer in ("yes", "no") else 1.0
            branches.append((prompt[shared:] + answer, len(answer), weight, branch.key))
        return Packed(prompts[0][:shared], self._trunk_weights(conversation.turns, shared), branches, conversation)

    def _trunk_weights(self, turns: Sequence[Message], shared: int) -> list[float]:
        weights = [0.0] * shared
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                start = len(self._ids(turns[:index]))
                stop = start + len(self._answer(turn.text))
                weights[start:stop] = [1.0] * (stop - start)
        return weights

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        return tokenise(render(self.template, messages), self.tokenizer, bos_rule=self.bos_rule)

    def _answer(self, text: str) -> list[int]:
        return list(self.tokenizer(text + self.stop, add_special_tokens=False).input_ids)


@dataclass(frozen=True)
class Batch:
    """Tensors of several conversations behind one prefix.

    Attributes:
        prefix: ids all conversations begin with; no picture among them.
        ids: ``(batch, length)``; 0 at pictures and padding.
        image_places: ``(pictures × rows, 2)`` (batch, position) of every projector row, in picture order.
        mask: ``(batch, 1, length, prefix + length)`` bool, True where a position sees another.
        positions: ``(batch, length)``.
        targets: ``(answers, 2)`` (batch, position) of every token to be predicted, from the position before it.
        weights: ``(answers,)``.
        groups: answer number of each target token, and the key of each answer.
    """

    prefix: list[int]
    ids: torch.Tensor
    image_places: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    groups: tuple[torch.Tensor, list[str]]


def collate(packed: Sequence[Packed], rows_per_image: int) -> Batch:
    """Lay conversations side by side behind the prefix they share."""
    shared = min(common_prefix([item.trunk for item in packed]) if len(packed) > 1 else 10**9,
                 *(_first_image(item.trunk) for item in packed))  # fmt: skip
    rows = [_lay_out(item, shared, rows_per_image) for item in packed]
    length = max(len(row.ids) for row in rows)
    count = len(rows)
    ids = torch.zeros(count, length, dtype=torch.long)
    positions = torch.zeros(count, length, dtype=torch.long)
    mask = torch.zeros(count, 1, length, shared + length, dtype=torch.bool)
    mask[..., :shared] = True
    targets: list[tuple[int, int]] = []
    places: list[tuple[int, int]] = []
    weights: list[float] = []
    groups: list[int] = []
    keys: list[str] = []
    for index, row in enumerate(rows):
        size = len(row.ids)
        ids[index, :size] = torch.tensor(row.ids)
        positions[index, :size] = torch.tensor(row.steps) + shared
        mask[index, 0, :size, shared : shared + size] = _sees(row)
        places += [(index, place) for place in row.images]
        for place, weight, group in row.targets:
            targets.append((index, place))
            weights.append(weight)
            groups.append(len(keys) + group)
        keys += row.keys
    return Batch(
        packed[0].trunk[:shared],
        ids,
        torch.tensor(places, dtype=torch.long).reshape(-1, 2),
        mask,
        positions,
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(weights),
        (torch.tensor(groups), keys),
    )


@dataclass
class _Row:
    ids: list[int]
    steps: list[int]
    owners: list[int]
    images: list[int]
    targets: list[tuple[int, float, int]]
    keys: list[str]


def _lay_out(item: Packed, shared: int, rows_per_image: int) -> _Row:
    row = _Row([], [], [], [], [], ["trunk"])
    for token, weight in zip(item.trunk[shared:], item.trunk_weights[shared:], strict=True):
        if token == IMAGE_ID:
            row.images += range(len(row.ids), len(row.ids) + rows_per_image)
            row.ids += [0] * rows_per_image
        else:
            if weight:
                row.targets.append((len(row.ids), weight, 0))
            row.ids.append(token)
    row.steps = list(range(len(row.ids)))
    row.owners = [0] * len(row.ids)
    trunk = len(row.ids)
    for number, (ids, answered, weight, key) in enumerate(item.branches, start=1):
        start = len(row.ids)
        row.keys.append(key)
        row.targets += [
            (start + place, weight if place == len(ids) - answered else 1.0, number)
            for place in range(len(ids) - answered, len(ids))
        ]
        row.ids += ids
        row.steps += range(trunk, trunk + len(ids))
        row.owners += [number] * len(ids)
    return row


def _sees(row: _Row) -> torch.Tensor:
    """Return ``(length, length)`` bool: the trunk causally, and within a branch its own tokens causally."""
    owners = torch.tensor(row.owners)
    order = torch.arange(len(row.owners))
    earlier = order[:, None] >= order[None, :]
    return earlier & ((owners[None, :] == 0) | (owners[:, None] == owners[None, :]))


def _first_image(trunk: Sequence[int]) -> int:
    return trunk.index(IMAGE_ID) if IMAGE_ID in trunk else len(trunk) - 1
