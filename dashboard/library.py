"""Where the images and label maps of a Study are, by the ids that may appear in an address."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from config.errors import RefusedInputError
from db.queries import InstancePath, ReportDetail, StudyDetail, instance_paths, report_detail, study_detail
from db.report_models import Evidence


@dataclass(frozen=True)
class SeriesImages:
    """One Series with the files of its Instances."""

    id: UUID
    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    paths: tuple[Path, ...]
    sop_instance_uids: frozenset[str]

    @property
    def count(self) -> int:
        """How many Instances there are."""
        return len(self.paths)


@dataclass(frozen=True)
class Deleted:
    """What retention took of a Study; rows and hashes are still there."""

    count: int
    held: int  # files that are still there
    at: datetime
    series_ids: frozenset[UUID]  # Series of which nothing is left

    @property
    def words(self) -> str:
        """What a person reads."""
        which = "The images" if not self.held else f"{self.count} of {self.count + self.held} images"
        return f"{which} of this study were deleted by retention on {self.at:%Y-%m-%d}."


@dataclass(frozen=True)
class StudyImages:
    """The Series of one Study that hold Instances, in the order of their numbers, and the draft's label maps."""

    study_id: UUID
    series: tuple[SeriesImages, ...]
    label_maps: Mapping[UUID, Path]
    deleted: "Deleted | None" = None

    def by_id(self, series_id: UUID | None) -> SeriesImages | None:
        """Return a Series of this Study; None for any other: images of another study never show here."""
        return next((one for one in self.series if one.id == series_id), None)

    def by_uid(self, series_instance_uid: str) -> SeriesImages | None:
        """Return a Series of this Study by its UID."""
        return next((one for one in self.series if one.series_instance_uid == series_instance_uid), None)

    def holding(self, sop_instance_uid: str) -> SeriesImages | None:
        """Return the Series an Instance belongs to."""
        return next((one for one in self.series if sop_instance_uid in one.sop_instance_uids), None)


def find_images(db: Session, study_id: UUID, instances_dir: Path, results_dir: Path) -> StudyImages | None:
    """Return the files of a Study; None when there is no such Study."""
    detail = study_detail(db, study_id)
    if detail is None:
        return None
    report = report_detail(db, detail.report.id)
    return study_images(db, detail, report, instances_dir, results_dir)


def study_images(
    db: Session, detail: StudyDetail, report: ReportDetail | None, instances_dir: Path, results_dir: Path
) -> StudyImages:
    """Return the files behind ``detail``, and the label maps behind ``report``'s draft."""
    paths: dict[str, list[Path]] = {}
    uids: dict[str, set[str]] = {}
    known = instance_paths(db, detail.study.id)
    for one in known:
        if one.deleted_at:
            continue
        paths.setdefault(one.series_instance_uid, []).append(instances_dir / one.path)
        uids.setdefault(one.series_instance_uid, set()).add(one.sop_instance_uid)
    held = (row.series for row in detail.series if row.series.series_instance_uid in paths)
    series = tuple(
        SeriesImages(
            id=one.id,
            series_instance_uid=one.series_instance_uid,
            modality=one.modality,
            series_number=one.series_number,
            series_description=one.series_description,
            paths=tuple(paths[one.series_instance_uid]),
            sop_instance_uids=frozenset(uids[one.series_instance_uid]),
        )
        for one in held
    )
    evidence = report.evidence if report else []
    maps = {one.id: _inside(results_dir, one) for one in evidence if one.label_map_path}
    return StudyImages(detail.study.id, series, maps, _deleted(detail, known))


def _deleted(detail: StudyDetail, known: Sequence[InstancePath]) -> Deleted | None:
    at = [one.deleted_at for one in known if one.deleted_at]
    if not at:
        return None
    left = {one.series_instance_uid for one in known if not one.deleted_at}
    gone = frozenset(row.series.id for row in detail.series if row.series.series_instance_uid not in left)
    return Deleted(len(at), len(known) - len(at), max(at), gone)


def _inside(results_dir: Path, evidence: Evidence) -> Path:
    path = (results_dir / evidence.label_map_path).resolve()
    if not path.is_relative_to(results_dir.resolve()):
        raise RefusedInputError(f"evidence {evidence.id} names a file outside the result store")
    return path
