"""How many Instances a Study should have, asked of an archive by C-FIND."""

from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError, PeerUnavailableError
from config.settings import Settings
from db.lifecycle import expectations
from db.lifecycle.expectations import Countable
from db.uow import Actor, unit_of_work
from dicom_node.query import find
from dicom_node.scu import Address, address_of

log = structlog.get_logger()
_NODE = Actor("node", "process")
_SLOWEST_S = 300.0
_MOST = 2**31 - 1  # VR IS
_SETTLED = 0.5  # of the quiet time: so long without an Instance, the archive's count is worth asking again


def ask_counts(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Ask for the counts of Studies that are being received; return how many were answered.

    A Study is asked for when its first Instance is here, when its Instances stop coming, and then ever more rarely
    while it waits. An archive that does not answer changes nothing but when it is asked again.
    """
    source = next((one for one in settings.priors.sources if one.method != "dicomweb"), None)
    if source is None or not settings.priors.expected_count:
        return 0
    with sessions() as session:
        due = [one for one in expectations.countable(session) if is_due(one, now)]
    answered = 0
    reachable = True
    for one in due:
        count = None
        if reachable:
            try:
                count = _asked(address_of(source, settings), one.study_instance_uid)
            except PeerUnavailableError as exc:
                # the others need not find that out one by one
                reachable = False
                log.warning("count.not_answered", destination=source.name, error=exc)
        answered += _keep(sessions, source.name, one, count, now)
    return answered


def is_due(one: Countable, now: datetime) -> bool:
    """Return whether it is time to ask (again) for the count of a Study."""
    if one.asked_at is None:
        return True
    if one.asked_at <= one.last_received_at:
        settled = timedelta(seconds=min(one.quiet_s * _SETTLED, _SLOWEST_S))
        return now >= max(one.last_received_at, one.asked_at) + settled
    pause_s = min(one.quiet_s * _SETTLED * 2 ** min(one.attempts, 10), _SLOWEST_S)
    return now >= one.asked_at + timedelta(seconds=pause_s)


def _asked(archive: Address, study_instance_uid: str) -> int | None:
    """Return what the archive counts; None when it does not know the Study or does not say.

    Raises:
        PeerUnavailableError: see :func:`dicom_node.query.find`.
    """
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.NumberOfStudyRelatedInstances = None
    for match in find(archive, identifier):
        if str(match.get("StudyInstanceUID", "")) == study_instance_uid:
            return _number(match)
    return None


def _number(match: Dataset) -> int | None:
    """Return the count of an answer; None for what is no Integer String."""
    try:
        value = int(match.get("NumberOfStudyRelatedInstances", None))
    except (TypeError, ValueError, OverflowError):
        return None
    return value if 0 <= value <= _MOST else None


def _keep(sessions: sessionmaker[Session], archive: str, one: Countable, count: int | None, now: datetime) -> bool:
    """Keep an answer, or that there was none; return whether there was."""
    is_first = one.asked_at is None or one.asked_at <= one.last_received_at
    attempts = 0 if is_first else one.attempts + 1
    try:
        with unit_of_work(sessions, _NODE) as uow:
            expectations.asked(
                uow, one.study_instance_uid, archive=archive, instances=count, attempts=attempts, now=now
            )
    except LifecycleError:
        return False  # another node asked at the same moment
    return count is not None
