"""Storage commitment we ask for (PS3.4 Annex J, SCU): what a destination took, it has to promise to keep.

The answer comes on the association of the request, or on one the destination opens to us, now or days later.
"""

import random
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy.orm import Session, sessionmaker

from config.errors import AppError, PeerUnavailableError, RefusedInputError
from config.settings import Destination, Settings
from db.audit import AuditTag
from db.lifecycle import commitments
from db.lifecycle.commitments import CommitmentAnswer, CommitmentWanted, Patience
from db.uow import Actor, unit_of_work
from dicom_node import commitment_wire as wire
from dicom_node import scu
from dicom_node.context import NodeContext

log = structlog.get_logger()
PATIENCE = Patience(wait_s=60.0, max_attempts=11)  # pauses from a minute to 17 hours: 34 hours in all
RETRY_BASE_S = 60.0  # after a request that was not taken
AT_ONCE = 500  # objects in one request
SAME_ASSOCIATION_S = 5.0
_ANSWER_S = 5.0  # our answer to a report gets on its way within this, or not at all
_ORDERS = 16  # requests to one destination in one go
_NODE = Actor("node", "process")

# PS3.7 annex C
_SUCCESS, _NO_SUCH_INSTANCE, _NO_SUCH_EVENT, _INVALID_VALUE = 0x0000, 0x0112, 0x0113, 0x0115
_NO_SUCH_CLASS, _RESOURCE_LIMITATION = 0x0118, 0x0213


def ask_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Ask destinations to commit to what they accepted; return how many objects they were asked for.

    Raises:
        TransientError: the database cannot be used; nothing is lost, what was asked for is asked for again.
    """
    asked = 0
    for destination in settings.destinations:
        if destination.commitment:
            asked += _ask(sessions, settings, destination, now)
    return asked


def _ask(sessions: sessionmaker[Session], settings: Settings, destination: Destination, now: datetime) -> int:
    asked = 0
    for _ in range(_ORDERS):
        with unit_of_work(sessions, _NODE) as uow:
            order = commitments.order_commitment(uow, destination.name, now, PATIENCE, at_most=AT_ONCE)
        if order is None:
            break
        try:
            status = _request(sessions, settings, destination, order)
        except PeerUnavailableError as exc:
            _not_taken(sessions, destination, order, str(exc), was_refused=False)
            break
        if status != _SUCCESS:
            _not_taken(sessions, destination, order, f"N-ACTION was answered 0x{status:04X}", was_refused=True)
            break
        asked += len(order.references)
    return asked


def _request(
    sessions: sessionmaker[Session], settings: Settings, destination: Destination, order: CommitmentWanted
) -> int:
    """Send N-ACTION and return its status; stay a moment, for the report may come on the same association.

    Raises:
        PeerUnavailableError: no association, no presentation context, or no answer.
    """
    information = wire.write_request(order.transaction_uid, order.references)
    here = _ReportHere()
    handlers = [
        (evt.EVT_N_EVENT_REPORT, _on_report_here, [sessions, settings, destination.ae_title, here]),
        (evt.EVT_PDU_SENT, _on_sent, [here]),
    ]
    assoc = scu.associate(scu.address_of(destination, settings), [wire.context()], handlers=handlers)
    try:
        answer, _ = assoc.send_n_action(
            information, wire.REQUEST_COMMITMENT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        status = scu.status_of(answer)
        if status is None:
            raise PeerUnavailableError("no answer to N-ACTION: the association was lost")
        if status == _SUCCESS:
            _stay(sessions, assoc, order, here)
    except (ValueError, RuntimeError) as exc:
        raise PeerUnavailableError(f"N-ACTION was not sent: {type(exc).__name__}") from exc
    finally:
        scu.end(assoc)
    log.info("commitment.asked", destination=destination.name, count=len(order.references), status=f"{status:04X}")
    return status


@dataclass(frozen=True)
class _ReportHere:
    """A report that came on the association of our own request: taken in hand, and our answer on its way."""

    begun: threading.Event = field(default_factory=threading.Event)
    said: threading.Event = field(default_factory=threading.Event)


def _stay(sessions: sessionmaker[Session], assoc: Association, order: CommitmentWanted, here: _ReportHere) -> None:
    """Wait a moment for the report; one that is being taken here is answered before the association is released."""
    deadline = time.monotonic() + SAME_ASSOCIATION_S
    while assoc.is_established and time.monotonic() < deadline:
        with sessions() as session:
            if commitments.is_answered(session, order.transaction_uid):
                break
        time.sleep(0.1)
    if here.begun.is_set():
        here.said.wait(_ANSWER_S)


def _on_sent(event: Event, here: _ReportHere) -> None:
    """Note that a PDU left after the report was taken in hand: our answer, for nothing else is sent meanwhile."""
    if here.begun.is_set() and isinstance(event.pdu, P_DATA_TF):
        here.said.set()


def _not_taken(
    sessions: sessionmaker[Session], destination: Destination, order: CommitmentWanted, error: str, *, was_refused: bool
) -> None:
    base_s = RETRY_BASE_S * random.uniform(0.75, 1.25)
    log.warning("commitment.not_taken", destination=destination.name, count=len(order.references), error=error)
    with unit_of_work(sessions, _NODE) as uow:
        commitments.order_not_taken(uow, order.transaction_uid, error, base_s=base_s, was_refused=was_refused)


def on_event_report(event: Event, context: NodeContext) -> tuple[int, None]:
    """Answer N-EVENT-REPORT on an association a destination opened to us, as SCP of the service."""
    reporter = str(event.assoc.requestor.primitive.calling_ae_title).strip()
    return _take(event, context.sessions, context.settings, reporter), None


def _on_report_here(
    event: Event, sessions: sessionmaker[Session], settings: Settings, ae_title: str, here: _ReportHere
) -> tuple[int, None]:
    """Answer N-EVENT-REPORT on the association of our request."""
    here.begun.set()
    return _take(event, sessions, settings, ae_title), None


def _take(event: Event, sessions: sessionmaker[Session], settings: Settings, reporter: str) -> int:
    """Believe a report, if it is of a destination that was asked, and say so by the status."""
    request = event.request
    if request.AffectedSOPClassUID != StorageCommitmentPushModel:
        return _NO_SUCH_CLASS
    if request.AffectedSOPInstanceUID != StorageCommitmentPushModelInstance:
        return _NO_SUCH_INSTANCE
    if request.EventTypeID not in {wire.ALL_COMMITTED, wire.FAILURES_EXIST}:
        return _NO_SUCH_EVENT
    try:
        report = wire.read_report(lambda: event.event_information)
        return _believe(sessions, settings, reporter, report)
    except RefusedInputError as exc:
        log.warning("commitment.report_refused", calling_ae=reporter, error=str(exc))
        return _INVALID_VALUE
    except AppError as exc:
        log.error("commitment.report_not_recorded", calling_ae=reporter, error=exc)  # noqa: TRY400
        return _RESOURCE_LIMITATION


def _believe(sessions: sessionmaker[Session], settings: Settings, reporter: str, report: wire.Report) -> int:
    names = {destination.name for destination in settings.destinations if destination.ae_title == reporter}
    answer = CommitmentAnswer(report.transaction_uid, report.committed, report.failed)
    with unit_of_work(sessions, Actor(reporter, "peer")) as uow:
        taken = commitments.take_answer(uow, answer, names, PATIENCE, resend_s=RETRY_BASE_S)
        if taken is None:
            uow.audit(
                AuditTag.ACCESS_REFUSED,
                outcome="failure",
                object_type="commitment",
                object_id=report.transaction_uid,
                detail={"reason": "a storage commitment report of a transaction that is not this peer's"},
            )
    if taken is None:
        log.warning("commitment.report_refused", calling_ae=reporter, error="not a transaction of this peer")
        return _INVALID_VALUE
    log.info("commitment.answered", calling_ae=reporter, count=taken.committed)
    if taken.refused or taken.unmentioned:
        log.warning("commitment.incomplete", calling_ae=reporter, count=taken.refused + taken.unmentioned)
    return _SUCCESS
