"""Slices as PNG bytes: stack, window, overlay, and small caches between them and the disk."""

import io
import textwrap
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from uuid import UUID

from PIL import Image, ImageDraw, ImageFont

from config.errors import RefusedInputError, UndecodablePixelsError
from dashboard.overlays import LabelMap, load_label_map, paint
from dashboard.pixels import PRESETS, Frame, Window, read_frame, render, square_pixels
from dashboard.stacks import Stack, build_stack

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """The last few values by key; safe between request threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of ``key``, made when it is not kept; two threads may both make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value


@dataclass(frozen=True)
class Overlay:
    """Which label map, and which of its labels, a reader wants to see."""

    label_map_path: Path
    labels: frozenset[int]


def parse_window(text: str) -> Window | None:
    """Return the window of ``"center,width"``; None for ``""``, the Instance's own.

    Raises:
        RefusedInputError: neither of the two.
    """
    if not text:
        return None
    try:
        center, width = (float(part) for part in text.split(","))
    except ValueError as exc:
        raise RefusedInputError("a window is two numbers, center and width") from exc
    if not (abs(center) < 1e6 and 0 < width < 1e6):  # also refuses nan
        raise RefusedInputError("window outside -1e6…1e6")
    return Window(center, width)


def presets(modality: str) -> list[tuple[str, str]]:
    """Return (name, window text) of the presets for ``modality``; the Instance's own comes first."""
    named = [(name, f"{w.center:g},{w.width:g}") for name, w in PRESETS.get(modality, ())]
    return [("As acquired", ""), *named]


class SliceServer:
    """Renders slices of the instance store; one per application."""

    def __init__(self) -> None:
        self._stacks: LruCache[tuple[UUID, int], Stack] = LruCache(32)
        self._frames: LruCache[tuple[Path, int], Frame] = LruCache(48)
        self._maps: LruCache[Path, LabelMap] = LruCache(4)

    def stack(self, series_id: UUID, paths: Sequence[Path]) -> Stack:
        """Return the ordered frames of a Series; read again when its number of Instances changes."""
        return self._stacks.get((series_id, len(paths)), lambda: build_stack(paths))

    def label_map(self, path: Path) -> LabelMap:
        """Return a label map.

        Raises:
            UndecodablePixelsError: it cannot be read.
        """
        return self._maps.get(path, lambda: load_label_map(path))

    def window_of(self, stack: Stack, index: int) -> Window | None:
        """Return the window slice ``index`` asks for, or None when it cannot be decoded."""
        try:
            return self._frame(stack, index).window
        except UndecodablePixelsError:
            return None

    def png(
        self, stack: Stack, index: int, *, window: Window | None, overlays: Sequence[Overlay] = (), size: int = 0
    ) -> bytes:
        """Return slice ``index`` as PNG; an undecodable one is a picture of the reason.

        Args:
            stack: the Series.
            index: 0-based position in it.
            window: the reader's choice; None for the Instance's own.
            overlays: what to paint over it.
            size: longest side in pixels, for a thumbnail; 0 keeps the Instance's matrix.

        Raises:
            RefusedInputError: no such slice.
        """
        if not 0 <= index < len(stack.slices):
            raise RefusedInputError(f"slice {index} of {len(stack.slices)}")
        try:
            frame = self._frame(stack, index)
            image = render(frame, window)
            for overlay in overlays:
                one = stack.slices[index]
                plane = self.label_map(overlay.label_map_path).plane(one.sop_instance_uid, one.frame + 1, one.origin_mm)
                if plane is not None:
                    image = paint(image, plane, overlay.labels)
        except UndecodablePixelsError as exc:
            return placeholder(str(exc))
        shown = square_pixels(Image.fromarray(image), frame.row_to_column)
        if size:
            shown.thumbnail((size, size), Image.Resampling.BOX)
        return encode(shown)

    def _frame(self, stack: Stack, index: int) -> Frame:
        one = stack.slices[index]
        return self._frames.get((one.path, one.frame), lambda: read_frame(one.path, one.frame))


def encode(image: Image.Image) -> bytes:
    """Return ``image`` as PNG, fast rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def placeholder(reason: str) -> bytes:
    """Return a picture that says why there is no image."""
    image = Image.new("L", (512, 512), 12)
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, 503, 503), outline=70)
    lines = ["Image cannot be shown", "", *textwrap.wrap(reason, 46)]
    draw.multiline_text((256, 256), "\n".join(lines), 190, ImageFont.load_default(17), "mm", spacing=8, align="center")
    return encode(image)
