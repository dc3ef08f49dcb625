"""Ask destinations whether they hold what they accepted: C-FIND at IMAGE level, or QIDO-RS for Instances."""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import httpx2
import pydicom
import structlog
from pydicom.errors import InvalidDicomError
from sqlalchemy.orm import Session, sessionmaker

from config.errors import PeerUnavailableError
from config.settings import Destination, Settings
from db.lifecycle import counts
from db.lifecycle.counts import CountPatience, CountWanted
from db.uow import Actor, unit_of_work
from dicom_node import query, scu
from ris import web_client

log = structlog.get_logger()
PATIENCE = CountPatience(wait_s=60.0, max_attempts=11, max_missed=3)
_STUDIES = 16  # asked about in one go
_LIMIT = 2000  # Instances of one Series of ours
_PAGE = 500
_NODE = Actor("node", "process")
_DICOM_JSON = {"Accept": "application/dicom+json"}
_INSTANCE_TAG = "00080018"


def count_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Ask every destination with ``count`` about what it accepted; return how many objects it held.

    Raises:
        TransientError: the database cannot be used; what was asked for is asked for again.
    """
    return sum(_count(sessions, settings, one, now) for one in settings.destinations if one.count)


def _count(sessions: sessionmaker[Session], settings: Settings, destination: Destination, now: datetime) -> int:
    held = 0
    patience = CountPatience(PATIENCE.wait_s * random.uniform(0.75, 1.25), PATIENCE.max_attempts, PATIENCE.max_missed)
    for _ in range(_STUDIES):
        with unit_of_work(sessions, _NODE) as uow:
            asked = counts.order_count(uow, destination.name, now, patience)
        if asked is None:
            break
        try:
            found = _ask(settings, destination, asked)
        except PeerUnavailableError as exc:
            log.warning("count.not_answered", destination=destination.name, study_id=asked.study_id, error=str(exc))
            with unit_of_work(sessions, _NODE) as uow:
                counts.count_unanswered(uow, asked, str(exc), patience)
            break  # the next Study would hear the same
        with unit_of_work(sessions, _NODE) as uow:
            taken = counts.take_count(uow, asked, found, patience)
        held += taken.held
        if taken.owed_again or taken.alarms:
            missing = taken.owed_again + taken.alarms
            log.warning("count.missing", destination=destination.name, study_id=asked.study_id, count=missing)
    return held


def _ask(settings: Settings, destination: Destination, asked: CountWanted) -> set[str]:
    """Return which SOP Instances the destination holds in our Series of this Study.

    Raises:
        PeerUnavailableError: it did not say, or our own files cannot tell their Series.
    """
    series = _series(settings.results_dir, asked)
    if destination.protocol == "c-store":
        return _by_c_find(scu.address_of(destination, settings), asked.study_instance_uid, series)
    with web_client.opened(destination, settings) as client:
        return _by_qido(client, asked.study_instance_uid, series)


def _series(folder: Path, asked: CountWanted) -> list[str]:
    found = set()
    for one in asked.objects:
        try:
            ds = pydicom.dcmread(folder / one.path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
            found.add(str(ds.SeriesInstanceUID))
        except (OSError, InvalidDicomError, AttributeError) as exc:
            raise PeerUnavailableError(f"the object's file cannot be read: {type(exc).__name__}") from exc
    return sorted(found)


def _by_c_find(peer: scu.Address, study_instance_uid: str, series: Sequence[str]) -> set[str]:
    held = set()
    for uid in series:
        keys = query.query_keys("IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=uid, SOPInstanceUID="")
        matches = query.find(peer, keys, limit=_LIMIT)
        held |= {str(match.get("SOPInstanceUID", "")) for match in matches}
    return held


def _by_qido(client: httpx2.Client, study_instance_uid: str, series: Sequence[str]) -> set[str]:
    held: set[str] = set()
    for uid in series:
        for page in _pages(client, study_instance_uid, uid):
            held |= page
    return held


def _pages(client: httpx2.Client, study_instance_uid: str, series_instance_uid: str) -> Iterator[set[str]]:
    """Yield the Instances of a Series, page after page; a server without paging repeats itself."""
    address = f"studies/{study_instance_uid}/series/{series_instance_uid}/instances"
    seen: set[str] = set()
    while True:
        page = _search(client, address, {"limit": _PAGE, "offset": len(seen)})
        if page is None:
            # no such Series, or no such service: a search that finds nothing tells which
            if _search(client, "studies", {"StudyInstanceUID": study_instance_uid, "limit": 1}) is None:
                raise PeerUnavailableError(web_client.in_words(404))
            return
        new = page - seen
        if not new or len(seen) > _LIMIT:
            return
        yield new
        seen |= new


def _search(client: httpx2.Client, address: str, parameters: Mapping[str, str | int]) -> set[str] | None:
    """Return the SOP Instance UIDs of one answer; None for 404."""
    with web_client.named(), client.stream("GET", address, params=parameters, headers=_DICOM_JSON) as response:
        status, body = response.status_code, web_client.body_of(response)
    if status == httpx2.codes.NOT_FOUND:
        return None
    if status == httpx2.codes.NO_CONTENT:
        return set()
    if status != httpx2.codes.OK:
        raise PeerUnavailableError(web_client.in_words(status))
    return {uid for one in web_client.dicom_json(body) if (uid := _uid(one))}


def _uid(match: Mapping[str, object]) -> str:
    element = match.get(_INSTANCE_TAG)
    value = element.get("Value") if isinstance(element, dict) else None
    return str(value[0]) if isinstance(value, list) and value else ""
