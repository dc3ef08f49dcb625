"""What DICOMweb asks: Studies, Series and Instances that match keys, newest first, and where objects are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Select, SQLColumnExpression, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from config.results import DRAFT_TEXTS, MESSAGES, ResultKind
from db.lifecycle.self_tests import self_tested
from db.models import Instance, ResultObject, Series, Study
from db.report_models import Report

T = TypeVar("T")
MOST_COUNTED = 10_000


class How(StrEnum):
    """The kinds of attribute matching (PS3.4 C.2.2.2)."""

    ONE_OF = "one of"  # single value and list of UID
    WILDCARD = "wildcard"
    RANGE = "range"


@dataclass(frozen=True)
class Match:
    """One key of a query; a range has a low and a high end, both inclusive, ``""`` where it is open."""

    keyword: str
    how: How
    values: tuple[str, ...]


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some matches, and how many more there are behind them; past ``MOST_COUNTED`` nobody counts on."""

    rows: list[T]
    remaining: int


@dataclass(frozen=True)
class StudyHit:
    """A Study that matched; ``instances_held`` are those whose file retention did not take."""

    study: Study
    series: int
    instances: int
    instances_held: int


@dataclass(frozen=True)
class SeriesHit:
    """A Series that matched, and its Study."""

    study: Study
    series: Series
    instances: int
    instances_held: int


@dataclass(frozen=True)
class InstanceHit:
    """An Instance that matched, its Series and its Study."""

    study: Study
    series: Series
    instance: Instance


STUDY_KEYS: Mapping[str, InstrumentedAttribute[Any]] = {
    "StudyInstanceUID": Study.study_instance_uid,
    "StudyDate": Study.study_date,
    "StudyTime": Study.study_time,
    "AccessionNumber": Study.accession_number,
    "ModalitiesInStudy": Study.modalities,
    "ReferringPhysicianName": Study.referring_physician,
    "PatientName": Study.patient_name,
    "PatientID": Study.patient_id,
    "IssuerOfPatientID": Study.issuer_of_patient_id,
    "PatientBirthDate": Study.patient_birth_date,
    "PatientSex": Study.patient_sex,
    "StudyDescription": Study.study_description,
}
SERIES_KEYS: Mapping[str, InstrumentedAttribute[Any]] = {
    "Modality": Series.modality,
    "SeriesInstanceUID": Series.series_instance_uid,
    "SeriesNumber": Series.series_number,
    "SeriesDescription": Series.series_description,
    "BodyPartExamined": Series.body_part,
}
INSTANCE_KEYS: Mapping[str, InstrumentedAttribute[Any]] = {
    "SOPClassUID": Instance.sop_class_uid,
    "SOPInstanceUID": Instance.sop_instance_uid,
    "InstanceNumber": Instance.instance_number,
}
_KEYS = {**STUDY_KEYS, **SERIES_KEYS, **INSTANCE_KEYS}
NAMES = frozenset({"PatientName", "ReferringPhysicianName"})
_NEWEST = (Study.study_date.desc(), Study.study_time.desc(), Study.study_instance_uid.desc())
_IN_STUDY = (Series.series_number, Series.series_instance_uid)
_IN_SERIES = (Instance.instance_number, Instance.sop_instance_uid)
_HELD = func.count(Instance.id) - func.count(Instance.deleted_at)


def match_studies(session: Session, matches: Sequence[Match], *, limit: int, offset: int) -> Page[StudyHit]:
    """Return one page of Studies, newest first."""
    found = select(Study).where(_all(session, matches))
    page = _page(session, found.order_by(*_NEWEST), found, limit, offset)
    keys = [study.id for (study,) in page.rows]
    series = _counts(session, select(Series.study_id, func.count()).group_by(Series.study_id), Series.study_id, keys)
    held = _counts(session, select(Instance.study_id, _HELD).group_by(Instance.study_id), Instance.study_id, keys)
    rows = [
        StudyHit(study, series.get(study.id, 0), study.instance_count, held.get(study.id, 0)) for (study,) in page.rows
    ]
    return Page(rows, page.remaining)


def match_series(session: Session, matches: Sequence[Match], *, limit: int, offset: int) -> Page[SeriesHit]:
    """Return one page of Series, of the newest Study first."""
    found = select(Study, Series).join(Series, Series.study_id == Study.id).where(_all(session, matches))
    page = _page(session, found.order_by(*_NEWEST, *_IN_STUDY), found, limit, offset)
    keys = [series.id for _, series in page.rows]
    counted = select(Instance.series_id, func.count()).group_by(Instance.series_id)
    number = _counts(session, counted, Instance.series_id, keys)
    held = _counts(session, select(Instance.series_id, _HELD).group_by(Instance.series_id), Instance.series_id, keys)
    rows = [SeriesHit(study, series, number.get(series.id, 0), held.get(series.id, 0)) for study, series in page.rows]
    return Page(rows, page.remaining)


def match_instances(session: Session, matches: Sequence[Match], *, limit: int, offset: int) -> Page[InstanceHit]:
    """Return one page of Instances, of the newest Study first."""
    found = (
        select(Study, Series, Instance)
        .join(Series, Series.study_id == Study.id)
        .join(Instance, Instance.series_id == Series.id)
        .where(_all(session, matches))
    )
    page = _page(session, found.order_by(*_NEWEST, *_IN_STUDY, *_IN_SERIES), found, limit, offset)
    return Page([InstanceHit(*row) for row in page.rows], page.remaining)


def find_study(session: Session, study_instance_uid: str) -> Study | None:
    """Return a Study by its UID; None when it is not held."""
    return session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))


def held_instances(
    session: Session, study_id: UUID, *, series_instance_uid: str = "", sop_instance_uid: str = ""
) -> list[tuple[Series, Instance]]:
    """Return the Instances of a Study, of one Series or one of them, by Series and Instance Number."""
    query = (
        select(Series, Instance).join(Instance, Instance.series_id == Series.id).where(Instance.study_id == study_id)
    )
    if series_instance_uid:
        query = query.where(Series.series_instance_uid == series_instance_uid)
    if sop_instance_uid:
        query = query.where(Instance.sop_instance_uid == sop_instance_uid)
    return [(series, instance) for series, instance in session.execute(query.order_by(*_IN_STUDY, *_IN_SERIES))]


def shown_results(session: Session, study_ids: Sequence[UUID]) -> dict[UUID, list[ResultObject]]:
    """Return the DICOM objects of ours that a reader sees: of the present draft, and what was signed.

    A draft's texts are left out once a person signed another one, its coded findings and key images once there are
    signed ones.
    """
    query = (
        select(ResultObject)
        .join(Report, Report.study_id == ResultObject.study_id)
        .where(
            ResultObject.study_id.in_(study_ids),
            ResultObject.kind.not_in(MESSAGES),
            or_(ResultObject.signature_id.is_not(None), ResultObject.draft_id == Report.draft_id),
        )
        .order_by(ResultObject.created_at, ResultObject.id)
    )
    shown: dict[UUID, list[ResultObject]] = {}
    for made in session.scalars(query):
        shown.setdefault(made.study_id, []).append(made)
    for study_id, objects in shown.items():
        signed = {one.kind for one in objects if one.signature_id is not None}
        replaced = set(DRAFT_TEXTS) if signed else set()
        if ResultKind.SIGNED_FINDINGS_SR in signed:
            replaced.add(ResultKind.FINDINGS_SR)
        if ResultKind.KEY_IMAGES in signed:
            replaced.add(ResultKind.KEY_IMAGES)
        shown[study_id] = [one for one in objects if one.signature_id is not None or one.kind not in replaced]
    return shown


def one_instance_of_each(session: Session, series_ids: Sequence[UUID]) -> dict[UUID, Instance]:
    """Return the first Instance of each Series whose file is there: its header speaks for the Series."""
    first = (
        select(func.min(Instance.sop_instance_uid))
        .where(Instance.series_id.in_(series_ids), Instance.deleted_at.is_(None))
        .group_by(Instance.series_id)
    )
    return {one.series_id: one for one in session.scalars(select(Instance).where(Instance.sop_instance_uid.in_(first)))}


def one_instance_of_each_study(session: Session, study_ids: Sequence[UUID]) -> dict[UUID, Instance]:
    """Return the first Instance of each Study whose file is there: its header speaks for the Study."""
    first = (
        select(func.min(Instance.sop_instance_uid))
        .where(Instance.study_id.in_(study_ids), Instance.deleted_at.is_(None))
        .group_by(Instance.study_id)
    )
    return {one.study_id: one for one in session.scalars(select(Instance).where(Instance.sop_instance_uid.in_(first)))}


def _page(
    session: Session, ordered: Select[*tuple[Any, ...]], unordered: Select[*tuple[Any, ...]], limit: int, offset: int
) -> Page[Any]:
    rows = list(session.execute(ordered.limit(limit + 1).offset(offset)).all())
    if len(rows) <= limit:
        return Page(rows, 0)
    # a count of everything would cost more than the page
    counted = unordered.with_only_columns(Study.id).limit(offset + limit + MOST_COUNTED + 1).subquery()
    total = session.scalar(select(func.count()).select_from(counted)) or 0
    return Page(rows[:limit], max(total - offset - limit, 1))


def _counts(
    session: Session, counted: Select[*tuple[Any, ...]], column: InstrumentedAttribute[UUID], keys: Sequence[UUID]
) -> dict[UUID, int]:
    rows = session.execute(counted.where(column.in_(keys))).all() if keys else []
    return {row[0]: row[1] for row in rows}


def _all(session: Session, matches: Sequence[Match]) -> ColumnElement[bool]:
    sqlite = session.get_bind().dialect.name == "sqlite"
    return and_(~self_tested(), *(_condition(match, sqlite=sqlite) for match in matches))


def _condition(match: Match, *, sqlite: bool) -> ColumnElement[bool]:
    column = _KEYS[match.keyword]
    if match.keyword == "ModalitiesInStudy":
        return or_(*(_one_of_words(column, value, sqlite=sqlite) for value in match.values))
    if match.how is How.RANGE:
        return _between(match.keyword, column, *match.values)
    if match.keyword in NAMES:
        return or_(*(_like_name(column, value, sqlite=sqlite) for value in match.values))
    if match.how is How.WILDCARD:
        return _like(column, match.values[0], sqlite=sqlite)
    if isinstance(column.type, Integer):
        return column.in_([int(value) for value in match.values])
    return column.in_(match.values)


def _one_of_words(column: SQLColumnExpression[str], pattern: str, *, sqlite: bool) -> ColumnElement[bool]:
    """Match one of a column's comma separated words."""
    words: SQLColumnExpression[str] = "," + column + ","
    return _like(words, f"*,{pattern},*", sqlite=sqlite)


def _like_name(column: SQLColumnExpression[str], pattern: str, *, sqlite: bool) -> ColumnElement[bool]:
    """Match a PN without case: all of it, or its alphabetic component group (PS3.4 C.2.2.2.1)."""
    name, folded = func.lower(column), pattern.lower()
    return or_(_like(name, folded, sqlite=sqlite), _like(name, f"{folded}=*", sqlite=sqlite))


def _like(column: SQLColumnExpression[str], pattern: str, *, sqlite: bool) -> ColumnElement[bool]:
    """Match ``*`` and ``?`` with case: GLOB has DICOM's own signs, and SQLite's LIKE ignores case."""
    if sqlite:
        return column.op("GLOB")(pattern.replace("[", "[[]"))
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def _between(keyword: str, column: SQLColumnExpression[str], low: str, high: str) -> ColumnElement[bool]:
    compared: SQLColumnExpression[str] = column
    if keyword == "StudyTime":  # hours and minutes alone mean the second 00; fractions do not count
        compared = func.substr(column + "000000", 1, 6)
    ends = [column != ""]
    if low:
        ends.append(compared >= low)
    if high:
        ends.append(compared <= high)
    return and_(*ends)
