"""The segmentations behind a draft as runs of pixels per frame, for the viewer to paint."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from config.errors import UndecodablePixelsError
from dashboard.library import SeriesImages, StudyImages
from dashboard.overlays import LabelMap
from dashboard.slices import SliceServer
from dashboard.stacks import Stack
from db.queries import report_detail, study_detail
from db.report_models import Evidence, Finding
from db.types import Decision, Presence

_SHOWN_AT_ONCE = 6  # more segments than this start hidden, unless a finding names them


class Masks:
    """The segments that lie on one Series, and where."""

    def __init__(
        self, images: StudyImages, series: SeriesImages, server: SliceServer, *, evidence: Sequence[Evidence]
    ) -> None:
        self._series = series
        self._server = server
        self._maps: list[tuple[UUID, LabelMap]] = []
        for one in evidence:
            if one.label_map_path and one.series_instance_uid == series.series_instance_uid:
                try:
                    self._maps.append((one.id, server.label_map(images.label_maps[one.id])))
                except UndecodablePixelsError:
                    continue  # the list of evidence names the run

    @property
    def count(self) -> int:
        """How many label maps there are."""
        return len(self._maps)

    def segments(self, findings: Sequence[Finding]) -> list[dict[str, Any]]:
        """Return each segment: ``key`` (evidence:value), ``name``, ``colour`` and what was decided of its finding.

        ``status`` is ``unverified`` until its finding is accepted or edited, then ``accepted``; or ``rejected``, which
        is not shown any more.
        """
        decided = {
            f"{one.evidence_id}:{one.segment_label}": one.decision
            for one in findings
            if one.presence is Presence.PRESENT and one.segment_label is not None
        }
        made = [
            {
                "key": f"{evidence_id}:{value}",
                "map": at,
                "value": value,
                "name": name,
                "colour": value % 10,
                "status": _status(decided.get(f"{evidence_id}:{value}")),
                "found": f"{evidence_id}:{value}" in decided,
            }
            for at, (evidence_id, label_map) in enumerate(self._maps)
            for value, name in sorted(label_map.names.items())
        ]
        at_once = any(one["found"] for one in made)
        for one in made:
            one["shown"] = one["found"] if at_once else len(made) <= _SHOWN_AT_ONCE
        return made

    def frames(self, stack: Stack) -> dict[int, list[dict[str, Any]]]:
        """Return, by position in ``stack``, the runs of each label map: start, length and value one after the other,
        the start counted from the end of the run before; with the ``rows`` and ``columns`` they lie on.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for at, (_, label_map) in enumerate(self._maps):
            for index, one in enumerate(stack.slices):
                plane = label_map.plane(one.sop_instance_uid, one.frame + 1, one.origin_mm)
                if plane is not None and plane.any():
                    rows, columns = plane.shape
                    runs = {"map": at, "rows": rows, "columns": columns, "runs": runs_of(plane).ravel().tolist()}
                    found.setdefault(index, []).append(runs)
        return found


def runs_of(plane: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return ``(runs, 3)``: gap since the end of the run before, length, value; background is left out."""
    flat = np.concatenate(([0], plane.ravel(), [0])).astype(np.int64)
    edges = np.flatnonzero(np.diff(flat))
    values = flat[edges + 1]
    inside = values > 0
    starts, ends = edges[:-1][inside[:-1]], edges[1:][inside[:-1]]
    gaps = starts - np.concatenate(([0], ends[:-1]))
    return np.stack([gaps, ends - starts, values[:-1][inside[:-1]]], axis=1)


def masks_of(
    db: Session, images: StudyImages, series: SeriesImages, server: SliceServer
) -> tuple[Masks, Sequence[Finding], frozenset[str]]:
    """Return the masks on a Series, the findings that decide how they are shown, and the UIDs of all objects that were
    made of the Study: one of them that comes back is no news.
    """
    detail = study_detail(db, images.study_id)
    report = report_detail(db, detail.report.id) if detail else None
    evidence: Sequence[Evidence] = report.evidence if report else []
    own = frozenset(one.sop_instance_uid for one in detail.objects) if detail else frozenset()
    return Masks(images, series, server, evidence=evidence), report.findings if report else [], own


def _status(decision: Decision | None) -> str:
    names: Mapping[Decision | None, str] = {
        Decision.ACCEPTED: "accepted",
        Decision.EDITED: "accepted",
        Decision.REJECTED: "rejected",
    }
    return names.get(decision, "unverified")
