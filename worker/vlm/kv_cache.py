"""Keys and values of prompts already read: grown without copying, kept for the next round of a conversation."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from worker.vlm.front_end import Element, positions

LayerTensors = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one decoder layer, ``(rows, key heads, positions, head width)`` each."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers exports its classes without types
    """Keys and values of one layer with room at the end: a new token is written, what is there is not copied.

    ``keys`` and ``values`` are views of what is written. A layer never shares memory with the tensors it
    started from, so growing it leaves kept tensors as they are.
    """

    def __init__(self, room: int, start: LayerTensors | None = None) -> None:
        """Make a layer with room for ``room`` more positions than ``start`` has."""
        super().__init__()
        self._room = room
        self._buffers: list[torch.Tensor] = []
        if start is not None:
            self.update(*start)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object) -> LayerTensors:
        """Append keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        if not self._buffers or end > self._buffers[0].shape[-2]:
            self._grow(key_states, used, end + self._room)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _grow(self, like: torch.Tensor, used: int, capacity: int) -> None:
        grown = [like.new_empty((*like.shape[:2], capacity, like.shape[3])) for _ in range(2)]
        for old, new in zip(self._buffers, grown, strict=False):
            new[:, :, :used] = old[:, :, :used]
        self._buffers = grown


class RoomyCache(Cache):  # type: ignore[misc]
    """The cache a decoder grows while it reads and writes; see `RoomyLayer`."""

    def __init__(self, layers: int, *, room: int, start: Sequence[LayerTensors] = ()) -> None:
        """Make an empty cache of ``layers`` layers, or one that starts as a copy of ``start``."""
        super().__init__(layers=[RoomyLayer(room, start[i] if start else None) for i in range(layers)])

    def columns(self, row: int, first: int) -> list[LayerTensors]:
        """Return a copy of one row's keys and values from position ``first`` to the end, ``(1, …)`` each."""
        return [
            (layer.keys[row : row + 1, :, first:].clone(), layer.values[row : row + 1, :, first:].clone())
            for layer in self.layers
        ]

    def select(self, rows: Sequence[int], room: int) -> "RoomyCache":
        """Return a cache of these rows only."""
        start = [(layer.keys[list(rows)], layer.values[list(rows)]) for layer in self.layers]
        return RoomyCache(len(self.layers), room=room, start=start)


def side_by_side(caches: Sequence[RoomyCache], *, room: int) -> tuple[RoomyCache, list[int]]:
    """Return one cache with a row per given cache, each padded on the left, and the padding of each row.

    What a row holds is one run of columns that ends where every other row ends, so all rows grow together.
    """
    lengths = [cache.get_seq_length() for cache in caches]
    widest = max(lengths)
    start = []
    for number in range(len(caches[0].layers)):
        tensors = []
        for which in ("keys", "values"):
            parts = [getattr(cache.layers[number], which) for cache in caches]
            # zeros, not garbage: a masked column must not hold a NaN, which no mask removes
            joined = parts[0].new_zeros((len(parts), parts[0].shape[1], widest, parts[0].shape[3]))
            for row, part in enumerate(parts):
                joined[row, :, widest - lengths[row] :] = part[0]
            tensors.append(joined)
        start.append((tensors[0], tensors[1]))
    return RoomyCache(len(start), room=room, start=start), [widest - length for length in lengths]


@dataclass(frozen=True)
class Kept:
    """Keys and values of the beginning of some prompt.

    Attributes:
        elements: the token ids and pictures they were computed from.
        layers: per layer, ``(1, key heads, positions, head width)``; never written to.
    """

    elements: tuple[Element, ...]
    layers: Sequence[LayerTensors]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)


class PrefixStore:
    """Keeps the keys and values of conversations up to a budget; the least recently used go first.

    Keys and values depend on everything before them, so what may be reused is a common beginning, to the token
    and to the pixel, and nothing else.
    """

    def __init__(self, budget_bytes: int, rows_per_image: int) -> None:
        """Make an empty store; a budget of 0 keeps nothing."""
        self.budget_bytes = budget_bytes
        self.rows_per_image = rows_per_image
        self._kept: OrderedDict[tuple[Element, ...], Kept] = OrderedDict()

    def __len__(self) -> int:
        """Return how many conversations are kept."""
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(kept.size for kept in self._kept.values())

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def positions(self, elements: Iterable[Element]) -> int:
        """Return how many positions of the decoder these elements take."""
        return positions(elements, self.rows_per_image)

    def longest(self, prompt: Sequence[Element], others: Iterable[Kept] = ()) -> tuple[int, Sequence[LayerTensors]]:
        """Return the longest known beginning of ``prompt``: how many elements, and views of its keys and values.

        At least one element is left to run: the answer begins after its hidden state.

        Args:
            prompt: what shall be read.
            others: known prompts beside the store's own.
        """
        best, found = 0, None
        for kept in (*self._kept.values(), *others):
            shared = _shared(prompt, kept.elements)
            if shared > best:
                best, found = shared, kept
        if found is None:
            return 0, ()
        if found.elements in self._kept:
            self._kept.move_to_end(found.elements)
        end = self.positions(prompt[:best])
        return best, [(keys[:, :, :end], values[:, :, :end]) for keys, values in found.layers]

    def keep(self, kept: Kept) -> None:
        """Keep a conversation in place of those it continues; make room for it, unless it is larger than all of it."""
        if kept.size > self.budget_bytes:
            return
        for other in [known for known in self._kept if known == kept.elements[: len(known)]]:
            del self._kept[other]
        self._kept[kept.elements] = kept
        while self.size > self.budget_bytes:
            self._kept.popitem(last=False)


def _shared(prompt: Sequence[Element], known: Sequence[Element]) -> int:
    limit = min(len(prompt) - 1, len(known))
    return next((i for i in range(limit) if prompt[i] != known[i]), limit)
