"""Try a destination of any protocol, step by step, without sending anything of a patient."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from uuid import uuid4

import httpx2
import structlog
from sqlalchemy.orm import Session, sessionmaker

from config.errors import LifecycleError, PeerUnavailableError
from config.settings import Destination, Settings
from db.lifecycle import destination_tests
from db.lifecycle.destination_tests import StepSeen
from db.uow import Actor, unit_of_work
from dicom_node import scu
from dicom_node.probe import Step, examine, reach, wanted_of
from ris import web_client

log = structlog.get_logger()
LEASE_S = 300.0
_AT_ONCE = 16
_NODE = Actor("node", "process")


def try_due(sessions: sessionmaker[Session], settings: Settings, now: datetime) -> int:
    """Do the tests people asked for on the page; return how many.

    Raises:
        TransientError: the database cannot be used; the test is done again when its lease ends.
    """
    known = {one.name: one for one in settings.destinations}
    for done in range(_AT_ONCE):
        with unit_of_work(sessions, _NODE) as uow:
            asked = destination_tests.claim_test(uow, now, lease_s=LEASE_S)
        if asked is None:
            return done
        destination = known.get(asked.destination)
        steps = [Step("settings", False, "the node does not know this destination: restart it", 0.0)]
        if destination is not None:
            steps = list(examine_destination(settings, destination))
        try:
            with unit_of_work(sessions, _NODE) as uow:
                destination_tests.finish_test(uow, asked.test_id, [StepSeen(**vars(step)) for step in steps])
        except LifecycleError:
            log.warning("test.overtaken", destination=asked.destination)
    return _AT_ONCE


def examine_destination(settings: Settings, destination: Destination) -> Iterator[Step]:
    """Yield each step as it is done; what is told of a DIMSE peer goes on after a refused SOP Class.

    Nothing is stored: DIMSE by C-ECHO and negotiation, DICOMweb by a search that finds nothing, MLLP by a connection
    alone (any message would be answered as if it were meant), FHIR by its capability statement.
    """
    yield from _LOOKS[destination.protocol](settings, destination)


def _dimse(settings: Settings, destination: Destination) -> Iterator[Step]:
    return examine(scu.address_of(destination, settings), wanted_of(destination))


def _mllp(settings: Settings, destination: Destination) -> Iterator[Step]:
    tls = settings.dicom.tls if destination.tls else None
    if (yield from reach(scu.Address(destination.host, destination.port, "", "", tls))):
        yield Step("MLLP", True, "no message was sent: whether it takes ours is shown by the first report", 0.0)


def _dicomweb(settings: Settings, destination: Destination) -> Iterator[Step]:
    yield from _web(settings, destination, "DICOMweb", _search_nothing)


def _fhir(settings: Settings, destination: Destination) -> Iterator[Step]:
    yield from _web(settings, destination, "FHIR", _capabilities)


def _web(
    settings: Settings, destination: Destination, name: str, ask: Callable[[httpx2.Client], str]
) -> Iterator[Step]:
    url = httpx2.URL(destination.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    if not (yield from reach(scu.Address(url.host, port, "", ""))):
        return
    began = time.monotonic()
    try:
        with web_client.opened(destination, settings) as client:
            note, is_good = ask(client), True
    except PeerUnavailableError as exc:
        note, is_good = str(exc), False
    yield Step(name, is_good, note, (time.monotonic() - began) * 1000)


def _search_nothing(client: httpx2.Client) -> str:
    """Search by QIDO-RS for a Study that nobody has; a server that only stores is asked what it allows."""
    status, body, _ = _get(client, "GET", "studies", {"StudyInstanceUID": f"2.25.{uuid4().int}", "limit": "1"})
    if status in {httpx2.codes.OK, httpx2.codes.NO_CONTENT}:
        found = web_client.dicom_json(body)
        odd = "; it found a Study that does not exist: it may ignore search keys" if found else ""
        return f"a search was answered {status}; whether we may store is shown by the first delivery{odd}"
    if status in {404, 405, 501}:
        options, _, allowed = _get(client, "OPTIONS", "studies", {})
        if options < 300 and "POST" in allowed.upper():
            return f"no search ({status}), and it allows {allowed}"
    raise PeerUnavailableError(web_client.in_words(status))


def _capabilities(client: httpx2.Client) -> str:
    status, body, _ = _get(client, "GET", "metadata", {}, accept="application/fhir+json")
    if status != httpx2.codes.OK:
        raise PeerUnavailableError(web_client.in_words(status))
    try:
        statement = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise PeerUnavailableError("what it answered is no FHIR") from exc
    if not isinstance(statement, dict) or statement.get("resourceType") != "CapabilityStatement":
        raise PeerUnavailableError("what it answered is no FHIR")
    version = str(statement.get("fhirVersion", ""))[:20]
    if not version.startswith("4."):
        raise PeerUnavailableError(f"it speaks FHIR {version or 'of an unnamed version'}, we R4")
    software = statement.get("software")
    name = str(software.get("name", "") if isinstance(software, dict) else "")[:60]
    return f"FHIR {version}{f', {name}' if name else ''}; whether we may write is shown by the first report"


def _get(
    client: httpx2.Client, method: str, address: str, parameters: Mapping[str, str], *, accept: str = ""
) -> tuple[int, bytes, str]:
    headers = {"Accept": accept or "application/dicom+json"}
    with web_client.named(), client.stream(method, address, params=parameters, headers=headers) as response:
        return response.status_code, web_client.body_of(response), response.headers.get("Allow", "")[:100]


_LOOKS: Mapping[str, Callable[[Settings, Destination], Iterator[Step]]] = {
    "c-store": _dimse,
    "stow-rs": _dicomweb,
    "mllp": _mllp,
    "fhir": _fhir,
}
