"""The earlier studies of a patient on the reading page: what was found, what became of it, what was reported then."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pydicom
from flask import Blueprint, Response, abort
from flask.typing import ResponseReturnValue
from pydicom.errors import InvalidDicomError
from sqlalchemy.orm import Session

from config.errors import AlteredInstanceError, PixelsDeletedError
from dashboard.people import audit_view, sessions, site, work
from dashboard.permissions import Permission, requires
from db.audit import AuditTag
from db.prior_models import PriorState, SearchState
from db.queries import InstancePath, instance_paths
from db.queries.priors import PriorOverview, PriorRow, priors_of
from instances.part10 import dataset_digest

bp = Blueprint("priors", __name__, url_prefix="/studies/<uuid:study_id>/priors")

_PILLS: Mapping[PriorState, tuple[str, str]] = {
    PriorState.FOUND: ("Found, not here yet", "info"),
    PriorState.FETCHING: ("Being fetched", "info"),
    PriorState.HERE: ("Here", "ok"),
    PriorState.REFUSED: ("Identity differs: not used", "bad"),
    PriorState.FAILED: ("Could not be fetched", "warn"),
}
_SEARCHES: Mapping[SearchState, str] = {
    SearchState.WAITING: "The archives are being asked for earlier studies.",
    SearchState.DONE: "The archives have no earlier study to compare with.",
    SearchState.SKIPPED: "The archives were not asked for earlier studies.",
    SearchState.FAILED: "No archive answered: there may be earlier studies.",
}


@dataclass(frozen=True)
class PriorView:
    """One earlier study as it is printed."""

    row: PriorRow
    pill: tuple[str, str]
    day: str
    reports: Sequence[Mapping[str, Any]]
    papers: Sequence[Mapping[str, Any]]

    @property
    def why(self) -> str:
        """Why it is where it is, and what a reader should know of it."""
        tried = f"attempt {self.row.attempts}" if self.row.reason and self.row.state is PriorState.FOUND else ""
        return "; ".join(part for part in (self.row.reason, tried, self.row.note) if part)

    @property
    def open_id(self) -> UUID | None:
        """The study to open for its images; None when they are not here or must not be compared with."""
        return self.row.held_id if self.row.state is PriorState.HERE else None


@dataclass(frozen=True)
class PriorsView:
    """The part of the reading page about earlier studies."""

    summary: str
    reason: str
    priors: Sequence[PriorView]


def priors_view(db: Session, study_id: UUID) -> PriorsView:
    """Return what is known about earlier studies of a study."""
    overview = priors_of(db, study_id)
    if overview is None:
        return PriorsView("Earlier studies were not searched for.", "", ())
    return PriorsView(_summary(overview), overview.reason, [_view(row) for row in overview.priors])


def _summary(overview: PriorOverview) -> str:
    if not overview.priors:
        return _SEARCHES[overview.state]
    shown = len(overview.priors)
    more = overview.candidates - shown
    return f"{shown} chosen of {overview.candidates} in the archives." if more > 0 else ""


def _view(row: PriorRow) -> PriorView:
    day = f"{row.study_date[:4]}-{row.study_date[4:6]}-{row.study_date[6:]}"
    reports = [one for one in row.documents if one["kind"] == "sr"]
    papers = [one for one in row.documents if one["kind"] == "pdf"]
    return PriorView(row, _PILLS[row.state], day, reports, papers)


@bp.get("/<uuid:prior_id>/<int:number>.pdf")
@requires(Permission.STUDY_READ)
def paper(study_id: UUID, prior_id: UUID, number: int) -> ResponseReturnValue:
    """Return an earlier report that the archive keeps as PDF, as a file to save; recorded.

    Raises:
        AlteredInstanceError: it is not what was received any more.
        PixelsDeletedError: retention deleted it.
    """
    with sessions()() as db:
        found = _paper(db, study_id, prior_id, number)
    if found is None:
        abort(404)
    if found.deleted_at:
        raise PixelsDeletedError(f"This document was deleted by retention on {found.deleted_at:%Y-%m-%d}.")
    content = _content(site().instances_dir / found.path, found.sha256)
    with work() as uow:
        seen = {"object_type": "instance", "object_id": found.sop_instance_uid, "detail": {"page": "report of a prior"}}
        audit_view(uow, AuditTag.REPORT_VIEWED, study_id=study_id, **seen)
    answer = Response(content, mimetype="application/pdf")
    # somebody else's file: saved, never run inside our pages
    answer.headers["Content-Disposition"] = 'attachment; filename="prior-report.pdf"'
    return answer


def _paper(db: Session, study_id: UUID, prior_id: UUID, number: int) -> InstancePath | None:
    """Return the Instance behind the ``number``-th PDF of a prior of this study that may be compared with."""
    overview = priors_of(db, study_id)
    views = [_view(row) for row in overview.priors if row.id == prior_id] if overview else []
    if not views or views[0].open_id is None or number >= len(views[0].papers):
        return None
    uid = views[0].papers[number]["sop_instance_uid"]
    return next((one for one in instance_paths(db, views[0].open_id) if one.sop_instance_uid == uid), None)


def _content(path: Path, sha256: str) -> bytes:
    try:
        if dataset_digest(path) != sha256:
            raise AlteredInstanceError("the document is not what was received")
        ds = pydicom.dcmread(path, specific_tags=["EncapsulatedDocument", "EncapsulatedDocumentLength"])
        content = bytes(ds.EncapsulatedDocument)
        length = int(ds.get("EncapsulatedDocumentLength") or len(content))
    except (OSError, InvalidDicomError, AttributeError, ValueError, TypeError, struct.error) as exc:
        raise AlteredInstanceError("the document cannot be read") from exc
    return content[: max(0, length)]
