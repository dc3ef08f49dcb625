"""Look at a peer or an archive of priors because a person asked on the page, and say what was seen."""

from collections.abc import Iterator
from datetime import datetime

import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError, PeerUnavailableError
from config.settings import Destination, Settings
from db.lifecycle import node_tasks
from db.lifecycle.destination_tests import StepSeen
from db.uow import Actor, unit_of_work
from dicom_node.peers import find_peer
from dicom_node.probe import Step, examine
from dicom_node.scu import address_of
from dicom_node.testing import examine_destination

log = structlog.get_logger()
LEASE_S = 300.0
_AT_ONCE = 16
_NODE = Actor("node", "process")
_KINDS = (node_tasks.PEER, node_tasks.SOURCE)


def look_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Do what people asked for; return how many were looked at.

    Raises:
        TransientError: the database cannot be used; it is done again when its lease ends.
    """
    for done in range(_AT_ONCE):
        with unit_of_work(sessions, _NODE) as uow:
            asked = node_tasks.claim_task(uow, now, _KINDS, lease_s=LEASE_S)
        if asked is None:
            return done
        look = _peer if asked.kind == node_tasks.PEER else _source
        steps = [StepSeen(**vars(step)) for step in look(sessions, settings, asked.target)]
        try:
            with unit_of_work(sessions, _NODE) as uow:
                node_tasks.finish_look(uow, asked.task_id, steps)
        except LifecycleError:
            log.warning("look.overtaken")
    return _AT_ONCE


def _peer(sessions: sessionmaker[Session], settings: Settings, ae_title: str) -> Iterator[Step]:
    with sessions() as session:
        peer = find_peer(session, settings, ae_title)
    if peer is None:
        yield Step("settings", False, "the node does not know this peer: it was removed, or the node not restarted", 0)
        return
    try:
        address = address_of(peer, settings)
    except PeerUnavailableError as exc:
        yield Step("settings", False, str(exc), 0)
        return
    yield from examine(address)


def _source(sessions: sessionmaker[Session], settings: Settings, name: str) -> Iterator[Step]:
    del sessions
    source = next((one for one in settings.priors.sources if one.name == name), None)
    if source is None:
        yield Step("settings", False, "the node does not know this archive: restart it", 0)
    elif source.method == "dicomweb":
        web = Destination(name=source.name, protocol="stow-rs", url=source.url, token_file=source.token_file)
        yield from examine_destination(settings, web)
    else:
        yield from examine(address_of(source, settings))
