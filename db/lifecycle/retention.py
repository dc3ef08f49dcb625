"""Which pixel data may go, and who said that they must not.

Every reason to keep a Study is one condition in :func:`obstacles`. What asks for the next Study to go, what
looks again under the lock, and what tells a person why a Study stays all use the same list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.models import Delivery, Instance, Reading, ResultObject, Study
from db.report_models import Report
from db.types import CommitmentState, DeliveryState, ReadingState, ReportState, utcnow
from db.uow import UnitOfWork

_ENDED = (ReadingState.DRAFTED, ReadingState.NO_DRAFT, ReadingState.IGNORED)
_WITH_A_PERSON = (ReadingState.HELD, ReadingState.FAILED)
_FINAL = (ReportState.FINAL, ReportState.ADDENDED, ReportState.CORRECTED)
_UNFINISHED = (ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY)
_UNSETTLED = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.FAILED, DeliveryState.HELD)
_UNCOMMITTED = (CommitmentState.ASKED, CommitmentState.REFUSED, CommitmentState.ALARM)
MAX_REASON_CHARS = 500


@dataclass(frozen=True)
class Terms:
    """What the settings say: ``committing`` destinations answer for what they took only once they committed to it.

    ``unreported`` also lets Studies go that ended without a delivered signed report.
    """

    committing: frozenset[str] = frozenset()
    unreported: bool = False


@dataclass(frozen=True)
class Candidate:
    """A Study whose pixel data may go, with what is still held of it."""

    study_id: UUID
    study_instance_uid: str
    accession_number: str
    last_received_at: datetime
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Kept:
    """How many Studies one reason keeps, and how much they hold."""

    reason: str
    studies: int
    size_bytes: int


def obstacles(terms: Terms) -> Mapping[str, ColumnElement[bool]]:
    """Return every reason to keep a Study's pixel data, as words and as a condition on ``Study``; first match counts.

    A Study goes only when a person signed its final report and every result reached every destination, with
    the commitment of those that give one. A Study that was never reported here may be the only copy of an
    examination nobody has read: it stays unless ``terms.unreported``. An earlier Study fetched for comparison
    is the archive's; it goes when no Study of the patient is being worked on.
    """
    found: dict[str, ColumnElement[bool]] = {
        "legal hold": Study.legal_hold.is_(True),
        "being received or processed": _reading(Reading.state.not_in((*_ENDED, *_WITH_A_PERSON))),
        "waits for a person: held or failed": _reading(Reading.state.in_(_WITH_A_PERSON)),
        "open for review": _report(or_(Report.state == ReportState.IN_REVIEW, Report.locked_by.is_not(None))),
        "its draft is not signed": _report(Report.state == ReportState.DRAFTED),
        "its report is preliminary": _report(Report.state == ReportState.PRELIMINARY),
        "images arrived after it was signed": _report(Report.late_images.is_(True)),
        "results are not delivered": _delivery(Delivery.state.in_(_UNSETTLED)),
        "results are not committed": _delivery(_uncommitted(terms)),
        "a comparison for a study that is not finished": and_(Study.is_prior.is_(True), _patient_is_read()),
    }
    if not terms.unreported:
        reported = and_(
            _report(Report.state.in_(_FINAL)),
            _delivery(and_(Delivery.state == DeliveryState.DELIVERED, ResultObject.signature_id.is_not(None))),
        )
        found["no signed report was delivered"] = and_(Study.is_prior.is_(False), ~reported)
    return found


def _reading(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(Reading.study_id == Study.id, Reading.superseded.is_(False), condition).correlate(Study)


def _report(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(Report.study_id == Study.id, condition).correlate(Study)


def _delivery(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return (
        exists()
        .where(ResultObject.study_id == Study.id, Delivery.result_object_id == ResultObject.id, condition)
        .correlate(Study)
    )


def _uncommitted(terms: Terms) -> ColumnElement[bool]:
    promised = and_(
        Delivery.destination.in_(sorted(terms.committing)), Delivery.commitment != CommitmentState.COMMITTED
    )
    return and_(Delivery.state == DeliveryState.DELIVERED, or_(promised, Delivery.commitment.in_(_UNCOMMITTED)))


def _patient_is_read() -> ColumnElement[bool]:
    """Return whether another Study of the patient is being processed, or its report is not final."""
    other = aliased(Study)
    busy = exists().where(Reading.study_id == other.id, Reading.superseded.is_(False), Reading.state.not_in(_ENDED))
    unfinished = exists().where(Report.study_id == other.id, Report.state.in_(_UNFINISHED))
    return (
        exists()
        .where(
            other.patient_id == Study.patient_id,
            other.issuer_of_patient_id == Study.issuer_of_patient_id,
            other.is_prior.is_(False),
            or_(busy.correlate(other), unfinished.correlate(other)),
        )
        .correlate(Study)
    )


_HELD = and_(Instance.study_id == Study.id, Instance.deleted_at.is_(None))
_FILES = select(func.count()).where(_HELD).correlate(Study).scalar_subquery()
_BYTES = select(func.coalesce(func.sum(Instance.size_bytes), 0)).where(_HELD).correlate(Study).scalar_subquery()


def next_to_go(
    session: Session,
    terms: Terms,
    *,
    received_before: datetime | None = None,
    after: Candidate | None = None,
    limit: int = 50,
) -> list[Candidate]:
    """Return the Studies whose pixel data may go, oldest first.

    Args:
        session: any.
        terms: see :class:`Terms`.
        received_before: only those whose last Instance came before this.
        after: only those that follow this one.
        limit: how many at most.
    """
    query = (
        select(
            Study.id.label("study_id"),
            Study.study_instance_uid,
            Study.accession_number,
            Study.last_received_at,
            _FILES.label("files"),
            _BYTES.label("size_bytes"),
        )
        .where(Study.pixels_deleted_at.is_(None), *(~one for one in obstacles(terms).values()))
        .order_by(Study.last_received_at, Study.id)
        .limit(limit)
    )
    if received_before is not None:
        query = query.where(Study.last_received_at < received_before)
    if after is not None:
        query = query.where(
            tuple_(Study.last_received_at, Study.id)
            > tuple_(
                literal(after.last_received_at, Study.last_received_at.type), literal(after.study_id, Study.id.type)
            )
        )
    return [Candidate(**row._mapping) for row in session.execute(query)]


def kept_because(session: Session, study_id: UUID, terms: Terms) -> list[str]:
    """Return every reason that keeps this Study's pixel data; none when they may go."""
    reasons = obstacles(terms)
    row = session.execute(
        select(*(condition.label(f"o{n}") for n, condition in enumerate(reasons.values()))).where(Study.id == study_id)
    ).one_or_none()
    return [] if row is None else [words for words, applies in zip(reasons, row, strict=True) if applies]


def kept_studies(session: Session, terms: Terms) -> list[Kept]:
    """Return for each reason how many Studies it keeps, those first that keep most; empty words for none."""
    words = case(*((condition, literal(name)) for name, condition in obstacles(terms).items()), else_=literal(""))
    each = select(words.label("reason"), _BYTES.label("held")).where(Study.pixels_deleted_at.is_(None)).subquery()
    total = func.sum(each.c.held)
    query = select(each.c.reason, func.count(), total).group_by(each.c.reason).order_by(total.desc())
    return [Kept(reason, studies, int(held or 0)) for reason, studies, held in session.execute(query)]


def days_of_data(session: Session, now: datetime) -> float:
    """Return how long ago the first Study came, in days: what a rate can rest on; 0 before it."""
    first = session.scalar(select(func.min(Study.first_received_at)))
    return 0.0 if first is None else max(now - first, timedelta()) / timedelta(days=1)


def bytes_per_day(session: Session, now: datetime, *, days: float = 7.0) -> float:
    """Return how much arrived per day over the last ``days``, or since the first Study when that is less."""
    since = now - timedelta(days=days)
    first = session.scalar(select(func.min(Study.first_received_at)))
    if first is None:
        return 0.0
    query = (
        select(func.sum(Instance.size_bytes))
        .join(Study, Study.id == Instance.study_id)
        .where(Study.last_received_at >= since, Instance.received_at >= since)
    )
    seconds = min(timedelta(days=days), max(now - first, timedelta(hours=1))).total_seconds()
    return float((session.scalar(query) or 0) / seconds * 86_400)


def claim_pixels(
    uow: UnitOfWork, study_id: UUID, terms: Terms, *, received_before: datetime | None = None
) -> Sequence[str]:
    """Mark the Instances of a Study as deleted if they still may go; return their paths.

    Study, Readings and Report stay locked until the unit of work ends, so that no image, no worker and no
    reader comes between; the caller moves the files away before it commits and calls :func:`pixels_deleted`.
    """
    study = locked(uow, Study, study_id)
    for kind in (Reading, Report):
        uow.session.execute(select(kind.id).where(kind.study_id == study_id).with_for_update(key_share=True))
    if received_before is not None and study.last_received_at >= received_before:
        return ()
    if kept_because(uow.session, study_id, terms):
        return ()
    held = (Instance.study_id == study_id, Instance.deleted_at.is_(None))
    paths = uow.session.scalars(select(Instance.path).where(*held).order_by(Instance.path)).all()
    now = utcnow()
    uow.session.execute(update(Instance).where(*held).values(deleted_at=now))
    study.pixels_deleted_at = now
    return paths


def pixels_deleted(uow: UnitOfWork, study_id: UUID, *, files: int, size_bytes: int, missing: int, why: str) -> None:
    """Record that the files of a Study went; ``missing`` of them were not there any more."""
    detail = {"files": files, "bytes": size_bytes, "missing": missing, "why": why}
    uow.audit(AuditTag.STUDY_PIXELS_DELETED, study_id=study_id, detail=detail)


def taken_back(uow: UnitOfWork, study_id: UUID, instance_id: UUID, now: datetime) -> None:
    """Note that the file of an Instance that retention deleted came again; its Study's time runs anew."""
    uow.session.execute(update(Instance).where(Instance.id == instance_id).values(deleted_at=None))
    uow.session.execute(update(Study).where(Study.id == study_id).values(pixels_deleted_at=None, last_received_at=now))


def deleted_paths(uow: UnitOfWork, study_id: UUID) -> frozenset[str]:
    """Return the paths of a Study's Instances that retention deleted; the Study stays locked."""
    if uow.session.get(Study, study_id, with_for_update={"key_share": True}, populate_existing=True) is None:
        return frozenset()
    query = select(Instance.path).where(Instance.study_id == study_id, Instance.deleted_at.is_not(None))
    return frozenset(uow.session.scalars(query))


def place_hold(uow: UnitOfWork, study_id: UUID, reason: str) -> None:
    """Keep everything of a Study until the hold is lifted.

    Raises:
        LifecycleError: there is one already.
        RefusedInputError: no reason.
    """
    _hold(uow, study_id, reason, to=True)


def lift_hold(uow: UnitOfWork, study_id: UUID, reason: str) -> None:
    """Take a legal hold back.

    Raises:
        LifecycleError: there is none.
        RefusedInputError: no reason.
    """
    _hold(uow, study_id, reason, to=False)


def _hold(uow: UnitOfWork, study_id: UUID, reason: str, *, to: bool) -> None:
    words = " ".join(reason.split())
    if not words or len(words) > MAX_REASON_CHARS:
        raise RefusedInputError(f"a legal hold is placed and lifted for a reason of 1 to {MAX_REASON_CHARS} characters")
    study = locked(uow, Study, study_id)
    if study.legal_hold is to:
        raise LifecycleError("this study is under legal hold already" if to else "this study is not under legal hold")
    study.legal_hold = to
    uow.audit(
        AuditTag.STUDY_HOLD_PLACED if to else AuditTag.STUDY_HOLD_LIFTED, study_id=study_id, detail={"reason": words}
    )
