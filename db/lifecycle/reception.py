"""Instances that arrive: their Study, their Series, their row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row

from config.errors import AppError, ConflictingInstanceError
from db.audit import AuditTag
from db.lifecycle.expectations import adopt
from db.lifecycle.late import reopen
from db.lifecycle.moves import locked
from db.lifecycle.priors import is_fetched, take_for_reading
from db.lifecycle.quarantine import fit
from db.lifecycle.reception_statements import COUNT, HELD, INSERT_INSTANCES, INSERTS, PLACES, STUDIES
from db.lifecycle.retention import taken_back
from db.lifecycle.values import IDENTITY_REASON, InstanceHeader, NewInstance, Received
from db.lifecycle.workitem_events import reading_created
from db.models import Base, Instance, Reading, Series, Study
from db.report_models import Report
from db.types import utcnow
from db.uow import Actor, UnitOfWork

_STUDY_FIELDS = (
    "study_instance_uid",
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
    "study_time",
    "study_description",
    "referring_physician",
)
_SERIES_FIELDS = (
    "series_instance_uid",
    "modality",
    "series_number",
    "series_description",
    "body_part",
    "manufacturer",
    "manufacturer_model",
)
_StudyRow = Row[UUID, str, int, str, bool, bool]  # as STUDIES selects
_COUNTED = {"preserve_rowcount": True}


def receive_instances(uow: UnitOfWork, news: Sequence[NewInstance]) -> list[Received | AppError]:
    """Index a group of Instances whose bytes are safe on the disk; return what became of each, in order.

    A new Instance of a Study that was complete starts a new revision: a new Reading, and whatever the old
    images led to is superseded if nobody signed it, or flagged if somebody did. The same Instance again
    changes nothing. A :class:`ConflictingInstanceError` in the list says that a UID is held with other
    bytes; the others are not touched by it. Each event is written in the name of the Instance's sender.
    """
    group = _Group(uow, news)
    group.lock_studies()
    group.find_held()
    group.add_studies(group.fresh())
    group.notice_priors()
    group.find_places()
    group.open_places()
    group.insert()
    return group.outcomes()


def receive_instance(
    uow: UnitOfWork,
    header: InstanceHeader,
    *,
    path: str,
    sha256: str,
    size_bytes: int,
    calling_ae: str,
    called_ae: str,
    quiet_s: float,
) -> Received:
    """Index one Instance, see :func:`receive_instances`.

    Raises:
        ConflictingInstanceError: its UID is held with other bytes.
    """
    new = NewInstance(header, path, sha256, size_bytes, calling_ae, called_ae, quiet_s)
    (outcome,) = receive_instances(uow, [new])
    if isinstance(outcome, AppError):
        raise outcome
    return outcome


@dataclass(frozen=True)
class _Held:
    """The row that holds a SOP Instance UID."""

    id: UUID
    study_id: UUID
    sha256: str
    is_deleted: bool = False  # by retention; the row stayed


@dataclass
class _Place:
    """Where the Instances of one Study go."""

    study: _StudyRow
    revision: int
    is_prior: bool
    is_doubted: bool
    receiving: bool = False
    series: dict[str, UUID] = field(default_factory=dict)


class _Group:
    """One group on its way into the database, step by step."""

    def __init__(self, uow: UnitOfWork, news: Sequence[NewInstance]) -> None:
        self._uow = uow
        self._connection: Connection = uow.session.connection()
        self._news = news
        self._now = utcnow()
        self._places: dict[str, _Place] = {}  # by Study Instance UID
        self._held: dict[str, _Held] = {}  # by SOP Instance UID
        self._added: dict[str, UUID] = {}  # rows of this group, by SOP Instance UID

    def lock_studies(self) -> None:
        """Lock those Studies of the group that are known."""
        uids = sorted({new.header.study_instance_uid for new in self._news})
        for row in self._connection.execute(STUDIES, {"uids": uids}):
            self._places[row.study_instance_uid] = _Place(row, row.revision, row.is_prior, row.identity_conflict)

    def add_studies(self, fresh: list[NewInstance]) -> None:
        """Add and lock the Studies that new Instances need, each with its Report and first Reading."""
        first: dict[str, NewInstance] = {}
        for new in fresh:
            if new.header.study_instance_uid not in self._places:
                first.setdefault(new.header.study_instance_uid, new)
        for _, new in sorted(first.items()):
            self._add_study(new)
        if first:
            self.lock_studies()

    def _add_study(self, new: NewInstance) -> None:
        header, uow = new.header, self._acting(new)
        values: dict[str, Any] = {name: fit(Study, name, getattr(header, name)) for name in _STUDY_FIELDS}
        values |= {
            "id": uuid4(),
            "modalities": "",
            "body_part": "",
            "calling_ae": fit(Study, "calling_ae", new.calling_ae),
            "called_ae": fit(Study, "called_ae", new.called_ae),
            "revision": 1,
            "instance_count": 0,
            "identity_conflict": False,
            "is_prior": is_fetched(self._connection, header.study_instance_uid, new.retrieval),
            "first_received_at": self._now,
            "last_received_at": self._now,
            "quiet_s": new.quiet_s,
        }
        # two processes may bring the first two images at once: one of them adds the Study, both go on
        if _insert_if_absent(self._connection, Study, values):
            reading = Reading(study_id=values["id"], revision=1)
            uow.session.add_all([Report(study_id=values["id"]), reading])
            uow.audit(AuditTag.STUDY_RECEIVED, study_id=values["id"], detail={"calling_ae": new.calling_ae})
            uow.session.flush()
            reading_created(uow, reading)
            adopt(uow, header.study_instance_uid)

    def notice_priors(self) -> None:
        """Take a Study that was fetched as a prior for one to read, as soon as others send any Instance of it."""
        for new in self._news:
            uid = new.header.study_instance_uid
            place = self._places.get(uid)
            if place and place.is_prior and not is_fetched(self._connection, uid, new.retrieval):
                place.is_prior = False
                place.revision = take_for_reading(self._acting(new), place.study.id)

    def find_held(self) -> None:
        """Look up which SOP Instance UIDs have a row."""
        uids = list({new.header.sop_instance_uid for new in self._news})
        self._held = {
            row.sop_instance_uid: _Held(row.id, row.study_id, row.sha256, row.deleted_at is not None)
            for row in self._connection.execute(HELD, {"uids": uids})
        }

    def fresh(self) -> list[NewInstance]:
        """Return the Instances to insert: of each UID that has no row, the first one."""
        first: dict[str, NewInstance] = {}
        for new in self._news:
            if new.header.sop_instance_uid not in self._held:
                first.setdefault(new.header.sop_instance_uid, new)
        return list(first.values())

    def open_places(self) -> None:
        """Make the Studies ready for their new Instances: reopened, doubted, with their Series."""
        for new in self.fresh():
            self._open(new, self._places[new.header.study_instance_uid])

    def insert(self) -> None:
        """Insert what is new into its Study's present revision, and count it."""
        fresh = sorted(self.fresh(), key=lambda new: new.header.sop_instance_uid)
        if not fresh:
            return
        values = [self._values(new) for new in fresh]
        inserted = self._connection.execute(
            INSERT_INSTANCES[self._connection.dialect.name], values, execution_options=_COUNTED
        )
        self._added = {row["sop_instance_uid"]: row["id"] for row in values}
        if inserted.rowcount == len(values):
            self._held |= {row["sop_instance_uid"]: _Held(row["id"], row["study_id"], row["sha256"]) for row in values}
        else:
            # another process brought some under another Study meanwhile
            self.find_held()
        self._count([new for new in fresh if self._is_added(new)])

    def _is_added(self, new: NewInstance) -> bool:
        uid = new.header.sop_instance_uid
        return self._held[uid].id == self._added.get(uid)

    def find_places(self) -> None:
        """Look up which Studies are receiving, and their Series; after the lock, so that nothing is missed."""
        by_id = {place.study.id: place for place in self._places.values()}
        series = list({new.header.series_instance_uid for new in self._news})
        for row in self._connection.execute(PLACES, {"studies": list(by_id), "series": series}) if by_id else ():
            place = by_id[row.study_id]
            place.receiving = row.receiving
            if row.series_id is not None:
                place.series[row.series_instance_uid] = row.series_id

    def _open(self, new: NewInstance, place: _Place) -> None:
        """Make a Study ready for one more Instance: reopened, doubted, with its Series."""
        header, uow, study = new.header, self._acting(new), place.study
        if not place.receiving:
            place.revision = reopen(uow, study.id)
            place.receiving = True
        if not place.is_doubted and fit(Study, "patient_id", header.patient_id) != study.patient_id:
            place.is_doubted = True
            _notice_identity(uow, study.id, header)
        if header.series_instance_uid not in place.series:
            place.series[header.series_instance_uid] = _add_series(uow, study.id, header)

    def _values(self, new: NewInstance) -> dict[str, Any]:
        header, place = new.header, self._places[new.header.study_instance_uid]
        return {
            "id": uuid4(),
            "study_id": place.study.id,
            "series_id": place.series[header.series_instance_uid],
            "sop_instance_uid": header.sop_instance_uid,
            "sop_class_uid": header.sop_class_uid,
            "transfer_syntax_uid": header.transfer_syntax_uid,
            "instance_number": header.instance_number,
            "sha256": new.sha256,
            "size_bytes": new.size_bytes,
            "path": new.path,
            "revision": place.revision,
            "calling_ae": fit(Instance, "calling_ae", new.calling_ae),
            "association_id": new.association_id,
            "received_at": self._now,
        }

    def _count(self, added: list[NewInstance]) -> None:
        numbers = Counter(new.header.study_instance_uid for new in added)
        quiet: dict[str, float] = {}
        for new in added:
            uid = new.header.study_instance_uid
            quiet[uid] = max(new.quiet_s, quiet.get(uid, 0.0))
        if numbers:
            self._connection.execute(
                COUNT,
                [
                    {"study": self._places[uid].study.id, "added": n, "now": self._now, "quiet": quiet[uid]}
                    for uid, n in numbers.items()
                ],
            )

    def outcomes(self) -> list[Received | AppError]:
        """Return what became of each Instance; one that was held already is recorded."""
        told: set[str] = set()
        return [self._outcome(new, told) for new in self._news]

    def _outcome(self, new: NewInstance, told: set[str]) -> Received | AppError:
        uid = new.header.sop_instance_uid
        held = self._held[uid]
        if held.sha256 != new.sha256:
            return ConflictingInstanceError("this SOP Instance UID is held with other bytes")
        revision = self._places[new.header.study_instance_uid].revision
        if self._is_added(new) and uid not in told:
            told.add(uid)
            return Received(held.study_id, held.id, is_new=True, revision=revision)
        if held.is_deleted:
            taken_back(self._uow, held.study_id, held.id, self._now)
            self._held[uid] = replace(held, is_deleted=False)
        self._acting(new).audit(
            AuditTag.INSTANCE_DUPLICATE,
            study_id=held.study_id,
            object_type="instance",
            object_id=uid,
            detail={"restored": True} if held.is_deleted else None,
        )
        return Received(held.study_id, held.id, is_new=False, revision=revision)

    def _acting(self, new: NewInstance) -> UnitOfWork:
        return UnitOfWork(self._uow.session, Actor(new.calling_ae, "peer"))


def _notice_identity(uow: UnitOfWork, study_id: UUID, header: InstanceHeader) -> None:
    locked(uow, Study, study_id).identity_conflict = True
    uow.audit(
        AuditTag.STUDY_IDENTITY_CONFLICT,
        outcome="failure",
        study_id=study_id,
        object_type="instance",
        object_id=header.sop_instance_uid,
        detail={"reason": IDENTITY_REASON},
    )


def _add_series(uow: UnitOfWork, study_id: UUID, header: InstanceHeader) -> UUID:
    """Add a Series and return its id; the Study row's lock keeps others away."""
    series = Series(id=uuid4(), study_id=study_id)
    for name in _SERIES_FIELDS:
        setattr(series, name, fit(Series, name, getattr(header, name)))
    uow.session.add(series)
    study = locked(uow, Study, study_id)
    study.modalities = _merged("modalities", study.modalities, header.modality)
    study.body_part = _merged("body_part", study.body_part, header.body_part)
    uow.session.flush()
    return series.id


def _insert_if_absent(connection: Connection, kind: type[Base], values: dict[str, Any]) -> bool:
    """Insert one row unless a unique key exists; on PostgreSQL this waits for whoever inserts it now."""
    insert = INSERTS[connection.dialect.name](kind.__table__)
    result = connection.execute(insert.on_conflict_do_nothing(), values, execution_options=_COUNTED)
    return result.rowcount == 1


def _merged(column: str, present: str, added: str) -> str:
    """Return a Study's comma separated words with one more, sorted."""
    words = {w for w in (*present.split(","), added) if w}
    fitted: str = fit(Study, column, ",".join(sorted(words)))
    return fitted
