"""What a search found, at each level, with the results of ours among the Instances of their Study."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar
from uuid import UUID

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy.orm import Session

from config.settings import Settings
from dashboard.dicomweb.objects import read_attributes
from dashboard.withholding import results_to_show
from db.models import Instance, ResultObject, Series, Study
from db.queries import dicomweb as asked
from db.queries.dicomweb import How, Match, Page

T = TypeVar("T")
_RESULT_KEYS = (*asked.STUDY_KEYS, *asked.SERIES_KEYS, *asked.INSTANCE_KEYS)
_ONLINE, _GONE = "ONLINE", "UNAVAILABLE"
_MOST_IN_STUDY = 100_000


@dataclass(frozen=True)
class Row:
    """One match: attributes the database knows, by keyword, and how to read others from a header."""

    study_id: UUID
    known: Mapping[str, Any]
    address: str
    read: Callable[[Collection[int]], Dataset]

    def header(self, keywords: Collection[str]) -> Dataset:
        """Return attributes from the header of the object, or of one that speaks for it."""
        return self.read(_tags(list(keywords)))


class Rows:
    """Searches of one request."""

    def __init__(self, db: Session, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    def studies(self, matches: Sequence[Match], *, limit: int, offset: int) -> Page[Row]:
        """Return one page of Studies; results of ours count, and their modalities are named."""
        page = asked.match_studies(self._db, matches, limit=limit, offset=offset)
        keys = [hit.study.id for hit in page.rows]
        results = results_to_show(self._db, keys) if keys else {}
        speakers = asked.one_instance_of_each_study(self._db, keys) if keys else {}
        rows = []
        for hit in page.rows:
            made = [self._result(one) for one in results.get(hit.study.id, [])]
            counts = {
                "ModalitiesInStudy": sorted({*_words(hit.study.modalities), *(str(r.known["Modality"]) for r in made)}),
                "NumberOfStudyRelatedSeries": hit.series + len({str(r.known["SeriesInstanceUID"]) for r in made}),
                "NumberOfStudyRelatedInstances": hit.instances + len(made),
                "InstanceAvailability": _ONLINE if hit.instances_held == hit.instances else _GONE,
            }
            address = f"/studies/{hit.study.study_instance_uid}"
            known = {**_of_study(hit.study), **counts}
            rows.append(Row(hit.study.id, known, address, self._reader(speakers.get(hit.study.id))))
        return Page(rows, page.remaining)

    def series(self, matches: Sequence[Match], study: Study | None, *, limit: int, offset: int) -> Page[Row]:
        """Return one page of Series, those of our results last when ``study`` is given."""
        if study is None:
            page = asked.match_series(self._db, matches, limit=limit, offset=offset)
            return Page(self._series_rows(page.rows), page.remaining)
        hits = asked.match_series(self._db, matches, limit=_MOST_IN_STUDY, offset=0).rows
        made: dict[str, list[Row]] = {}
        for one in self._results(study, matches):
            made.setdefault(str(one.known["SeriesInstanceUID"]), []).append(one)
        window = _Window(limit, offset)
        results = [
            Row(
                study.id,
                {**same[0].known, "NumberOfSeriesRelatedInstances": len(same)},
                same[0].address.rpartition("/instances/")[0],
                same[0].read,
            )
            for same in made.values()
        ]
        return window.over(hits, self._series_rows, results)

    def instances(self, matches: Sequence[Match], study: Study | None, *, limit: int, offset: int) -> Page[Row]:
        """Return one page of Instances, our results last when ``study`` is given."""
        if study is None:
            page = asked.match_instances(self._db, matches, limit=limit, offset=offset)
            return Page(self._instance_rows(page.rows), page.remaining)
        hits = asked.match_instances(self._db, matches, limit=_MOST_IN_STUDY, offset=0).rows
        return _Window(limit, offset).over(hits, self._instance_rows, self._results(study, matches))

    def _series_rows(self, hits: Sequence[asked.SeriesHit]) -> list[Row]:
        speakers = asked.one_instance_of_each(self._db, [hit.series.id for hit in hits]) if hits else {}
        return [
            Row(
                hit.study.id,
                {
                    **_of_study(hit.study),
                    **_of_series(hit.series),
                    "NumberOfSeriesRelatedInstances": hit.instances,
                    "InstanceAvailability": _ONLINE if hit.instances_held == hit.instances else _GONE,
                },
                f"/studies/{hit.study.study_instance_uid}/series/{hit.series.series_instance_uid}",
                self._reader(speakers.get(hit.series.id)),
            )
            for hit in hits
        ]

    def _instance_rows(self, hits: Sequence[asked.InstanceHit]) -> list[Row]:
        return [
            Row(
                hit.study.id,
                {**_of_study(hit.study), **_of_series(hit.series), **_of_instance(hit.instance)},
                f"/studies/{hit.study.study_instance_uid}/series/{hit.series.series_instance_uid}"
                f"/instances/{hit.instance.sop_instance_uid}",
                self._reader(hit.instance),
            )
            for hit in hits
        ]

    def _results(self, study: Study, matches: Sequence[Match]) -> list[Row]:
        shown = results_to_show(self._db, [study.id]).get(study.id, [])
        rows = [self._result(one) for one in shown]
        return [row for row in rows if all(_fits(match, row.known.get(match.keyword)) for match in matches)]

    def _result(self, made: ResultObject) -> Row:
        path = self._settings.results_dir / made.path
        header = read_attributes(path, str(ExplicitVRLittleEndian), _tags(_RESULT_KEYS))
        known = {keyword: _plain(header.get(keyword)) for keyword in _RESULT_KEYS}
        known |= {"SOPInstanceUID": made.sop_instance_uid, "SOPClassUID": made.sop_class_uid}
        known |= {"InstanceAvailability": _ONLINE}
        series = f"/studies/{known['StudyInstanceUID']}/series/{known['SeriesInstanceUID']}"
        address = f"{series}/instances/{made.sop_instance_uid}"
        return Row(made.study_id, known, address, lambda tags: read_attributes(path, str(ExplicitVRLittleEndian), tags))

    def _reader(self, instance: Instance | None) -> Callable[[Collection[int]], Dataset]:
        if instance is None or instance.deleted_at is not None:
            return lambda _: Dataset()
        path = self._settings.instances_dir / instance.path
        return lambda tags: read_attributes(path, instance.transfer_syntax_uid, tags)


@dataclass(frozen=True)
class _Window:
    """The wanted part of a list that is made of rows of the database and, behind them, results of ours."""

    limit: int
    offset: int

    def over(self, hits: Sequence[T], rows: Callable[[Sequence[T]], list[Row]], results: Sequence[Row]) -> Page[Row]:
        """Return the rows inside the window; only those are made."""
        end = self.offset + self.limit
        inside = rows(hits[self.offset : end])
        inside += results[max(self.offset - len(hits), 0) : max(end - len(hits), 0)]
        return Page(inside, max(len(hits) + len(results) - end, 0))


def _of_study(study: Study) -> dict[str, Any]:
    known = {keyword: getattr(study, column.key) for keyword, column in asked.STUDY_KEYS.items()}
    return known | {"ModalitiesInStudy": _words(study.modalities)}


def _of_series(series: Series) -> dict[str, Any]:
    return {keyword: getattr(series, column.key) for keyword, column in asked.SERIES_KEYS.items()}


def _of_instance(instance: Instance) -> dict[str, Any]:
    known = {keyword: getattr(instance, column.key) for keyword, column in asked.INSTANCE_KEYS.items()}
    return known | {"InstanceAvailability": _ONLINE if instance.deleted_at is None else _GONE}


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _tags(keywords: Sequence[str]) -> list[int]:
    return [tag for tag in map(tag_for_keyword, keywords) if tag is not None]


def _plain(value: Any) -> Any:
    """Return a value as a column would hold it."""
    return value if value is None or isinstance(value, int) else str(value)


def _fits(match: Match, value: Any) -> bool:
    """Return whether a result of ours has the value a key asks for, as the database would say of a row."""
    text = "" if value is None else str(value)
    if match.keyword in asked.NAMES:
        return any(fnmatchcase(text.lower(), _literal(pattern.lower())) for pattern in match.values)
    if match.how is How.RANGE:
        low, high = match.values
        return text != "" and (not low or text >= low) and (not high or text <= high)
    return any(fnmatchcase(text, _literal(pattern)) for pattern in match.values)


def _literal(pattern: str) -> str:
    return pattern.replace("[", "[[]")
