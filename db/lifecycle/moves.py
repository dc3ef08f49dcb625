"""The one way a state changes: the table is asked, the event is written, the message is committed with both."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from config.broker import TaskName
from config.errors import LifecycleError
from db.asking_models import ErrandState, Question, Redraft
from db.audit import AuditTag
from db.commitment_models import CommitmentRequest, RequestState
from db.critical_models import AlertState, CriticalAlert, CriticalNotice, NoticeState
from db.expectation_models import Expectation
from db.lifecycle.tables import (
    ALERT_MOVES,
    DELIVERY_MOVES,
    HOLD_MOVES,
    NOTICE_MOVES,
    PACKAGE_MOVES,
    PRIOR_MOVES,
    QUESTION_MOVES,
    READING_MOVES,
    REDRAFT_MOVES,
    REPORT_MOVES,
    REQUEST_MOVES,
    SEARCH_MOVES,
    STEP_MOVES,
)
from db.lifecycle.workitem_events import reading_moved
from db.models import Base, Delivery, Reading
from db.package_models import Package
from db.prior_models import Prior, PriorSearch, PriorState, SearchState
from db.report_models import Report
from db.signing_models import HoldState, SignatureHold
from db.types import DeliveryState, ExpectationState, PackageState, ReadingState, ReportState, utcnow
from db.uow import UnitOfWork

Row = TypeVar("Row", bound=Base)
S = TypeVar("S", bound=StrEnum)


def locked(uow: UnitOfWork, kind: type[Row], key: UUID) -> Row:
    """Return the row as it is now, locked until the unit of work ends.

    Locks are taken in the order Study, Reading, Report, Delivery, so two units of work cannot wait for
    each other. ``NO KEY UPDATE`` lets others insert rows that refer to this one meanwhile.

    Raises:
        LifecycleError: no such row.
    """
    row = uow.session.get(kind, key, with_for_update={"key_share": True}, populate_existing=True)
    if row is None:
        raise LifecycleError(f"there is no {kind.__name__.lower()} {key}")
    return row


def move_reading(
    uow: UnitOfWork,
    reading: Reading,
    to: ReadingState,
    *,
    reason: str = "",
    detail: dict[str, Any] | None = None,
    attempts: int | None = None,
) -> None:
    """Move a Reading; one that becomes QUEUED wakes a worker. ``attempts``, when given, are counted from there.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(READING_MOVES, reading.state, to, f"reading {reading.id}")
    notes = {"from": reading.state.value, "to": to.value, "revision": reading.revision, **(detail or {})}
    if reason:
        notes["reason"] = reason
    left, said, tried = reading.state, reading.reason, reading.attempts or 0
    reading.state = to
    reading.reason = reason
    if attempts is not None:
        reading.attempts = attempts
    uow.audit(tag, study_id=reading.study_id, reading_id=reading.id, detail=notes)
    if to is ReadingState.QUEUED:
        uow.enqueue(TaskName.READ_STUDY, reading_id=str(reading.id))
    reading_moved(uow, reading, left, said, tried)


def move_report(
    uow: UnitOfWork, report: Report, to: ReportState, *, reason: str = "", detail: dict[str, Any] | None = None
) -> None:
    """Move a Report.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(REPORT_MOVES, report.state, to, f"report {report.id}")
    notes = {"from": report.state.value, "to": to.value, **(detail or {})}
    if reason:
        notes["reason"] = reason
    report.state = to
    report.reason = reason
    report.updated_at = utcnow()
    uow.audit(tag, study_id=report.study_id, report_id=report.id, detail=notes)


def move_delivery(
    uow: UnitOfWork, delivery: Delivery, to: DeliveryState, *, study_id: UUID, detail: dict[str, Any] | None = None
) -> None:
    """Move a Delivery.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(DELIVERY_MOVES, delivery.state, to, f"delivery {delivery.id}")
    notes = {"from": delivery.state.value, "to": to.value, "destination": delivery.destination, **(detail or {})}
    delivery.state = to
    uow.audit(tag, study_id=study_id, object_type="delivery", object_id=str(delivery.id), detail=notes)


def move_hold(
    uow: UnitOfWork, hold: SignatureHold, to: HoldState, *, study_id: UUID, detail: dict[str, Any] | None = None
) -> None:
    """Move the pause between a signature and its dispatch.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(HOLD_MOVES, hold.state, to, f"dispatch of signature {hold.signature_id}")
    notes = {"from": hold.state.value, "to": to.value, "signature_id": str(hold.signature_id), **(detail or {})}
    hold.state = to
    uow.audit(tag, study_id=study_id, report_id=hold.report_id, detail=notes)


def move_request(
    uow: UnitOfWork, request: CommitmentRequest, to: RequestState, *, detail: dict[str, Any] | None = None
) -> None:
    """Move a peer's request for storage commitment.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(REQUEST_MOVES, request.state, to, f"commitment request {request.id}")
    notes = {"from": request.state.value, "to": to.value, "transaction": request.transaction_uid, **(detail or {})}
    request.state = to
    uow.audit(
        tag,
        outcome="failure" if to is RequestState.FAILED else "success",
        object_type="commitment",
        object_id=str(request.id),
        detail=notes,
    )


def move_search(uow: UnitOfWork, search: PriorSearch, to: SearchState, *, detail: dict[str, Any]) -> None:
    """Move the search for priors of one Study.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(SEARCH_MOVES, search.state, to, f"search {search.id}")
    notes = {"from": search.state.value, "to": to.value, **detail}
    search.state = to
    uow.audit(tag, outcome="success" if to is SearchState.DONE else "failure", study_id=search.study_id, detail=notes)


def move_prior(
    uow: UnitOfWork, prior: Prior, to: PriorState, *, reason: str = "", detail: dict[str, Any] | None = None
) -> None:
    """Move an earlier Study.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(PRIOR_MOVES, prior.state, to, f"prior {prior.id}")
    notes = {"from": prior.state.value, "to": to.value, "study_instance_uid": prior.study_instance_uid}
    prior.state = to
    prior.reason = reason[:400]
    if reason:
        notes["reason"] = prior.reason
    uow.audit(
        tag,
        outcome="success" if to in {PriorState.FETCHING, PriorState.HERE} else "failure",
        study_id=prior.study_id,
        object_type="prior",
        object_id=str(prior.id),
        detail={**notes, **(detail or {})},
    )


def move_step(step: Expectation, to: ExpectationState) -> AuditTag:
    """Move a performed procedure step; return the tag of the event, which its caller writes with what was said.

    Raises:
        LifecycleError: it has ended (PS3.4 F.7.2.2.3).
    """
    tag = _allowed(STEP_MOVES, step.state, to, f"procedure step {step.object_uid}")
    step.state = to
    return tag


def move_package(uow: UnitOfWork, package: Package, to: PackageState, *, detail: dict[str, Any] | None = None) -> None:
    """Move a model package; the change is flushed, so that the next one sees the place free.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(PACKAGE_MOVES, package.state, to, f"model {package.name}")
    notes = {"from": package.state.value, "to": to.value, "name": package.name, "version": package.version}
    package.state = to
    uow.audit(tag, object_type="model", object_id=str(package.id), detail={**notes, **(detail or {})})
    uow.session.flush()


def move_alert(
    uow: UnitOfWork, alert: CriticalAlert, to: AlertState, *, reason: str = "", detail: dict[str, Any] | None = None
) -> None:
    """Move a critical result.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(ALERT_MOVES, alert.state, to, "this critical result")
    notes = {"from": alert.state.value, "to": to.value, **(detail or {})}
    if reason:
        notes["reason"] = reason
    alert.state = to
    uow.audit(tag, study_id=alert.study_id, object_type="critical_alert", object_id=str(alert.id), detail=notes)


def move_notice(
    uow: UnitOfWork, notice: CriticalNotice, to: NoticeState, *, study_id: UUID, detail: dict[str, Any] | None = None
) -> None:
    """Move a notice about a critical result.

    Raises:
        LifecycleError: the table does not list this move.
    """
    tag = _allowed(NOTICE_MOVES, notice.state, to, f"notice {notice.id}")
    notes = {"from": notice.state.value, "to": to.value, "channel": notice.channel.value, "alert": str(notice.alert_id)}
    notice.state = to
    uow.audit(
        tag,
        outcome="failure" if to is NoticeState.FAILED else "success",
        study_id=study_id,
        object_type="critical_notice",
        object_id=str(notice.id),
        detail={**notes, "recipient": notice.recipient, **(detail or {})},
    )


def move_errand(
    uow: UnitOfWork,
    row: Question | Redraft,
    to: ErrandState,
    *,
    reason: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """Move a question or a redraft.

    Raises:
        LifecycleError: the table does not list this move.
    """
    name, table = ("question", QUESTION_MOVES) if isinstance(row, Question) else ("redraft", REDRAFT_MOVES)
    tag = _allowed(table, row.state, to, f"{name} {row.id}")
    notes = {"from": row.state.value, "to": to.value, **(detail or {})}
    if reason:
        notes["reason"] = reason
    row.state = to
    row.reason = reason
    uow.audit(
        tag,
        outcome="failure" if to in {ErrandState.REFUSED, ErrandState.FAILED} else "success",
        study_id=row.study_id,
        report_id=row.report_id,
        object_type=name,
        object_id=str(row.id),
        detail=notes,
    )


def _allowed(table: Mapping[tuple[S, S], AuditTag], now: S, to: S, what: str) -> AuditTag:
    tag = table.get((now, to))
    if tag is None:
        targets = ", ".join(sorted(b.value for a, b in table if a is now)) or "nothing"
        raise LifecycleError(f"{what} cannot move from {now.value} to {to.value}; from {now.value} only to {targets}")
    return tag
