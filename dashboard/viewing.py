"""What the viewer shows first, and the addresses of every step without JavaScript."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import url_for
from werkzeug.datastructures import MultiDict

from config.errors import UndecodablePixelsError
from dashboard.library import SeriesImages, StudyImages
from dashboard.slices import SliceServer, parse_window, presets
from dashboard.stacks import Stack
from db.report_models import Evidence, Finding
from db.types import Presence

_SHOWN_AT_ONCE = 6  # more labels than this start hidden, unless a finding names them


@dataclass(frozen=True)
class Jump:
    """Where a finding is on the images."""

    series_id: UUID
    index: int
    label: str
    href: str
    fragment: str


@dataclass(frozen=True)
class Label:
    """One label of a label map that can be painted."""

    value: str
    name: str
    colour: int
    shown: bool


@dataclass(frozen=True)
class Preset:
    """One window to choose."""

    name: str
    window: str
    href: str


@dataclass(frozen=True)
class ViewerPage:
    """Everything the viewer's template prints."""

    series_id: UUID
    modality: str
    description: str
    base: str
    src: str
    count: int
    index: int
    window: str
    window_text: str
    own_window: str
    edges: Mapping[str, str]
    edges_json: str
    labels: Sequence[Label]
    presets: Sequence[Preset]
    previous: str
    next: str


class Lightbox:
    """The images of one study beside its findings."""

    def __init__(
        self, images: StudyImages, server: SliceServer, findings: Sequence[Finding], evidence: Sequence[Evidence]
    ) -> None:
        self._images = images
        self._server = server
        self._findings = findings
        self._evidence = {one.id: one for one in evidence}

    def jump(self, finding: Finding) -> Jump | None:
        """Return where ``finding`` is best seen; None when the draft names no image, or one that is not held."""
        sop_instance_uid = str(finding.key_slice.get("sop_instance_uid") or "")
        series = self._images.holding(sop_instance_uid) if sop_instance_uid else None
        if series is None:
            return None
        stack = self._server.stack(series.id, series.paths)
        frame_number = finding.key_slice.get("frame_number")
        index = stack.index_of(sop_instance_uid, frame_number if isinstance(frame_number, int) else None)
        if index is None:
            return None
        label = self._label(finding)
        asked: dict[str, Any] = {"study_id": self._images.study_id, "series": series.id, "slice": index + 1}
        if label:
            asked |= {"overlay": label, "chosen": 1}
        href, fragment = url_for("reading.show", **asked), url_for("reading.viewer", **asked)
        return Jump(series.id, index, label, href, fragment)

    def page(self, asked: "MultiDict[str, str]") -> ViewerPage | None:
        """Return the viewer as ``asked`` for (series, slice from 1, window, overlay); None without images.

        Raises:
            RefusedInputError: the window is malformed.
        """
        jumps = [jump for one in self._findings if one.presence is Presence.PRESENT and (jump := self.jump(one))]
        series = self._choose(asked.get("series", ""), jumps)
        if series is None:
            return None
        stack = self._server.stack(series.id, series.paths)
        first = next((jump.index for jump in jumps if jump.series_id == series.id), len(stack.slices) // 2)
        index = _bounded(asked.get("slice", type=int), first, len(stack.slices))
        window = asked.get("window", "")
        parse_window(window)
        chosen = asked.getlist("overlay") if asked.get("chosen") else None
        labels = self._labels(series, chosen)
        return self._page(series, stack, index, window, labels)

    def _page(self, series: SeriesImages, stack: Stack, index: int, window: str, labels: Sequence[Label]) -> ViewerPage:
        shown = [label.value for label in labels if label.shown]
        here: dict[str, Any] = {"study_id": self._images.study_id, "series": series.id, "overlay": shown, "chosen": 1}

        def step(to: int, to_window: str) -> str:
            return url_for("reading.show", **here, slice=to + 1, window=to_window)

        base = url_for("images.slice_png", study_id=self._images.study_id, series_id=series.id, index=index)
        own = self._server.window_of(stack, index)
        edges = [dict(zip(("left", "right", "top", "bottom"), one.edges, strict=True)) for one in stack.slices]
        last = len(stack.slices) - 1
        return ViewerPage(
            series_id=series.id,
            modality=series.modality,
            description=series.series_description,
            base=base.removesuffix(f"{index}.png"),
            src=url_for(
                "images.slice_png",
                study_id=self._images.study_id,
                series_id=series.id,
                index=index,
                overlay=shown,
                window=window or None,
            ),
            count=len(stack.slices),
            index=index,
            window=window,
            window_text="C {} W {}".format(*window.split(",")) if window else "As acquired",
            own_window=f"{own.center:g},{own.width:g}" if own else "",
            edges=edges[index],
            edges_json=json.dumps(edges if any(one != edges[0] for one in edges) else edges[:1]),
            labels=labels,
            presets=[Preset(name, text, step(index, text)) for name, text in presets(series.modality)],
            previous=step(max(index - 1, 0), window),
            next=step(min(index + 1, last), window),
        )

    def _choose(self, wanted: str, jumps: Sequence[Jump]) -> SeriesImages | None:
        """Return the series asked for, else the first finding's, else the one with evidence, else the largest."""
        try:
            asked = self._images.by_id(UUID(wanted)) if wanted else None
        except ValueError:
            asked = None
        if asked is None and jumps:
            asked = self._images.by_id(jumps[0].series_id)
        if asked is None:
            known = (self._images.by_uid(one.series_instance_uid) for one in self._evidence.values())
            asked = next((one for one in known if one is not None), None)
        return asked or max(self._images.series, key=lambda one: one.count, default=None)

    def _labels(self, series: SeriesImages, chosen: Sequence[str] | None) -> list[Label]:
        found: list[tuple[str, str, int]] = []
        for one in self._evidence.values():
            if not one.label_map_path or one.series_instance_uid != series.series_instance_uid:
                continue
            try:
                names = self._server.label_map(self._images.label_maps[one.id]).names
            except UndecodablePixelsError:
                continue  # the slice itself says so when the label is asked for; the evidence list names the run
            found += [(f"{one.id}:{value}", name, value % 10) for value, name in names.items()]
        named = {self._label(one) for one in self._findings if one.presence is Presence.PRESENT} - {""}
        at_once = named & {value for value, _, _ in found} or (
            {value for value, _, _ in found} if len(found) <= _SHOWN_AT_ONCE else set()
        )
        shown = set(chosen) if chosen is not None else at_once
        labels = [Label(value, name, colour, value in shown) for value, name, colour in found]
        return sorted(labels, key=lambda label: (label.value not in at_once, label.name))

    def _label(self, finding: Finding) -> str:
        evidence = self._evidence.get(finding.evidence_id) if finding.evidence_id else None
        if evidence is None or not evidence.label_map_path or finding.segment_label is None:
            return ""
        return f"{evidence.id}:{finding.segment_label}"


def _bounded(one_based: int | None, default: int, count: int) -> int:
    return min(max(one_based - 1 if one_based is not None else default, 0), count - 1)
